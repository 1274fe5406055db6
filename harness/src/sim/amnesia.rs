//! A disk that has told a lie: the end of the journal, fsynced and acknowledged, is not there after a restart.
//!
//! One server at a time, and while everything else is well: what no other copy has is lost for good, by the terms of the
//! promise. Only entries are forgotten; the epochs that a server has promised itself to are not.

use common::Slot;

use super::faults::{FaultEvent, Kind};
use super::queue::Event;
use super::wire::Party;
use super::world::World;

/// No other faults for so long: the server is back, and whole again.
const CALM: u64 = 4_000_000;
/// How long a way stays slow.
const SLOW: u64 = 1_500_000;

impl World {
    /// A server dies, forgets the last entries it has written, and is back before it was missed. False if this is not the
    /// moment, or if there is nothing to forget.
    pub(super) fn forget(&mut self) -> bool {
        let twofold = |slot| self.checks.view(slot).is_some_and(|view| view.isr.len() > 1);
        if !self.all_is_well() || !(0..self.record.slots).map(Slot).all(twofold) {
            return false;
        }
        let up: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].process.is_some()).collect();
        let s = up[self.rng.usize(..up.len())];
        self.stop_server(s, false);
        let lines = self.rng.usize(1..=12);
        let forgotten = self.servers[s].files.forget(lines);
        self.checks.forgetful(s);
        self.trace.line(self.now, || format!("-------- {}: s{s}, {forgotten} entries", Kind::Amnesia.name()));
        self.calm_until = self.calm_until.max(self.now + CALM);
        if self.rng.bool() {
            self.slow_way_to(s);
        }
        self.start_later(s, 1_000..30_000);
        forgotten > 0
    }

    /// What it has forgotten reaches it late, and everything else too.
    fn slow_way_to(&mut self, s: usize) {
        let by = self.rng.u64(40_000..110_000);
        for other in (0..self.servers.len()).filter(|other| *other != s) {
            let (from, to) = (Party::Server(other), Party::Server(s));
            self.net.lag(from, to, by);
            self.queue.at(self.now + SLOW, Event::Fault(FaultEvent::LagEnds(from, to)));
        }
    }
}
