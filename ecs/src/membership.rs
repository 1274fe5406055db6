//! The steps of a membership change: how joins, leaves and moves begin, when they are done, and how they are undone.
//!
//! Like all of the director it is declarative: a change in progress is durable, and what it needs next is seen from the
//! state as it is. The views follow from the homes and from who may have copies; nothing in here touches a view.

use common::view::{NodeInfo, NodeState, View};
use common::{NodeId, ring};

use crate::change::Parting;
use crate::cluster::{Change, Command, Homes};
use crate::director::{Placement, World};
use crate::planner::{self, Weights};

impl World<'_> {
    /// The next steps of membership: what is to be done before views are looked at.
    #[must_use]
    pub fn membership(&self, placement: &Placement) -> Option<(Vec<Command>, String)> {
        match self.cluster.change() {
            Some(Change::Join { node, before }) => self.pursue_join(placement, *node, before),
            Some(Change::Leave { node, how, .. }) => self.pursue_leave(*node, *how),
            Some(Change::Rebalance { after, .. }) => self.pursue_rebalance(placement, after),
            None => self.sweep().or_else(|| self.begin_join()).or_else(|| self.rehome()),
        }
    }

    fn pursue_join(&self, placement: &Placement, node: NodeId, before: &Homes) -> Option<(Vec<Command>, String)> {
        let state = self.cluster.nodes().get(&node).map(|info| info.state);
        if state != Some(NodeState::Joining) {
            let homes = self.restored(before, Some(node));
            let commands = vec![Command::Homes(Homes::pack(&homes)), Command::End];
            return Some((commands, format!("{node} vanished while joining: homes are as before")));
        }
        let joined = self.cluster.views().iter().all(|view| {
            let wanted = placement.desired(view, &view.isr).contains(&node);
            let homed = placement.homes().get(usize::from(view.slot.0)) == Some(&node);
            (!wanted || view.isr.contains_key(&node)) && (!homed || view.coordinator == node)
        });
        let up = Command::State { node, state: NodeState::Up };
        joined.then(|| (vec![up, Command::End], format!("{node} has joined: it holds its share")))
    }

    /// Nothing hangs on the leaver any more, or it died on the way and others have taken its place.
    fn pursue_leave(&self, node: NodeId, how: Parting) -> Option<(Vec<Command>, String)> {
        let state = self.cluster.nodes().get(&node).map(|info| info.state);
        let held = |view: &View| view.isr.contains_key(&node);
        let alive = |view: &View| view.isr.iter().any(|(node, store)| self.capable(*node, *store));
        let served = |view: &View| (self.reports.active(view) && !view.targets.contains(&node)) || !alive(view);
        match state {
            None => Some((vec![Command::End], format!("{node} is gone already"))),
            _ if self.cluster.views().iter().any(held) => None,
            Some(NodeState::Down) => {
                let commands = vec![Command::Depart { node, how: Parting::Removed }, Command::End];
                Some((commands, format!("{node} died while it left: gone, and its copies are made from others")))
            }
            Some(_) if self.cluster.views().iter().all(served) => {
                let commands = vec![Command::Depart { node, how }, Command::End];
                Some((commands, format!("{node} has left: others hold its share")))
            }
            Some(_) => None,
        }
    }

    /// A few slots at a time: the next ones when those before are all at home.
    fn pursue_rebalance(&self, placement: &Placement, after: &Homes) -> Option<(Vec<Command>, String)> {
        let (homes, after) = (self.cluster.homes(), after.unpack());
        if homes == after {
            let moved = self.cluster.views().iter().all(|view| self.unmoved(placement, view) == 0);
            return moved.then(|| (vec![Command::End], "rebalanced: every slot is at its new home".to_string()));
        }
        let moving = self.cluster.views().iter().filter(|view| self.unmoved(placement, view) > 0).count();
        if moving > 0 || after.len() != homes.len() {
            return None;
        }
        let next = planner::advance(&homes, &after, self.config.moves);
        let plan = format!("rebalancing: {} slots move next", homes.iter().zip(&next).filter(|(a, b)| a != b).count());
        Some((vec![Command::Homes(Homes::pack(&next))], plan))
    }

    /// What is left to do in a slot until it is as its homes say.
    fn unmoved(&self, placement: &Placement, view: &View) -> usize {
        let desired = placement.desired(view, &view.isr);
        let missing = desired.iter().filter(|node| !view.isr.contains_key(node)).count();
        missing + usize::from(desired.first().is_some_and(|home| *home != view.coordinator))
    }

    /// What begins an evening out. None if everything is even.
    #[must_use]
    pub fn begin_rebalance(&self) -> Option<(Vec<Command>, String)> {
        let before = self.cluster.homes();
        let plan = planner::balance(&before, &self.weights());
        let change = Change::Rebalance { before: Homes::pack(&before), after: Homes::pack(&plan.homes) };
        (!plan.moves.is_empty()).then(|| (vec![Command::Begin(change)], format!("rebalancing: {plan}")))
    }

    /// How much is left to do of the change in progress: copies to be made and given up, and slots to be handed over.
    #[must_use]
    pub fn remaining(&self, placement: &Placement) -> usize {
        self.cluster.views().iter().map(|view| self.remaining_of(placement, view)).sum()
    }

    /// The same for one slot.
    #[must_use]
    pub fn remaining_of(&self, placement: &Placement, view: &View) -> usize {
        let desired = placement.desired(view, &view.isr);
        let missing = || desired.iter().filter(|node| !view.isr.contains_key(node)).count();
        match self.cluster.change() {
            Some(Change::Join { node, .. }) => {
                let homed = placement.homes().get(usize::from(view.slot.0)) == Some(node);
                usize::from(desired.contains(node) && !view.isr.contains_key(node))
                    + usize::from(homed && view.coordinator != *node)
            }
            Some(Change::Leave { node, .. }) if view.isr.contains_key(node) => {
                1 + missing() + usize::from(view.coordinator == *node)
            }
            Some(Change::Rebalance { after, .. }) => {
                let planned = after.at(view.slot) != placement.homes().get(usize::from(view.slot.0)).copied();
                self.unmoved(placement, view) + usize::from(planned)
            }
            Some(Change::Leave { .. }) | None => 0,
        }
    }

    /// How many slots the change in progress is about, done ones included. It follows from the homes before and after, so a
    /// restarted ECS counts the same.
    #[must_use]
    pub fn concerned(&self, placement: &Placement) -> usize {
        let Some(change) = self.cluster.change() else { return 0 };
        let (before, views) = (change.before().unpack(), self.cluster.views().iter());
        let everyone = before.iter().copied().chain(change.node()).collect();
        let copies = usize::from(self.cluster.record().replicas) + 1;
        let at = |homes: &[NodeId], view: &View| ring::preference(homes, view.slot, &everyone, copies);
        match change {
            Change::Join { node, .. } => views.filter(|view| placement.desired(view, &view.isr).contains(node)).count(),
            Change::Leave { node, .. } => views.filter(|view| at(&before, view).contains(node)).count(),
            Change::Rebalance { after, .. } => {
                let after = after.unpack();
                views.filter(|view| at(&before, view) != at(&after, view)).count()
            }
        }
    }

    /// What ends the change in progress and undoes what it has not finished.
    #[must_use]
    pub fn undo(&self) -> Vec<Command> {
        let Some(change) = self.cluster.change() else { return Vec::new() };
        let mut homes = self.restored(change.before(), change.joiner());
        if let Change::Rebalance { .. } = change {
            // What has moved stays where it is.
            for (view, (home, now)) in self.cluster.views().iter().zip(homes.iter_mut().zip(self.cluster.homes())) {
                if view.coordinator == now {
                    *home = now;
                }
            }
        }
        let mut commands = vec![Command::Homes(Homes::pack(&homes)), Command::End];
        let leaver = change.leaver().and_then(|node| self.cluster.nodes().get(&node));
        if let Some(info) = leaver.filter(|info| info.state == NodeState::Leaving) {
            commands.push(Command::State { node: info.node, state: NodeState::Up });
        }
        commands
    }

    /// What begins a leave. None if there is nobody to leave to.
    #[must_use]
    pub fn begin_leave(&self, node: NodeId, how: Parting) -> Option<(Vec<Command>, String)> {
        let before = self.cluster.homes();
        // A server that has no share yet, or none any more, has nothing to plan.
        let (homes, what) = match before.contains(&node) {
            true => {
                planner::leave(&before, node, &self.weights()).map(|plan| (plan.homes.clone(), plan.to_string()))?
            }
            false => (before.clone(), "it has no share".to_string()),
        };
        let commands = vec![
            Command::State { node, state: NodeState::Leaving },
            Command::Begin(Change::Leave { node, before: Homes::pack(&before), how }),
            Command::Homes(Homes::pack(&homes)),
        ];
        Some((commands, format!("{node} leaves: {what}")))
    }

    fn weights(&self) -> Weights {
        Weights::of(self.cluster.nodes())
    }

    /// The homes from before a change, without those who have gone since.
    fn restored(&self, before: &Homes, joiner: Option<NodeId>) -> Vec<NodeId> {
        let mut homes = before.unpack();
        let known = |node: &NodeId| Some(*node) != joiner && self.cluster.nodes().contains_key(node);
        while let Some(gone) = homes.iter().find(|home| !known(home)).copied() {
            match planner::leave(&homes, gone, &self.weights()) {
                Some(plan) => homes = plan.homes,
                None => return self.cluster.homes(),
            }
        }
        homes
    }

    /// Rows of servers that are down and have nothing to come back to.
    fn sweep(&self) -> Option<(Vec<Command>, String)> {
        let homes = self.cluster.homes();
        let held = |node: NodeId| self.cluster.views().iter().any(|view| view.isr.contains_key(&node));
        let idle = |info: &&NodeInfo| {
            info.state == NodeState::Down && !homes.contains(&info.node) && !held(info.node) && !homes.is_empty()
        };
        let node = self.cluster.nodes().values().find(idle)?.node;
        Some((vec![Command::Remove { node }], format!("{node} is down and has no share: forgotten")))
    }

    /// A newcomer gets its share, one at a time; so does a member that has come to have none.
    fn begin_join(&self) -> Option<(Vec<Command>, String)> {
        let before = self.cluster.homes();
        let bare = |info: &NodeInfo| info.state == NodeState::Up && !before.contains(&info.node);
        let waits = |info: &&NodeInfo| {
            let due = self.deferred.get(&info.node).is_none_or(|deferred| deferred.until <= self.now);
            let able = self.detector.fit(info.node) && !self.detector.draining(info.node, self.now);
            (info.state == NodeState::Joining || bare(info)) && due && able && !before.is_empty()
        };
        for info in self.cluster.nodes().values().filter(waits) {
            let node = info.node;
            let plan = planner::join(&before, node, self.cluster.record().vnodes, &self.weights());
            debug_assert_eq!(plan.check(&before), Ok(()), "{plan}");
            // More servers than slots: a member without a share stays one.
            if plan.moves.is_empty() && info.state == NodeState::Up {
                continue;
            }
            let commands = vec![
                Command::State { node, state: NodeState::Joining },
                Command::Begin(Change::Join { node, before: Homes::pack(&before) }),
                Command::Homes(Homes::pack(&plan.homes)),
            ];
            return Some((commands, format!("{node} joins: {plan}")));
        }
        None
    }

    /// A server that has been down for long loses its homes, if there is another to have them.
    fn rehome(&self) -> Option<(Vec<Command>, String)> {
        let homes = self.cluster.homes();
        let long = |info: &&NodeInfo| {
            let down = self.detector.down_for(info.node, self.now);
            info.state == NodeState::Down
                && homes.contains(&info.node)
                && down.is_some_and(|down| down >= self.config.rehome_after)
        };
        self.cluster.nodes().values().find(|info| info.state == NodeState::Up && self.detector.healthy(info.node))?;
        let node = self.cluster.nodes().values().find(long)?.node;
        let plan = planner::leave(&homes, node, &self.weights())?;
        let why = format!("{node} has been down for {:?}: {plan}", self.config.rehome_after);
        Some((vec![Command::Homes(Homes::pack(&plan.homes))], why))
    }
}
