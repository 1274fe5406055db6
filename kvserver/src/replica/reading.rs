//! Reading from a slot, at any of its copies (R1, R2, R3, R5): at once where that is allowed, or as soon as it is.

use bytes::Bytes;
use common::blob::Blob;
use common::peer::PeerMsg;
use common::position::Position;
use common::view::Part;
use common::{Rule, Time};

use super::action::{Action, Extent, Lasting, Read, Refusal, Reply, Scan, Token};
use super::coordinator::Phase;
use super::reads::{self, Asker, MAX_WAITING, Need, Waiting, Want};
use super::{NO_VIEW, Replica, Role, STOPPED};
use crate::storage::map::Held;

/// Whether a read can be answered here and now.
pub(super) enum Leave {
    Now,
    AskCoordinator,
    /// The key is past its deadline, and must be gone before anybody is told so.
    Remove,
    Confirm,
    Wait,
    Refused(Refusal),
}

/// What can be said of a key here and now.
enum Look<'a> {
    Found(Option<Held<'a>>),
    Refused(Refusal),
    Wait,
}

impl Replica {
    /// Reads a key, inline if that is possible; `f` turns the borrowed answer into the caller's. `now` must have been read
    /// after the request arrived.
    pub fn read<R>(
        &mut self,
        now: Time,
        key: &[u8],
        token: Token,
        out: &mut Vec<Action>,
        f: impl FnOnce(Read<'_>) -> R,
    ) -> R {
        match self.look(now, key) {
            Look::Found(held) => return f(held.map_or(Read::Missing, |held| Read::Value(held.value))),
            Look::Refused(refusal) => return f(Read::Refused(refusal)),
            Look::Wait => {}
        }
        let refused = self.wait_to_read(now, Want::Key(Bytes::copy_from_slice(key)), token, out);
        f(refused.map_or(Read::Later, Read::Refused))
    }

    /// Reads how long a key lasts, as [`Replica::read`] reads its value.
    pub fn lasting(&mut self, now: Time, key: &[u8], token: Token, out: &mut Vec<Action>) -> Read<'static> {
        match self.look(now, key) {
            Look::Found(held) => return Read::Lasts(Lasting::of(held)),
            Look::Refused(refusal) => return Read::Refused(refusal),
            Look::Wait => {}
        }
        let refused = self.wait_to_read(now, Want::Lasting(Bytes::copy_from_slice(key)), token, out);
        refused.map_or(Read::Later, Read::Refused)
    }

