//! The coordinator's part: recovering (C5), active (W1), handing over (L5); shrink and expand (C2, C3). What time brings:
//! [`chase`]; confirmation rounds: [`rounds`].

mod chase;
mod rounds;

use std::collections::BTreeMap;

use common::control::{Ask, Change};
use common::peer::{Beacon, Grant, PeerMsg};
use common::retry::{FORGOTTEN, Known};
use common::update::Updated;
use common::view::Part;
use common::{Entry, LogId, NodeId, Op, Outcome, RequestId, Rule, Seq, Time, View, Wall};
use smallvec::SmallVec;

pub(super) use self::chase::Pace;
use self::rounds::Rounds;
use super::Setup;
use super::action::{Action, Moved, Refusal, Reply, Token, Write, WriteOp};
use super::audit::Audit;
use super::awaited::Awaited;
use super::decide::{Decided, decide};
use super::expiry::Sweep;
use super::lease::Leases;
use super::log::Log;
use super::parked::Parked;
use super::progress::{Progress, Standing};

/// Uncommitted entries, in bytes. Beyond it writes wait as if the slot were not active: its replicas are behind.
const MAX_UNCOMMITTED: usize = 16 << 20;
/// A learner this close to the end of the log becomes pending.
const NEARLY: u64 = 64;

/// Where a coordinator stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Sends its log to all members and waits out old promises (C5, L3).
    Recovering,
    /// Proposes, reads, grants.
    Active,
    /// Proposes and grants no more; what it has proposed must commit before it can release.
    Draining { to: NodeId, since: Time },
    /// Has asked the ECS to complete the hand-over. Only a newer view ends this: the release may have taken effect.
    Released { to: NodeId, asked: Time },
}

/// What the client is told once its entry is committed; `told`: what is known of that here only.
fn reply_to(entry: &Entry, told: Option<&Updated>) -> Reply {
    match (&entry.op, entry.outcome, told) {
        (_, _, Some(told)) => Reply::Updated(told.clone()),
        (Op::Swap { old, .. }, ..) => Reply::Swapped(old.as_ref().map(|old| old.0.clone())),
        (Op::Update { told, .. }, Outcome::Came(came), _) => {
            came.whole(told.as_ref()).map_or(Reply::Unknown(FORGOTTEN), Reply::Updated)
        }
        (_, outcome, _) => Reply::Written(outcome),
    }
}

/// What a client is told that asks again after its request was executed: the same, as long as it is kept.
fn again(log: &Log, write: &Write, request: &RequestId, outcome: Outcome) -> Reply {
    match (&write.op, log.image.retries.replaced(request)) {
        (_, told) if let Outcome::Came(came) = outcome => {
            came.whole(told).map_or(Reply::Unknown(FORGOTTEN), Reply::Updated)
        }
        (WriteOp::Swap(_), _) if outcome == Outcome::Created => Reply::Swapped(None),
        (WriteOp::Swap(_), Some(old)) => Reply::Swapped(Some(old.0.clone())),
        (WriteOp::Swap(_), None) => Reply::Unknown(FORGOTTEN),
        _ => Reply::Written(outcome),
    }
}

/// What a step needs beside the coordinator itself.
pub(super) struct Ctx<'a> {
    pub(super) now: Time,
    pub(super) wall: Wall,
    pub(super) setup: &'a Setup,
    pub(super) view: &'a View,
    pub(super) log: &'a mut Log,
    pub(super) leases: &'a mut Leases,
    pub(super) out: &'a mut Vec<Action>,
}

impl Ctx<'_> {
    pub(super) fn off(&self, rule: Rule) -> bool {
        self.setup.switches.off(rule)
    }

    pub(super) fn send(&mut self, to: NodeId, msg: PeerMsg) {
        self.out.push(Action::Send { to, msg });
    }

    pub(super) fn ask(&mut self, change: Change) {
        self.out.push(Action::Ask(Ask { slot: self.view.slot, epoch: self.view.epoch, change }));
    }
}

