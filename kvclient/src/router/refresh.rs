//! Learning the ring: one server after another is asked until one knows. At most one question is out at a time,
//! however many operations wait for the answer.

use common::Time;

use super::op::State;
use super::{Action, NoRing, OpId, Router};
use crate::address::Address;
use crate::error::Error;
use crate::ring::{Arc, Ring};

/// A question that is out.
#[derive(Debug)]
pub(super) struct Refreshing {
    from: Address,
    /// When another server is asked.
    pub(super) until: Time,
    /// Servers that gave no ring in this round, and why.
    failed: Vec<(Address, String)>,
    /// Whether one of them may be there: it answered, or at least did not refuse the connection.
    hope: bool,
}

impl Router {
    /// Makes the operation wait for a newer ring than the one that led it to `last`.
    pub(super) fn await_ring(&mut self, now: Time, id: OpId, last: Option<&Address>, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.state = State::Ring { asked: last.is_some() };
        let deadline = op.deadline;
        self.set_timer(id, deadline);
        self.want_ring(now, last, out);
    }

    /// Asks for the ring, unless that is under way. `last` is the server that made it seem old: it is asked last.
    pub(super) fn want_ring(&mut self, now: Time, last: Option<&Address>, out: &mut Vec<Action>) {
        if self.refreshing.is_some() {
            return;
        }
        let mut all = self.everyone();
        self.rng.shuffle(&mut all);
        all.sort_by_key(|address| (self.suspects.contains(now, address), Some(address) == last));
        match all.first() {
            Some(from) => self.ask_ring(now, from.clone(), Vec::new(), false, out),
            None => self.no_ring(now, &[], false, out),
        }
    }

    fn ask_ring(
        &mut self,
        now: Time,
        from: Address,
        failed: Vec<(Address, String)>,
        hope: bool,
        out: &mut Vec<Action>,
    ) {
        let until = now + self.settings.attempt;
        self.refreshing = Some(Refreshing { from: from.clone(), until, failed, hope });
        out.push(Action::Refresh { from });
    }

    pub(super) fn refresh_tick(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(refreshing) = self.refreshing.as_ref().filter(|refreshing| refreshing.until <= now) else { return };
        let from = refreshing.from.clone();
        self.silent(now, &from, out);
        let why = format!("no answer within {:.1} s", self.settings.attempt.as_secs_f64());
        self.keyrange(now, &from, Err(NoRing::Silent(why)), out);
    }

    pub(super) fn keyrange(
        &mut self,
        now: Time,
        from: &Address,
        result: Result<(Vec<Arc>, Vec<Arc>), NoRing>,
        out: &mut Vec<Action>,
    ) {
        // Only the answer that is waited for counts: a late one may be older than the ring we have.
        let Some(refreshing) = self.refreshing.take_if(|refreshing| refreshing.from == *from) else { return };
        self.answered |= matches!(result, Ok(_) | Err(NoRing::NotServing(_)));
        let problem = match result {
            Ok((coordinators, readers)) if !coordinators.is_empty() => {
                self.ring = Ring::new(&coordinators, &readers);
                self.ring_at = now;
                self.suspects.clear(from);
                return self.ring_is_here(now, out);
            }
            Ok(_) => NoRing::NotServing("knows no coordinator yet".to_owned()),
            Err(problem) => problem,
        };
        self.ask_next(now, refreshing, problem, out);
    }

    fn ask_next(&mut self, now: Time, refreshing: Refreshing, problem: NoRing, out: &mut Vec<Action>) {
        let Refreshing { from, mut failed, mut hope, .. } = refreshing;
        let why = match problem {
            NoRing::Unreachable(why) => {
                self.suspects.add(now, &from);
                why
            }
            NoRing::Silent(why) | NoRing::NotServing(why) => {
                hope = true;
                why
            }
        };
        failed.push((from, why));
        let mut rest = self.everyone();
        rest.retain(|address| failed.iter().all(|(asked, _)| asked != address));
        match self.rng.choice(rest) {
            Some(next) => self.ask_ring(now, next, failed, hope, out),
            None => self.no_ring(now, &failed, hope, out),
        }
    }

    fn waiting(&self) -> Vec<(OpId, bool)> {
        let waits = |(id, op): (&OpId, &super::Op)| match op.state {
            State::Ring { asked } => Some((*id, asked)),
            _ => None,
        };
        self.ops.iter().filter_map(waits).collect()
    }

    fn under_way(&self) -> Vec<OpId> {
        let sent = |(id, op): (&OpId, &super::Op)| matches!(op.state, State::Sent { .. }).then_some(*id);
        self.ops.iter().filter_map(sent).collect()
    }

    fn ring_is_here(&mut self, now: Time, out: &mut Vec<Action>) {
        for (id, asked) in self.waiting() {
            if asked {
                self.after_ring(now, id, out);
            } else if self.is_connect(id) {
                self.route(now, id, out);
            } else {
                self.first_try(now, id, out);
            }
        }
        for id in self.under_way() {
            self.redirect(now, id, out);
        }
    }

    /// An operation that had no target before: if it still has none, nobody serves its slot, and it pauses.
    fn first_try(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        match self.target(now, id) {
            Some(to) => self.send(now, id, to, out),
            None => {
                if let Some(op) = self.ops.get_mut(&id) {
                    op.trouble.note(&Address::from("keyrange"), "names no server for the key");
                }
                self.pause(now, id);
            }
        }
    }

    fn is_connect(&self, id: OpId) -> bool {
        self.ops.get(&id).is_some_and(|op| matches!(op.command, super::Command::Connect))
    }

    /// A whole round brought no ring. If nobody listens at any of the addresses, that is said at once.
    fn no_ring(&mut self, now: Time, failed: &[(Address, String)], hope: bool, out: &mut Vec<Action>) {
        let hopeless = self.ring.is_empty() && !hope;
        for (id, _) in self.waiting() {
            let Some(op) = self.ops.get_mut(&id) else { continue };
            for (address, why) in failed {
                op.trouble.note(address, why.clone());
            }
            if hopeless && !op.maybe_executed {
                let mut trouble = op.trouble.clone();
                trouble.waited = now.since(op.started);
                self.done(id, Err(Error::Unreachable(trouble)), out);
            } else {
                self.pause(now, id);
            }
        }
    }
}