    /// What can be said of a key here and now. One look at the map, and no thought of the time for a key without a deadline.
    fn look(&self, now: Time, key: &[u8]) -> Look<'_> {
        match self.leave(now, Some(key)) {
            Leave::Now => {
                let held = self.held(key);
                match self.is_due(now, held) {
                    true if self.setup.switches.off(Rule::ExpireUnlogged) => Look::Found(None),
                    true => Look::Wait,
                    false => Look::Found(held),
                }
            }
            Leave::Refused(refusal) => Look::Refused(refusal),
            Leave::AskCoordinator | Leave::Confirm | Leave::Wait | Leave::Remove => Look::Wait,
        }
    }

    /// Reads a page of the records after a key, or from the first: linearizable like a read, of all keys at once. `last` is
    /// the slot's last position, which the page repeats. `now` must have been read after the request arrived.
    pub fn scan(
        &mut self,
        now: Time,
        last: Position,
        after: Option<&[u8]>,
        token: Token,
        out: &mut Vec<Action>,
    ) -> Scan {
        match self.leave(now, None) {
            Leave::Now => return Scan::Page(self.page(now, last, after)),
            Leave::Refused(refusal) => return Scan::Refused(refusal),
            Leave::AskCoordinator | Leave::Confirm | Leave::Wait | Leave::Remove => {}
        }
        let want = Want::Page { last, after: after.map(Bytes::copy_from_slice) };
        self.wait_to_read(now, want, token, out).map_or(Scan::Later, Scan::Refused)
    }

    /// Counts the records and finds the outermost keys: linearizable like a read, of all keys at once. None: the answer
    /// comes as an [`Action::Reply`]. `now` must have been read after the question arrived.
    pub fn extent(&mut self, now: Time, token: Token, out: &mut Vec<Action>) -> Option<Result<Extent, Refusal>> {
        match self.leave(now, None) {
            Leave::Now => return Some(Ok(self.extent_now(now))),
            Leave::Refused(refusal) => return Some(Err(refusal)),
            Leave::AskCoordinator | Leave::Confirm | Leave::Wait | Leave::Remove => {}
        }
        self.wait_to_read(now, Want::Extent, token, out).map(Err)
    }

    /// Lists keys in the order of their places, from one on: linearizable like a read, of all keys at once. None: the answer
    /// comes as an [`Action::Reply`]. `now` must have been read after the question arrived.
    pub fn keys(&mut self, now: Time, from: u64, count: usize, token: Token, out: &mut Vec<Action>) -> Option<Reply> {
        match self.leave(now, None) {
            Leave::Now => return Some(Reply::Keys(self.keys_now(now, from, count))),
            Leave::Refused(refusal) => return Some(Reply::Refused(refusal)),
            Leave::AskCoordinator | Leave::Confirm | Leave::Remove | Leave::Wait => {}
        }
        self.wait_to_read(now, Want::Keys { from, count }, token, out).map(Reply::Refused)
    }

    /// Lets a read wait, unless too many do.
    fn wait_to_read(&mut self, now: Time, want: Want, token: Token, out: &mut Vec<Action>) -> Option<Refusal> {
        if self.reads.waiting.len() >= MAX_WAITING {
            return Some(Refusal::Unavailable("too many reads already wait for this slot"));
        }
        let follows = matches!(self.role, Role::Follower(_));
        let patience = if follows { self.setup.timing.lease * 2 } else { self.setup.timing.patience };
        let asker = Asker::Client { want, token };
        self.reads.waiting.push(Waiting { asker, until: now + patience, need: Need::Leave });
        self.pump_reads(now, out);
        self.schedule(now);
        None
    }

    pub(super) fn held(&self, key: &[u8]) -> Option<Held<'_>> {
        if self.setup.switches.off(Rule::DirtyRead) {
            return self.log.newest(key);
        }
        self.log.image.map.held(key)
    }

    /// R1, R2, R3, R5, for one key or for all of them.
    pub(super) fn leave(&self, now: Time, key: Option<&[u8]>) -> Leave {
        if self.stopped.is_some() {
            return Leave::Refused(STOPPED);
        }
        let confirm = self.setup.confirm_reads;
        match (&self.role, &self.view) {
            (Role::Coordinator(c), _) if confirm && c.phase == Phase::Active => {
                if self.setup.switches.off(Rule::LazyConfirm) { Leave::Now } else { Leave::Confirm }
            }
            (Role::Coordinator(c), _) if !confirm && c.may_read(now, &self.setup) => Leave::Now,
            (Role::Coordinator(_) | Role::Former, _) => Leave::Wait,
            (_, None) => Leave::Refused(NO_VIEW),
            (Role::Follower(f), Some(view)) if f.part == Part::Member => {
                let off = |rule| self.setup.switches.off(rule);
                let dirty = key.map_or_else(|| self.log.is_dirty(), |key| self.log.dirty(key).is_some());
                let clean = !dirty || off(Rule::DirtyRead) || off(Rule::DirtyOld);
                if !f.synced || !(f.lacks_nothing(&self.log) || off(Rule::ReadLacking)) {
                    Leave::Wait
                } else if !confirm && clean && self.leases.may_read(now, view.epoch, &self.setup) {
                    Leave::Now
                } else {
                    // Without a lease, too: the first grant of an epoch comes with its second beacon, and while slots move
                    // epochs change often. The coordinator answers under its own lease.
                    Leave::AskCoordinator
                }
            }
            _ => Leave::Refused(Refusal::NotResponsible),
        }
    }

    /// Gives every waiting read what it can have by now.
    pub(super) fn pump_reads(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.reads.waiting.is_empty() {
            return;
        }
        for mut waiting in std::mem::take(&mut self.reads.waiting) {
            if !self.pump(now, &mut waiting, out) {
                self.reads.waiting.push(waiting);
            }
        }
    }

    /// True if the read is done with.
    fn pump(&mut self, now: Time, waiting: &mut Waiting, out: &mut Vec<Action>) -> bool {
        if now >= waiting.until {
            if let Asker::Client { token, .. } = &waiting.asker {
                let why = "no lease: this server cannot tell whether it is up to date";
                out.push(Action::Reply { token: *token, reply: Reply::Refused(Refusal::Unavailable(why)) });
            }
            return true;
        }
        if waiting.need == Need::Leave {
            match self.leave_in_time(now, waiting.asker.key().map(|key| &**key)) {
                Leave::Now => return self.give(now, &waiting.asker, out),
                Leave::Refused(refusal) => {
                    if let Asker::Client { token, .. } = &waiting.asker {
                        out.push(Action::Reply { token: *token, reply: Reply::Refused(refusal) });
                    }
                    return true;
                }
                Leave::Wait => return false,
                Leave::AskCoordinator => {
                    let read = self.ask_index(None, waiting.asker.key(), out);
                    waiting.need = Need::Index { read, asked: now };
                }
                Leave::Confirm => {
                    self.coordinate(now, out, |c, ctx| waiting.need = Need::Round(c.join_round(ctx)));
                }
                Leave::Remove => {
                    let key = waiting.asker.key().cloned().unwrap_or_default();
                    self.coordinate(now, out, |c, ctx| {
                        waiting.need = c.expire(ctx, &key).map_or(Need::Leave, Need::Gone);
                    });
                }
            }
        }
        match &mut waiting.need {
            Need::Index { read, asked } => {
                if now.since(*asked) >= self.setup.timing.resend {
                    *asked = now;
                    self.ask_index(Some(*read), waiting.asker.key(), out);
                }
                false
            }
            Need::Commit(seq) => self.log.commit() >= *seq && self.give(now, &waiting.asker, out),
            Need::Round(round) => {
                let done = matches!(&self.role, Role::Coordinator(c) if c.rounds.confirmed >= *round);
                let due = |key: &Bytes| self.is_due(now, self.log.image.map.held(key));
                if done && waiting.asker.key().is_some_and(due) {
                    waiting.need = Need::Leave;
                    return self.pump(now, waiting, out);
                }
                done && self.give(now, &waiting.asker, out)
            }
            Need::Gone(seq) if self.log.commit() >= *seq => {
                waiting.need = Need::Leave;
                self.pump(now, waiting, out)
            }
            Need::Gone(_) | Need::Leave => false,
        }
    }

    fn ask_index(&mut self, again: Option<u64>, key: Option<&Bytes>, out: &mut Vec<Action>) -> u64 {
        let read = again.unwrap_or_else(|| self.reads.next_question());
        if let Some(view) = &self.view {
            let msg = PeerMsg::ReadIndex { slot: self.slot, epoch: view.epoch, read, key: key.cloned().map(Blob) };
            out.push(Action::Send { to: view.coordinator, msg });
        }
        read
    }

    fn give(&self, now: Time, asker: &Asker, out: &mut Vec<Action>) -> bool {
        match asker {
            Asker::Client { want, token } => {
                let reply = match want {
                    Want::Key(key) => Reply::Value(self.held(key).map(|held| reads::shared(held.value, out))),
                    Want::Lasting(key) => Reply::Lasts(Lasting::of(self.held(key))),
                    Want::Keys { from, count } => Reply::Keys(self.keys_now(now, *from, *count)),
                    Want::Extent => Reply::Extent(self.extent_now(now)),
                    Want::Page { last, after } => Reply::Page(self.page(now, *last, after.as_deref())),
                };
                out.push(Action::Reply { token: *token, reply });
            }
            Asker::Member { node, read, .. } => {
                let (slot, epoch) = (self.slot, self.epoch().unwrap_or_default());
                let msg = PeerMsg::ReadIndexAck { slot, epoch, read: *read, commit: self.log.commit() };
                out.push(Action::Send { to: *node, msg });
            }
        }
        true
    }
}
