//! What servers ask each other so that any of them can answer for the whole cluster: one question a connection, on the
//! peer port ([`crate::peer::Purpose::Question`]).
//!
//! Answers are small whatever the slots hold: the one who is asked counts and compares, and nobody is sent records. Nothing
//! in here changes anything, but that a write probe puts an entry without a key through each log.

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::entry::LogId;
use crate::ids::{BootId, Epoch, NodeId, Slot};

/// A question, and how long the asker waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Query {
    /// What.
    pub ask: Ask,
    /// How many milliseconds the answer may take.
    pub patience_ms: u32,
}

/// What one server asks another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// What do these slots hold? Each is read like a key, under the lease.
    Extents(Vec<Slot>),
    /// How do you stand? With a real read and a real write in every slot that you coordinate.
    Standing,
    /// What do you hold of this key, and would you answer for it?
    Holding(Blob),
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Say {
    /// To [`Ask::Extents`].
    Extents(Extents),
    /// To [`Ask::Standing`].
    Standing(Box<Standing>),
    /// To [`Ask::Holding`].
    Holding(Box<Holding>),
    /// No answer, and why.
    Refused(String),
}

/// What a set of slots holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Extents {
    /// How many records.
    pub records: u64,
    /// The first key, in the order of bytes.
    pub first: Option<Blob>,
    /// The last.
    pub last: Option<Blob>,
    /// Slots that are not in this, and why.
    pub refused: Vec<(Slot, String)>,
}

impl Extents {
    /// Takes in what further slots hold.
    pub fn add(&mut self, records: u64, first: Option<Blob>, last: Option<Blob>) {
        self.records += records;
        self.first = self.first.take().into_iter().chain(first).min();
        self.last = self.last.take().into_iter().chain(last).max();
    }
}

/// How a server stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Who.
    pub node: NodeId,
    /// Its start.
    pub boot: BootId,
    /// Since when it runs, in milliseconds.
    pub up_ms: u64,
    /// What it waits for before it serves all that it should, as on `/readyz`. None: it is ready.
    pub waiting_for: Option<String>,
    /// The version of the metadata it has.
    pub meta: u64,
    /// Whether its control connection to the ECS stands.
    pub ecs: bool,
    /// The highest epoch it has seen.
    pub highest_epoch: Epoch,
    /// The epoch of the view it has adopted for each slot.
    pub epochs: Vec<Epoch>,
    /// Slots it coordinates.
    pub coordinating: u64,
    /// Records it holds, in all roles.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Reads in the slots it coordinates.
    pub reads: Probe,
    /// Writes in them.
    pub writes: Probe,
    /// What must never happen and did.
    pub alarms: Vec<String>,
}

/// What came of reading or writing once in every slot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Probe {
    /// How many slots did it.
    pub done: u32,
    /// The slowest of them, in microseconds.
    pub slowest_us: u64,
    /// How many did not.
    pub failed: u32,
    /// Some of those, and why.
    pub why: Vec<(Slot, String)>,
}

/// Failures of a probe that are told one by one.
pub const TOLD: usize = 8;

impl Probe {
    /// A slot that did it.
    pub fn done(&mut self, micros: u64) {
        (self.done, self.slowest_us) = (self.done + 1, self.slowest_us.max(micros));
    }

    /// A slot that did not.
    pub fn failed(&mut self, slot: Slot, why: &str) {
        self.failed += 1;
        if self.why.len() < TOLD {
            self.why.push((slot, why.to_owned()));
        }
    }
}

/// What a server holds of a key and of its slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Its part: see `role` in the status.
    pub role: String,
    /// The epoch of the view it has adopted.
    pub epoch: Option<Epoch>,
    /// The last entry of the slot that it knows to be committed: the version of what it would answer. None: its copy is
    /// being replaced and has no position.
    pub commit: Option<LogId>,
    /// The last entry of its log.
    pub end: LogId,
    /// The length of the committed value, if the key has one.
    pub value_bytes: Option<u64>,
    /// The newest entry of the key, if it is not known to be committed.
    pub uncommitted: Option<LogId>,
    /// Whether it would answer a read of the key here and now.
    pub reads: bool,
    /// By which rule, or by which it would not.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Blob> {
        Some(Blob(bytes::Bytes::copy_from_slice(text.as_bytes())))
    }

    #[test]
    fn extents_add_up_and_empty_ones_say_nothing_about_keys() {
        let mut all = Extents::default();
        all.add(0, None, None);
        assert_eq!((all.records, all.first.clone()), (0, None));
        all.add(2, key("m"), key("n"));
        all.add(0, None, None);
        all.add(1, key("z"), key("z"));
        all.add(1, key("a"), key("a"));
        assert_eq!((all.records, all.first, all.last), (4, key("a"), key("z")));
    }

    #[test]
    fn a_probe_tells_some_failures_and_counts_all() {
        let mut probe = Probe::default();
        (0..20).for_each(|slot| probe.failed(Slot(slot), "no lease"));
        probe.done(5);
        probe.done(3);
        assert_eq!((probe.done, probe.slowest_us, probe.failed, probe.why.len()), (2, 5, 20, TOLD));
    }
}
