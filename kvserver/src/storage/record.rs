//! Journal records: everything that changes a slot's durable state, in the order in which it happened.

use common::peer::Leaf;
use common::retry::RetryTable;
use common::{Entry, Epoch, Lineage, LogId, Seq, Slot, View};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// One line of the journal: `{"slot":3,"mark":17,"append":{...}}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
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
    WalkBegin {
        /// What the map contains at this moment. The walk mends only what differs from that, so replay must begin with
        /// the same map: commits after the last checkpoint are not in the journal by themselves.
        applied: Seq,
    },
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

/// Reads the fields in the order in which they are written. (A derived reader of a flattened field would copy every
/// line into a tree first, and could not read maps with numbers as keys, which retry tables have.)
impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Record, D::Error> {
        d.deserialize_map(RecordVisitor)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Slot,
    Mark,
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a slot, a mark and a change, in this order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let slot = field(&mut map, Field::Slot)?;
        let mark = field(&mut map, Field::Mark)?;
        let change = Change::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Record { slot, mark, change })
    }
}

fn field<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A, wanted: Field) -> Result<T, A::Error> {
    match map.next_key::<Field>()? {
        Some(found) if found == wanted => map.next_value(),
        _ => Err(A::Error::custom("the slot comes first, then the mark, then the change")),
    }
}
