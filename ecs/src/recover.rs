//! Giving up on copies that were the only ones in sync: an operator's act, apart from every other, that names the loss (C4).
//!
//! Nothing in the ECS does this by itself. It is done for one server, which must be down, and changes only slots of which
//! nobody in sync is alive. Where another server was in sync, too, nothing is lost and nothing is decided: the slot waits
//! for that one. Else the newest copy that somebody has is served, or an empty one, as if nothing had been written since.

use std::collections::{BTreeMap, BTreeSet};

use common::control::Granted;
use common::view::{NodeInfo, NodeState, View};
use common::{LogId, NodeId, Slot, StoreUuid, Time};

use crate::change::{Homes, Parting};
use crate::cluster::{Command, Proposal};
use crate::core::{Action, Ecs};
use crate::director::Placement;
use crate::planner::{self, Weights};

/// What is to become of the slots of which a server that is down holds a copy in sync, and nobody alive does.
#[derive(Default)]
struct Recovery {
    proposals: Vec<Proposal>,
    /// Slots that wait for another server that was in sync.
    waiting: usize,
    /// Slots that are served from an older copy, by whom; and from none.
    older: BTreeMap<NodeId, usize>,
    empty: usize,
    /// Slots for which nobody is there.
    nobody: usize,
}

impl Ecs {
    /// Gives up on what only `node` has, and removes it.
    pub(crate) fn give_up_on(&mut self, now: Time, node: NodeId, asker: NodeId, out: &mut Vec<Action>) -> Granted {
        let down = self.cluster.nodes().get(&node).is_some_and(|info| info.state == NodeState::Down);
        if !down {
            return Granted::No(format!("{node} is not down: nothing of it has to be given up; `remove` it"));
        }
        // What was under way cannot go on without these slots: it is undone, and may begin anew afterwards.
        let (undone, _) = self.give_up(now, &format!("an operator gives up on {node}"), out);
        self.settle(now, undone, BTreeMap::new(), out);
        let recovery = self.recovery(now, node);
        if recovery.nobody > 0 {
            return Granted::No(format!(
                "{} slots would have no copy at all: no other server is up. Start one first",
                recovery.nobody
            ));
        }
        let heir =
            recovery.proposals.iter().map(|proposal| proposal.coordinator).find(|other| self.detector.fit(*other));
        let Some((homes, heir)) = self.homes_without(node, heir) else {
            return Granted::No(format!("all slots have their home at {node}: start another server first"));
        };
        let word = if recovery.loses() { "DATA LOSS ACCEPTED" } else { "nothing is lost, though it was accepted," };
        let told = format!("{word} by an operator (through {asker}): {node} is given up; {}", recovery.told());
        let mut commands = vec![
            Command::Views(recovery.proposals),
            Command::Homes(Homes::pack(&homes)),
            Command::Depart { node, how: Parting::Removed },
        ];
        commands.extend(heir.map(|node| Command::State { node, state: NodeState::Up }));
        self.detector.note(now, node, told.clone());
        out.push(Action::Log { level: log::Level::Warn, text: told.clone() });
        self.settle(now, commands, BTreeMap::new(), out);
        Granted::Yes(told)
    }

    /// The homes without a server. If nobody else has one, the heir gets them all, and is a member with that.
    fn homes_without(&self, node: NodeId, heir: Option<NodeId>) -> Option<(Vec<NodeId>, Option<NodeId>)> {
        let homes = self.cluster.homes();
        match planner::leave(&homes, node, &Weights::of(self.cluster.nodes())) {
            Some(plan) => Some((plan.homes, None)),
            None => heir.map(|heir| (planner::replace(&homes, node, heir), Some(heir))),
        }
    }

    /// How many slots have this server in sync; nobody else alive, if it is down.
    pub(crate) fn only_at(&self, node: NodeId) -> usize {
        self.cluster.views().iter().filter(|view| view.isr.contains_key(&node)).count()
    }

    fn recovery(&self, now: Time, node: NodeId) -> Recovery {
        let world = self.world(now);
        let placement = Placement::of(&world);
        let mut all = Recovery::default();
        for view in self.cluster.views().iter().filter(|view| view.isr.contains_key(&node)) {
            let mut isr = view.isr.clone();
            isr.remove(&node);
            // Whoever is alive and in sync serves already, or will in a moment: nothing is lost.
            let heir = isr.iter().find(|(other, store)| world.capable(**other, **store)).or_else(|| isr.iter().next());
            if let Some(coordinator) = heir.map(|(other, _)| *other) {
                all.waiting += 1;
                all.propose(view, coordinator, isr);
                continue;
            }
            let preferred = placement.desired(view, &isr);
            let present: Vec<&NodeInfo> =
                self.cluster.nodes().values().filter(|info| world.detector.fit(info.node)).collect();
            match self.newest(view.slot, &present, &preferred) {
                Some((info, held)) => {
                    if held.is_some() {
                        *all.older.entry(info.node).or_default() += 1;
                    } else {
                        all.empty += 1;
                    }
                    all.propose(view, info.node, BTreeMap::from([(info.node, info.store)]));
                }
                None => all.nobody += 1,
            }
        }
        all
    }

    /// Who has the newest copy, and its last entry; of those who have none the preferred one.
    fn newest<'a>(
        &self,
        slot: Slot,
        present: &[&'a NodeInfo],
        preferred: &[NodeId],
    ) -> Option<(&'a NodeInfo, Option<LogId>)> {
        let rank = |info: &NodeInfo| preferred.iter().position(|node| *node == info.node).unwrap_or(preferred.len());
        let candidates = present.iter().map(|info| (*info, self.reports.held(info.node, slot)));
        candidates.max_by_key(|(info, held)| (*held, std::cmp::Reverse(rank(info))))
    }
}

impl Recovery {
    fn propose(&mut self, view: &View, coordinator: NodeId, isr: BTreeMap<NodeId, StoreUuid>) {
        let others: BTreeSet<NodeId> = isr.keys().copied().collect();
        let targets = if view.targets.iter().any(|node| others.contains(node)) {
            view.targets.iter().filter(|node| others.contains(node)).copied().collect()
        } else {
            vec![coordinator]
        };
        self.proposals.push(Proposal {
            slot: view.slot,
            epoch: view.epoch,
            coordinator,
            isr,
            targets,
            released: false,
        });
    }

    fn loses(&self) -> bool {
        self.empty > 0 || !self.older.is_empty()
    }

    fn told(&self) -> String {
        let mut parts = Vec::new();
        for (node, slots) in &self.older {
            parts.push(format!("{slots} slots go on from an older copy at {node}"));
        }
        if self.empty > 0 {
            parts.push(format!("{} slots begin empty: nobody had a copy of them", self.empty));
        }
        if self.waiting > 0 {
            parts.push(format!("{} slots lose nothing: another server has them in sync", self.waiting));
        }
        if parts.is_empty() { "it held nothing that others lack".to_string() } else { parts.join(", ") }
    }
}
