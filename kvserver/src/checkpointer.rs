//! Decides when a checkpoint is written, and walks the slots for it.
//!
//! A thread of its own: it waits for the disk. A slot is locked only while its image is copied into a buffer; between
//! slots the thread rests as long as it worked, so that requests never wait for more than one slot, and always have a core.
#![allow(clippy::disallowed_methods)] // shell: reads clocks and sleeps

use std::sync::Weak;
use std::time::Duration;

use common::{Time, clock};

use crate::node::{Fatal, Node, metrics};
use crate::storage::{CheckpointError, CheckpointWriter, Role, SlotEncoder};

/// A restart reads at most about this much journal.
const JOURNAL_BYTES: u64 = 64 << 20;
/// And what is in the maps that people read is at most this old.
const AGE: Duration = Duration::from_secs(60);
/// After a failure (the disk is full): the next attempt.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_millis(100);
/// The longest rest between two slots.
const LONGEST_REST: Duration = Duration::from_millis(5);

/// Runs until the node stops.
pub(crate) fn run(node: &Weak<Node>) {
    let mut due = Schedule::new(clock::now());
    loop {
        std::thread::sleep(LOOK);
        let Some(node) = node.upgrade().filter(|node| !node.halted()) else { return };
        if node.serving() && due.is_now(clock::now(), node.store().journal_bytes()) {
            let done = write(&node, true);
            due.attempted(clock::now(), done.is_ok());
            if let Err(error) = done {
                report(&node, &error);
            }
        }
    }
}

/// When the next checkpoint is due. Pure.
#[derive(Debug)]
struct Schedule {
    last: Time,
    /// Nothing is tried before.
    not_before: Time,
}

impl Schedule {
    fn new(now: Time) -> Schedule {
        Schedule { last: now, not_before: now }
    }

    fn is_now(&self, now: Time, journal_bytes: u64) -> bool {
        let wanted = journal_bytes >= JOURNAL_BYTES || (journal_bytes > 0 && now.since(self.last) >= AGE);
        wanted && now >= self.not_before
    }

    fn attempted(&mut self, now: Time, done: bool) {
        self.last = now;
        self.not_before = if done { now } else { now + RETRY };
    }
}

fn report(node: &Node, error: &CheckpointError) {
    match error {
        CheckpointError::Failed(_) => log::error!("{error}"),
        CheckpointError::Fatal(_) => node.fail(Fatal { reason: error.to_string(), code: Fatal::DISK }),
    }
}

/// Writes one. `gently`: with rests.
pub(crate) fn write(node: &Node, gently: bool) -> Result<(), CheckpointError> {
    let begun = clock::now();
    let (me, mut encoder) = (node.identity().node, SlotEncoder::default());
    let records = node.store().checkpoint(|writer: &mut CheckpointWriter<'_>| {
        let mut records = 0;
        for slot in 0..node.slots().unwrap_or(0) {
            let slot = common::Slot(slot);
            let from = clock::now();
            node.with_slot(slot, |replica, _| {
                let image = replica.image();
                records += image.map.len();
                encoder.encode(slot, Role::of(image.view.as_ref(), me), &image.parts());
            });
            writer.add(&encoder)?;
            if gently {
                std::thread::sleep(clock::now().since(from).min(LONGEST_REST));
            }
        }
        Ok(records)
    })?;
    metrics::bump(&node.metrics().checkpoints);
    log::info!("checkpoint of {records} records in {} ms", clock::now().since(begun).as_millis());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_checkpoint_is_due_by_size_or_by_age_but_never_without_a_journal() {
        let schedule = Schedule::new(Time(0));
        assert!(!schedule.is_now(Time(3600 * S), 0));
        assert!(!schedule.is_now(Time(59 * S), 1));
        assert!(schedule.is_now(Time(60 * S), 1));
        assert!(schedule.is_now(Time(1), JOURNAL_BYTES));
    }

    #[test]
    fn a_failure_is_not_repeated_at_once() {
        let mut schedule = Schedule::new(Time(0));
        schedule.attempted(Time(S), false);
        assert!(!schedule.is_now(Time(2 * S), JOURNAL_BYTES));
        assert!(schedule.is_now(Time(11 * S), JOURNAL_BYTES));
    }
}
