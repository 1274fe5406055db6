//! What a coordinator knows of one follower: a session at its epoch, how much of the log it has, when it was last heard.

use std::collections::VecDeque;
use std::time::Duration;

use common::peer::PeerMsg;
use common::{BootId, Entry, Seq, StoreUuid, Time, Timing};

use super::log::Log;
use super::walk::Walk;

/// Entries sent ahead of the acknowledgement, per follower and slot, in bytes.
const WINDOW_BYTES: usize = 4 << 20;
/// Entries of one message, in bytes (one entry may be larger).
const MESSAGE_BYTES: usize = 1 << 20;

/// What a follower is to the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// In the ISR.
    Member,
    /// A caught-up learner whose acknowledgement and promise already count (C3).
    Pending {
        /// Since when.
        since: Time,
    },
    /// On its way.
    Learner,
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) standing: Standing,
    /// It has answered the Sync of this epoch.
    pub(super) synced: bool,
    /// It has an open stream: entries may be sent (from an earlier epoch of the same coordinator too, L4).
    pub(super) streaming: bool,
    /// Entries up to this one were sent.
    pub(super) sent: Seq,
    /// The messages that are on their way: last entry and weight of each.
    flight: VecDeque<(Seq, usize)>,
    flight_bytes: usize,
    /// Entries up to this one are on its disk.
    pub(super) matched: Seq,
    /// When anything of it at this epoch arrived.
    pub(super) heard: Time,
    /// When a beacon of it was last answered. Pulses have a connection of their own, which may be broken alone: then
    /// everything else goes on arriving and nobody has a lease.
    pub(super) answers: Time,
    /// Entries up to this one were sent at least once.
    reached: Seq,
    /// Since when something sent, or the Sync, is unanswered without progress. Sending again does not count.
    pub(super) stalled: Time,
    /// The gap that was last answered by going back.
    gap: Option<Seq>,
    /// When the last Sync, append or walk message went out.
    pub(super) last_send: Time,
    /// When the last Sync went out. Apart from `last_send`, which every append renews: under steady writes an unanswered
    /// Sync would otherwise never be sent again.
    pub(super) last_sync: Time,
    /// How often in a row the same was sent again.
    resends: u32,
    /// The send time of the latest beacon it acknowledged.
    pub(super) beacon_acked: Option<Time>,
    /// Its own clock when it did.
    pub(super) answered: Option<Time>,
    /// When the ECS was last asked to take it out, or in.
    pub(super) asked: Option<Time>,
    pub(super) identity: Option<(StoreUuid, BootId)>,
    pub(super) walk: Option<Walk>,
    /// Its walk has ended well, then; until it has said so in answer to a Sync, the entries after this one stay in memory. Without
    /// them a slot with many writes would begin one walk after another.
    pub(super) kept: Option<(Seq, Time)>,
}

impl Progress {
    pub(super) fn new(standing: Standing, now: Time) -> Progress {
        Progress {
            standing,
            synced: false,
            streaming: false,
            sent: Seq(0),
            flight: VecDeque::new(),
            flight_bytes: 0,
            matched: Seq(0),
            heard: now,
            answers: now,
            reached: Seq(0),
            stalled: now,
            gap: None,
            last_send: Time::ZERO,
            last_sync: Time::ZERO,
            resends: 0,
            beacon_acked: None,
            answered: None,
            asked: None,
            identity: None,
            walk: None,
            kept: None,
        }
    }

    /// The log must go on from here for it.
    pub(super) fn pins(&self) -> Option<Seq> {
        self.walk.as_ref().map(Walk::start).or(self.kept.map(|(seq, _)| seq))
    }

    /// Whether commits and the lease need it (W1, L1).
    pub(super) fn required(&self) -> bool {
        self.standing != Standing::Learner
    }

    /// Takes an acknowledgement; true if it is news.
    pub(super) fn acked(&mut self, now: Time, end: Seq) -> bool {
        if end <= self.matched {
            return false;
        }
        self.matched = end;
        self.sent = self.sent.max(end);
        self.stalled = now;
        (self.resends, self.gap) = (0, None);
        while let Some((_, weight)) = self.flight.pop_front_if(|(last, _)| *last <= end) {
            self.flight_bytes -= weight;
        }
        true
    }

    /// It gives up its position for a walk: what it acknowledged before counts no more.
    pub(super) fn forget_position(&mut self) {
        self.streaming = false;
        (self.matched, self.reached) = (Seq(0), Seq(0));
        self.rewind();
    }

    /// Its session has to be opened anew, by a Sync.
    pub(super) fn close(&mut self, now: Time) {
        if std::mem::take(&mut self.synced) && self.matched >= self.reached {
            self.stalled = now;
        }
    }

    /// It has answered a Sync, up to `at`: what it says now replaces what it said before.
    pub(super) fn reopen(&mut self, now: Time, at: Seq) {
        self.acked(now, at);
        self.matched = at;
        self.rewind();
    }

