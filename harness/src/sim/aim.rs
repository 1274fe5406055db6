//! Aims: for each rule of the protocol the mix of a run in which its absence is most likely to show.
//!
//! A rule may be needed once in ten thousand runs of any mix, and several times in each run of the right one. An aim only
//! bends what a seed has drawn (which faults, how often, at which moments, how large the cluster is); it adds nothing that
//! an ordinary run cannot have. So each aimed mix must also pass with all rules on, and `simulate --aim RULE` shows it.

use common::Rule;

use super::ambush::{Ambush, Moment, Trap};
use super::faults::Kind;
use super::plan::Plan;

/// Bends `plan` towards showing that `rule` is missing.
pub(super) fn at(plan: &mut Plan, rule: Rule, rng: &mut fastrand::Rng) {
    plan.tour = false;
    plan.busy(rng);
    match rule {
        Rule::NoFsync | Rule::ForgetView | Rule::NoRecoverySync => storage(plan, rule),
        Rule::KeepStore => damage(plan),
        Rule::NoFence | Rule::NoEpochMatch | Rule::ReplayAll | Rule::CommitBlind => logs(plan, rule),
        Rule::ShrinkEarly | Rule::DropPending | Rule::ExpandEarly | Rule::NarrowLease => {
            members(plan, rule);
        }
        Rule::Unclean | Rule::ResumeEpoch | Rule::NoCas | Rule::TellFirst => views(plan, rule),
        Rule::GrantUnbounded
        | Rule::NoPromiseWait
        | Rule::NoReaderWait
        | Rule::NoBootWait
        | Rule::ContNoHold
        | Rule::LateCount
        | Rule::LateHold
        | Rule::NoDrift
        | Rule::OldGrant => leases(plan, rule, rng),
        Rule::NoPrimaryLease
        | Rule::NoReaderLease
        | Rule::DirtyRead
        | Rule::DirtyOld
        | Rule::LazyConfirm
        | Rule::StaleRound => reads(plan, rule),
        Rule::RetryInFlight | Rule::RetryForgotten | Rule::RetryStranger => retries(plan, rule),
        Rule::ClaimKept | Rule::WalkBlind => walks(plan),
        Rule::TrustCopy => {
            (plan.servers, plan.starters) = (5, 3);
            plan.only(&[
                (Kind::CopyDirectory, 6),
                (Kind::Leave, 3),
                (Kind::SlowDisk, 10),
                (Kind::Lag, 8),
                (Kind::Kill, 4),
            ]);
        }
        Rule::OldState => plan.only(&[(Kind::OldState, 6), (Kind::Kill, 8), (Kind::SlowDisk, 10), (Kind::Lag, 8)]),
        Rule::CutFurther | Rule::ReadLacking => {
            plan.trio();
            plan.think = rng.u64(1_000..4_000);
            plan.only(&[(Kind::Amnesia, 12), (Kind::Lag, 12)]);
        }
        Rule::ForgetLeft => {
            (plan.servers, plan.starters, plan.lease_ms) = (4, 3, 1000);
            plan.think = rng.u64(5_000..20_000);
            plan.only(&[
                (Kind::CopyDirectory, 40),
                (Kind::SendAway, 4),
                (Kind::CutEcs, 12),
                (Kind::CutPair, 4),
                (Kind::Isolate, 12),
                (Kind::Pause, 6),
            ]);
        }
        Rule::LateWalk => {
            walks(plan);
            (plan.net.ordered, plan.net.repeat, plan.net.stall) = (false, 60, 60);
        }
        Rule::RetryEvaluated | Rule::RelayNoId => retries(plan, rule),
        Rule::ExpireUnlogged => {
            plan.only(&[(Kind::Kill, 6), (Kind::CutEcs, 6), (Kind::Restart, 6), (Kind::SlowDisk, 6)]);
        }
        Rule::KeepCondemned => {
            plan.trio();
            plan.only(&[(Kind::Rot, 20), (Kind::Restart, 2), (Kind::SlowDisk, 2)]);
        }
    }
}

/// Whether only clients that speak Redis's protocol, or keys with deadlines, miss the rule.
pub(super) fn needs_redis(rule: Rule) -> bool {
    matches!(rule, Rule::RetryEvaluated | Rule::ExpireUnlogged | Rule::RelayNoId)
}

