//! What operators ask for: leaving, removing, evening out. Each wish comes through a server and gets one answer.
//!
//! One change at a time: while one is in progress another is answered [`Granted::Busy`], and whoever asked comes back. A
//! wish that would give up records needs force, and says how many.

use std::collections::BTreeMap;

use common::control::{FromEcs, Granted, Wish};
use common::view::{NodeInfo, NodeState};
use common::{NodeId, Time};

use crate::change::{Homes, Parting};
use crate::cluster::Command;
use crate::core::{Action, Conn, Ecs};
use crate::planner::{self, Weights};
use crate::whatif;

impl Ecs {
    pub(crate) fn wish(&mut self, now: Time, conn: Conn, id: u64, wish: &Wish, out: &mut Vec<Action>) {
        let Some(asker) = self.conns.get(&conn).map(|peer| peer.node) else { return };
        self.detector.heard(asker, now);
        let before = out.len();
        let granted = match self.refusing() {
            Some(reason) => Granted::No(reason.to_string()),
            None => self.grant(now, asker, wish, out),
        };
        // Said as soon as it is durable, and before a server that has left with it is disconnected.
        let durable = out.iter().skip(before).position(|action| matches!(action, Action::Persist(_)));
        let at = durable.map_or(out.len(), |at| before + at + 1);
        out.insert(at, Action::Send { conn, msg: FromEcs::Granted { id, granted } });
    }

    fn grant(&mut self, now: Time, asker: NodeId, wish: &Wish, out: &mut Vec<Action>) -> Granted {
        match wish {
            Wish::Leave { force } => self.leave(now, asker, Parting::Left, *force, out),
            Wish::Remove { node, force } => match self.find_node(node) {
                Some(node) => self.remove(now, node, *force, out),
                None => self.nobody(node),
            },
            Wish::GiveUp { node } => match self.find_node(node) {
                Some(node) => self.give_up_on(now, node, asker, out),
                None => self.nobody(node),
            },
            Wish::Progress => Granted::Yes(self.progress(now)),
            Wish::Cancel => self.cancel(now, out),
            Wish::Plan => Granted::Yes(self.plan()),
            Wish::PlanWithout { node } => match self.find_node(node) {
                Some(node) => Granted::Yes(self.plan_without(node)),
                None => self.nobody(node),
            },
            Wish::Rebalance => self.rebalance(now, out),
        }
    }

    /// By its id or its address.
    fn find_node(&self, text: &str) -> Option<NodeId> {
        let nodes = || self.cluster.nodes().values();
        let named = |info: &&NodeInfo| info.client_addr == text || info.node.to_string() == text;
        nodes().find(named).map(|info| info.node)
    }

    fn nobody(&self, text: &str) -> Granted {
        let known: Vec<&str> = self.cluster.nodes().values().map(|info| info.client_addr.as_str()).collect();
        let gone = self.cluster.all_departed().any(|(node, _)| node.to_string() == text);
        let word = if gone { "has gone already" } else { "is no server of this cluster" };
        Granted::No(format!("{text} {word}; there are {}", known.join(", ")))
    }

    fn remove(&mut self, now: Time, node: NodeId, force: bool, out: &mut Vec<Action>) -> Granted {
        let down = self.cluster.nodes().get(&node).is_some_and(|info| info.state == NodeState::Down);
        if !down || self.cluster.change().is_some() {
            return self.leave(now, node, Parting::Removed, force, out);
        }
        let sole = self.only_at(node);
        if sole > 0 {
            return Granted::No(format!(
                "{node} is down and holds the only copies in sync of {sole} slots: start it again, and remove it then. If it \
                 will never come back, `remove {node} accept-data-loss` gives up what only it has"
            ));
        }
        let homes = self.cluster.homes();
        let mut commands = Vec::new();
        if homes.contains(&node) {
            let Some(plan) = planner::leave(&homes, node, &Weights::of(self.cluster.nodes())) else {
                return self.last_but_down(node);
            };
            commands.push(Command::Homes(Homes::pack(&plan.homes)));
        }
        commands.push(Command::Depart { node, how: Parting::Removed });
        self.detector.note(now, node, "removed while it was down".to_string());
        self.settle(now, commands, BTreeMap::new(), out);
        Granted::Yes(format!("{node} is removed: it was down, and its copies are made from others"))
    }

    fn last_but_down(&self, node: NodeId) -> Granted {
        let waiting = self.cluster.nodes().values().filter(|info| info.node != node).count();
        Granted::No(format!("all slots have their home at {node}, and none of the {waiting} others has joined yet"))
    }

    /// Begins a leave in order, or says why not.
    fn leave(&mut self, now: Time, node: NodeId, how: Parting, force: bool, out: &mut Vec<Action>) -> Granted {
        if let Some(change) = self.cluster.change() {
            return match change.leaver() == Some(node) {
                true => Granted::Yes(format!("{} is under way", change.name())),
                false => Granted::Busy(format!("{} is in progress", change.name())),
            };
        }
        let others = || self.cluster.nodes().values().filter(|info| info.node != node);
        if others().any(|info| info.state == NodeState::Up) {
            let Some((commands, why)) = self.world(now).begin_leave(node, how) else { return self.last_but_down(node) };
            out.push(Action::Log { level: log::Level::Info, text: why.clone() });
            self.settle(now, commands, BTreeMap::new(), out);
            self.wake(now);
            return Granted::Yes(why);
        }
        let away: Vec<String> = others().map(|info| format!("{} ({:?})", info.client_addr, info.state)).collect();
        if !away.is_empty() {
            let away = away.join(", ");
            return Granted::No(format!(
                "nobody else is up to take the copies of {node}: start or remove {away} first"
            ));
        }
        if !force {
            let records = self.reports.records();
            return Granted::No(format!(
                "{node} is the last server: all {records} records go with it; say `force` to do it"
            ));
        }
        self.detector.note(now, node, "the last server goes by force: the cluster is empty".to_string());
        self.settle(now, vec![Command::Empty { node }], BTreeMap::new(), out);
        Granted::Yes(format!("{node} was the last server: the cluster is empty"))
    }

    fn rebalance(&mut self, now: Time, out: &mut Vec<Action>) -> Granted {
        if let Some(change) = self.cluster.change() {
            return Granted::Busy(format!("{} is in progress", change.name()));
        }
        let Some((commands, why)) = self.world(now).begin_rebalance() else {
            return Granted::Yes("nothing to move: every server has its share".to_string());
        };
        out.push(Action::Log { level: log::Level::Info, text: why.clone() });
        self.settle(now, commands, BTreeMap::new(), out);
        self.wake(now);
        Granted::Yes(why)
    }

    fn cancel(&mut self, now: Time, out: &mut Vec<Action>) -> Granted {
        let (commands, reasons) = self.give_up(now, "cancelled by an operator", out);
        if commands.is_empty() {
            return Granted::No("no change is in progress".to_string());
        }
        self.settle(now, commands, BTreeMap::new(), out);
        Granted::Yes(reasons.join("; "))
    }

    fn plan(&self) -> String {
        whatif::moves(
            &self.cluster,
            &self.reports,
            &planner::balance(&self.cluster.homes(), &Weights::of(self.cluster.nodes())),
        )
    }

    fn plan_without(&self, node: NodeId) -> String {
        whatif::without(&self.cluster, &self.reports, node)
    }

    fn progress(&self, now: Time) -> String {
        match crate::status::Progress::of(self, now) {
            Some(progress) => progress.json(),
            None => self.last.as_ref().map_or("none".to_string(), |last| format!("none; last: {last}")),
        }
    }
}
