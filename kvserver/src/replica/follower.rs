//! The part of everyone who follows a coordinator: members of the ISR and learners.

use std::collections::VecDeque;

use common::peer::{Beacon, BeaconAck, Leaf, PeerMsg};
use common::view::Part;
use common::{BootId, Entry, Epoch, Lineage, LogId, NodeId, Rule, Seq, View};

use super::action::{Action, Audited};
use super::audit::Question;
use super::coordinator::Ctx;
use super::log::Log;
use crate::storage::SlotMap;
use crate::storage::map::LEAVES;
use crate::storage::record::Change;

/// A follower's volatile state in one epoch.
#[derive(Debug)]
pub(super) struct Follower {
    /// In the ISR, or a learner.
    pub(super) part: Part,
    /// The coordinator's Sync was taken at this epoch: the whole log is known to equal its log.
    pub(super) synced: bool,
    /// Where the coordinator's log ended when it opened the session. A member that has lost some of that reads nothing before it
    /// has it again: what was committed by then, and what may yet commit by acknowledgements of the process before.
    floor: Seq,
    /// The mark of the record of the adopted view: nothing is acknowledged at this epoch before it is on disk.
    view_mark: u64,
    /// What to send once a mark is on disk.
    deferred: Vec<(u64, PeerMsg)>,
    /// The end that was acknowledged last.
    acked: Seq,
    /// The walk this learner is in, and the frame it waits for.
    walk: Option<(u64, u32)>,
    /// The walk that was finished last.
    walked: Option<u64>,
    /// An audit's question about a position that is not reached yet.
    pub(super) question: Option<Question>,
    /// Who proposed the last entries of the log.
    author: Option<Author>,
}

/// Which start of which server coordinated an epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Author {
    pub(super) epoch: Epoch,
    node: NodeId,
    boot: BootId,
}

impl Author {
    pub(super) fn of(view: &View) -> Author {
        Author { epoch: view.epoch, node: view.coordinator, boot: view.coordinator_boot }
    }
}

impl Follower {
    pub(super) fn new(part: Part, view_mark: u64, author: Option<Author>) -> Follower {
        let (deferred, acked) = (Vec::new(), Seq(0));
        let floor = Seq(0);
        Follower {
            part,
            synced: false,
            floor,
            view_mark,
            deferred,
            acked,
            walk: None,
            walked: None,
            question: None,
            author,
        }
    }

