//! Time as the cores see it: an argument, never a call.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds of one machine's `CLOCK_BOOTTIME` (or of a simulated clock). Times of two machines are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// Before everything.
    pub const ZERO: Time = Time(0);
    /// After everything.
    pub const MAX: Time = Time(u64::MAX);

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The next moment, not this one, that is a whole number of these durations from zero.
    #[must_use]
    pub fn next_multiple_of(self, step: Duration) -> Time {
        let step = u64::try_from(step.as_micros()).unwrap_or(u64::MAX).max(1);
        Time((self.0 / step).saturating_add(1).saturating_mul(step))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, by: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// How the wall clock stands to [`Time`] on one machine: for deadlines of keys, and for nothing else. Cores are told it anew
/// by their shell at least every 100 ms and before each event, so that a wall clock that was set is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wall {
    /// How far it is ahead, in microseconds. None: not known, and no deadline ever passes.
    pub ahead: Option<i64>,
}

impl Wall {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn millis(self, now: Time) -> Option<u64> {
        self.ahead.map(|ahead| now.0.saturating_add_signed(ahead) / 1000)
    }

    /// Whether a deadline (in milliseconds since the Unix epoch) has passed.
    #[must_use]
    pub fn is_past(self, now: Time, deadline: u64) -> bool {
        self.millis(now).is_some_and(|wall| deadline <= wall)
    }

    /// When a deadline will have passed, if the wall clock is not set.
    #[must_use]
    pub fn time_of(self, deadline: u64) -> Time {
        self.ahead.map_or(Time::MAX, |ahead| {
            Time(deadline.saturating_mul(1000).saturating_add_signed(ahead.saturating_neg()))
        })
    }
}

/// The largest deviation of any clock's rate from real time, in percent. A lease is shortened by it where it is held and
/// a promise lengthened by it where it was given, so two clocks may even drift apart in opposite directions.
pub const DRIFT_PERCENT: u32 = 2;

/// The durations that replication runs on. All derive from the lease, which is part of the cluster record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// L: how long one acknowledged beacon lets a coordinator serve.
    pub lease: Duration,
    /// How often a coordinator beacons: L/5.
    pub beacon: Duration,
    /// A member that gave no answer for this long is reported to the ECS (C2).
    pub ack_timeout: Duration,
    /// A member whose oldest append is unacknowledged for this long is reported too, even if it answers beacons.
    pub append_timeout: Duration,
    /// Sent but unacknowledged messages go out again after this long.
    pub resend: Duration,
    /// The longest that a read or a write waits for its slot to be served before it is refused.
    pub patience: Duration,
    /// The longest that a proposed write waits for its commit before the client is told "unknown".
    pub write_patience: Duration,
}

impl Timing {
    /// The default lease. Shorter means faster failover and more beacons; below some 100 ms, scheduling noise costs leases.
    pub const DEFAULT_LEASE: Duration = Duration::from_millis(250);

    /// All durations for a lease of `lease`.
    #[must_use]
    pub fn for_lease(lease: Duration) -> Timing {
        Timing {
            lease,
            beacon: lease / 5,
            ack_timeout: lease * 3,
            append_timeout: lease * 20,
            resend: lease * 2 / 5,
            patience: lease * 8,
            write_patience: lease * 40,
        }
    }

    /// How long the holder of a lease may count on it: L (1 - drift).
    #[must_use]
    pub fn held(&self) -> Duration {
        self.lease * (100 - DRIFT_PERCENT) / 100
    }

    /// How long the giver of a promise keeps it: L (1 + drift).
    #[must_use]
    pub fn promised(&self) -> Duration {
        self.lease * (100 + DRIFT_PERCENT) / 100
    }

    /// What a grant of `length` on the granter's clock is worth on the receiver's.
    #[must_use]
    pub fn granted(length: Duration) -> Duration {
        length * (100 - DRIFT_PERCENT) / (100 + DRIFT_PERCENT)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Timing::for_lease(Self::DEFAULT_LEASE)
    }
}
