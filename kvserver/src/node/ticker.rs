//! The thread that lets time pass for the slots.
//!
//! It sleeps until the earliest of all deadlines. Whoever gives a slot an earlier one wakes it.
#![allow(clippy::disallowed_methods)] // shell: reads clocks

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{OnceLock, Weak};
use std::thread::Thread;
use std::time::Duration;

use common::{Time, clock};

use super::Node;

/// How exact the cores' deadlines are kept. All of them are tens of milliseconds and more away.
const SHORTEST: Duration = Duration::from_millis(5);
/// It looks at least this often, at the wall clock too: a bound for everything that might be overlooked.
const LONGEST: Duration = Duration::from_millis(100);

/// Runs until the node stops.
pub(super) fn run(node: &Weak<Node>) {
    super::slots::flushes_itself();
    loop {
        let Some(node) = node.upgrade().filter(|node| !node.stop.is_cancelled()) else { return };
        let Some(serving) = node.serving.get() else {
            drop(node);
            std::thread::sleep(SHORTEST);
            continue;
        };
        node.traffic.count(clock::now(), node.metrics.requests());
        serving.slots.set_wall(clock::wall());
        let next = serving.slots.tick(&node, clock::now);
        node.flush();
        let now = clock::now();
        let until = next.max(now + SHORTEST).min(now + LONGEST);
        let early = serving.slots.alarm_clock().set(until);
        drop(node);
        std::thread::park_timeout(if early { SHORTEST } else { until.since(now) });
    }
}

/// Until when the ticker sleeps, and how to wake it.
///
/// A deadline is stored before [`AlarmClock::before`] looks at the setting, and the setting is cleared
/// ([`AlarmClock::scanning`]) before the ticker looks at the deadlines: one of the two sees the other.
#[derive(Debug, Default)]
pub(super) struct AlarmClock {
    /// In microseconds. 0 while the ticker is about: it looks again by itself if this is changed.
    at: AtomicU64,
    ticker: OnceLock<Thread>,
}

/// While the ticker looks at the deadlines; and that one was set meanwhile.
const SCANNING: u64 = 0;
const MISSED: u64 = 1;

impl AlarmClock {
    /// The ticker begins to look at the deadlines.
    pub(super) fn scanning(&self) {
        self.ticker.get_or_init(std::thread::current);
        self.at.store(SCANNING, SeqCst);
    }

    /// A slot has this deadline now.
    pub(super) fn before(&self, deadline: u64) {
        if deadline == u64::MAX {
            return;
        }
        let at = self.at.load(SeqCst);
        if at == SCANNING {
            self.at.compare_exchange(SCANNING, MISSED, SeqCst, SeqCst).ok();
        }
        // Not worth waking for a difference that the ticker does not keep anyway.
        if deadline.saturating_add(2_000) < at && self.at.compare_exchange(at, MISSED, SeqCst, SeqCst).is_ok() {
            self.ticker.get().inspect(|ticker| ticker.unpark());
        }
    }

    /// The ticker goes to sleep until then; true if a deadline was set while it looked.
    fn set(&self, until: Time) -> bool {
        self.at.compare_exchange(SCANNING, until.0, SeqCst, SeqCst).is_err()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_deadline_that_is_set_while_the_ticker_looks_is_not_slept_over() {
        let clock = AlarmClock::default();
        clock.scanning();
        assert!(!clock.set(Time(1_000_000)));
        clock.scanning();
        clock.before(500_000);
        assert!(clock.set(Time(1_000_000)));
        clock.scanning();
        clock.before(u64::MAX);
        assert!(!clock.set(Time(1_000_000)));
    }

    #[test]
    fn an_earlier_deadline_wakes_the_ticker_and_a_later_one_does_not() {
        let clock = Arc::new(AlarmClock::default());
        let (asleep, woken) = (Arc::clone(&clock), std::sync::mpsc::channel());
        let thread = std::thread::Builder::new().spawn(move || {
            asleep.scanning();
            asleep.set(Time(1_000_000));
            woken.0.send(()).unwrap();
            while asleep.at.load(SeqCst) != MISSED {
                std::thread::park();
            }
        });
        woken.1.recv().unwrap();
        clock.before(2_000_000);
        assert_eq!(clock.at.load(SeqCst), 1_000_000);
        clock.before(500_000);
        thread.unwrap().join().unwrap();
    }
}