#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) phase: Phase,
    pub(super) followers: BTreeMap<NodeId, Progress>,
    /// Since when it has been at this epoch.
    begun: Time,
    /// Since when writes are refused because of a hand-over.
    locked: Option<Time>,
    /// L3: not active before.
    pub(super) active_from: Time,
    /// The mark of the record of the view: a coordinator that serves must not forget its epoch in a restart.
    view_mark: u64,
    /// Who waits for which entry, and since when.
    waiting: Awaited,
    /// What they are told, where the entry does not say it.
    told: BTreeMap<Seq, Updated>,
    pub(super) sweep: Sweep,
    parked: Parked,
    /// Whether the disk takes writes; if not, and since when the ECS was last told.
    pub(super) writable: bool,
    /// This log lacks committed entries (a member knows of later ones, so the disk has lied, or the copy is half caught
    /// up): never active, another must coordinate (C5).
    lying: bool,
    /// This log lacks entries that may be committed: the same follows.
    behind: bool,
    stepped_down: Option<Time>,
    /// R3.
    pub(super) rounds: Rounds,
    /// Numbers walks and audits.
    walks: u64,
    pub(super) audit: Option<Audit>,
    /// Why the slot must stop, if an audit has found that nobody can tell which copy is right.
    pub(super) condemned: Option<String>,
    /// The last tick: one that comes late means that this server itself did not run.
    ticked: Time,
}

impl Coordinator {
    /// A coordinator that has just adopted `ctx.view`, without continuing an earlier epoch.
    pub(super) fn recovering(ctx: &mut Ctx<'_>, writable: bool) -> Coordinator {
        let mut this = Coordinator {
            phase: Phase::Recovering,
            followers: BTreeMap::new(),
            begun: ctx.now,
            locked: None,
            active_from: ctx.leases.active_from(ctx.view, ctx.setup),
            view_mark: if ctx.off(Rule::ForgetView) { 0 } else { ctx.log.mark() },
            waiting: Awaited::default(),
            told: BTreeMap::new(),
            sweep: Sweep::default(),
            parked: Parked::default(),
            writable,
            lying: false,
            behind: false,
            stepped_down: None,
            rounds: Rounds::default(),
            walks: ctx.view.epoch.0 << 20,
            audit: None,
            condemned: None,
            ticked: ctx.now,
        };
        if !ctx.log.has_position() {
            // Only a forced recovery can name a copy that is half caught up. It has no log to serve from.
            this.lying = true;
            let what = "this copy was left in the middle of a catch-up and cannot be served from; stepping down";
            ctx.out.push(Action::Alarm(format!("slot {}: {what}", ctx.view.slot)));
        }
        this.regroup(ctx);
        this
    }

    /// L4: whether this coordinator may stay what it is in `view`.
    pub(super) fn continues(&self, old: &View, view: &View) -> bool {
        let kept = |node: &NodeId| *node == old.coordinator || self.followers.get(node).is_some_and(Progress::required);
        self.phase != Phase::Recovering
            && view.previous == old.epoch
            && view.coordinator == old.coordinator
            && view.coordinator_boot == old.coordinator_boot
            && view.isr.keys().all(kept)
    }

    /// Takes over a directly following view of its own (L4).
    pub(super) fn carry_on(&mut self, ctx: &mut Ctx<'_>) {
        if let Phase::Released { .. } = std::mem::replace(&mut self.phase, Phase::Active) {
            self.followers.values_mut().for_each(|f| (f.heard, f.answers, f.stalled) = (ctx.now, ctx.now, ctx.now));
        }
        self.rounds = self.rounds.ended();
        self.regroup(ctx);
        self.step(ctx);
    }

