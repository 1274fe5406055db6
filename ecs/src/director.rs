//! Which step comes next: from the durable state, who is alive, and what coordinators report, the views there should be.
//!
//! Declarative and stateless: it looks at what is and says what to change towards what should be. It can therefore be
//! asked at any time, and a restart of the ECS resumes whatever was going on, because nothing "goes on" in here.
//!
//! Rules, each for one slot:
//! - A dead coordinator is replaced from the ISR only, in preference order (C4); the dead leave the ISR in the same view.
//!   Nobody of the ISR alive: nothing changes, and the slot is unavailable until one returns.
//! - What is not urgent waits until the coordinator is active in its current view: then targets become the preference
//!   list, and members that are no targets leave once all targets are in.
//! - A view that completes a hand-over changes nothing else: its coordinator skips a wait on the strength of what the old
//!   one released, and that covers only the members the old one had.

use std::collections::{BTreeMap, BTreeSet};

use common::view::{NodeInfo, NodeState, View};
use common::{NodeId, Rule, Slot, StoreUuid, Switches, Time, ring};

use crate::cluster::{Change, Cluster, Proposal};
use crate::core::Config;
use crate::detector::Detector;
use crate::pace::Deferred;
use crate::reports::Reports;

/// Everything a step depends on.
pub struct World<'a> {
    /// The durable state.
    pub cluster: &'a Cluster,
    /// Who is alive.
    pub detector: &'a Detector,
    /// What coordinators said.
    pub reports: &'a Reports,
    /// Durations.
    pub config: &'a Config,
    /// Who has to wait until when before it may try to join again.
    pub deferred: &'a BTreeMap<NodeId, Deferred>,
    /// Rules that are off; none in a product build.
    pub switches: Switches,
    /// The time.
    pub now: Time,
}

/// Who may hold copies, and of which slots.
pub struct Placement {
    homes: Vec<NodeId>,
    copies: usize,
    /// Who may get copies.
    eligible: BTreeSet<NodeId>,
    /// Who keeps its copies, but gets none: it flaps.
    flapping: BTreeSet<NodeId>,
    /// Who went down a moment ago and may be back in another.
    recent: BTreeSet<NodeId>,
}

impl Placement {
    /// From the world as it is.
    #[must_use]
    pub fn of(world: &World<'_>) -> Placement {
        let joiner = world.cluster.change().and_then(Change::joiner);
        let nodes = || world.cluster.nodes().values();
        let member = |info: &&NodeInfo| info.state == NodeState::Up || Some(info.node) == joiner;
        let present = |info: &&NodeInfo| member(info) && info.state != NodeState::Down;
        let admitted = |info: &&NodeInfo| world.detector.admitted(info.node, world.now);
        let young = |info: &&NodeInfo| {
            let down = world.detector.down_for(info.node, world.now);
            info.state == NodeState::Down && down.is_some_and(|down| down < world.config.replace_after)
        };
        let ids = |infos: Vec<&NodeInfo>| infos.into_iter().map(|info| info.node).collect();
        Placement {
            homes: world.cluster.homes(),
            copies: usize::from(world.cluster.record().replicas) + 1,
            eligible: ids(nodes().filter(present).filter(admitted).collect()),
            flapping: ids(nodes().filter(present).filter(|info| !admitted(info)).collect()),
            recent: ids(nodes().filter(young).collect()),
        }
    }

    /// Who should hold copies of the view's slot, if `members` is its ISR.
    #[must_use]
    pub fn desired(&self, view: &View, members: &BTreeMap<NodeId, StoreUuid>) -> Vec<NodeId> {
        let keeps = self.flapping.iter().filter(|node| members.contains_key(node));
        let eligible: BTreeSet<NodeId> = self.eligible.iter().chain(keeps).copied().collect();
        let full = ring::preference(&self.homes, view.slot, &eligible, self.copies);
        // One copy left, or the replacement already called: no waiting for those that may come back.
        if self.recent.is_empty() || members.len() <= 1 || full == view.targets {
            return full;
        }
        let waiting = eligible.union(&self.recent).copied().collect();
        let mut patient = ring::preference(&self.homes, view.slot, &waiting, self.copies);
        patient.retain(|node| !self.recent.contains(node));
        patient
    }

