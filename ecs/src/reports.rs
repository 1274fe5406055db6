//! What the coordinators said last about their slots. Volatile: rebuilt within a second from what servers send.

use std::collections::BTreeMap;

use common::control::{Report, SlotReport};
use common::view::View;
use common::{Epoch, LogId, NodeId, Slot};

/// The last report of every server.
#[derive(Debug, Default)]
pub struct Reports {
    slots: BTreeMap<Slot, (NodeId, SlotReport)>,
    strays: BTreeMap<NodeId, Vec<(Slot, Epoch)>>,
    held: BTreeMap<NodeId, BTreeMap<Slot, LogId>>,
}

impl Reports {
    /// Takes a server's report; true if it says something new about who is active. What a server leaves out it no longer
    /// coordinates.
    pub fn put(&mut self, node: NodeId, report: Report) -> bool {
        let standing = |reports: &Self| -> Vec<(Slot, Epoch, bool)> {
            let mine = reports.slots.iter().filter(|(_, (of, _))| *of == node);
            mine.map(|(slot, (_, report))| (*slot, report.epoch, report.active)).collect()
        };
        let before = standing(self);
        self.slots.retain(|_, (of, _)| *of != node);
        for slot in report.slots {
            // Of two servers that both report a slot the one with the newer view is right.
            let newer = self.slots.get(&slot.slot).is_none_or(|(_, other)| other.epoch <= slot.epoch);
            if newer {
                self.slots.insert(slot.slot, (node, slot));
            }
        }
        self.strays.insert(node, report.strays);
        self.held.insert(node, report.held.into_iter().collect());
        before != standing(self)
    }

    /// Forgets what a server said: it is down or has restarted.
    pub fn forget(&mut self, node: NodeId) {
        self.slots.retain(|_, (of, _)| *of != node);
        self.strays.remove(&node);
        self.held.remove(&node);
    }

    /// Whether the view is in force: its coordinator serves at exactly this epoch.
    #[must_use]
    pub fn active(&self, view: &View) -> bool {
        self.slots
            .get(&view.slot)
            .is_some_and(|(node, report)| *node == view.coordinator && report.epoch == view.epoch && report.active)
    }

    /// What was said last about a slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> Option<&SlotReport> {
        self.slots.get(&slot).map(|(_, report)| report)
    }

    /// How many records there are, as last reported.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.slots.values().map(|(_, report)| report.records).sum()
    }

    /// The copies that a server holds without having a part in their views.
    #[must_use]
    pub fn strays(&self, node: NodeId) -> &[(Slot, Epoch)] {
        self.strays.get(&node).map_or(&[], Vec::as_slice)
    }

    /// The last entry of a copy that a server has without being in sync.
    #[must_use]
    pub fn held(&self, node: NodeId, slot: Slot) -> Option<LogId> {
        self.held.get(&node).and_then(|slots| slots.get(&slot)).copied()
    }

    /// The highest epoch that anyone reported.
    #[must_use]
    pub fn highest(report: &Report) -> Epoch {
        let slots = report.slots.iter().map(|slot| slot.epoch);
        slots.chain(report.strays.iter().map(|(_, epoch)| *epoch)).max().unwrap_or_default()
    }
}