    /// Arranges the followers as the view says and opens a session at this epoch with each.
    fn regroup(&mut self, ctx: &mut Ctx<'_>) {
        let me = ctx.setup.me.node;
        let mut old = std::mem::take(&mut self.followers);
        for node in ctx.view.isr.keys().chain(&ctx.view.targets).copied().filter(|node| *node != me) {
            if self.followers.contains_key(&node) {
                continue;
            }
            let standing = if ctx.view.isr.contains_key(&node) { Standing::Member } else { Standing::Learner };
            let mut progress = old.remove(&node).unwrap_or_else(|| Progress::new(standing, ctx.now));
            progress.standing = standing;
            progress.close(ctx.now);
            (progress.walk, progress.kept) = (None, None);
            progress.asked = None;
            self.followers.insert(node, progress);
        }
        ctx.log.pin(None);
        self.audit = None;
        for node in self.nodes() {
            self.sync(ctx, node);
        }
    }

    pub(super) fn sync(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        if let Some(follower) = self.followers.get_mut(&node) {
            (follower.last_send, follower.last_sync) = (ctx.now, ctx.now);
        }
        let (lineage, end) = (ctx.log.image.lineage.clone(), ctx.log.end().seq);
        let commit = ctx.log.commit();
        ctx.send(node, PeerMsg::Sync { view: Box::new(ctx.view.clone()), lineage, end, commit });
    }

    fn nodes(&self) -> SmallVec<[NodeId; 4]> {
        self.followers.keys().copied().collect()
    }

    fn required(&self) -> impl Iterator<Item = (&NodeId, &Progress)> {
        self.followers.iter().filter(|(_, f)| f.required())
    }

    /// Until when this coordinator may serve (L1); alone, for ever.
    pub(super) fn lease_until(&self, setup: &Setup) -> Time {
        if setup.switches.off(Rule::NoPrimaryLease) {
            return Time::MAX;
        }
        let narrow = setup.switches.off(Rule::NarrowLease);
        let counted = self.required().filter(|(_, f)| !narrow || f.standing == Standing::Member);
        let until = |f: &Progress| f.beacon_acked.map_or(Time::ZERO, |sent| sent + setup.held());
        counted.map(|(_, f)| until(f)).min().unwrap_or(Time::MAX)
    }

    /// Whether reads may be answered from the committed map now.
    pub(super) fn may_read(&self, now: Time, setup: &Setup) -> bool {
        matches!(self.phase, Phase::Active | Phase::Draining { .. }) && now < self.lease_until(setup)
    }

    /// A client's write: proposed, parked or refused.
    pub(super) fn write(&mut self, ctx: &mut Ctx<'_>, write: Write, token: Token) {
        let refusal = match self.phase {
            Phase::Draining { .. } | Phase::Released { .. } => Refusal::WriteLocked,
            _ if !self.writable => Refusal::Unavailable("the coordinator's disk takes no writes: free some space"),
            _ if self.may_propose(ctx) && self.parked.is_empty() => return self.propose(ctx, write, token),
            _ if !self.parked.is_full() => return self.parked.push(ctx.now + ctx.setup.timing.patience, write, token),
            _ => Refusal::Unavailable("too many writes already wait for this slot"),
        };
        ctx.out.push(Action::Reply { token, reply: Reply::Refused(refusal) });
    }

    pub(super) fn may_propose(&self, ctx: &Ctx<'_>) -> bool {
        let room = ctx.log.uncommitted_bytes() < MAX_UNCOMMITTED;
        self.phase == Phase::Active && self.writable && room && ctx.now < self.lease_until(ctx.setup)
    }

    fn propose(&mut self, ctx: &mut Ctx<'_>, write: Write, token: Token) {
        if let Some(request) = &write.request {
            if let Some(seq) = ctx.log.in_flight(request).filter(|_| !ctx.off(Rule::RetryInFlight)) {
                self.waiting.push(seq, token, ctx.now);
                return;
            }
            let reply = match ctx.log.image.retries.lookup(request) {
                Known::Done(Outcome::Came(_)) if ctx.off(Rule::RetryEvaluated) => None,
                Known::Done(outcome) => Some(again(ctx.log, &write, request, outcome)),
                Known::Forgotten if !ctx.off(Rule::RetryForgotten) => Some(Reply::Unknown(FORGOTTEN)),
                Known::Stranger if write.retry && !ctx.off(Rule::RetryStranger) => Some(Reply::Unknown(FORGOTTEN)),
                Known::Forgotten | Known::Stranger | Known::Never => None,
            };
            if let Some(reply) = reply {
                ctx.out.push(Action::Reply { token, reply });
                return;
            }
        }
        let Decided { op, outcome, request, told } = decide(ctx, write);
        let id = LogId { epoch: ctx.view.epoch, seq: ctx.log.end().seq.next() };
        ctx.log.append(Entry { id, op, outcome, request }, ctx.out);
        if let Some(told) = told {
            self.told.insert(id.seq, told);
        }
        self.waiting.push(id.seq, token, ctx.now);
        self.flush_all(ctx);
        self.advance(ctx);
    }

