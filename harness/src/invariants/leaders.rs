//! I1: in every epoch of a slot at most one process ever coordinates.

use std::collections::BTreeMap;

use common::peer::Identity;
use common::{BootId, Epoch, NodeId, Slot};
use kvserver::replica::Replica;

/// Who was ever active in which epoch.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    active: BTreeMap<(Slot, Epoch), (NodeId, BootId)>,
}

impl Leaders {
    pub(super) fn touched(&mut self, server: usize, me: &Identity, replica: &Replica) -> Result<(), String> {
        let Some(view) = replica.view().filter(|_| replica.is_active()) else { return Ok(()) };
        let first = *self.active.entry((replica.slot(), view.epoch)).or_insert((me.node, me.boot));
        if first == (me.node, me.boot) {
            return Ok(());
        }
        let (slot, epoch) = (replica.slot(), view.epoch);
        Err(format!("I1: slot {slot} epoch {epoch}: s{server} is active, and so was {first:?}"))
    }
}
