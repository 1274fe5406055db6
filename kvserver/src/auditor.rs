//! Goes round the coordinated slots and has the copies of one after another compared; between two rounds it has the files
//! on disk read back.
//!
//! A thread of its own, at the lowest claim on the machine: it holds one slot's lock for as long as hashing that slot takes,
//! and rests between slots so that a round takes the time that was asked for.
#![allow(clippy::disallowed_methods)] // shell: reads clocks and sleeps

use std::sync::Weak;
use std::time::Duration;

use common::{Slot, clock};

use crate::node::Node;
use crate::replica::Event;

/// How often it looks whether the node still runs, if nobody wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest rest between two slots.
const SHORTEST: Duration = Duration::from_millis(2);
/// What a round waits for an answer before a missed slot is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often in a round a slot that was missed is asked again.
const TRIES: usize = 5;
/// Reading back the files takes at most this much of the disk, in bytes a second.
const SCRUB_RATE: u64 = 64 << 20;

/// Runs until the node stops.
pub(crate) fn run(node: &Weak<Node>) {
    let Some(every) = node.upgrade().and_then(|node| node.options().audit_every) else { return };
    while rest(node, SHORTEST) {
        let Some(slots) = node.upgrade().map(|node| node.coordinated()) else { return };
        let pause = (every / u32::try_from(slots.len().max(1)).unwrap_or(u32::MAX)).max(SHORTEST);
        for slot in slots {
            if !audit(node, slot) || !rest(node, pause) {
                return;
            }
        }
        if node.upgrade().is_some_and(|node| node.coordinated().is_empty()) && !rest(node, every) {
            return;
        }
        scrub(node);
    }
}

/// Has one slot compared, and again while somebody could not.
fn audit(node: &Weak<Node>, slot: Slot) -> bool {
    for _ in 0..TRIES {
        let Some(running) = node.upgrade() else { return false };
        running.event(clock::now(), slot, Event::Audit);
        drop(running);
        if !rest(node, AGAIN) {
            return false;
        }
        if node.upgrade().is_none_or(|node| !node.audits().missed(slot)) {
            return true;
        }
    }
    true
}

/// Sleeps; false if the node has stopped meanwhile.
fn rest(node: &Weak<Node>, mut pause: Duration) -> bool {
    loop {
        if node.upgrade().is_none_or(|node| node.halted()) {
            return false;
        }
        let nap = pause.min(LOOK);
        std::thread::park_timeout(nap);
        pause -= nap;
        if pause.is_zero() {
            return true;
        }
    }
}

fn scrub(node: &Weak<Node>) {
    let Some(node) = node.upgrade().filter(|node| !node.halted()) else { return };
    let paced = |bytes: u64| std::thread::sleep(Duration::from_micros(bytes * 1_000_000 / SCRUB_RATE));
    match node.store().scrub(paced) {
        Ok(Some(found)) => {
            node.audits().scrubbed(found.bytes, found.damage.is_some());
            if let Some(damage) = found.damage {
                log::error!(
                    "damage on disk: {damage}. What is in memory is whole: a new checkpoint replaces the files"
                );
                node.store().want_checkpoint();
            }
        }
        Ok(None) => {}
        Err(error) => log::warn!("cannot read the data directory back: {error}"),
    }
}
