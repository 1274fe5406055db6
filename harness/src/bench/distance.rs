//! How far two processors are from each other: how long a cache line takes from one to the other and back.
//!
//! On a virtual machine that changes while it runs: its processors may be two threads of one core at one moment, and two cores
//! with different caches at the next. Systems with threads that share memory feel it, those with one thread hardly do, so a ratio
//! has to be read with it (docs/performance.md, "How a ratio comes about").

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::report::middle;

/// Times there and back in a batch, and batches: the middle one counts, since anybody may want a processor meanwhile.
const TIMES: u32 = 1_000;
const BATCHES: u32 = 21;
/// Who waits for the other one this often in vain waits for one who has no processor: then it lets others go.
const PATIENCE: u32 = 1 << 20;

/// Nanoseconds there and back between the first two processors that this process may use; None with fewer, or where a thread
/// cannot be bound to one.
#[must_use]
pub(super) fn there_and_back() -> Option<f64> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    let (here, there) = (processors.next()?, processors.next()?);
    let line = AtomicU32::new(0);
    // Two threads of their own: this one's binding stays as it is. Whether or not they can be bound, both run to the end.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let bound = bind(there);
            (0..TIMES * BATCHES).for_each(|time| answer(&line, 2 * time + 1));
            bound
        });
        let one = scope.spawn(|| {
            let bound = bind(here);
            let batches = (0..BATCHES).map(|batch| {
                let began = Instant::now();
                (batch * TIMES..(batch + 1) * TIMES).for_each(|time| answer(&line, 2 * time));
                began.elapsed().as_nanos() as f64 / f64::from(TIMES)
            });
            (bound, batches.collect::<Vec<f64>>())
        });
        let ((bound, batches), other_bound) = (one.join().ok()?, other.join().ok()?);
        (bound && other_bound).then(|| middle(&batches))
    })
}

fn bind(processor: usize) -> bool {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).is_ok()
}

/// Waits until the line has this number, and leaves the next one.
fn answer(line: &AtomicU32, awaited: u32) {
    let mut waited = 0;
    while line.load(Ordering::Acquire) != awaited {
        waited += 1;
        if waited % PATIENCE == 0 {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
    line.store(awaited + 1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_or_there_is_only_one_processor() {
        let two = sched_getaffinity(None).unwrap().count() >= 2;
        assert_eq!(there_and_back().is_some_and(|nanos| nanos > 0.0), two);
    }
}
