//! How long things may take by the table of faults, held against what was seen.
//!
//! A machine that has other things to do stands still for seconds now and then, and that is not the product's doing. So a
//! bound is some times the promise, and scenarios that `cargo test` plays hold theirs in long runs only.

use std::time::Duration;

use anyhow::ensure;
use common::Timing;

/// How often a promise fits into the bound that is held.
const SLACK: u32 = 3;
/// Writes to a slot that is handed over are refused for less.
pub(super) const WRITE_LOCK: Duration = Duration::from_secs(1);

/// `T_ack` + L: a write that waits for a member that is gone.
pub(super) fn stall() -> Duration {
    let timing = Timing::default();
    timing.ack_timeout + timing.lease
}

/// L + detection: writes to a slot that gets another coordinator.
pub(super) fn gap() -> Duration {
    let detector = ecs::Config::default();
    Timing::default().lease + detector.suspect + detector.probe
}

/// Whether `what`, which took that long, kept a promise, as far as this machine can tell.
pub(super) fn kept(what: &str, took: Duration, promised: Duration) -> anyhow::Result<()> {
    ensure!(
        took <= promised * SLACK,
        "{what} took {took:?}: {promised:?} is promised, {SLACK} times as much is let pass"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_the_defaults_and_three_times_as_much_is_let_pass() {
        assert_eq!((stall(), gap()), (Duration::from_millis(1000), Duration::from_millis(1550)));
        assert!(kept("it", WRITE_LOCK * 3, WRITE_LOCK).is_ok());
        assert!(kept("it", WRITE_LOCK * 3 + Duration::from_micros(1), WRITE_LOCK).is_err());
    }
}
