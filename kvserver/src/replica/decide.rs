//! What a client's write becomes in the log: evaluated once, against the newest record, at the coordinator's wall clock (W3).
//!
//! A record past its deadline counts as missing, and whatever is decided on that ground also removes it: what was once told
//! to be gone must not come back when the wall clock is set back, or when another coordinates whose clock is behind.

use bytes::Bytes;
use common::blob::Blob;
use common::update::{Becomes, Update, Updated};
use common::{Op, Outcome, RequestId};

use super::action::{Write, WriteOp};
use super::coordinator::Ctx;
use super::evaluate::{Evaluated, evaluate};
use crate::storage::map::Held;

/// The entry that a write becomes, without its name.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) op: Op,
    pub(super) outcome: Outcome,
    pub(super) request: Option<RequestId>,
    /// What only the client is told that waits here: without a request id nobody can ask again.
    pub(super) told: Option<Updated>,
}

/// The newest record of a key, as of now.
struct Newest<'a> {
    held: Option<Held<'a>>,
    /// It is not there because this deadline of it has passed, though no entry says so yet.
    past: Option<u64>,
}

impl<'a> Newest<'a> {
    fn of(ctx: &'a Ctx<'_>, key: &[u8]) -> Newest<'a> {
        let held = ctx.log.newest(key);
        let past = held.and_then(|held| held.until).filter(|until| ctx.wall.is_past(ctx.now, *until));
        Newest { held: held.filter(|_| past.is_none()), past }
    }
}

/// Decides what `write` becomes.
pub(super) fn decide(ctx: &Ctx<'_>, write: Write) -> Decided {
    let Write { key, op, request, .. } = write;
    let newest = Newest::of(ctx, &key);
    let exists = newest.held.is_some();
    let put = if exists { Outcome::Updated } else { Outcome::Created };
    let (op, outcome) = match op {
        WriteOp::Put(value) => (Op::Put { key, value }, put),
        WriteOp::Swap(value) => {
            let old = newest.held.map(|held| Blob(Bytes::copy_from_slice(held.value)));
            (Op::Swap { key, value, old }, put)
        }
        WriteOp::Delete if exists => (Op::Delete { key }, Outcome::Deleted),
        WriteOp::Delete => (newest.past.map_or(Op::Noop, |at| expired(key, at)), Outcome::Missing),
        WriteOp::Probe => (Op::Noop, Outcome::Missing),
        WriteOp::Update(update) => return updated(ctx, key, update, &newest, request),
    };
    Decided { op, outcome, request, told: None }
}

/// The logged delete of a key whose deadline has passed. It names the deadline for those who read the journal; that the key
/// still has it is known, since nothing comes between the newest entry and the next.
pub(super) fn expired(key: Bytes, at: u64) -> Op {
    Op::Update { key, becomes: Becomes::Expired { at }, told: None }
}

fn updated(ctx: &Ctx<'_>, key: Bytes, update: Update, newest: &Newest<'_>, request: Option<RequestId>) -> Decided {
    let wall = ctx.wall.millis(ctx.now);
    let Evaluated { becomes, told } = evaluate(update, newest.held, wall, ctx.setup.longest_value);
    let becomes = match (becomes, newest.past) {
        (Becomes::Same, Some(at)) => Becomes::Expired { at },
        (becomes, _) => becomes,
    };
    if request.is_some() {
        let (came, bytes) = told.split();
        let op = Op::Update { key, becomes, told: bytes.map(Blob) };
        return Decided { op, outcome: Outcome::Came(came), request, told: None };
    }
    let (op, outcome) = match becomes {
        Becomes::Same => (Op::Noop, Outcome::Missing),
        Becomes::Gone => (Op::Delete { key }, Outcome::Deleted),
        Becomes::Value { value, until: None } if newest.held.is_some() => (Op::Put { key, value }, Outcome::Updated),
        Becomes::Value { value, until: None } => (Op::Put { key, value }, Outcome::Created),
        becomes @ Becomes::Expired { .. } => (Op::Update { key, becomes, told: None }, Outcome::Deleted),
        becomes @ (Becomes::Value { .. } | Becomes::Lasting { .. }) => {
            (Op::Update { key, becomes, told: None }, Outcome::Updated)
        }
    };
    Decided { op, outcome, request, told: Some(told) }
}
