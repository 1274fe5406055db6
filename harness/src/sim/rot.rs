//! Copies that are damaged behind the protocol's back, and the audits that must find them.
//!
//! Damage goes into records that clients write once and do not read (until it is found a damaged copy answers with what it
//! has), or into records that nobody ever wrote. It comes to one copy at a time and while everything else is well: two
//! copies of three that are wrong alike outvote the third, by definition.

use common::view::Part;
use common::{NodeId, Slot};
use kvserver::replica::Event as Happening;

use super::client::key_bytes;
use super::disk::Mood;
use super::queue::Event;
use super::server::Server;
use super::world::World;

/// No other faults for so long: audits, taking out, catching up.
const CALM: u64 = 5_000_000;
/// When servers compare their copies after a damage, in microseconds.
const LOOKS: u64 = 12;
const LOOK: u64 = 300_000;

impl World {
    /// The slots that `s` coordinates are compared, and again some time later.
    pub(super) fn audit(&mut self, s: usize, again: bool) {
        for slot in (0..self.record.slots).map(Slot) {
            self.handle(s, slot, Happening::Audit);
        }
        if again && self.plan.audits > 0 {
            let pause = self.rng.u64(self.plan.audits / 2..self.plan.audits * 2);
            let inc = self.servers[s].inc;
            self.queue.at(self.now + pause, Event::Audit { server: s, inc, again });
        }
    }

    /// Damages one copy of a whole slot; false if there is none at the moment.
    pub(super) fn rot(&mut self) -> bool {
        let whole: Vec<Slot> = (0..self.record.slots).map(Slot).filter(|slot| self.is_whole(*slot)).collect();
        if whole.is_empty() || !self.all_is_well() {
            return false;
        }
        let slot = whole[self.rng.usize(..whole.len())];
        let Some(view) = self.checks.view(slot) else { return false };
        let holders: Vec<NodeId> = view.isr.keys().copied().collect();
        let victim = holders[self.rng.usize(..holders.len())];
        let Some(s) = self.servers.iter().position(|server| server.node == victim) else { return false };
        let cold = (self.plan.keys..self.plan.keys + self.plan.cold).map(key_bytes);
        let (how, dice) = (self.rng.u8(0..4), self.rng.usize(..));
        let Some(process) = self.servers[s].process.as_mut() else { return false };
        let replica = &mut process.replicas[usize::from(slot.0)];
        let present: Vec<_> = cold.filter(|key| replica.image().map.get(key).is_some()).collect();
        let done = replica.damage(|map| match (how, present.get(dice % present.len().max(1))) {
            (0, Some(key)) => map.flip(key),
            (1, Some(key)) => {
                map.put(key, b"forged");
                true
            }
            (2, Some(key)) => {
                map.delete(key);
                true
            }
            _ => {
                map.put(b"never written", b"forged");
                true
            }
        });
        self.trace.line(self.now, || format!("-------- s{s}: its copy of slot {slot} is damaged (way {how})"));
        self.calm_until = self.calm_until.max(self.now + CALM);
        if self.plan.audits == 0 {
            // From now on it is looked now and then by whoever starts; the others begin with the looks below.
            self.plan.audits = 2_000_000;
        }
        for server in 0..self.servers.len() {
            let inc = self.servers[server].inc;
            for look in 1..=LOOKS {
                let at = self.now + look * LOOK + self.rng.u64(0..LOOK);
                self.queue.at(at, Event::Audit { server, inc, again: look == LOOKS });
            }
        }
        done
    }

    /// Whether all copies that a slot should have are in sync, at one epoch, and enough to outvote one.
    fn is_whole(&self, slot: Slot) -> bool {
        let Some(view) = self.checks.view(slot) else { return false };
        let there = |(node, _): (&NodeId, _)| {
            let copies = self.copies(slot);
            let copy = copies.iter().find(|copy| copy.me.node == *node);
            copy.is_some_and(|copy| {
                let own = copy.replica.view();
                let part = own.map(|own| own.part_of(copy.me.node, copy.me.store));
                let member = matches!(part, Some(Part::Member | Part::Coordinator));
                let settled = matches!(copy.replica.role_name(), "coordinator" | "replica");
                own.map(|own| own.epoch) == Some(view.epoch) && member && settled
            })
        };
        view.isr.len() >= 3 && view.targets.iter().all(|node| view.isr.contains_key(node)) && view.isr.iter().all(there)
    }

    /// Nothing is under way that could take a healthy copy out before the damaged one is found.
    pub(super) fn all_is_well(&self) -> bool {
        self.all_are_there() && super::converge::whole(self).is_ok()
    }

    /// Everybody runs and is not about to stop, is connected with everybody, and has a working disk.
    pub(super) fn all_are_there(&self) -> bool {
        let welcomed =
            |server: &Server| server.process.as_ref().is_some_and(|process| process.welcomed && !process.stopping);
        let well = |server: &Server| {
            !server.takes_part()
                || (server.awake() && server.mood == Mood::Well && server.fuse.is_none() && welcomed(server))
        };
        let nobody_comes = self.servers.iter().all(|server| !server.starting);
        let quiet = nobody_comes && self.ecs.awake() && self.net.is_whole() && self.now >= self.calm_until;
        quiet && self.servers.iter().all(well)
    }
}
