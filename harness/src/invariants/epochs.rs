//! I5: a node's epoch of a slot never falls, and no restart takes it below what the node has acknowledged.

use std::collections::BTreeMap;

use common::{Epoch, Slot};
use kvserver::replica::Replica;
use kvserver::storage::SlotImage;

/// What each machine was at and has said.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    present: BTreeMap<(usize, Slot), Epoch>,
    acknowledged: BTreeMap<(usize, Slot), Epoch>,
}

impl Epochs {
    pub(super) fn touched(&mut self, server: usize, replica: &Replica) -> Result<(), String> {
        let epoch = replica.view().map(|view| view.epoch).unwrap_or_default();
        let last = self.present.entry((server, replica.slot())).or_default();
        if epoch < *last {
            let slot = replica.slot();
            return Err(format!("I5: slot {slot}: s{server} falls from epoch {last} to {epoch}"));
        }
        *last = epoch;
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, server: usize, slot: Slot, epoch: Epoch) {
        let said = self.acknowledged.entry((server, slot)).or_default();
        *said = epoch.max(*said);
    }

    pub(super) fn recovered(&self, server: usize, slot: Slot, image: &SlotImage) -> Result<(), String> {
        let found = image.view.as_ref().map(|view| view.epoch).unwrap_or_default();
        let said = self.acknowledged.get(&(server, slot)).copied().unwrap_or_default();
        if found < said {
            return Err(format!("I5: slot {slot}: s{server} acknowledged epoch {said} and restarts at {found}"));
        }
        Ok(())
    }

    pub(super) fn stopped(&mut self, server: usize) {
        self.present.retain(|(s, _), _| *s != server);
    }

    pub(super) fn wiped(&mut self, server: usize) {
        self.stopped(server);
        self.acknowledged.retain(|(s, _), _| *s != server);
    }
}
