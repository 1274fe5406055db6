//! Directories that are not what they seem: a copy of a running server's started on another machine, an older copy put back,
//! two that were moved to each other's addresses.
//!
//! What the product promises of them (`docs/consistency.md`): of two processes with one identity the later start stays and
//! catches up, the other ends; a copy that is older than its server's last start is refused; one that is let in counts for
//! nothing until it has caught up. An older copy put back *before anybody has noticed that its server was away* is a disk that
//! lies, and out of scope: so it is put back only when no ISR counts on it, nor will by what the ECS has been asked before.

use common::NodeId;

use super::disk::Files;
use super::queue::Event;
use super::server::Server;
use super::wire::Party;
use super::world::World;

/// No other faults for so long: the copy registers while the server that it was made of is connected.
const CALM: u64 = 5_000_000;

impl World {
    /// Which machine has this address.
    pub(super) fn at(&self, address: &str) -> Option<usize> {
        let place: usize = address.trim_start_matches('s').split(':').next()?.parse().ok()?;
        self.servers.iter().position(|server| server.place == place)
    }

    /// The machine that `s` would reach `to` at: as a rule the only one of that name, else by the table it has.
    pub(super) fn peer(&self, s: usize, to: NodeId) -> Option<usize> {
        if !self.twins {
            return self.servers.iter().position(|server| server.node == to);
        }
        let info = self.servers[s].process.as_ref()?.topology.nodes.get(&to)?;
        self.at(&info.peer_addr).filter(|peer| self.servers[*peer].node == to)
    }

    /// Whether `s` listens to what the machine `from` says as `node`: not if it knows of a later start of it.
    pub(super) fn hears(&self, s: usize, from: Party, node: NodeId) -> bool {
        let (Party::Server(from), Some(process)) = (from, self.servers[s].process.as_ref()) else { return true };
        process.topology.nodes.get(&node).is_none_or(|info| self.servers[from].boot >= info.boot)
    }

    /// Whether this is the process that the ECS knows under its identity. The number of its start does not say it alone: a
    /// copy counts on from where it was made, and so does what it was made of.
    pub(super) fn is_the_one(&self, server: &Server) -> bool {
        let here = |address: &str| self.at(address).is_some_and(|at| self.servers[at].place == server.place);
        let known = self.ecs.durable().nodes().get(&server.node);
        known.is_none_or(|info| info.boot == server.boot && here(&info.client_addr))
    }

    /// Whether the ECS knows another machine under the identity of `s`: what `s` holds counts for nothing.
    pub(super) fn is_replaced(&self, s: usize) -> bool {
        let node = self.servers[s].node;
        let known = self.ecs.durable().nodes().get(&node).and_then(|info| self.at(&info.client_addr));
        known.is_some_and(|at| at != s && self.servers[at].node == node)
    }

    /// Whether another machine has, or had, the same identity.
    pub(super) fn has_twin(&self, s: usize) -> bool {
        let node = self.servers[s].node;
        self.servers.iter().enumerate().any(|(o, server)| o != s && server.node == node)
    }

    /// A machine that is no part of the cluster.
    pub(super) fn free_machine(&self) -> Option<usize> {
        let free = |s: &usize| {
            let server = &self.servers[*s];
            !server.takes_part() && !server.starting && server.process.is_none()
        };
        (0..self.servers.len()).find(free)
    }

    /// A copy of a running server's directory is started elsewhere; false if there is no machine for it, or the moment is bad.
    pub(super) fn copy_directory(&mut self) -> bool {
        let to = self.free_machine();
        let from: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].awake()).collect();
        let (Some(to), Some(from)) = (to, self.rng.choice(&from).copied()) else { return false };
        let shared = self.ecs.views().iter().all(|view| view.isr.len() > 1);
        if !shared || !self.all_are_there() {
            return false;
        }
        self.twins = true;
        let (files, node) = (self.servers[from].files.copied(), self.servers[from].node);
        self.trace.line(self.now, || format!("-------- s{to} has a copy of s{from}'s directory"));
        self.holds(to, files);
        let server = &mut self.servers[to];
        (server.node, server.gone) = (node, None);
        self.calm_until = self.now + CALM;
        self.start_later(to, 1_000..200_000);
        true
    }

    /// A machine that is no part of the cluster is started with a directory of another one: it must be turned away.
    pub(super) fn foreign_directory(&mut self) {
        let Some(s) = self.free_machine().filter(|s| !self.healed && !self.servers[*s].used) else { return };
        if self.now < self.calm_until {
            return self.queue.at(self.calm_until, Event::Foreign);
        }
        let server = &mut self.servers[s];
        server.files = Files::foreign(self.record.slots, (server.node, server.store));
        (server.foreign, server.gone) = (true, None);
        self.trace.line(self.now, || format!("-------- s{s} has a directory of another cluster"));
        self.stats.bump("fault: foreign directory");
        self.start_later(s, 1_000..200_000);
    }

    /// The server dies, and comes back with its directory as it once was.
    pub(super) fn roll_back(&mut self, s: usize) -> bool {
        if self.servers[s].kept.is_none() {
            return false;
        }
        self.stop_server(s, true);
        self.servers[s].rolls_back = true;
        self.start_later(s, 1_500_000..5_000_000);
        true
    }

    /// Whether no slot counts on this stopped server any more. At an ECS that stands still a coordinator's wish to add it may wait. And
    /// of its last start the ECS must have heard: by that it tells one that lies behind. Coordinators may have heard of it, too.
    pub(super) fn forgotten(&self, s: usize) -> bool {
        let (node, boot) = (self.servers[s].node, self.servers[s].boot);
        let known = self.ecs.durable().nodes().get(&node).is_some_and(|info| info.boot >= boot);
        !self.ecs.paused && known && self.ecs.views().iter().all(|view| !view.isr.contains_key(&node))
    }

    pub(super) fn put_back(&mut self, s: usize) {
        if let Some(files) = self.servers[s].kept.take() {
            self.trace.line(self.now, || format!("-------- s{s} has an older copy of its directory"));
            self.stats.bump("older directories put back");
            self.holds(s, files);
        }
    }

    fn holds(&mut self, s: usize, files: Files) {
        let server = &mut self.servers[s];
        (server.files, server.dubious, server.fuse, server.kept) = (files, true, None, None);
        self.checks.wiped(s);
    }

    /// Two servers stop and come back where the other one was.
    pub(super) fn swap_addresses(&mut self, s: usize) -> bool {
        if self.servers.iter().any(|server| server.dubious) {
            // A copy that moves cannot be told from a server that does.
            return false;
        }
        let others: Vec<usize> = (0..self.servers.len()).filter(|o| *o != s && self.servers[*o].takes_part()).collect();
        let Some(o) = self.rng.choice(&others).copied() else { return false };
        for each in [s, o] {
            self.crash(each, false);
        }
        let place = self.servers[o].place;
        self.servers[o].place = std::mem::replace(&mut self.servers[s].place, place);
        true
    }
}
