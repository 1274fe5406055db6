//! What coordinators ask for: each ask is a compare-and-set on its slot's epoch, and all asks of one message are one
//! durable command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::control::{Ask, Change};
use common::view::View;
use common::{BootId, NodeId, Rule, StoreUuid, Time};

use crate::core::{Action, Conn, Ecs};
use crate::director::{Placement, Sketch, World};

/// For how long a coordinator's complaint about a replica counts.
const COMPLAINT: Duration = Duration::from_secs(2);

impl Ecs {
    pub(crate) fn ask(&mut self, now: Time, conn: Conn, asks: &[Ask], out: &mut Vec<Action>) {
        let Some((asker, boot)) = self.conns.get(&conn).map(|peer| (peer.node, peer.boot)) else { return };
        self.detector.heard(asker, now);
        let highest = asks.iter().map(|ask| ask.epoch).max().unwrap_or_default();
        self.beware(now, asker, highest, out);
        if self.refusing().is_some() {
            return;
        }
        let cut_off = self.cut_off(now, asker, asks, out);
        let world = self.world(now);
        let placement = Placement::of(&world);
        let same = |epoch, ask: &Ask| epoch == ask.epoch || world.switches.off(Rule::NoCas);
        let (mut sketches, mut stale) = (BTreeMap::new(), false);
        for ask in asks {
            let current =
                |view: &&View| same(view.epoch, ask) && view.coordinator == asker && view.coordinator_boot == boot;
            let Some(view) = world.cluster.view(ask.slot).filter(current) else {
                stale = true;
                continue;
            };
            let before = sketches.get(&ask.slot).cloned().unwrap_or_else(|| Sketch::of(view));
            let request = Request { world: &world, placement: &placement, view, cut_off };
            if let Some(after) = request.answer(before, ask.change) {
                sketches.insert(ask.slot, after);
            }
        }
        if stale {
            self.catch_up(now, asker, out);
        }
        if !sketches.is_empty() {
            self.settle(now, Vec::new(), sketches, out);
        }
    }

    /// Whether the asker is the odd one out: it calls all of its replicas silent (two at least), and we hear them well.
    fn cut_off(&mut self, now: Time, asker: NodeId, asks: &[Ask], out: &mut Vec<Action>) -> bool {
        let silent = |ask: &Ask| match ask.change {
            Change::Shrink { node } => Some(node),
            _ => None,
        };
        let accused: BTreeSet<NodeId> = asks.iter().filter_map(silent).collect();
        if accused.is_empty() {
            return false;
        }
        let complaints = self.accusations.entry(asker).or_default();
        complaints.retain(|_, at| now.since(*at) < COMPLAINT);
        complaints.extend(accused.iter().map(|node| (*node, now)));
        let accused: Vec<NodeId> = complaints.keys().copied().collect();
        let views = self.cluster.views().iter().filter(|view| view.coordinator == asker);
        let replicas: BTreeSet<NodeId> =
            views.flat_map(|view| view.isr.keys().copied()).filter(|node| *node != asker).collect();
        let well = |node: &NodeId| self.detector.beats_well(*node, now);
        let all = replicas.iter().all(|node| accused.contains(node));
        let cut_off = all && accused.len() >= 2 && accused.iter().all(well);
        if cut_off {
            let why =
                format!("calls all of its replicas silent ({accused:?}), which are heard well: it is cut off itself");
            self.detector.unsettle(asker, &why, now);
            let mut found = Vec::new();
            self.detector.accused(asker, "its replicas cannot hear it", now, &mut found);
            let verdicts = self.act_on(now, found, out);
            debug_assert!(verdicts.is_empty(), "an accusation is no verdict");
        }
        cut_off
    }
}

/// One ask and what it is judged by.
struct Request<'a> {
    world: &'a World<'a>,
    placement: &'a Placement,
    view: &'a View,
    cut_off: bool,
}

impl Request<'_> {
    /// The view as it is to be, or None: refused, and the asker's view stands.
    fn answer(&self, sketch: Sketch, change: Change) -> Option<Sketch> {
        // A hand-over changes nothing else; whoever asks for both has its other wish asked again at the next epoch.
        if sketch.released {
            return None;
        }
        match change {
            Change::Shrink { node } if self.cut_off && sketch.isr.contains_key(&node) => {
                // Alone against all of its replicas: they go on without it.
                if node == sketch.coordinator { None } else { self.step_down(sketch) }
            }
            Change::Shrink { node } | Change::Demote { node } => self.shrink(sketch, node),
            Change::Expand { node, store, boot } => self.expand(sketch, node, store, boot),
            Change::HandOver { to } => Some(self.hand_over(sketch, to)),
            Change::StepDown => self.step_down(sketch),
        }
    }

    /// Even a shrink by a node that is not in the ISR takes a fresh epoch: it kills an expand in flight.
    fn shrink(&self, mut sketch: Sketch, node: NodeId) -> Option<Sketch> {
        if node == sketch.coordinator {
            return None;
        }
        if !self.world.switches.off(Rule::DropPending) || sketch.isr.contains_key(&node) {
            sketch.forced = true;
        }
        sketch.isr.remove(&node);
        Some(sketch)
    }

    fn expand(&self, mut sketch: Sketch, node: NodeId, store: StoreUuid, boot: BootId) -> Option<Sketch> {
        let info = self.world.cluster.nodes().get(&node)?;
        if !self.view.targets.contains(&node) || !self.world.capable(node, info.store) {
            return None;
        }
        sketch.forced = true;
        if info.store != store || info.boot != boot {
            // The asker knows the learner from an earlier start, and would ask for that one again and again. A fresh view
            // makes the two meet anew.
            return Some(sketch);
        }
        sketch.isr.insert(node, store);
        Some(sketch)
    }

    /// Always a new view: the asker has stopped and waits for one.
    fn hand_over(&self, mut sketch: Sketch, to: NodeId) -> Sketch {
        let ready = sketch.isr.get(&to).is_some_and(|store| self.world.capable(to, *store));
        if ready && to != sketch.coordinator && !sketch.forced {
            sketch.coordinator = to;
            sketch.released = true;
        }
        sketch.forced = true;
        sketch
    }

    fn step_down(&self, mut sketch: Sketch) -> Option<Sketch> {
        let asker = self.view.coordinator;
        let mut others = sketch.isr.clone();
        others.remove(&asker);
        let mut preferred = self.placement.desired(self.view, &others);
        preferred.retain(|node| *node != asker);
        sketch.coordinator = self.world.successor(&others, &preferred)?;
        sketch.isr = others;
        sketch.forced = true;
        Some(sketch)
    }
}
