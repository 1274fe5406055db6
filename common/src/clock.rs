//! The one place that reads clocks. Shells call it; cores get its answers as arguments.

use rustix::time::{ClockId, clock_gettime};

use crate::time::{Time, Wall};

/// `CLOCK_BOOTTIME`: never set, never stepped, and running on while the machine sleeps, which a lease must notice.
#[must_use]
pub fn now() -> Time {
    let t = clock_gettime(ClockId::Boottime);
    Time(u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000)
}

/// Milliseconds since the Unix epoch: for people and for TTLs, never for leases.
#[must_use]
pub fn wall_millis() -> u64 {
    wall_micros() / 1_000
}

/// Microseconds since the Unix epoch: for people.
#[must_use]
#[allow(clippy::disallowed_methods)] // this is where the clock is read; through the standard library, so that tests can move it
pub fn wall_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// How the wall clock stands to [`now`]. Never too far ahead, so that no key is gone before its deadline: the thread may
/// lose its processor between the looks at the two clocks.
#[must_use]
pub fn wall() -> Wall {
    let micros = i64::try_from(wall_micros()).unwrap_or(i64::MAX);
    Wall { ahead: Some(micros.saturating_sub_unsigned(now().0)) }
}
