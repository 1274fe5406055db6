//! Catching up by content: the coordinator compares leaf digests with a learner and replaces what differs.
//!
//! The log is pinned from the walk's start S; the walk ends at T: the learner applies (S, T] over the leaves it got and
//! must then have the coordinator's root. Differences are found by content, so whatever the learner held is a fine
//! starting point, and a new epoch simply starts over.

use std::collections::VecDeque;

use common::peer::{Leaf, PeerMsg};
use common::{NodeId, Seq, Time};

use super::action::{Action, Moved, Walked};
use super::coordinator::{Coordinator, Ctx, Phase};
use super::progress::Progress;
use super::traffic::{Traffic, Turn};
use crate::storage::SlotMap;
use crate::storage::map::LEAVES;

/// Bytes of frames that may be unacknowledged, or one frame.
const WINDOW_BYTES: usize = 2 << 20;

/// The coordinator's side of one walk.
#[derive(Debug)]
pub(super) struct Walk {
    number: u64,
    /// S: what was committed when it began.
    start: Seq,
    /// The leaves that differ and are not sent yet. None until the learner's digests are here.
    todo: Option<VecDeque<u16>>,
    /// Frames that are sent but not acknowledged, or cut but not sent; the first has the number `acked`.
    frames: VecDeque<Frame>,
    frame_bytes: usize,
    acked: u32,
    sent: u32,
    ended: bool,
    /// What went over so far.
    cost: Walked,
    /// Its place among the walks of this process.
    turn: Turn,
}

/// Leaves that go over together, and what they weigh.
#[derive(Debug)]
struct Frame {
    leaves: Vec<Leaf>,
    bytes: usize,
}

impl Walk {
    fn new(number: u64, start: Seq, turn: Turn) -> Walk {
        let (frames, cost) = (VecDeque::new(), Walked::default());
        Walk { number, start, todo: None, frames, frame_bytes: 0, acked: 0, sent: 0, ended: false, cost, turn }
    }

    /// What was committed when it began.
    pub(super) fn start(&self) -> Seq {
        self.start
    }

    fn is_filled(&self) -> bool {
        self.todo.as_ref().is_some_and(VecDeque::is_empty) && self.frames.is_empty()
    }

    /// Whether there is something to cut that had no room, or was held back.
    pub(super) fn is_open(&self) -> bool {
        self.todo.as_ref().is_some_and(|todo| !todo.is_empty())
    }

    /// Cuts the next leaves into frames.
    fn refill(&mut self, now: Time, traffic: &Traffic, single: bool, map: &SlotMap) {
        let Some(todo) = &mut self.todo else { return };
        while self.frame_bytes < WINDOW_BYTES && !todo.is_empty() {
            let Some(most) = traffic.frame(now) else { return };
            let per_leaf = (usize::try_from(map.bytes()).unwrap_or(usize::MAX) / usize::from(LEAVES)).max(1);
            let count = (most / per_leaf).clamp(1, todo.len());
            let mut wanted = vec![false; usize::from(LEAVES)];
            todo.drain(..count).for_each(|leaf| wanted[usize::from(leaf)] = true);
            let (mut frames, before) = (cut(map, &wanted, most), self.frame_bytes);
            for frame in &frames {
                self.frame_bytes += frame.bytes;
                self.cost.records +=
                    frame.leaves.iter().map(|leaf| (leaf.records.len() + leaf.dated.len()) as u64).sum::<u64>();
            }
            self.cost.bytes += (self.frame_bytes - before) as u64;
            traffic.spent(self.frame_bytes - before, single);
            self.frames.append(&mut frames);
        }
    }
}

/// Cuts the wanted leaves into frames of bounded size; a large leaf goes into several pieces.
fn cut(map: &SlotMap, wanted: &[bool], most: usize) -> VecDeque<Frame> {
    let (mut frames, mut leaves, mut bytes) = (VecDeque::new(), Vec::new(), 0);
    for (leaf, all) in map.leaves(wanted) {
        let mut piece = Leaf::new(leaf, true);
        let records = all.records.into_iter().map(|(key, value)| (key, value, None));
        let dated = all.dated.into_iter().map(|(key, value, until)| (key, value, Some(until)));
        for (key, value, until) in records.chain(dated) {
            bytes += key.0.len() + value.0.len();
            piece.push(key, value, until);
            if bytes > most {
                leaves.push(std::mem::replace(&mut piece, Leaf::new(leaf, false)));
                frames.push_back(Frame { leaves: std::mem::take(&mut leaves), bytes: std::mem::take(&mut bytes) });
            }
        }
        if piece.clear || !piece.is_empty() {
            leaves.push(piece);
        }
    }
    if !leaves.is_empty() {
        frames.push_back(Frame { leaves, bytes });
    }
    frames
}

impl Coordinator {
    /// Starts a walk with a learner that the log cannot serve, if there is a place for one more; else at a later tick.
    pub(super) fn begin_walk(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        let turn = follower.walk.take().map(|walk| walk.turn).or_else(|| ctx.setup.traffic.enter());
        let Some(turn) = turn else { return };
        let (number, start) = (self.next_walk(), ctx.log.commit());
        let Some(follower) = self.followers.get_mut(&node) else { return };
        follower.forget_position();
        (follower.last_send, follower.kept) = (ctx.now, None);
        follower.walk = Some(Walk::new(number, start, turn));
        self.pin(ctx);
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        ctx.send(node, PeerMsg::WalkBegin { slot, epoch, walk: number });
    }