impl Plan {
    /// Few slots and keys, much to do: whatever happens is seen by somebody.
    fn busy(&mut self, rng: &mut fastrand::Rng) {
        (self.slots, self.keys, self.clients) = (2, rng.u32(2..=4), 5);
        (self.think, self.stray) = (rng.u64(15_000..60_000), rng.u32(20..60));
        (self.confirm_reads, self.pace) = (false, rng.u64(150_000..400_000));
        self.ambushes.clear();
    }

    /// Exactly as many servers as copies.
    fn trio(&mut self) {
        (self.servers, self.starters) = (3, 3);
    }

    fn only(&mut self, faults: &[(Kind, u32)]) {
        self.faults = faults.to_vec();
    }

    fn ambush(&mut self, moment: Moment, trap: Trap, percent: u32) {
        self.ambushes.push(Ambush { moment, trap, percent });
    }
}

fn storage(plan: &mut Plan, rule: Rule) {
    plan.only(&[
        (Kind::PowerCut, 10),
        (Kind::PowerCutTwo, 10),
        (Kind::PowerCutAll, 6),
        (Kind::SlowDisk, 10),
        (Kind::Kill, 6),
    ]);
    if rule == Rule::NoRecoverySync {
        plan.checkpoints = 60_000_000..120_000_000;
        plan.only(&[(Kind::SlowDisk, 14), (Kind::Kill, 10), (Kind::Midway, 6), (Kind::PowerCut, 10)]);
    }
    if rule == Rule::ForgetView {
        plan.ambush(Moment::FailedOver, Trap::PowerCutBoth, 20);
        plan.ambush(Moment::Expanded, Trap::PowerCutBoth, 20);
        plan.ambush(Moment::Shrunk, Trap::PowerCutBoth, 20);
    }
}

fn damage(plan: &mut Plan) {
    plan.checkpoints = 300_000..3_000_000;
    plan.only(&[(Kind::Damage, 16), (Kind::Kill, 3), (Kind::PowerCut, 2)]);
}

fn logs(plan: &mut Plan, rule: Rule) {
    plan.net.hold = true;
    plan.only(&[
        (Kind::Kill, 8),
        (Kind::PowerCut, 6),
        (Kind::PowerCutTwo, 4),
        (Kind::CutPair, 8),
        (Kind::CutOneWay, 8),
        (Kind::Isolate, 8),
        (Kind::SlowDisk, 8),
        (Kind::Lag, 6),
        (Kind::Pause, 6),
    ]);
    if rule == Rule::ReplayAll {
        plan.only(&[
            (Kind::SlowDisk, 12),
            (Kind::PowerCutTwo, 8),
            (Kind::Kill, 8),
            (Kind::CutPair, 6),
            (Kind::PowerCutAll, 6),
        ]);
    }
}

fn members(plan: &mut Plan, rule: Rule) {
    plan.trio();
    plan.only(&[(Kind::Kill, 10), (Kind::Restart, 6), (Kind::CutPair, 6), (Kind::Isolate, 4), (Kind::PowerCut, 4)]);
    match rule {
        Rule::NarrowLease => plan.ambush(Moment::Expanded, Trap::Split, 50),
        Rule::DropPending => plan.ambush(Moment::AsksExpand, Trap::Deadlock, 40),
        Rule::ExpandEarly => plan.ambush(Moment::Expanded, Trap::KillCoordinator, 30),
        _ => {
            plan.only(&[(Kind::CutPair, 10), (Kind::Isolate, 8), (Kind::Kill, 4), (Kind::Halves, 6)]);
            plan.ambush(Moment::Shrunk, Trap::KillCoordinator, 20);
        }
    }
}

fn views(plan: &mut Plan, rule: Rule) {
    plan.only(&[
        (Kind::Kill, 10),
        (Kind::Restart, 6),
        (Kind::EcsDown, 6),
        (Kind::PauseEcs, 4),
        (Kind::Lag, 8),
        (Kind::Isolate, 4),
    ]);
    match rule {
        Rule::Unclean => {
            plan.only(&[(Kind::Kill, 10), (Kind::PowerCut, 6), (Kind::PowerCutTwo, 10), (Kind::CutEcs, 6)]);
        }
        Rule::TellFirst => {
            plan.only(&[(Kind::Kill, 8), (Kind::Restart, 4), (Kind::EcsDown, 20)]);
            plan.ambush(Moment::EcsWrites, Trap::KillEcs, 6);
        }
        _ => {}
    }
}

