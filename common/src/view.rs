//! Views: who coordinates a slot and who holds its copies. Made by the ECS alone, adopted by servers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{BootId, ClusterId, Epoch, NodeId, Slot, StoreUuid};
use crate::time::Timing;

/// Who serves one slot in one epoch. Every change is a compare-and-set at the ECS on the slot's epoch and takes a fresh one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Which slot.
    pub slot: Slot,
    /// The view's number; unique in the cluster.
    pub epoch: Epoch,
    /// The epoch of the slot's view before this one; the first view has 0. A coordinator that adopts the view directly
    /// after its own may stay active (L4); one that missed a view in between may not.
    pub previous: Epoch,
    /// Who orders the slot's writes; always in `isr`.
    pub coordinator: NodeId,
    /// The coordinator's process the view was made for. A later one never resumes this epoch (C6).
    pub coordinator_boot: BootId,
    /// The in-sync replicas, the coordinator included: who must have an entry before it commits. Never empty.
    pub isr: BTreeMap<NodeId, StoreUuid>,
    /// Who should hold a copy, in preference order. Those not in `isr` are learners.
    pub targets: Vec<NodeId>,
    /// Who should coordinate the slot when all is well.
    pub home: NodeId,
    /// Set on the view that completes a hand-over: the epoch whose coordinator gave its lease back (L5).
    pub released: Option<Epoch>,
}

impl View {
    /// The node's part in this view.
    #[must_use]
    pub fn part_of(&self, node: NodeId, store: StoreUuid) -> Part {
        match self.isr.get(&node) {
            Some(s) if *s == store && self.coordinator == node => Part::Coordinator,
            Some(s) if *s == store => Part::Member,
            _ if self.targets.contains(&node) => Part::Learner,
            _ => Part::None,
        }
    }

    /// What must hold of every view.
    ///
    /// # Errors
    /// A sentence naming what does not.
    pub fn check(&self) -> Result<(), String> {
        if !self.isr.contains_key(&self.coordinator) {
            return Err(format!("slot {}: coordinator {} is not in the ISR", self.slot, self.coordinator));
        }
        let mut targets = self.targets.clone();
        targets.sort_unstable();
        targets.dedup();
        if targets.len() != self.targets.len() {
            return Err(format!("slot {}: a target is named twice: {:?}", self.slot, self.targets));
        }
        Ok(())
    }
}

/// A node's part in a slot's view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It orders the writes.
    Coordinator,
    /// It is in the ISR.
    Member,
    /// It should hold a copy and does not yet.
    Learner,
    /// It has nothing to do with the slot.
    None,
}

/// Where a server stands with the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Registered, does not hold its share yet.
    Joining,
    /// Holds its share.
    Up,
    /// Giving its share away before it goes.
    Leaving,
    /// Judged dead; its share is served by others.
    Down,
}

/// One row of the node table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its identity.
    pub node: NodeId,
    /// Its store; changes when the old one was found corrupt.
    pub store: StoreUuid,
    /// Its latest start.
    pub boot: BootId,
    /// Where clients reach it: `host:port`.
    pub client_addr: String,
    /// Where peers and the ECS's probes reach it.
    pub peer_addr: String,
    /// Its HTTP port, if it has one.
    pub admin_addr: Option<String>,
    /// Where it stands.
    pub state: NodeState,
    /// How large its share of the ring is to be, against the others': twice as much, twice as large.
    #[serde(default = "ordinary")]
    pub weight: u16,
}

/// The weight of an ordinary server.
pub const WEIGHT: u16 = 100;
/// The highest: a hundred ordinary servers.
pub const HIGHEST_WEIGHT: u16 = 10_000;

/// What servers are that said nothing, and rows that were written before there were weights.
fn ordinary() -> u16 {
    WEIGHT
}

/// What is fixed when a cluster is created.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its identity.
    pub cluster: ClusterId,
    /// How many slots the ring has: a power of two.
    pub slots: u16,
    /// Copies beside the coordinator's.
    pub replicas: u8,
    /// L in milliseconds.
    pub lease_ms: u32,
    /// Arcs per server.
    pub vnodes: u16,
}

impl ClusterRecord {
    /// The durations that follow from the lease.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing::for_lease(Duration::from_millis(u64::from(self.lease_ms)))
    }
}

/// The ring's metadata as the ECS hands it out: everything, or what has changed since.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Counts the ECS's changes; a server reports the version it has in every heartbeat.
    pub version: u64,
    /// Whether `nodes` and `views` are complete (or else only what changed since `version - 1`).
    pub full: bool,
    /// Rows of the node table.
    pub nodes: Vec<NodeInfo>,
    /// Nodes that are no longer known.
    pub gone: Vec<NodeId>,
    /// Views, by slot.
    pub views: Vec<View>,
}
