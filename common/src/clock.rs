//! The one place that reads clocks. Shells call it; cores get its answers as arguments.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

/// `CLOCK_BOOTTIME`: never set, never stepped, and running on while the machine sleeps, which a lease must notice.
#[must_use]
pub fn now() -> Time {
    let t = clock_gettime(ClockId::Boottime);
    Time(u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000)
}

/// Milliseconds since the Unix epoch: for people and for TTLs, never for leases.
#[must_use]
pub fn wall_millis() -> u64 {
    let t = clock_gettime(ClockId::Realtime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Microseconds since the Unix epoch: for people.
#[must_use]
pub fn wall_micros() -> u64 {
    let t = clock_gettime(ClockId::Realtime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000
}