fn leases(plan: &mut Plan, rule: Rule, rng: &mut fastrand::Rng) {
    plan.only(&[(Kind::CutEcs, 10), (Kind::Lag, 10), (Kind::Isolate, 6), (Kind::CutPair, 4), (Kind::Kill, 4)]);
    match rule {
        Rule::ContNoHold => {
            plan.only(&[(Kind::CutEcs, 12), (Kind::StuckDisk, 4), (Kind::Join, 4), (Kind::Restart, 2)]);
            plan.ambush(Moment::Shrunk, Trap::Part, 60);
        }
        Rule::GrantUnbounded => {
            plan.only(&[
                (Kind::Halves, 10),
                (Kind::Isolate, 6),
                (Kind::CutOneWay, 6),
                (Kind::CutEcs, 8),
                (Kind::CutPair, 6),
            ]);
            plan.ambush(Moment::FailedOver, Trap::Exile, 40);
        }
        Rule::NoPromiseWait => {
            plan.only(&[(Kind::FullDisk, 8), (Kind::StuckDisk, 4), (Kind::CutEcs, 8), (Kind::Restart, 4)]);
            plan.ambush(Moment::FailedOver, Trap::Exile, 60);
        }
        Rule::NoReaderWait => {
            plan.lease_ms = 1000;
            plan.only(&[(Kind::CutEcs, 12), (Kind::Restart, 1)]);
            plan.ambush(Moment::Shrunk, Trap::Blink, 60);
        }
        Rule::NoBootWait => {
            plan.lease_ms = 1000;
            plan.only(&[(Kind::CutEcs, 12), (Kind::FullDisk, 4), (Kind::Restart, 2)]);
            plan.ambush(Moment::FailedOver, Trap::Bounce, 60);
        }
        Rule::NoDrift => {
            plan.extreme_clocks = true;
            (plan.net.fastest, plan.net.slowest, plan.net.stall) = (20, 200, 0);
            plan.ambush(Moment::FailedOver, Trap::Exile, 40);
        }
        Rule::OldGrant => {
            plan.only(&[(Kind::PowerCut, 12), (Kind::Lag, 12), (Kind::Isolate, 6), (Kind::CutPair, 6)]);
            plan.net.stall = rng.u32(5..40);
        }
        _ => plan.ambush(Moment::FailedOver, Trap::Exile, 30),
    }
}

fn reads(plan: &mut Plan, rule: Rule) {
    plan.stray = 60;
    plan.only(&[
        (Kind::Isolate, 10),
        (Kind::CutPair, 6),
        (Kind::CutEcs, 8),
        (Kind::Halves, 4),
        (Kind::SlowDisk, 6),
        (Kind::Lag, 4),
    ]);
    match rule {
        Rule::NoPrimaryLease | Rule::NoReaderLease => {
            plan.ambush(Moment::FailedOver, Trap::Exile, 30);
            plan.ambush(Moment::Shrunk, Trap::Exile, 30);
        }
        Rule::LazyConfirm => {
            plan.confirm_reads = true;
            plan.ambush(Moment::FailedOver, Trap::Exile, 30);
        }
        Rule::StaleRound => {
            // What was answered before a cut arrives after it.
            (plan.confirm_reads, plan.net.hold, plan.strays) = (true, true, 100);
            (plan.patience, plan.lease_ms) = (1_500_000..2_500_000, 250);
            plan.only(&[(Kind::Isolate, 20), (Kind::Lag, 4), (Kind::Halves, 4)]);
        }
        _ => {}
    }
}

fn retries(plan: &mut Plan, rule: Rule) {
    (plan.patience, plan.strays) = (15_000..200_000, 0);
    plan.only(&[(Kind::SlowDisk, 10), (Kind::Pause, 10), (Kind::CutPair, 6), (Kind::Kill, 6), (Kind::Lag, 4)]);
    if rule != Rule::RetryInFlight {
        plan.net.stall = 20;
    }
}

fn walks(plan: &mut Plan) {
    plan.only(&[(Kind::Kill, 10), (Kind::PowerCut, 8), (Kind::Isolate, 8), (Kind::Join, 4), (Kind::Restart, 6)]);
    plan.ambush(Moment::WalkBegins, Trap::KillTheOne, 25);
    plan.ambush(Moment::WalkEnds, Trap::KillTheOne, 25);
    plan.ambush(Moment::WalkBegins, Trap::KillCoordinator, 15);
    plan.ambush(Moment::WalkBegins, Trap::PowerCutBoth, 10);
}
