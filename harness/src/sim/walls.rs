//! Wall clocks that are wrong, and that somebody sets while servers run. Nothing but deadlines may depend on them.

use super::queue::Event;
use super::routed::WRONG;
use super::world::World;

impl World {
    /// No wall clock is quite right, and some are off by up to an hour.
    pub(super) fn wrong_walls(&mut self) {
        if self.plan.redis == 0 {
            return;
        }
        let at = self.extra.u64(1_000_000..8_000_000);
        if self.extra.u8(0..4) == 0 {
            self.queue.at(at, Event::Foreign);
        }
        for s in 0..self.servers.len() {
            self.servers[s].wall_off = self.draw_wall();
        }
        if self.plan.walls > 0 {
            let first = self.extra.u64(..self.plan.walls) + 500_000;
            self.queue.at(first, Event::Wall);
        }
    }

    /// Somebody sets one.
    pub(super) fn set_a_wall(&mut self) {
        if self.healed {
            return;
        }
        let s = self.extra.usize(..self.servers.len());
        let off = self.draw_wall();
        let before = std::mem::replace(&mut self.servers[s].wall_off, off);
        self.trace.line(self.now, || format!("-------- s{s}: its wall clock is set, {} ms on", (off - before) / 1_000));
        self.stats.bump("fault: wall clock set");
        let next = self.now + self.extra.u64(self.plan.walls / 2..self.plan.walls * 2);
        self.queue.at(next, Event::Wall);
    }

    /// How far off one is, in microseconds.
    fn draw_wall(&mut self) -> i64 {
        let most = match self.extra.u8(0..4) {
            0 => WRONG * 1_000,
            1 => 3_000_000,
            _ => 30_000,
        };
        i64::try_from(self.extra.u64(0..2 * most)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
    }
}
