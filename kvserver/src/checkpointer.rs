//! Decides when a checkpoint is written, and walks the slots for it.
//!
//! A thread of its own: it waits for the disk. A slot is locked only while its image is copied into a buffer; between
//! slots the thread rests as long as the copying took, so that no request waits for more than one slot's copying, and
//! finds a core. (With a single thread for clients, all requests may wait for that one.)
#![allow(clippy::disallowed_methods)] // shell: reads clocks and sleeps

use std::sync::Weak;
use std::time::Duration;

use common::clock;

use crate::node::{Fatal, Node, metrics};
use crate::storage::{CheckpointError, Role};

/// After a failure (the disk is full): the next attempt.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_millis(500);
/// The longest rest between two slots.
const LONGEST_REST: Duration = Duration::from_millis(5);

/// Runs until the node stops.
pub(crate) fn run(node: &Weak<Node>) {
    let mut not_before = clock::now();
    let mut first = true;
    loop {
        std::thread::park_timeout(LOOK);
        let Some(node) = node.upgrade().filter(|node| !node.halted()) else { return };
        if !node.serving() || clock::now() < not_before {
            continue;
        }
        let wanted = std::mem::take(&mut first) && node.store().replayed();
        if (wanted || node.store().checkpoint_due(node.options().checkpoint_every, clock::now()))
            && let Err(error) = write(&node, true)
        {
            not_before = clock::now() + RETRY;
            report(&node, &error);
        }
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
    let me = node.identity().node;
    let done = node.store().checkpoint(node.slots().unwrap_or(0), |slot, encoder| {
        let from = clock::now();
        node.with_slot(slot, |replica, _| {
            let image = replica.image();
            encoder.encode(slot, Role::of(image.view.as_ref(), me), &image.parts());
        });
        if gently {
            std::thread::sleep(clock::now().since(from).min(LONGEST_REST));
        }
    })?;
    metrics::bump(&node.metrics().checkpoints);
    log::info!("checkpoint {}: {} bytes in {} ms", done.generation, done.bytes, done.took.as_millis());
    Ok(())
}
