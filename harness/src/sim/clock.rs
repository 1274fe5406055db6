//! Clocks that disagree: each process's machine has its own offset and its own rate, within the bound that leases allow for.

use common::Time;

/// Converts between the world's time and one machine's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The world's time at which the machine was switched on,
    since: u64,
    /// and what its clock showed.
    offset: u64,
    /// Local microseconds per million real ones.
    rate: u64,
}

impl Clock {
    /// A clock within ±2 %, the drift bound, started anywhere. Half of them sit at one of the two extremes.
    pub(super) fn random(rng: &mut fastrand::Rng, extreme: bool) -> Clock {
        let rate = match rng.u8(0..if extreme { 2 } else { 4 }) {
            0 => 980_000,
            1 => 1_020_000,
            _ => rng.u64(980_000..=1_020_000),
        };
        Clock { since: 0, offset: rng.u64(0..10_000_000_000), rate }
    }

    /// The machine lost power: `CLOCK_BOOTTIME` begins again.
    pub(super) fn reboot(&mut self, real: u64, rng: &mut fastrand::Rng) {
        (self.since, self.offset) = (real, rng.u64(1_000_000..60_000_000));
    }

    pub(super) fn local(&self, real: u64) -> Time {
        Time(self.offset + real.saturating_sub(self.since) * self.rate / 1_000_000)
    }

    /// The first real moment at which the local clock shows at least `local`.
    pub(super) fn real(&self, local: Time) -> u64 {
        let elapsed = u128::from(local.0.saturating_sub(self.offset));
        let since = u64::try_from((elapsed * 1_000_000).div_ceil(u128::from(self.rate))).unwrap_or(u64::MAX);
        self.since.saturating_add(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_is_the_first_moment_that_shows_local() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..1000 {
            let mut clock = Clock::random(&mut rng, false);
            let at = rng.u64(1_000..100_000_000);
            clock.reboot(rng.u64(0..900), &mut rng);
            let local = clock.local(at);
            let real = clock.real(local);
            assert!(real <= at && clock.local(real) >= local && clock.local(real - 2) < local);
        }
    }
}
