//! What a server asks another one to do for a client that it cannot serve itself, on connections of their own
//! ([`crate::peer::Purpose::Forward`]): jobs in one direction, what came of them in the other, in any order.
//!
//! The one who is asked does a job here and now or says why not; it never passes it on, so no job goes in circles. Every
//! write carries a request id, so the asker may send it again, elsewhere too, when it does not hear what came of it.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::blob::Blob;
use crate::entry::{Outcome, RequestId};
use crate::ids::Slot;
use crate::position::Position;
use crate::update::{Update, Updated};

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Read this key.
    Read(Blob),
    /// How long does this key last?
    Lasts(Blob),
    /// List keys of a slot, in the order of their places; see [`place`].
    Keys {
        /// The slot.
        slot: Slot,
        /// Keys from this place on.
        from: u64,
        /// About so many.
        count: u32,
    },
    /// Write.
    Write {
        /// The key.
        key: Blob,
        /// What becomes of it.
        what: What,
    },
}

/// What a forwarded write does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum What {
    /// Set the value; it has no deadline.
    Put(Blob),
    /// Remove the key.
    Delete,
    /// What depends on what the key holds.
    Update(Update),
}

impl Job {
    /// The slot it concerns, of so many.
    #[must_use]
    pub fn slot(&self, slots: u16) -> Slot {
        match self {
            Job::Read(key) | Job::Lasts(key) | Job::Write { key, .. } => Position::of(&key.0).slot(slots),
            Job::Keys { slot, .. } => *slot,
        }
    }

    /// Whether only the coordinator can do it.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Job::Write { .. })
    }

    /// Bytes of key and value.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Job::Read(key) | Job::Lasts(key) => key.0.len(),
            Job::Keys { .. } => 0,
            Job::Write { key, what } => key.0.len() + what.size(),
        }
    }
}

impl What {
    fn size(&self) -> usize {
        match self {
            What::Put(value) => value.0.len(),
            What::Update(Update::Set { value, .. } | Update::AddFloat(value) | Update::Append(value)) => value.len(),
            What::Delete | What::Update(_) => 0,
        }
    }
}

/// Asker to asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forward {
    /// The asker's number for this sending, which the answer repeats.
    pub number: u64,
    /// What to do.
    pub job: Job,
    /// Makes a write exactly-once.
    pub request: Option<RequestId>,
    /// Whether it may have been executed by an earlier sending.
    pub retry: bool,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forwarded {
    /// The sending's number.
    pub number: u64,
    /// What came of it.
    pub came: Came,
}

/// What came of a job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Came {
    /// The value of the key, if it has one.
    Value(Option<Blob>),
    /// Whether the key exists, and its deadline in milliseconds since the Unix epoch, if it has one.
    Lasts {
        /// See there.
        exists: bool,
        /// See there.
        until: Option<u64>,
    },
    /// Keys of a slot.
    Keys(Keys),
    /// The write is committed.
    Written(Outcome),
    /// The update is committed.
    Updated(Updated),
    /// Nothing was executed.
    Refused(Why),
    /// A write may have been executed. `forgotten`: asking again would be of no use.
    Unknown {
        /// See there.
        forgotten: bool,
    },
}

/// Some keys of a slot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Keys {
    /// All whose place is at or behind the one asked from and before `next`.
    pub keys: Vec<Blob>,
    /// Where to go on. None: these were the last.
    pub next: Option<u64>,
}

/// The number of places in a slot.
pub const PLACES: u64 = 1 << 48;

/// Where a key stands among those of its slot when they are listed: spread evenly, and the same at every server and at every
/// time, so that a list can be continued anywhere.
#[must_use]
pub fn place(key: &[u8]) -> u64 {
    xxh3_64(key) & (PLACES - 1)
}

/// Why nothing was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Why {
    /// Another server is the one to ask.
    NotResponsible,
    /// The slot is being handed over.
    WriteLocked,
    /// The slot is not served at the moment.
    Unavailable,
}
