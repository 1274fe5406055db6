//! How long puts take while a checkpoint is written, and otherwise.
//!
//! A server tells when its last checkpoint was done and how long it took. One client notes when each of its puts began and
//! ended, sixteen others keep the server busy; afterwards each put is counted where it belongs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::bench::dialect::Protocol;
use crate::bench::histogram::Histogram;
use crate::bench::load::{Load, Target};
use crate::bench::setup::value;
use crate::real::Text;

/// Checkpoints wanted; the first has everything of before in it, so it is not the only one.
const WANTED: u64 = 3;
/// How long they may take to come.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the server is asked about them: rarely, since it walks all slots for the answer.
const LOOK: Duration = Duration::from_millis(200);
/// The others' load is run in pieces of this length until the end.
const PIECE: Duration = Duration::from_millis(500);
const OTHERS: usize = 16;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// Puts that overlapped with a checkpoint.
    pub(super) during: Histogram,
    /// All others.
    pub(super) outside: Histogram,
    /// How long the longest checkpoint took.
    pub(super) checkpoint: Duration,
}

/// A time from and to.
type Span = (Instant, Instant);

/// Puts until some checkpoints have been seen, or for as long as is reasonable.
pub(super) fn watch(address: &str, keys: &Arc<[String]>) -> anyhow::Result<Stalls> {
    let stop = AtomicBool::new(false);
    let load = Load {
        protocol: Protocol::Redis { wait: false },
        targets: vec![Target::new(address, keys)],
        clients: OTHERS,
        pipeline: 1,
        put: Some(value(100)),
        length: PIECE,
    };
    std::thread::scope(|scope| {
        let others = scope.spawn(|| -> anyhow::Result<()> {
            while !stop.load(Ordering::Relaxed) {
                load.run()?;
            }
            Ok(())
        });
        let prober = scope.spawn(|| probe(address, keys, &stop));
        let checkpoints = checkpoints(address);
        stop.store(true, Ordering::Relaxed);
        others.join().expect("the load does not panic")?;
        let puts = prober.join().expect("the prober does not panic")?;
        Ok(sort(&puts, &checkpoints?))
    })
}

/// One put after another.
fn probe(address: &str, keys: &[String], stop: &AtomicBool) -> anyhow::Result<Vec<Span>> {
    let (mut text, value, mut puts) = (Text::connect(address)?, value(100), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let key = &keys[puts.len() * 7919 % keys.len()];
        let began = Instant::now();
        let answer = text.ask(&format!("put {key} {value}"))?;
        ensure!(answer.starts_with("PUT_UPDATE "), "not the expected reply: {answer}");
        puts.push((began, Instant::now()));
    }
    Ok(puts)
}

/// When checkpoints were written.
fn checkpoints(address: &str) -> anyhow::Result<Vec<Span>> {
    let mut text = Text::connect(address)?;
    let (began, mut spans, mut last) = (Instant::now(), Vec::new(), None);
    while began.elapsed() < PATIENCE && (spans.len() as u64) < WANTED {
        let answer = text.ask("status")?;
        let now = Instant::now();
        let status: Value = serde_json::from_str(answer.strip_prefix("STATUS_SUCCESS ").context("no status")?)?;
        let done = &status["journal"]["checkpoint"];
        let millis = |name: &str| Duration::from_millis(done[name].as_u64().unwrap_or(0));
        let generation = done["generation"].as_u64();
        if last.is_some_and(|last| last != generation) {
            // Told in whole milliseconds: a little more is taken, so that nothing of it is missed.
            let end = now.checked_sub(millis("age_ms")).unwrap_or(began) + Duration::from_millis(2);
            spans.push((end.checked_sub(millis("ms") + Duration::from_millis(4)).unwrap_or(began), end));
        }
        last = Some(generation);
        std::thread::sleep(LOOK);
    }
    Ok(spans)
}

/// Counts each put where it belongs.
fn sort(puts: &[Span], checkpoints: &[Span]) -> Stalls {
    let mut stalls = Stalls::default();
    for (from, to) in puts {
        let meanwhile = checkpoints.iter().any(|(began, ended)| from < ended && to > began);
        let histogram = if meanwhile { &mut stalls.during } else { &mut stalls.outside };
        histogram.add(*to - *from);
    }
    stalls.checkpoint = checkpoints.iter().map(|(from, to)| *to - *from).max().unwrap_or_default();
    stalls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_count_for_a_checkpoint_they_overlap_with() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let puts = [(at(0), at(5)), (at(8), at(12)), (at(15), at(25)), (at(21), at(22))];
        let stalls = sort(&puts, &[(at(10), at(20))]);
        assert_eq!((stalls.during.count(), stalls.outside.count()), (2, 2));
        assert_eq!(stalls.during.worst(), Duration::from_millis(10));
        assert_eq!(stalls.checkpoint, Duration::from_millis(10));
    }
}
