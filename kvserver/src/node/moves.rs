//! What moving slots cost, for people: how much went over in catch-ups, for how long writes were refused.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::metrics;
use crate::replica::{Moved, Walked};

/// The upper ends of the histograms' buckets, in microseconds: a lock is milliseconds as a rule, and a second is too long.
const ENDS: [u64; 13] =
    [500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    walks: u64,
    walked: Walked,
    locks: Times,
    takeovers: Times,
}

/// How often something took how long.
#[derive(Debug, Default)]
struct Times {
    /// By bucket; the last one has no upper end.
    counts: [u64; ENDS.len() + 1],
    sum: Duration,
    worst: Duration,
}

impl Moves {
    /// Called with a slot locked.
    pub(super) fn note(&self, what: Moved) {
        let mut inner = self.lock();
        match what {
            Moved::Walked(walk) => {
                inner.walks += 1;
                let all = &mut inner.walked;
                all.leaves += walk.leaves;
                all.records += walk.records;
                all.bytes += walk.bytes;
                all.held_records += walk.held_records;
                all.held_bytes += walk.held_bytes;
            }
            Moved::Locked(length) => inner.locks.add(length),
            Moved::TookOver(length) => inner.takeovers.add(length),
        }
    }

    pub(super) fn status_json(&self) -> Value {
        let inner = self.lock();
        let walked = &inner.walked;
        json!({
            "walks": inner.walks, "leaves_sent": walked.leaves,
            "records_sent": walked.records, "bytes_sent": walked.bytes,
            "records_held": walked.held_records, "bytes_held": walked.held_bytes,
            "write_lock": inner.locks.json(), "takeover": inner.takeovers.json(),
        })
    }

    pub(super) fn metrics(&self, out: &mut String) {
        let inner = self.lock();
        let walked = &inner.walked;
        for (name, help, value) in [
            ("annulus_walks_total", "Copies of a slot brought up to date by content.", inner.walks),
            ("annulus_walk_leaves_total", "Leaves that differed in them.", walked.leaves),
            ("annulus_walk_records_sent_total", "Records that went over in them.", walked.records),
            ("annulus_walk_bytes_sent_total", "Bytes of keys and values that went over in them.", walked.bytes),
            ("annulus_walk_records_held_total", "Records that their slots held.", walked.held_records),
            ("annulus_walk_bytes_held_total", "Bytes of keys and values that their slots held.", walked.held_bytes),
        ] {
            metrics::counter(out, name, help, value);
        }
        let help = "For how long writes to a slot were refused because it was handed over.";
        inner.locks.render(out, "annulus_write_lock_seconds", help);
        let help = "How long it took from the view that made this server a slot's coordinator until it served.";
        inner.takeovers.render(out, "annulus_takeover_seconds", help);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn add(&mut self, length: Duration) {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        self.counts[ENDS.partition_point(|end| *end < micros)] += 1;
        self.sum += length;
        self.worst = self.worst.max(length);
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The upper end of the bucket in which the median lies.
    fn median(&self) -> Duration {
        let (half, mut seen) = (self.total().div_ceil(2), 0);
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= half
        });
        let end = bucket.and_then(|bucket| ENDS.get(bucket)).map_or(self.worst, |end| Duration::from_micros(*end));
        end.min(self.worst)
    }

    fn json(&self) -> Value {
        let ms = |length: Duration| length.as_secs_f64() * 1e3;
        json!({ "slots": self.total(), "median_ms": ms(self.median()), "max_ms": ms(self.worst) })
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        let mut seen = 0;
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} histogram\n");
        for (end, count) in ENDS.iter().zip(&self.counts) {
            seen += count;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {seen}", *end as f64 / 1e6);
        }
        let (sum, total) = (self.sum.as_secs_f64(), self.total());
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}");
        out.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_told_as_a_histogram_and_their_median_is_no_longer_than_the_longest() {
        let moves = Moves::default();
        for micros in [400, 1_800, 1_900, 2_000_000] {
            moves.note(Moved::Locked(Duration::from_micros(micros)));
        }
        let lock = &moves.status_json()["write_lock"];
        assert_eq!((lock["slots"].as_u64(), lock["median_ms"].as_f64()), (Some(4), Some(2.0)));
        assert_eq!(lock["max_ms"].as_f64(), Some(2_000.0));
        let mut text = String::new();
        moves.metrics(&mut text);
        for line in [
            "annulus_write_lock_seconds_bucket{le=\"0.0005\"} 1",
            "annulus_write_lock_seconds_bucket{le=\"0.002\"} 3",
            "annulus_write_lock_seconds_bucket{le=\"1\"} 3",
            "annulus_write_lock_seconds_bucket{le=\"+Inf\"} 4",
            "annulus_write_lock_seconds_count 4",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn walks_add_up() {
        let moves = Moves::default();
        let walk = Walked { leaves: 1, records: 2, bytes: 3, held_records: 40, held_bytes: 50 };
        moves.note(Moved::Walked(walk));
        moves.note(Moved::Walked(walk));
        let status = moves.status_json();
        assert_eq!((status["walks"].as_u64(), status["records_sent"].as_u64()), (Some(2), Some(4)));
        assert_eq!(status["bytes_held"].as_u64(), Some(100));
    }
}
