//! Core-to-core latency: how long a cache line takes from one processor to another and back.
//!
//! On a virtual machine that changes while it runs: its processors may be two threads of one core at one moment, and
//! two cores that share no cache at the next. Systems whose threads share memory feel it, those with one thread hardly
//! do, so a ratio has to be read with it (docs/performance.md, "How a ratio comes about").
//!
//! Taken between the first two processors that this process may use: with more than two it says little of those that a
//! server runs on. It contains what waiting itself costs, so it is comparable on one machine only.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::report::middle;

/// Round trips in a batch, and batches: the middle one counts, since anybody may want a processor meanwhile.
const TRIPS: u32 = 1_000;
const BATCHES: u32 = 21;
/// Who looks so often in vain waits for a thread that has no processor: it lets others go.
const PATIENCE: u32 = 1 << 12;
/// Nobody waits longer for the other one.
const LONGEST: Duration = Duration::from_secs(2);
/// What the line holds once one of the two has given up.
const GIVEN_UP: u32 = u32::MAX;

/// Nanoseconds of a round trip. None: there are fewer than two processors, a thread cannot be bound to one, or nobody
/// came back in time.
pub(super) fn round_trip() -> Option<f64> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    let (here, there) = (processors.next()?, processors.next()?);
    let line = Line { number: AtomicU32::new(0), until: Instant::now() + LONGEST };
    // Two threads of their own: the caller's affinity stays as it is.
    std::thread::scope(|scope| {
        let other = Builder::new()
            .spawn_scoped(scope, || line.bind(there) && (0..TRIPS * BATCHES).all(|trip| line.pass_on(2 * trip + 1)));
        let other = other.ok()?;
        let one = Builder::new().spawn_scoped(scope, || {
            let batch = |batch: u32| {
                let began = Instant::now();
                let all = (batch * TRIPS..(batch + 1) * TRIPS).all(|trip| line.pass_on(2 * trip));
                all.then(|| began.elapsed().as_nanos() as f64 / f64::from(TRIPS))
            };
            if line.bind(here) { (0..BATCHES).map(batch).collect() } else { None }
        });
        let Ok(one) = one else {
            line.number.store(GIVEN_UP, Ordering::Release);
            return None;
        };
        let batches: Option<Vec<f64>> = one.join().ok()?;
        (other.join().ok()? && batches.is_some()).then(|| middle(&batches.unwrap_or_default()))
    })
}

struct Line {
    number: AtomicU32,
    until: Instant,
}

impl Line {
    /// Binds this thread to a processor; if that is not possible the other one need not wait.
    fn bind(&self, processor: usize) -> bool {
        let mut only = CpuSet::new();
        only.set(processor);
        let bound = sched_setaffinity(None, &only).is_ok();
        if !bound {
            self.number.store(GIVEN_UP, Ordering::Release);
        }
        bound
    }

    /// Waits until the line holds this number, and leaves the next one; false: somebody has given up.
    fn pass_on(&self, awaited: u32) -> bool {
        let mut looked = 0_u32;
        loop {
            match self.number.load(Ordering::Acquire) {
                GIVEN_UP => return false,
                number if number == awaited => {
                    // Whoever has given up meanwhile stays heard.
                    let (order, stale) = (Ordering::Release, Ordering::Relaxed);
                    return self.number.compare_exchange(awaited, awaited + 1, order, stale).is_ok();
                }
                _ => {}
            }
            looked = looked.wrapping_add(1);
            if looked.is_multiple_of(PATIENCE) {
                if Instant::now() >= self.until {
                    self.number.store(GIVEN_UP, Ordering::Release);
                    return false;
                }
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_where_threads_can_be_bound_and_the_caller_stays_where_it_may_run() {
        let before = sched_getaffinity(None).unwrap();
        let bindable = before.count() >= 2 && sched_setaffinity(None, &before).is_ok();
        assert_eq!(round_trip().is_some_and(|nanos| nanos > 0.0), bindable);
        assert!(sched_getaffinity(None).unwrap() == before);
    }

    #[test]
    fn nobody_waits_for_one_who_does_not_come() {
        let line = Line { number: AtomicU32::new(0), until: Instant::now() };
        assert!(line.pass_on(0));
        assert!(!line.pass_on(2), "the deadline is over");
        assert!(!line.pass_on(1), "and the other one hears of it");
    }
}
