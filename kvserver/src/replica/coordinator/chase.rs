//! What time brings: silence is judged (C2), what may have been lost is sent again, who waits too long is told so.

use common::control::Change;
use common::{NodeId, Rule};

use super::{Coordinator, Ctx, Phase};
use crate::replica::action::{Action, Refusal, Reply};
use crate::replica::progress::{Progress, Standing};
use crate::replica::walk::Walk;

/// How often a coordinator's tick is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replica) enum Pace {
    /// Nothing is going on.
    Idle,
    /// Writes are on their way, as they should be. Only what gets lost needs a tick, and [`Timing::resend`](common::Timing) is two beacons.
    Waiting,
    /// Something is to happen soon.
    Busy,
}

impl Coordinator {
    /// Time passed.
    pub(in crate::replica) fn tick(&mut self, ctx: &mut Ctx<'_>) {
        self.excuse(ctx);
        self.chase(ctx);
        self.give_up_waiting(ctx);
        if let Phase::Released { to, asked } = self.phase
            && ctx.now.since(asked) > ctx.setup.timing.lease
        {
            self.phase = Phase::Released { to, asked: ctx.now };
            ctx.ask(Change::HandOver { to });
        }
        if (!self.writable || self.gives_way())
            && self.stepped_down.is_none_or(|at| ctx.now.since(at) > ctx.setup.timing.lease * 4)
        {
            self.stepped_down = Some(ctx.now);
            ctx.ask(Change::StepDown);
        }
        self.step(ctx);
        self.sweep(ctx);
    }

    /// Ticks are at most four beacons apart. After a longer pause of this very server (stopped, or starved of processor time)
    /// what the followers said meanwhile still waits to be read: their silence counts from now on only. A shorter one is less than
    /// any silence that counts.
    fn excuse(&mut self, ctx: &Ctx<'_>) {
        let last = std::mem::replace(&mut self.ticked, ctx.now);
        if ctx.now.since(last) > ctx.setup.timing.lease * 2 {
            self.followers.values_mut().for_each(|f| (f.heard, f.answers, f.stalled) = (ctx.now, ctx.now, ctx.now));
        }
    }

    /// C2, and everything that may have been lost on the way.
    fn chase(&mut self, ctx: &mut Ctx<'_>) {
        let timing = &ctx.setup.timing;
        // Without beacons nobody has anything to answer.
        let judges = !matches!(self.phase, Phase::Released { .. });
        for node in self.nodes() {
            let Some(follower) = self.followers.get_mut(&node) else { continue };
            if judges && follower.required() && follower.overdue(ctx.now, ctx.log.end().seq, timing) {
                if ctx.off(Rule::DropPending) && follower.standing != Standing::Member {
                    follower.standing = Standing::Learner;
                } else if follower.may_ask(ctx.now, timing) {
                    ctx.ask(Change::Shrink { node });
                }
            }
            let Some(follower) = self.followers.get_mut(&node) else { continue };
            if follower.walk.is_some() && ctx.now.since(follower.heard) > timing.append_timeout {
                // A dead learner's walk must not keep a log in memory: once it answers again, another one begins.
                self.end_walk(ctx, node);
            } else if follower.walk.as_ref().is_some_and(Walk::is_open) {
                self.fill(ctx, node);
            } else if follower.synced && !follower.streaming && follower.walk.is_none() {
                self.beyond_reach(ctx, node);
            }
            let Some(follower) = self.followers.get_mut(&node) else { continue };
            if follower.kept.is_some_and(|(_, since)| ctx.now.since(since) > timing.ack_timeout) {
                self.release(ctx, node);
            }
            let Some(follower) = self.followers.get_mut(&node) else { continue };
            if follower.should_resend(ctx.now, timing) {
                self.resend(ctx, node);
            }
        }
        self.confirm_again(ctx);
    }

    /// Sends again whatever this follower has not answered.
    pub(in crate::replica) fn resend(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        follower.last_send = ctx.now;
        if !follower.synced {
            return self.sync(ctx, node);
        }
        if follower.walk.is_some() {
            return self.resend_walk(ctx, node);
        }
        follower.rewind();
        self.flush(ctx, node);
    }

    fn give_up_waiting(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(token) = self.parked.pop_late(ctx.now) {
            let why =
                "the slot takes no writes now: its coordinator recovers, or its replicas are behind or out of reach";
            ctx.out.push(Action::Reply { token, reply: Reply::Refused(Refusal::Unavailable(why)) });
        }
        let patience = ctx.setup.timing.write_patience;
        for token in self.waiting.late(ctx.now, patience) {
            let reply = Reply::Unknown("the replicas did not confirm the write in time");
            ctx.out.push(Action::Reply { token, reply });
        }
    }

    /// How often something is to be looked after.
    pub(in crate::replica) fn pace(&self) -> Pace {
        let settled = |f: &Progress| f.synced && f.standing == Standing::Member;
        if self.phase != Phase::Active
            || !self.parked.is_empty()
            || !self.writable
            || self.gives_way()
            || !self.followers.values().all(settled)
        {
            Pace::Busy
        } else if !self.waiting.is_empty() || self.followers.values().any(|f| f.matched < f.sent) {
            Pace::Waiting
        } else {
            Pace::Idle
        }
    }
}
