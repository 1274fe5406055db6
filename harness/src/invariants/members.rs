//! I2: the committed log is a prefix of every ISR member's log. I3: the ECS's ISR is a subset of what the coordinator
//! requires, so nobody counts as in sync whose acknowledgement was not waited for.

use common::peer::Identity;
use common::{Epoch, LogId, Seq, View};
use kvserver::storage::SlotImage;

use super::Copy;
use super::commits::Commits;

pub(super) fn survey(
    view: &View,
    copies: &[Copy<'_>],
    sound: impl Fn(&Copy<'_>) -> bool,
    commits: &Commits,
) -> Result<(), String> {
    let in_sync = |copy: &&Copy<'_>| view.isr.get(&copy.me.node) == Some(&copy.me.store);
    for copy in copies.iter().filter(in_sync).filter(|copy| sound(copy)) {
        holds_all(copy.server, view, copy.replica.image(), commits)?;
    }
    copies.iter().try_for_each(|copy| requires_isr(view, copy))
}

/// The same of a copy that was just read back from disk.
pub(super) fn recovered(
    server: usize,
    me: &Identity,
    view: &View,
    image: &SlotImage,
    commits: &Commits,
) -> Result<(), String> {
    if view.isr.get(&me.node) == Some(&me.store) { holds_all(server, view, image, commits) } else { Ok(()) }
}

fn holds_all(server: usize, view: &View, image: &SlotImage, commits: &Commits) -> Result<(), String> {
    let (slot, committed) = (view.slot, commits.last(view.slot));
    // Said of every copy after every step: only spelled out when it is wrong.
    let what = || format!("slot {slot}: s{server} is in the ISR of epoch {}", view.epoch);
    if committed == Seq(0) {
        return Ok(());
    }
    if image.base.is_none() {
        return Err(format!("I2: {} and has given up its position", what()));
    }
    if image.end().seq < committed {
        return Err(format!("I2: {} and its log ends at {:?}, committed is {committed}", what(), image.end()));
    }
    let same = |seq: Seq, epoch: Epoch| commits.epoch(slot, seq).is_none_or(|known| known == epoch);
    let base = image.base.unwrap_or_default();
    let strange =
        [base].into_iter().chain(image.tail.iter().map(|entry| entry.id)).find(|id: &LogId| !same(id.seq, id.epoch));
    match strange {
        Some(id) => {
            Err(format!("I2: {} and holds {id:?} where epoch {:?} is committed", what(), commits.epoch(slot, id.seq)))
        }
        None => Ok(()),
    }
}

/// Only a coordinator at the ECS's epoch or at the one directly before it can have had a say in the ECS's ISR.
fn requires_isr(view: &View, copy: &Copy<'_>) -> Result<(), String> {
    let (me, replica) = (copy.me, copy.replica);
    let Some(own) = replica.view() else { return Ok(()) };
    let concerned = view.coordinator == me.node && view.coordinator_boot == me.boot && replica.is_active();
    if !concerned || (own.epoch != view.epoch && own.epoch != view.previous) {
        return Ok(());
    }
    let required = replica.required().unwrap_or_default();
    match view.isr.keys().find(|node| **node != me.node && !required.contains(node)) {
        Some(node) => {
            let (slot, server) = (view.slot, copy.server);
            Err(format!(
                "I3: slot {slot}: {node} is in the ISR of epoch {}, s{server} does not wait for it",
                view.epoch
            ))
        }
        None => Ok(()),
    }
}