    /// Whether `node` would hold a copy of the slot if it did not flap: it gets it back before long, and what it still has
    /// spares it most of the catching up.
    fn awaits(&self, view: &View, node: NodeId) -> bool {
        let eligible = self.eligible.iter().copied().chain([node]).collect();
        self.flapping.contains(&node)
            && ring::preference(&self.homes, view.slot, &eligible, self.copies).contains(&node)
    }

    /// How many copies there can be.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.copies.min(self.eligible.len())
    }

    /// Every slot's home.
    #[must_use]
    pub fn homes(&self) -> &[NodeId] {
        &self.homes
    }
}

/// A view in the making.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// See [`View::coordinator`].
    pub coordinator: NodeId,
    /// See [`View::isr`].
    pub isr: BTreeMap<NodeId, StoreUuid>,
    /// See [`View::targets`].
    pub targets: Vec<NodeId>,
    /// Whether the old coordinator gave its lease back.
    pub released: bool,
    /// Whether a new view is wanted even if nothing differs.
    pub forced: bool,
}

impl Sketch {
    /// The view as it is.
    #[must_use]
    pub fn of(view: &View) -> Sketch {
        Sketch {
            coordinator: view.coordinator,
            isr: view.isr.clone(),
            targets: view.targets.clone(),
            released: false,
            forced: false,
        }
    }

    /// What to propose, if anything differs.
    #[must_use]
    pub fn proposal(self, view: &View) -> Option<Proposal> {
        let same = self.coordinator == view.coordinator && self.isr == view.isr && self.targets == view.targets;
        let Sketch { coordinator, isr, targets, released, forced } = self;
        (forced || !same).then_some(Proposal {
            slot: view.slot,
            epoch: view.epoch,
            coordinator,
            isr,
            targets,
            released,
        })
    }
}