    /// Ends a walk, however it went; what it kept in memory is released.
    pub(super) fn end_walk(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        follower.close(ctx.now);
        (follower.walk, follower.last_send) = (None, ctx.now);
        self.pin(ctx);
    }

    fn pin(&mut self, ctx: &mut Ctx<'_>) {
        ctx.log.pin(self.followers.values().filter_map(Progress::pins).min());
    }

    /// Nothing is kept in memory any longer for a follower whose walk has ended.
    pub(super) fn release(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        if self.followers.get_mut(&node).is_some_and(|follower| follower.kept.take().is_some()) {
            self.pin(ctx);
        }
    }

    /// The learner's digests, acknowledgements and verdicts.
    pub(super) fn walk_answer(&mut self, ctx: &mut Ctx<'_>, node: NodeId, msg: PeerMsg) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        let Some(walk) = &mut follower.walk else { return };
        match msg {
            PeerMsg::WalkDigests { walk: number, digests, .. } if number == walk.number && walk.todo.is_none() => {
                let theirs = |leaf: usize| digests.get(leaf).copied().unwrap_or(0);
                let differs = |(leaf, mine): (usize, u64)| {
                    (mine != theirs(leaf)).then(|| u16::try_from(leaf).unwrap_or(u16::MAX))
                };
                let todo: VecDeque<u16> =
                    ctx.log.image.map.digests().into_iter().enumerate().filter_map(differs).collect();
                walk.cost.leaves = todo.len() as u64;
                walk.todo = Some(todo);
                self.fill(ctx, node);
            }
            PeerMsg::WalkFillAck { walk: number, frame, .. } if number == walk.number => {
                while walk.acked <= frame
                    && let Some(done) = walk.frames.pop_front()
                {
                    walk.acked += 1;
                    walk.frame_bytes -= done.bytes;
                }
                walk.sent = walk.sent.max(walk.acked);
                self.fill(ctx, node);
            }
            PeerMsg::WalkDone { walk: number, ok, .. } if number == walk.number && (walk.ended || !ok) => {
                follower.kept = ok.then_some((walk.start, ctx.now));
                if ok {
                    let (held_records, held_bytes) = (ctx.log.image.map.len() as u64, ctx.log.image.map.bytes());
                    let walked = Walked { held_records, held_bytes, ..walk.cost };
                    ctx.out.push(Action::Moved(Moved::Walked(walked)));
                }
                // Its Sync is answered anew, with the position it now has. A failure is given a moment before that.
                self.end_walk(ctx, node);
                if ok {
                    self.sync(ctx, node);
                } else {
                    log::warn!("slot {}: the catch-up of {node} failed or was lost; again", ctx.view.slot);
                }
            }
            _ => {}
        }
    }

    /// Sends the frames that the window allows, and the end once all are written.
    pub(super) fn fill(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        let Some(follower) = self.followers.get_mut(&node) else { return };
        let Some(walk) = &mut follower.walk else { return };
        let single = ctx.view.isr.len() == 1;
        walk.refill(ctx.now, &ctx.setup.traffic, single, &ctx.log.image.map);
        let before = walk.sent;
        while let Some(frame) = walk.frames.get((walk.sent - walk.acked) as usize) {
            let leaves = frame.leaves.clone();
            let frame = PeerMsg::WalkFill { slot, epoch, walk: walk.number, frame: walk.sent, leaves };
            walk.sent += 1;
            ctx.send(node, frame);
        }
        let filled = walk.is_filled();
        // Looking in vain is no sending: a frame that got lost would never be sent again while others are held back.
        if filled || walk.sent > before {
            follower.last_send = ctx.now;
        }
        if !filled {
            return;
        }
        walk.ended = true;
        let (number, start, at) = (walk.number, walk.start, ctx.log.image.base);
        let entries = ctx.log.after(start).map(|all| all.take_while(|e| Some(e.id) <= at).cloned().collect());
        let (Some(at), Some(entries)) = (at, entries) else {
            // More was written during the walk than is kept in memory: start over from here.
            return self.begin_walk(ctx, node);
        };
        let mut lineage = ctx.log.image.lineage.clone();
        lineage.truncate_after(at.seq);
        let (root, retries) = (ctx.log.image.map.root(), ctx.log.image.retries.clone());
        ctx.send(node, PeerMsg::WalkEnd { slot, epoch, walk: number, entries, at, root, lineage, retries });
    }

    /// Sends again what a walk has not been answered.
    pub(super) fn resend_walk(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        if self.phase != Phase::Active {
            return;
        }
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        let Some(walk) = self.followers.get_mut(&node).and_then(|f| f.walk.as_mut()) else { return };
        if walk.todo.is_none() {
            let walk = walk.number;
            return ctx.send(node, PeerMsg::WalkBegin { slot, epoch, walk });
        }
        walk.sent = walk.acked;
        self.fill(ctx, node);
    }
}