    pub(super) fn flush_all(&mut self, ctx: &mut Ctx<'_>) {
        if self.followers.is_empty() {
            return;
        }
        for node in self.nodes() {
            self.flush(ctx, node);
        }
    }

    /// Sends a follower what its window allows.
    pub(super) fn flush(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let rank = rank_of(ctx.view, node);
        let Some(follower) = self.followers.get_mut(&node) else { return };
        loop {
            match follower.next_entries(ctx.now, ctx.log) {
                Ok(None) => return,
                Ok(Some((prev, entries))) => {
                    let Some(prev) = ctx.log.id_at(prev) else { return };
                    follower.last_send = ctx.now;
                    let (slot, epoch, commit) = (ctx.view.slot, ctx.view.epoch, ctx.log.commit());
                    ctx.send(node, PeerMsg::PutFromCoordinator { slot, epoch, rank, prev, entries, commit });
                }
                Err(()) => return self.beyond_reach(ctx, node),
            }
        }
    }

    /// A follower needs entries that are no longer in memory.
    pub(super) fn beyond_reach(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        follower.streaming = false;
        match follower.standing {
            // An ISR member has every committed entry; one that does not has lost some: it must not count any longer.
            Standing::Member | Standing::Pending { .. } => self.demote(ctx, node),
            Standing::Learner if self.phase == Phase::Active => self.begin_walk(ctx, node),
            Standing::Learner => {}
        }
    }

    /// A follower has answered the Sync of this epoch: its log agrees up to `at`, or it cannot tell.
    pub(super) fn sync_acked(&mut self, ctx: &mut Ctx<'_>, node: NodeId, at: Option<Seq>) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        let reopened = !std::mem::replace(&mut follower.synced, true);
        if follower.walk.is_some() {
            // The walk has made it give up its position since: only what the walk ends with counts.
            return;
        }
        let Some(at) = at.filter(|at| ctx.log.after(*at).is_some()) else {
            return self.beyond_reach(ctx, node);
        };
        if reopened || !follower.streaming {
            follower.reopen(ctx.now, at);
        } else {
            follower.acked(ctx.now, at);
        }
        follower.streaming = true;
        self.flush(ctx, node);
        self.release(ctx, node);
        self.step(ctx);
    }

    /// A follower knows of commits beyond this log: this disk has lost entries. Better that another coordinates (C5).
    pub(super) fn has_lost_entries(&mut self, ctx: &mut Ctx<'_>, node: NodeId, commit: Seq) {
        if !std::mem::replace(&mut self.lying, true) {
            let (slot, end) = (ctx.view.slot, ctx.log.end().seq);
            let what = format!("slot {slot}: {node} knows of commits up to {commit}, this log ends at {end}");
            ctx.out.push(Action::Alarm(format!("{what}: the disk has lost entries; stepping down")));
        }
    }

    /// A member holds entries that this server sent it before its last start, and may have acknowledged. Nothing wrong with
    /// that, but they must not be lost with this log: better that another coordinates (C5).
    pub(super) fn is_behind(&mut self) {
        self.behind = true;
    }

    pub(super) fn next_walk(&mut self) -> u64 {
        self.walks += 1;
        self.walks
    }

    /// Whether this server must not become the active coordinator in this view.
    fn gives_way(&self) -> bool {
        self.lying || self.behind
    }