impl World<'_> {
    /// Whether this member of an ISR is the node as it is now, and it can coordinate.
    #[must_use]
    pub fn capable(&self, node: NodeId, store: StoreUuid) -> bool {
        self.holds(node, store) && self.detector.fit(node)
    }

    /// Whether the node still has the store, and is not down.
    fn holds(&self, node: NodeId, store: StoreUuid) -> bool {
        self.cluster.nodes().get(&node).is_some_and(|info| info.store == store && info.state != NodeState::Down)
    }

    /// The first in preference order of those who can coordinate.
    #[must_use]
    pub fn successor(&self, isr: &BTreeMap<NodeId, StoreUuid>, preferred: &[NodeId]) -> Option<NodeId> {
        let capable = |node: &&NodeId| isr.get(node).is_some_and(|store| self.capable(**node, *store));
        preferred.iter().find(capable).or_else(|| isr.keys().find(capable)).copied()
    }

    /// Improves one slot's view.
    pub fn improve(&self, placement: &Placement, view: &View, sketch: &mut Sketch) {
        if sketch.released {
            return;
        }
        // What a coordinator asked for is one step, and a failover the next: a member that has just been taken in does not
        // take over in the same breath.
        if !sketch.forced {
            self.fail_over(placement, view, sketch);
        }
        let info = self.cluster.nodes().get(&sketch.coordinator);
        let current = info.is_some_and(|info| info.boot == view.coordinator_boot);
        let fit = sketch.isr.get(&sketch.coordinator).is_some_and(|store| self.capable(sketch.coordinator, *store));
        if !fit {
            return;
        }
        let moved = sketch.coordinator != view.coordinator;
        if !current && !moved && !self.switches.off(Rule::ResumeEpoch) {
            sketch.forced = true;
        }
        if self.awaits(sketch) {
            return;
        }
        let settled = self.reports.active(view);
        if moved || sketch.forced || settled {
            let desired = placement.desired(view, &sketch.isr);
            if !desired.is_empty() {
                sketch.targets = desired;
            }
        }
        if settled && !moved && sketch.targets.iter().all(|node| self.in_sync(sketch, *node)) {
            let keep = |node: &NodeId| sketch.targets.contains(node) || *node == sketch.coordinator;
            sketch.isr.retain(|node, _| keep(node));
        }
    }

    fn in_sync(&self, sketch: &Sketch, node: NodeId) -> bool {
        sketch.isr.get(&node).is_some_and(|store| self.capable(node, *store))
    }

    /// Takes the dead out and puts another coordinator in, if somebody of the ISR is alive.
    fn fail_over(&self, placement: &Placement, view: &View, sketch: &mut Sketch) {
        let lost = |node: NodeId, store: StoreUuid| !self.holds(node, store) || self.detector.stalled(node);
        let any_lost = sketch.isr.iter().any(|(node, store)| lost(*node, *store));
        let any_left = sketch.isr.iter().any(|(node, store)| self.capable(*node, *store));
        if !any_left && self.switches.off(Rule::Unclean) {
            return self.fail_over_unclean(sketch);
        }
        if !any_lost || !any_left || self.awaits(sketch) {
            return;
        }
        sketch.isr.retain(|node, store| !lost(*node, *store));
        if !sketch.isr.contains_key(&sketch.coordinator) {
            let desired = placement.desired(view, &sketch.isr);
            match self.successor(&sketch.isr, &desired) {
                Some(next) => sketch.coordinator = next,
                None => *sketch = Sketch::of(view),
            }
        }
    }

    /// In the grace period those who are away may all come back in a moment: none of them is taken out yet.
    fn awaits(&self, sketch: &Sketch) -> bool {
        self.detector.in_grace(self.now) && sketch.isr.iter().any(|(node, store)| !self.capable(*node, *store))
    }

    /// What [`Rule::Unclean`] forbids: somebody who may lack acknowledged writes.
    fn fail_over_unclean(&self, sketch: &mut Sketch) {
        let fit = self.cluster.nodes().values().find(|info| self.detector.fit(info.node));
        if let Some(info) = fit {
            sketch.coordinator = info.node;
            sketch.isr = BTreeMap::from([(info.node, info.store)]);
        }
    }

    /// The slots that should be handed over now: slot by slot the successor.
    pub fn handovers<'a>(&'a self, placement: &'a Placement) -> impl Iterator<Item = (&'a View, NodeId)> + 'a {
        self.cluster.views().iter().filter_map(move |view| {
            let going = self.is_going(view.coordinator);
            let desired = placement.desired(view, &view.isr);
            let stays = |node: &&NodeId| **node != view.coordinator && !self.detector.draining(**node, self.now);
            // Who goes gives to anyone who can; home is where it belongs otherwise.
            let next = match self.detector.draining(view.coordinator, self.now) {
                true => {
                    *desired.iter().chain(view.isr.keys()).filter(stays).find(|node| self.can_take(view, **node))?
                }
                false => *desired.first().filter(stays)?,
            };
            let ready = self.can_take(view, next)
                && self.detector.healthy(view.coordinator)
                && self.reports.active(view)
                && (going || self.settled(next));
            ready.then_some((view, next))
        })
    }

    fn can_take(&self, view: &View, node: NodeId) -> bool {
        view.isr.get(&node).is_some_and(|store| self.capable(node, *store))
    }

    /// Whether the node will be gone in a while, by its own wish or another's.
    fn is_going(&self, node: NodeId) -> bool {
        let leaving = self.cluster.nodes().get(&node).is_some_and(|info| info.state == NodeState::Leaving);
        leaving || self.detector.draining(node, self.now)
    }

    /// Whether the node may be given work: a newcomer at once, one that has been away after a while.
    fn settled(&self, node: NodeId) -> bool {
        let joining = self.cluster.nodes().get(&node).is_some_and(|info| info.state == NodeState::Joining);
        joining || self.detector.present_for(node, self.now) >= self.config.settle
    }

    /// Which of the strays a server reported it may drop: their slots are served, at all their copies, without it.
    #[must_use]
    pub fn droppable(&self, placement: &Placement, node: &NodeInfo) -> Vec<(Slot, common::Epoch)> {
        let settled = |view: &&View| {
            view.part_of(node.node, node.store) == common::view::Part::None
                && !view.isr.contains_key(&node.node)
                && self.reports.active(view)
                && view.targets.iter().all(|target| view.isr.contains_key(target))
                && view.isr.len() >= placement.copies()
                && !placement.awaits(view, node.node)
        };
        let strays = self.reports.strays(node.node).iter();
        let views = strays.filter_map(|(slot, _)| self.cluster.view(*slot)).filter(settled);
        views.map(|view| (view.slot, view.epoch)).collect()
    }
}
