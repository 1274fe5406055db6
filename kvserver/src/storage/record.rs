//! Journal records: everything that changes a slot's durable state, in the order in which it happened.

use common::peer::Leaf;
use common::retry::RetryTable;
use common::{Entry, Epoch, Lineage, LogId, Seq, Slot, View};
use serde::{Deserialize, Serialize};

/// One line of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Whose state changes.
    pub slot: Slot,
    /// Counts the slot's records, across restarts. A checkpoint says which records it contains by this number, so a
    /// record is never applied twice.
    pub mark: u64,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// What a record changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// An entry at the end of the log. Not known to be committed (W4).
    Append(Entry),
    /// A view was adopted.
    View(View),
    /// Entries after this seq are gone (W2).
    Truncate {
        /// The last entry that stays.
        after: Seq,
    },
    /// The copy gives up its position and its tail: until `WalkEnd` it is only a starting point.
    WalkBegin {},
    /// Leaves replaced by content.
    Fill {
        /// Their new content.
        leaves: Vec<Leaf>,
    },
    /// The copy has a position again: it is the coordinator's state at `at`, once these entries are applied to it.
    WalkEnd {
        /// The entries since the walk began.
        entries: Vec<Entry>,
        /// The position.
        at: LogId,
        /// The epochs of the log up to there.
        lineage: Lineage,
        /// The retry table there.
        retries: RetryTable,
    },
    /// The copy was dropped on the order of this epoch: the slot is empty, at seq 0.
    Drop {
        /// The epoch that no longer needs it.
        epoch: Epoch,
    },
}