    /// Everything that may have become possible: activation, commits, standings, parked writes, a release.
    pub(super) fn step(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase == Phase::Recovering {
            self.try_activate(ctx);
        }
        self.advance(ctx);
        self.expand(ctx);
        self.unpark(ctx);
        self.try_release(ctx);
    }

    /// C5: active once every member has the whole log at this epoch and the waits of L3 are over.
    fn try_activate(&mut self, ctx: &mut Ctx<'_>) {
        let end = ctx.log.end().seq;
        let all_have_it = self.required().all(|(_, f)| f.synced && f.matched >= end);
        let durable = ctx.log.durable() >= end && ctx.log.is_durable(self.view_mark);
        if self.gives_way() || ctx.now < self.active_from || !all_have_it || !durable {
            return;
        }
        self.phase = Phase::Active;
        ctx.out.push(Action::Moved(Moved::TookOver(ctx.now.since(self.begun))));
        ctx.log.commit_to(end, |_| {});
        ctx.log.image.map.watch_deadlines(true);
        for node in self.nodes() {
            if self.followers.get(&node).is_some_and(|f| f.standing == Standing::Learner && f.synced && !f.streaming) {
                self.beyond_reach(ctx, node);
            }
        }
    }

    /// Until when commits are held back: read leases of servers that have left the ISR (L4).
    pub(super) fn held_until(ctx: &Ctx<'_>) -> Time {
        if ctx.off(Rule::ContNoHold) { Time::ZERO } else { ctx.leases.outsiders_until() }
    }

    /// W1: commits what everybody who is required has.
    pub(super) fn advance(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase == Phase::Recovering || ctx.now < Self::held_until(ctx) {
            return;
        }
        let early = ctx.off(Rule::ShrinkEarly);
        let needed = self.required().filter(|(_, f)| !early || f.asked.is_none());
        let everywhere = needed.map(|(_, f)| f.matched).min().unwrap_or(Seq(u64::MAX)).min(ctx.log.durable());
        if everywhere <= ctx.log.commit() {
            return;
        }
        let (waiting, told, out) = (&mut self.waiting, &mut self.told, &mut *ctx.out);
        ctx.log.commit_to(everywhere, |entry| {
            let told = told.remove(&entry.id.seq);
            for token in waiting.committed(entry.id.seq) {
                out.push(Action::Reply { token, reply: reply_to(entry, told.as_ref()) });
            }
        });
    }

    /// C3: a nearly caught-up learner becomes pending; a pending one with everything is proposed to the ECS.
    fn expand(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Active {
            return;
        }
        let (end, commit) = (ctx.log.end().seq, ctx.log.commit());
        let fresh = ctx.setup.timing.beacon * 2;
        let early = ctx.off(Rule::ExpandEarly);
        let mut asks = Vec::new();
        for (node, follower) in &mut self.followers {
            let ready = follower.synced && follower.streaming && follower.matched.0 + NEARLY >= end.0;
            let answers = follower.beacon_acked.is_some_and(|sent| ctx.now.since(sent) <= fresh);
            if follower.standing == Standing::Learner && ready && (answers || early) {
                follower.standing = Standing::Pending { since: ctx.now };
                follower.asked = None;
            }
            let Standing::Pending { since } = follower.standing else { continue };
            let promised = follower.beacon_acked.is_some_and(|sent| sent >= since);
            // Who has just said that it lost its session has started again, perhaps with an older copy of its directory.
            let complete = follower.synced
                && follower.streaming
                && answers
                && follower.matched >= commit
                && (promised || ctx.setup.switches.off(Rule::NarrowLease));
            let Some((store, boot)) = follower.identity else { continue };
            if (complete || early) && follower.may_ask(ctx.now, &ctx.setup.timing) {
                asks.push(Change::Expand { node: *node, store, boot });
            }
            if early {
                follower.standing = Standing::Learner;
            }
        }
        asks.into_iter().for_each(|change| ctx.ask(change));
    }

