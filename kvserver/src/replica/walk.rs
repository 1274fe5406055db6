//! Catching up by content: the coordinator compares leaf digests with a learner and replaces what differs.
//!
//! The log is pinned from the walk's start S; the walk ends at T: the learner applies (S, T] over the leaves it got and
//! must then have the coordinator's root. Differences are found by content, so whatever the learner held is a fine
//! starting point, and a new epoch simply starts over.

use std::collections::VecDeque;

use common::peer::{Leaf, PeerMsg};
use common::{NodeId, Seq};

use super::coordinator::{Coordinator, Ctx, Phase};
use crate::storage::SlotMap;
use crate::storage::map::LEAVES;

/// Frames that may be unacknowledged.
const WINDOW: u32 = 8;
/// Records of one frame, in bytes (one record may be larger).
const FRAME_BYTES: usize = 512 << 10;

/// The coordinator's side of one walk.
#[derive(Debug)]
pub(super) struct Walk {
    number: u64,
    /// S: what was committed when it began.
    start: Seq,
    /// The leaves that differ and are not sent yet. None until the learner's digests are here.
    todo: Option<VecDeque<u16>>,
    /// Frames that are sent but not acknowledged, or cut but not sent; the first has the number `acked`.
    frames: VecDeque<Vec<Leaf>>,
    acked: u32,
    sent: u32,
    ended: bool,
}

impl Walk {
    fn is_filled(&self) -> bool {
        self.todo.as_ref().is_some_and(VecDeque::is_empty) && self.frames.is_empty()
    }

    /// Cuts the next leaves into frames.
    fn refill(&mut self, map: &SlotMap) {
        let Some(todo) = &mut self.todo else { return };
        while self.frames.len() < WINDOW as usize && !todo.is_empty() {
            let per_leaf = (usize::try_from(map.bytes()).unwrap_or(usize::MAX) / usize::from(LEAVES)).max(1);
            let count = (FRAME_BYTES / per_leaf).clamp(1, todo.len());
            let mut wanted = vec![false; usize::from(LEAVES)];
            todo.drain(..count).for_each(|leaf| wanted[usize::from(leaf)] = true);
            cut(map, &wanted, &mut self.frames);
        }
    }
}

/// Cuts the wanted leaves into frames of bounded size; a large leaf goes into several pieces.
fn cut(map: &SlotMap, wanted: &[bool], frames: &mut VecDeque<Vec<Leaf>>) {
    let (mut frame, mut bytes) = (Vec::new(), 0);
    for (leaf, all) in map.leaves(wanted) {
        let mut piece = Leaf::new(leaf, true);
        let records = all.records.into_iter().map(|(key, value)| (key, value, None));
        let dated = all.dated.into_iter().map(|(key, value, until)| (key, value, Some(until)));
        for (key, value, until) in records.chain(dated) {
            bytes += key.0.len() + value.0.len();
            piece.push(key, value, until);
            if bytes > FRAME_BYTES {
                frame.push(std::mem::replace(&mut piece, Leaf::new(leaf, false)));
                frames.push_back(std::mem::take(&mut frame));
                bytes = 0;
            }
        }
        if piece.clear || !piece.is_empty() {
            frame.push(piece);
        }
    }
    if !frame.is_empty() {
        frames.push_back(frame);
    }
}

impl Coordinator {
    /// Starts a walk with a learner that the log cannot serve.
    pub(super) fn begin_walk(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let (number, start) = (self.next_walk(), ctx.log.commit());
        let Some(follower) = self.followers.get_mut(&node) else { return };
        follower.forget_position();
        follower.last_send = ctx.now;
        let frames = VecDeque::new();
        follower.walk = Some(Walk { number, start, todo: None, frames, acked: 0, sent: 0, ended: false });
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
        ctx.log.pin(self.followers.values().filter_map(|f| f.walk.as_ref()).map(|w| w.start).min());
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
                walk.todo = Some(ctx.log.image.map.digests().into_iter().enumerate().filter_map(differs).collect());
                self.fill(ctx, node);
            }
            PeerMsg::WalkFillAck { walk: number, frame, .. } if number == walk.number => {
                while walk.acked <= frame && walk.frames.pop_front().is_some() {
                    walk.acked += 1;
                }
                walk.sent = walk.sent.max(walk.acked);
                self.fill(ctx, node);
            }
            PeerMsg::WalkDone { walk: number, ok, .. } if number == walk.number && (walk.ended || !ok) => {
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
    fn fill(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let (slot, epoch) = (ctx.view.slot, ctx.view.epoch);
        let Some(follower) = self.followers.get_mut(&node) else { return };
        let Some(walk) = &mut follower.walk else { return };
        walk.refill(&ctx.log.image.map);
        follower.last_send = ctx.now;
        while let Some(leaves) = walk.frames.get((walk.sent - walk.acked) as usize) {
            let frame = PeerMsg::WalkFill { slot, epoch, walk: walk.number, frame: walk.sent, leaves: leaves.clone() };
            walk.sent += 1;
            ctx.send(node, frame);
        }
        if !walk.is_filled() {
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