    /// Forgets what is on its way: it goes out again from the last acknowledged entry.
    pub(super) fn rewind(&mut self) {
        self.sent = self.matched;
        self.flight.clear();
        self.flight_bytes = 0;
    }

    /// Something got lost on the way: goes on after `have`. True if that is news: every message after the lost one
    /// reports the same gap, and going back for each of them would multiply the traffic.
    pub(super) fn gap(&mut self, now: Time, have: Seq) -> bool {
        if have < self.matched {
            // It lacks what it once acknowledged: what it has must be asked.
            self.close(now);
            return false;
        }
        if have >= self.sent || self.gap == Some(have) {
            return false;
        }
        self.rewind();
        (self.sent, self.gap) = (have, Some(have));
        true
    }

    /// C2: silent for too long, or an append is stuck, or it answers no beacons though it says other things. Letting go of
    /// one that is not in the ISR yet costs nothing but another attempt, so writes wait for it less long.
    pub(super) fn overdue(&self, now: Time, end: Seq, timing: &Timing) -> bool {
        let (unanswered, stuck) = match self.standing {
            Standing::Pending { .. } => (timing.ack_timeout, timing.patience),
            Standing::Member | Standing::Learner => (timing.append_timeout, timing.append_timeout),
        };
        let silent = now.since(self.answers) > unanswered || now.since(self.heard) > timing.ack_timeout;
        let owes = !self.synced || self.matched < end;
        silent || (owes && now.since(self.stalled) > stuck)
    }

    /// Whether what was sent should be sent again; doubles its patience each time.
    pub(super) fn should_resend(&mut self, now: Time, timing: &Timing) -> bool {
        let waiting = !self.synced || self.matched < self.sent || self.walk.is_some();
        let patience: Duration = timing.resend * (1 << self.resends.min(4));
        let last = if self.synced || self.walk.is_some() { self.last_send } else { self.last_sync };
        if !waiting || now.since(last) < patience {
            return false;
        }
        self.resends += 1;
        self.gap = None;
        // The follower may have lost the session itself: every other time the question goes first.
        if self.resends.is_multiple_of(2) && self.walk.is_none() {
            self.close(now);
        }
        true
    }

    /// Whether an unanswered question to the ECS about it may be asked (again).
    pub(super) fn may_ask(&mut self, now: Time, timing: &Timing) -> bool {
        if self.asked.is_some_and(|at| now.since(at) < timing.lease) {
            return false;
        }
        self.asked = Some(now);
        true
    }

    /// The next message of entries within the window. None: nothing to send. Err: the log no longer has them.
    pub(super) fn next_entries(&mut self, now: Time, log: &Log) -> Result<Option<(Seq, Vec<Entry>)>, ()> {
        if !self.streaming || self.sent >= log.end().seq {
            return Ok(None);
        }
        let (prev, mut entries, mut weight) = (self.sent, Vec::new(), 0);
        for entry in log.after(self.sent).ok_or(())? {
            if self.flight_bytes + weight > WINDOW_BYTES || weight > MESSAGE_BYTES {
                break;
            }
            weight += entry.weight();
            entries.push(entry.clone());
        }
        if let Some(last) = entries.last() {
            if self.matched >= self.reached {
                self.stalled = now;
            }
            self.sent = last.id.seq;
            self.reached = self.reached.max(self.sent);
            self.flight.push_back((self.sent, weight));
            self.flight_bytes += weight;
        }
        Ok((!entries.is_empty()).then_some((prev, entries)))
    }
}

/// Messages a follower may answer a lost one with are counted as signs of life by their epoch alone.
pub(super) fn is_answer(msg: &PeerMsg) -> bool {
    use PeerMsg as M;
    matches!(
        msg,
        M::SyncAck { .. }
            | M::PutAck { .. }
            | M::PutGap { .. }
            | M::ReadIndex { .. }
            | M::ConfirmAck { .. }
            | M::WalkDigests { .. }
            | M::WalkFillAck { .. }
            | M::WalkDone { .. }
            | M::AuditAck { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_no_beacon_is_overdue_though_it_says_other_things() {
        let timing = Timing::for_lease(Timing::DEFAULT_LEASE);
        let mut follower = Progress::new(Standing::Member, Time(1_000_000));
        (follower.synced, follower.matched) = (true, Seq(5));
        let at = |after: Duration| Time(1_000_000) + after;
        let in_time = timing.append_timeout;
        follower.heard = at(in_time);
        assert!(!follower.overdue(at(in_time), Seq(5), &timing));
        follower.heard = at(in_time * 2);
        assert!(follower.overdue(at(in_time * 2), Seq(5), &timing), "it asked, but nobody has a lease");
        follower.answers = at(in_time * 2);
        assert!(!follower.overdue(at(in_time * 2), Seq(5), &timing));
    }
}