    fn unpark(&mut self, ctx: &mut Ctx<'_>) {
        while !self.parked.is_empty() && self.may_propose(ctx) {
            let Some((write, token)) = self.parked.pop() else { return };
            self.propose(ctx, write, token);
        }
    }

    /// L5: the ECS wants `to` to take over.
    pub(super) fn hand_over(&mut self, ctx: &mut Ctx<'_>, to: NodeId) {
        let in_sync = self.followers.get(&to).is_some_and(|f| f.standing == Standing::Member && f.synced);
        if self.phase == Phase::Active && in_sync {
            self.phase = Phase::Draining { to, since: ctx.now };
            self.locked = Some(ctx.now);
            self.try_release(ctx);
        }
    }

    /// L5: drained, and nobody reads on a lease of this coordinator outside the ISR: ask, carrying the release.
    fn try_release(&mut self, ctx: &mut Ctx<'_>) {
        let Phase::Draining { to, since } = self.phase else { return };
        if ctx.log.commit() >= ctx.log.end().seq && ctx.now >= ctx.leases.outsiders_until() {
            self.phase = Phase::Released { to, asked: ctx.now };
            ctx.ask(Change::HandOver { to });
        } else if ctx.now.since(since) > ctx.setup.timing.ack_timeout {
            // Nothing was asked yet, so nothing can have happened: going on is safe.
            self.phase = Phase::Active;
            self.unlock(ctx.now, ctx.out);
        }
    }

    /// A hand-over has ended, one way or the other.
    pub(super) fn unlock(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Some(since) = self.locked.take() {
            out.push(Action::Moved(Moved::Locked(now.since(since))));
        }
    }

    /// Another coordinates from now on.
    pub(super) fn retire(mut self, part: Part, out: &mut Vec<Action>) -> Parked {
        for token in std::mem::take(&mut self.waiting).into_tokens() {
            let reply = Reply::Unknown("the coordinator changed while the write was on its way");
            out.push(Action::Reply { token, reply });
        }
        if part == Part::Coordinator {
            return self.parked;
        }
        for token in self.parked.into_tokens() {
            out.push(Action::Reply { token, reply: Reply::Refused(Refusal::NotResponsible) });
        }
        Parked::default()
    }

    /// Takes over the writes that waited in the epoch before.
    pub(super) fn inherit(&mut self, parked: Parked) {
        self.parked = parked;
    }

    /// L1, L2: a beacon for each follower that is in session, with a read lease for members.
    pub(super) fn beacons(&mut self, ctx: &mut Ctx<'_>, beacons: &mut Vec<(NodeId, Beacon)>) {
        if matches!(self.phase, Phase::Released { .. }) {
            return;
        }
        let lease_until = self.lease_until(ctx.setup);
        let (slot, epoch, commit) = (ctx.view.slot, ctx.view.epoch, ctx.log.commit());
        for (node, follower) in &self.followers {
            let mut grant = None;
            // Who is no target any more will be taken out: a lease would hold commits back then (L4), for nothing, since it
            // can ask for each read.
            if self.phase == Phase::Active
                && follower.standing == Standing::Member
                && ctx.view.targets.contains(node)
                && let Some(answered) = follower.answered
            {
                let unbounded = ctx.setup.switches.off(Rule::GrantUnbounded);
                let left = if unbounded { ctx.setup.timing.lease } else { lease_until.since(ctx.now) };
                let left = left.min(ctx.setup.timing.lease);
                if !left.is_zero() {
                    ctx.leases.grant(*node, ctx.now + left);
                    grant = Some(Grant { answered, micros: u64::try_from(left.as_micros()).unwrap_or(0) });
                }
            }
            beacons.push((*node, Beacon { slot, epoch, commit, grant }));
        }
    }
}

/// Which replica a follower is: its place after the coordinator in the preference order, else after all targets.
fn rank_of(view: &View, node: NodeId) -> u8 {
    let others = view.targets.iter().filter(|n| **n != view.coordinator);
    let place = others.clone().position(|n| *n == node).unwrap_or(others.count());
    u8::try_from(place + 1).unwrap_or(u8::MAX)
}
