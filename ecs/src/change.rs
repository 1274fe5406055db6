//! Membership changes as they are kept: the one in progress, the homes it may have to go back to, and who has gone.
//!
//! Plain values of the durable state; what follows from them is decided by the director.

use common::{BootId, NodeId, Slot};
use serde::{Deserialize, Serialize};

/// The membership change in progress; there is at most one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A server is getting its share.
    Join {
        /// Which.
        node: NodeId,
        /// The homes to return to if it vanishes.
        before: Homes,
    },
    /// A server is giving its share away before it goes.
    Leave {
        /// Which.
        node: NodeId,
        /// The homes to return to if it cannot.
        before: Homes,
        /// Whether it goes by its own wish, or is sent away.
        how: Parting,
    },
    /// Slots move between servers that stay.
    Rebalance {
        /// The homes to return to if it is cancelled.
        before: Homes,
        /// The homes it leads to, a few slots at a time.
        after: Homes,
    },
}

impl Change {
    /// Whom it is about, if one server.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Change::Join { node, .. } | Change::Leave { node, .. } => Some(*node),
            Change::Rebalance { .. } => None,
        }
    }

    /// The homes before it began.
    #[must_use]
    pub fn before(&self) -> &Homes {
        match self {
            Change::Join { before, .. } | Change::Leave { before, .. } | Change::Rebalance { before, .. } => before,
        }
    }

    /// The server that is joining.
    #[must_use]
    pub fn joiner(&self) -> Option<NodeId> {
        self.node().filter(|_| matches!(self, Change::Join { .. }))
    }

    /// The server that is leaving.
    #[must_use]
    pub fn leaver(&self) -> Option<NodeId> {
        self.node().filter(|_| matches!(self, Change::Leave { .. }))
    }
}

/// How a server goes for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parting {
    /// By its own wish and in order: started again, it joins again.
    Left,
    /// Sent away, or lost on its way out: it comes back only if its operator says so.
    Removed,
}

/// What is remembered of a server that has gone for good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Departed {
    /// How.
    pub how: Parting,
    /// The start that went: the same process is told again that it has gone, a later one is a decision of its operator.
    pub boot: BootId,
    /// When, counted in changes of the cluster.
    pub version: u64,
}

/// Every slot's home, as runs of slots with one home.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Homes(Vec<(NodeId, u16)>);

impl Homes {
    /// From one home per slot.
    #[must_use]
    pub fn pack(homes: &[NodeId]) -> Homes {
        let mut runs: Vec<(NodeId, u16)> = Vec::new();
        for home in homes {
            match runs.last_mut() {
                Some((node, length)) if node == home => *length += 1,
                _ => runs.push((*home, 1)),
            }
        }
        Homes(runs)
    }

    /// All slots at one node.
    #[must_use]
    pub fn all(node: NodeId, slots: u16) -> Homes {
        Homes(vec![(node, slots)])
    }

    /// To one home per slot.
    #[must_use]
    pub fn unpack(&self) -> Vec<NodeId> {
        self.0.iter().flat_map(|(node, length)| std::iter::repeat_n(*node, usize::from(*length))).collect()
    }

    /// The home of one slot.
    #[must_use]
    pub fn at(&self, slot: Slot) -> Option<NodeId> {
        let mut left = slot.0;
        self.0
            .iter()
            .find(|(_, length)| {
                let here = left < *length;
                left = left.saturating_sub(*length);
                here
            })
            .map(|(node, _)| *node)
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.0.iter().map(|(_, length)| usize::from(*length)).sum()
    }

    /// The nodes, some of them several times.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().map(|(node, _)| *node)
    }

    /// Whether any slot has its home there.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes().any(|home| home == node)
    }
}
