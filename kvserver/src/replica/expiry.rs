//! Keys whose deadline has passed (W3): the coordinator has each removed by an entry of the log, so that it is gone at the
//! same place everywhere and stays gone, whatever becomes of anybody's wall clock.
//!
//! Nobody but the active coordinator removes anything. It looks at what is due with every tick, and at a key that is read. A
//! member answers by its own wall clock while a deadline is far enough away, and else asks the coordinator.
//! The wall clock decides when a key goes, and nothing else: no lease, no order of entries, no safety hangs on it.

use std::time::Duration;

use bytes::Bytes;
use common::forward::Keys;
use common::position::Position;
use common::text::encode_page;
use common::{Entry, LogId, Outcome, Seq, Time};

use super::coordinator::{Coordinator, Ctx};
use super::decide::expired;
use super::{Extent, Leave, Replica, Role};
use crate::storage::map::Held;

/// Keys that one slot removes at a time. When many are due at once (a cache that was filled at once, a clock that was set),
/// the next ones wait until these are committed: clients' writes come in between.
const BATCH: usize = 64;

/// This long before a deadline members ask the coordinator instead of trusting their own wall clock. Clocks that are kept by
/// NTP differ by far less. One that is off by more costs exactness at that member only: a key may be answered there until
/// the coordinator has removed it, as a rule within a tick of its deadline.
pub(super) const MARGIN: Duration = Duration::from_secs(1);

/// What is under way of removing keys.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The last entry of the last batch.
    last: Seq,
}

impl Coordinator {
    /// Removes the next keys that are due, unless the last ones are not gone yet.
    pub(super) fn sweep(&mut self, ctx: &mut Ctx<'_>) {
        if !self.may_sweep(ctx) {
            return;
        }
        let clean = |(_, key): &(u64, &[u8])| ctx.log.dirty(key).is_none();
        let due = ctx.log.image.map.due().take_while(|(at, _)| ctx.wall.is_past(ctx.now, *at)).filter(clean);
        let due: Vec<_> = due.take(BATCH).map(|(at, key)| (Bytes::copy_from_slice(key), at)).collect();
        if due.is_empty() {
            return;
        }
        for (key, at) in due {
            self.sweep.last = Self::remove(ctx, key, at);
        }
        self.flush_all(ctx);
        self.advance(ctx);
    }

    fn may_sweep(&self, ctx: &Ctx<'_>) -> bool {
        let due = ctx.log.image.map.due().next().is_some_and(|(at, _)| ctx.wall.is_past(ctx.now, at));
        due && self.sweep.last <= ctx.log.commit() && self.may_propose(ctx)
    }

    fn remove(ctx: &mut Ctx<'_>, key: Bytes, at: u64) -> Seq {
        let id = LogId { epoch: ctx.view.epoch, seq: ctx.log.end().seq.next() };
        let (op, outcome) = (expired(key, at), Outcome::Deleted);
        ctx.log.append(Entry { id, op, outcome, request: None }, ctx.out);
        id.seq
    }

    /// A read has found a committed record past its deadline. Returns the entry whose commit will tell more: its removal,
    /// or what is on its way already. None: nothing can be proposed at the moment.
    pub(super) fn expire(&mut self, ctx: &mut Ctx<'_>, key: &[u8]) -> Option<Seq> {
        if let Some(entry) = ctx.log.dirty(key) {
            return Some(entry.id.seq);
        }
        let until = ctx.log.image.map.held(key).and_then(|held| held.until);
        match until.filter(|until| ctx.wall.is_past(ctx.now, *until)) {
            None => Some(ctx.log.commit()),
            Some(_) if !self.may_propose(ctx) => None,
            Some(at) => {
                let seq = Self::remove(ctx, Bytes::copy_from_slice(key), at);
                self.flush_all(ctx);
                self.advance(ctx);
                Some(seq)
            }
        }
    }
}

impl Replica {
    /// Whether what is held must not be answered by this server's own wall clock: it is past its deadline, or at a member
    /// near it.
    pub(super) fn is_due(&self, now: Time, held: Option<Held<'_>>) -> bool {
        let Some(until) = held.and_then(|held| held.until) else { return false };
        let margin = if matches!(self.role, Role::Coordinator(_)) { Duration::ZERO } else { MARGIN };
        self.wall.is_past(now + margin, until)
    }

    /// [`Replica::leave`], and what the deadline of the key allows.
    pub(super) fn leave_in_time(&self, now: Time, key: Option<&[u8]>) -> Leave {
        let leave = self.leave(now, key);
        let due = || key.is_some_and(|key| self.is_due(now, self.log.image.map.held(key)));
        match (&leave, &self.role) {
            (Leave::Now | Leave::Confirm, Role::Coordinator(_)) if due() => Leave::Remove,
            (Leave::Now, _) if due() => Leave::AskCoordinator,
            _ => leave,
        }
    }

    /// When the next deadline passes, if this server is to do something about it.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        if !matches!(self.role, Role::Coordinator(_)) {
            return None;
        }
        self.log.image.map.due().next().map(|(at, _)| self.wall.time_of(at))
    }

    /// The records after a key, without those whose deadline has passed.
    pub(super) fn page(&self, now: Time, last: Position, after: Option<&[u8]>) -> Bytes {
        let records = self.log.image.map.after(after).filter(|(_, held)| !self.is_past(now, held));
        encode_page(last, records.map(|(key, held)| (key, held.value)))
    }

    pub(super) fn extent_now(&self, now: Time) -> Extent {
        let map = &self.log.image.map;
        let past = map.due().take_while(|(at, _)| self.wall.is_past(now, *at)).count();
        let ends = map.outermost(|held| !self.is_past(now, held));
        let [first, last] = [ends.map(|ends| ends.0), ends.map(|ends| ends.1)];
        let key = |key: Option<&[u8]>| key.map(Bytes::copy_from_slice);
        Extent { records: (map.len() - past) as u64, first: key(first), last: key(last) }
    }

    /// Keys in the order of their places, from one on, without those whose deadline has passed.
    pub(super) fn keys_now(&self, now: Time, from: u64, count: usize) -> Keys {
        self.log.image.map.keys_from(from, count, |held| !self.is_past(now, held))
    }

    fn is_past(&self, now: Time, held: &Held<'_>) -> bool {
        held.until.is_some_and(|until| self.wall.is_past(now, until))
    }
}