    /// A message of the coordinator at the current epoch. True if the slot has seen the impossible and must stop.
    pub(super) fn handle(&mut self, ctx: &mut Ctx<'_>, from: NodeId, msg: PeerMsg) -> Result<(), String> {
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        match msg {
            PeerMsg::Sync { lineage, end, .. } => {
                if !self.synced {
                    self.floor = self.floor.max(end);
                }
                return self.sync(ctx, from, &lineage, end);
            }
            PeerMsg::PutFromCoordinator { prev, entries, commit, .. } if self.synced => {
                return self.take(ctx, from, prev, entries, commit);
            }
            PeerMsg::Confirm { round, .. } => ctx.send(from, PeerMsg::ConfirmAck { slot, epoch, round }),
            PeerMsg::Audit { audit, at, what, .. } if self.part == Part::Member => self.asked(ctx, audit, at, what),
            PeerMsg::Distrust { .. } => self.distrusted(ctx),
            PeerMsg::WalkBegin { walk, .. } if self.part == Part::Learner => self.walk_begin(ctx, walk),
            PeerMsg::WalkFill { walk, frame, leaves, .. } => {
                let Some((_, expected)) = self.walk.as_mut().filter(|(current, _)| *current == walk) else {
                    self.unknown_walk(ctx, walk);
                    return Ok(());
                };
                if frame == *expected {
                    *expected += 1;
                    ctx.log.image.map.fill(&leaves);
                    ctx.log.record(Change::Fill { leaves }, ctx.out);
                }
                if let Some(frame) = expected.checked_sub(1) {
                    ctx.send(from, PeerMsg::WalkFillAck { slot, epoch, walk, frame });
                }
            }
            PeerMsg::WalkEnd { walk, entries, at, root, lineage, retries, .. } => {
                if self.walked == Some(walk) {
                    self.when_durable(ctx, PeerMsg::WalkDone { slot, epoch, walk, ok: true });
                } else if self.walk.is_some_and(|(current, _)| current == walk) {
                    self.walk_end(ctx, walk, entries, at, root, lineage, retries);
                } else {
                    self.unknown_walk(ctx, walk);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a member's log holds all that it must have acknowledged. After a restart on a disk that lied it does not, and
    /// what it lacks would be read as never written.
    pub(super) fn lacks_nothing(&self, log: &Log) -> bool {
        log.end().seq >= self.floor
    }

    /// W2: cuts the tail where the two logs part, and says how far they agree.
    fn sync(&mut self, ctx: &mut Ctx<'_>, from: NodeId, lineage: &Lineage, end: Seq) -> Result<(), String> {
        let condemned = ctx.log.distrusted && !ctx.off(Rule::KeepCondemned);
        let (slot, epoch, commit) = (ctx.view.slot, ctx.view.epoch, ctx.log.commit());
        let mut at = None;
        // Asked again, or an old question, perhaps from before a restart: whoever has entries of this very epoch was in
        // session at it. Within an epoch the coordinator's log only grows, so nothing is cut.
        let again = !condemned && (self.synced || (ctx.log.has_position() && ctx.log.end().epoch == epoch));
        if again {
            at = Some(ctx.log.end().seq);
        } else if self.contradicts(ctx, lineage, end) {
            if self.part == Part::Member {
                let base = ctx.log.image.base;
                return Err(format!("slot {slot}: entry {base:?}, committed here, is another one at {from}"));
            }
        } else if ctx.log.has_position() && !condemned {
            let (my_end, mine) = (ctx.log.end().seq, &ctx.log.image.lineage);
            at = mine.agreed(my_end, commit, lineage, end);
            if ctx.off(Rule::NoEpochMatch) {
                at = Some(my_end.min(end));
            }
        }
        if let Some(at) = at.filter(|at| *at < commit) {
            return Err(format!(
                "slot {slot}: the coordinator {from} would cut entries after {at}, committed to {commit}"
            ));
        }
        let further = !again && at == Some(end) && self.goes_further(ctx, end);
        // A coordinator whose log is shorter than what is committed here sees it from the answer and gives way: what follows
        // the committed ones may have been acknowledged too.
        if let Some(at) = at.filter(|at| (*at <= end || ctx.off(Rule::CutFurther)) && !further) {
            ctx.log.truncate(at, ctx.out);
        }
        self.synced = again || at.is_some_and(|at| at <= end && !further);
        let (store, boot) = (ctx.setup.me.store, ctx.setup.me.boot);
        self.when_durable(ctx, PeerMsg::SyncAck { slot, epoch, at, commit, further, store, boot });
        Ok(())
    }

    /// C5: whether this copy has entries beyond `end`, the end of the coordinator's log, that this coordinator itself has
    /// sent before it was started again. Killed at a bad moment, it may never have written them; but they are also all
    /// that is left of acknowledged ones if its disk has lost them. Only it would know, so it must not cut them.
    fn goes_further(&self, ctx: &Ctx<'_>, end: Seq) -> bool {
        let itself = |a: &Author| a.node == ctx.view.coordinator && a.boot < ctx.view.coordinator_boot;
        let mine = ctx.log.end();
        self.part == Part::Member
            && mine.seq > end
            && self.author.as_ref().is_some_and(|author| author.epoch == mine.epoch && itself(author))
            && !ctx.off(Rule::CutFurther)
    }

    /// An audit has found this copy wrong. It says that it has no position, which makes the coordinator take it out.
    fn distrusted(&mut self, ctx: &mut Ctx<'_>) {
        ctx.log.distrusted = true;
        self.synced = false;
        let (slot, epoch, commit) = (ctx.view.slot, ctx.view.epoch, ctx.log.commit());
        let (store, boot) = (ctx.setup.me.store, ctx.setup.me.boot);
        self.when_durable(ctx, PeerMsg::SyncAck { slot, epoch, at: None, commit, further: false, store, boot });
    }

    /// Whether the coordinator's log has another entry where this copy's committed ones end. No member can be in that
    /// place; a learner can after a recovery that accepted the loss of data, and is then replaced by content.
    fn contradicts(&self, ctx: &Ctx<'_>, lineage: &Lineage, end: Seq) -> bool {
        let Some(base) = ctx.log.image.base.filter(|base| base.seq <= end) else { return false };
        lineage.epoch_at(base.seq).is_some_and(|epoch| epoch != base.epoch)
    }

    /// Entries of the coordinator.
    fn take(
        &mut self,
        ctx: &mut Ctx<'_>,
        from: NodeId,
        prev: LogId,
        entries: Vec<Entry>,
        commit: Seq,
    ) -> Result<(), String> {
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        let matches = prev.seq <= ctx.log.commit() || ctx.log.id_at(prev.seq) == Some(prev);
        if !matches && !ctx.off(Rule::NoEpochMatch) {
            if prev.seq <= ctx.log.end().seq {
                return Err(format!("slot {slot}: entry {prev:?} of {from} is another one here, in one session"));
            }
            let have = ctx.log.end().seq;
            ctx.send(from, PeerMsg::PutGap { slot, epoch, have });
            return Ok(());
        }
        let mut news = false;
        for entry in entries {
            if entry.id.seq == ctx.log.end().seq.next() {
                ctx.log.append(entry, ctx.out);
                news = true;
            }
        }
        self.learn_commit(ctx, commit);
        if !news || ctx.off(Rule::NoFsync) {
            self.acknowledge(ctx, from);
        }
        Ok(())
    }

    /// What the coordinator says is committed is committed here as far as the log goes: the logs are equal.
    pub(super) fn learn_commit(&mut self, ctx: &mut Ctx<'_>, commit: Seq) {
        let commit = commit.min(ctx.log.end().seq);
        let equal = self.synced || ctx.off(Rule::CommitBlind);
        if !equal || commit <= ctx.log.commit() {
            return;
        }
        if let Some(at) = self.question.as_ref().map(|question| question.at).filter(|at| *at < commit) {
            ctx.log.commit_to(at, |_| {});
            self.compare(ctx);
        }
        ctx.log.commit_to(commit, |_| {});
        self.compare(ctx);
    }

    fn acknowledge(&mut self, ctx: &mut Ctx<'_>, to: NodeId) {
        if self.synced && ctx.log.is_durable(self.view_mark) {
            self.acked = ctx.log.durable();
            ctx.send(to, PeerMsg::PutAck { slot: ctx.view.slot, epoch: ctx.view.epoch, end: self.acked });
        }
    }

    /// Says `msg` to the coordinator once everything recorded so far is on disk.
    fn when_durable(&mut self, ctx: &mut Ctx<'_>, msg: PeerMsg) {
        let mark = ctx.log.mark();
        if ctx.log.is_durable(mark) || ctx.off(Rule::NoFsync) || ctx.off(Rule::ForgetView) {
            return ctx.send(ctx.view.coordinator, msg);
        }
        // A repeated question needs one answer only.
        self.deferred.retain(|(_, m)| std::mem::discriminant(m) != std::mem::discriminant(&msg));
        self.deferred.push((mark, msg));
    }

    /// More is on disk.
    pub(super) fn durable(&mut self, ctx: &mut Ctx<'_>) {
        let coordinator = ctx.view.coordinator;
        for (_, msg) in self.deferred.extract_if(.., |(mark, _)| ctx.log.is_durable(*mark)).collect::<Vec<_>>() {
            ctx.send(coordinator, msg);
        }
        if ctx.log.durable() > self.acked {
            self.acknowledge(ctx, coordinator);
        }
    }

    /// L1: a beacon at the current epoch from its coordinator.
    pub(super) fn beacon(&mut self, ctx: &mut Ctx<'_>, beacon: &Beacon) -> BeaconAck {
        ctx.leases.promise(ctx.now, beacon.epoch, ctx.setup);
        if let Some(grant) = &beacon.grant {
            ctx.leases.hold(ctx.now, beacon.epoch, grant, ctx.setup);
        }
        self.learn_commit(ctx, beacon.commit);
        let settled = self.synced && ctx.log.is_durable(self.view_mark);
        BeaconAck { slot: beacon.slot, epoch: beacon.epoch, end: settled.then(|| ctx.log.durable()) }
    }

    /// The copy gives up its position: until the walk ends it is only a starting point.
    fn walk_begin(&mut self, ctx: &mut Ctx<'_>, walk: u64) {
        let latest = self.walk.map(|(current, _)| current).max(self.walked);
        let late = self.walked == Some(walk) || latest.is_some_and(|latest| walk < latest);
        if late && !ctx.off(Rule::LateWalk) {
            // Over, or begun before another one, and late: what has been acknowledged since must not be given up.
            return;
        }
        self.synced = false;
        if self.walk.is_none_or(|(current, _)| current != walk) {
            self.walk = Some((walk, 0));
            if ctx.log.has_position() && !ctx.off(Rule::ClaimKept) {
                // The tail is nearly always what the coordinator has, too: taken as it is, little of it differs, and what does
                // is replaced. After a restart everything since the last checkpoint is in there.
                let end = ctx.log.end().seq;
                ctx.log.commit_to(end, |_| {});
                let applied = if ctx.off(Rule::WalkBlind) { Seq(0) } else { ctx.log.commit() };
                ctx.log.image.base = None;
                ctx.log.image.tail.clear();
                ctx.log.image.lineage = Lineage::default();
                ctx.log.record(Change::WalkBegin { applied }, ctx.out);
                ctx.log.reset();
            }
        }
        let digests = if ctx.log.image.map.is_empty() { Vec::new() } else { ctx.log.image.map.digests() };
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        self.when_durable(ctx, PeerMsg::WalkDigests { slot, epoch, walk, digests });
    }

    /// A walk that a restart forgot, or whose failure the coordinator was not told: it must start over.
    fn unknown_walk(&self, ctx: &mut Ctx<'_>, walk: u64) {
        if self.walked != Some(walk) {
            let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
            ctx.send(ctx.view.coordinator, PeerMsg::WalkDone { slot, epoch, walk, ok: false });
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one message
    fn walk_end(
        &mut self,
        ctx: &mut Ctx<'_>,
        walk: u64,
        entries: Vec<Entry>,
        at: LogId,
        root: u64,
        lineage: Lineage,
        retries: common::retry::RetryTable,
    ) {
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        entries.iter().for_each(|entry| ctx.log.image.map.apply(&entry.op));
        self.walk = None;
        let ok = ctx.log.image.map.root() == root;
        if ok {
            (ctx.log.image.base, ctx.log.image.tail) = (Some(at), VecDeque::new());
            (ctx.log.image.lineage, ctx.log.image.retries) = (lineage.clone(), retries.clone());
            ctx.log.record(Change::WalkEnd { entries, at, lineage, retries }, ctx.out);
            ctx.log.reset();
            self.walked = Some(walk);
            if std::mem::take(&mut ctx.log.distrusted) {
                ctx.out.push(Action::Audited(Audited::Repaired));
            }
        } else {
            // The next walk compares with what is here now, so the journal must say what that is.
            let leaves = contents(&ctx.log.image.map, &entries);
            ctx.log.record(Change::Fill { leaves }, ctx.out);
        }
        self.when_durable(ctx, PeerMsg::WalkDone { slot, epoch, walk, ok });
    }
}

/// The present content of every leaf that these entries touch.
fn contents(map: &SlotMap, entries: &[Entry]) -> Vec<Leaf> {
    let mut wanted = vec![false; usize::from(LEAVES)];
    for key in entries.iter().filter_map(|entry| entry.op.key()) {
        wanted[usize::from(SlotMap::leaf_of(key))] = true;
    }
    map.leaves(&wanted).into_values().collect()
}
