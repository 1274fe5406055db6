//! Reads that could not be answered at once, and what each of them waits for (R1, R2, R3, R5).

use bytes::Bytes;
use common::position::Position;
use common::{BootId, NodeId, Seq, Time};

use super::action::{Action, Reply, Token};

/// Reads that may wait per slot; more are refused.
pub(super) const MAX_WAITING: usize = 4096;

/// Who asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// A client.
    Client { want: Want, token: Token },
    /// A member, for what is committed, and whether this key's deadline has passed.
    Member { node: NodeId, read: u64, key: Option<Bytes> },
}

impl Asker {
    /// The key that is read, if it is one.
    pub(super) fn key(&self) -> Option<&Bytes> {
        match self {
            Asker::Client { want: Want::Key(key) | Want::Lasting(key), .. } => Some(key),
            Asker::Client { want: Want::Page { .. } | Want::Extent | Want::Keys { .. }, .. } => None,
            Asker::Member { key, .. } => key.as_ref(),
        }
    }
}

/// What a client wants to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// A key's value.
    Key(Bytes),
    /// How long a key lasts.
    Lasting(Bytes),
    /// The records after this key, or from the first; `last` is the slot's last position.
    Page { last: Position, after: Option<Bytes> },
    /// How many records there are, and the outermost keys.
    Extent,
    /// Keys from a place on, about so many.
    Keys { from: u64, count: usize },
}

/// What a read waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// A lease, an activation, a view: whatever allows reading here.
    Leave,
    /// The coordinator's answer to this question, asked last at this time.
    Index { read: u64, asked: Time },
    /// Everything up to here to be committed here.
    Commit(Seq),
    /// A key past its deadline to be gone, which this entry brings about.
    Gone(Seq),
    /// A confirmation round.
    Round(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) asker: Asker,
    pub(super) until: Time,
    pub(super) need: Need,
}

/// All waiting reads of one slot, oldest first.
#[derive(Debug)]
pub(super) struct Reads {
    pub(super) waiting: Vec<Waiting>,
    questions: u64,
}

impl Reads {
    /// The number of a question is never used again by a later start: an answer to the earlier one may still be on its way.
    pub(super) fn new(boot: BootId) -> Reads {
        Reads { waiting: Vec::new(), questions: boot.0 << 32 }
    }

    /// A number for a question to the coordinator.
    pub(super) fn next_question(&mut self) -> u64 {
        self.questions += 1;
        self.questions
    }

    /// The coordinator answered.
    pub(super) fn indexed(&mut self, answered: u64, commit: Seq) {
        for waiting in &mut self.waiting {
            if matches!(waiting.need, Need::Index { read, .. } if read == answered) {
                waiting.need = Need::Commit(commit);
            }
        }
    }

    /// A new epoch: what was asked in the old one counts no more, and members ask again themselves.
    pub(super) fn start_over(&mut self) {
        self.waiting.retain(|w| matches!(w.asker, Asker::Client { .. }));
        self.waiting.iter_mut().for_each(|w| w.need = Need::Leave);
    }

    /// Whether some read waits for a round after `confirmed`.
    pub(super) fn want_round_after(&self, confirmed: u64) -> bool {
        self.waiting.iter().any(|w| matches!(w.need, Need::Round(round) if round > confirmed))
    }
}

/// Replies that are looked through for a value that can be shared.
const SHARED: usize = 8;

/// A value for a reply: a crowd that waited for the same key gets one copy of it, not a thousand.
pub(super) fn shared(value: &[u8], out: &[Action]) -> Bytes {
    let same = |action: &Action| match action {
        Action::Reply { reply: Reply::Value(Some(other)), .. } if other == value => Some(other.clone()),
        _ => None,
    };
    out.iter().rev().take(SHARED).find_map(same).unwrap_or_else(|| Bytes::copy_from_slice(value))
}
