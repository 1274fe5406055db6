//! Log entries: the physical changes that replicas agree on, one log per slot.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::blob::{self, Blob};
use crate::ids::{ClientId, Epoch, Seq};
use crate::update::{Becomes, Came};

/// Names one entry of one slot for ever (invariant I4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct LogId {
    /// The epoch in which it was proposed.
    pub epoch: Epoch,
    /// Its place in the slot's log.
    pub seq: Seq,
}

/// What an entry does to its key. Conditions were evaluated when it was proposed (W3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The key has this value from now on.
    Put {
        /// The key.
        #[serde(with = "blob")]
        key: Bytes,
        /// Its value.
        #[serde(with = "blob")]
        value: Bytes,
    },
    /// The key is gone from now on.
    Delete {
        /// The key.
        #[serde(with = "blob")]
        key: Bytes,
    },
    /// As [`Op::Put`]; whoever asked is told the value before, which was looked up when this was proposed.
    Swap {
        /// The key.
        #[serde(with = "blob")]
        key: Bytes,
        /// Its value.
        #[serde(with = "blob")]
        value: Bytes,
        /// Its value until now, if it had one.
        old: Option<Blob>,
    },
    /// What else can become of the key: deadlines, and answers that a retry must be told again.
    Update {
        /// The key.
        #[serde(with = "blob")]
        key: Bytes,
        /// What becomes of it.
        becomes: Becomes,
        /// The bytes in the answer to the request, if the client gave an id and there are any.
        told: Option<Blob>,
    },
    /// Nothing changes; the entry only records the outcome of a request (a delete of a missing key), or proves that
    /// entries commit.
    Noop,
}

impl Op {
    /// The key that is changed, if one is.
    #[must_use]
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Op::Update { becomes: Becomes::Same, .. } | Op::Noop => None,
            Op::Put { key, .. } | Op::Swap { key, .. } | Op::Delete { key } | Op::Update { key, .. } => Some(key),
        }
    }
}

/// What the client is told once the entry is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A put of a key that was not there.
    Created,
    /// A put of a key that was there.
    Updated,
    /// A delete of a key that was there.
    Deleted,
    /// A delete of a key that was not there.
    Missing,
    /// What came of an [`Update`](crate::update::Update) with a request id.
    Came(Came),
}

/// Makes a write exactly-once: see [`crate::retry`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId {
    /// Who asks.
    pub client: ClientId,
    /// The client's number for this request; it never reuses one.
    pub seq: u64,
    /// The lowest number for which the client still lacks an answer: results below it can be forgotten.
    pub lowest_unacked: u64,
}

/// One entry of a slot's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: LogId,
    /// What it does.
    pub op: Op,
    /// What the client is told.
    pub outcome: Outcome,
    /// Which request it answers, if the client gave an id.
    pub request: Option<RequestId>,
}

impl Entry {
    /// Roughly how much memory it holds, for bounds.
    #[must_use]
    pub fn weight(&self) -> usize {
        96 + match &self.op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Swap { key, value, old } => key.len() + value.len() + old.as_ref().map_or(0, |old| old.0.len()),
            Op::Delete { key } => key.len(),
            Op::Update { key, becomes, told } => {
                let value = if let Becomes::Value { value, .. } = becomes { value.len() } else { 0 };
                key.len() + value + told.as_ref().map_or(0, |told| told.0.len())
            }
            Op::Noop => 0,
        }
    }
}
