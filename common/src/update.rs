//! Writes whose outcome depends on what the key holds (W3).
//!
//! What a client may ask for, what the key becomes, and what the client is told. Such a write is evaluated once, at the
//! coordinator, against the newest entry; the log then says what becomes of the key, so that no replica evaluates anything.
//! Deadlines are milliseconds since the Unix epoch: a client's seconds are turned into them by the server that it asks.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::blob::{self, Blob};

/// A write whose outcome depends on what the key holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Update {
    /// Set the value, if the condition holds.
    Set {
        /// The value.
        value: Bytes,
        /// When.
        only: Only,
        /// What becomes of the key's deadline.
        expiry: Expiry,
    },
    /// Remove the key, and tell its value.
    Take,
    /// Add to the integer that the value is; a missing key is 0. Keeps the deadline.
    Add(i64),
    /// Add this number, as text, to the one that the value is; a missing key is 0. Keeps the deadline.
    AddFloat(Bytes),
    /// Write this behind the value; a missing key is empty. Keeps the deadline.
    Append(Bytes),
    /// Give the key a deadline, if the condition holds. One that is past removes it.
    Expire {
        /// The deadline.
        at: u64,
        /// When.
        only: ExpireOnly,
    },
    /// Take the key's deadline away.
    Persist,
}

/// When an [`Update::Set`] is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Only {
    /// Whatever the key holds.
    Always,
    /// If the key does not exist.
    Missing,
    /// If it exists.
    Present,
}

/// What becomes of a key's deadline when its value is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expiry {
    /// It has none from now on.
    Never,
    /// It stays as it is.
    Keep,
    /// It is this one.
    At(u64),
}

/// When an [`Update::Expire`] is done. Without a deadline a key counts as one that lasts for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExpireOnly {
    /// If the key exists.
    Always,
    /// If it has no deadline (NX).
    NoExpiry,
    /// If it has one (XX).
    HasExpiry,
    /// If it has an earlier one (GT, and XX GT).
    Later,
    /// If it has a later one or none (LT).
    Earlier,
    /// If it has a later one (XX LT).
    HasExpiryEarlier,
}

/// What came of an [`Update`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Updated {
    /// Done.
    Done {
        /// The value before it.
        old: Option<Bytes>,
    },
    /// The condition did not hold, and nothing was changed.
    Unchanged {
        /// The value.
        old: Option<Bytes>,
    },
    /// The sum, for [`Update::Add`].
    Number(i64),
    /// The sum, for [`Update::AddFloat`].
    Text(Bytes),
    /// The new length, for [`Update::Append`].
    Length(u64),
    /// It cannot be done to this value, and nothing was changed.
    Wrong(Wrong),
}

/// What becomes of a key: the whole of what the log says of an [`Update`] (W3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Becomes {
    /// It stays as it is; only the answer is kept.
    Same,
    /// It is gone.
    Gone,
    /// It is gone because this deadline of it has passed.
    Expired {
        /// The deadline.
        at: u64,
    },
    /// It has this value and this deadline.
    Value {
        /// The value.
        #[serde(with = "blob")]
        value: Bytes,
        /// The deadline, if it has one.
        until: Option<u64>,
    },
    /// It has the value that it had, and this deadline.
    Lasting {
        /// The deadline, if it has one.
        until: Option<u64>,
    },
}

/// What is kept of an [`Updated`] for those who ask again, beside the bytes in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// [`Updated::Done`].
    Done {
        /// Whether there was a value before.
        had: bool,
    },
    /// [`Updated::Unchanged`].
    Unchanged {
        /// Whether there is a value.
        had: bool,
    },
    /// [`Updated::Number`].
    Number(i64),
    /// [`Updated::Text`].
    Text,
    /// [`Updated::Length`].
    Length(u64),
    /// [`Updated::Wrong`].
    Wrong(Wrong),
}

impl Updated {
    /// Takes the answer apart: what is small, and the bytes.
    #[must_use]
    pub fn split(self) -> (Came, Option<Bytes>) {
        match self {
            Updated::Done { old } => (Came::Done { had: old.is_some() }, old),
            Updated::Unchanged { old } => (Came::Unchanged { had: old.is_some() }, old),
            Updated::Number(sum) => (Came::Number(sum), None),
            Updated::Text(text) => (Came::Text, Some(text)),
            Updated::Length(length) => (Came::Length(length), None),
            Updated::Wrong(wrong) => (Came::Wrong(wrong), None),
        }
    }
}

impl Came {
    /// Puts the answer together again. None: the bytes that belong to it are no longer kept.
    #[must_use]
    pub fn whole(self, bytes: Option<&Blob>) -> Option<Updated> {
        let bytes = bytes.map(|bytes| bytes.0.clone());
        let old = |had: bool| if had { bytes.clone().map(Some) } else { Some(None) };
        Some(match self {
            Came::Done { had } => Updated::Done { old: old(had)? },
            Came::Unchanged { had } => Updated::Unchanged { old: old(had)? },
            Came::Number(sum) => Updated::Number(sum),
            Came::Text => Updated::Text(bytes?),
            Came::Length(length) => Updated::Length(length),
            Came::Wrong(wrong) => Updated::Wrong(wrong),
        })
    }
}

/// Why an [`Update`] cannot be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// The value is no integer of 64 bits.
    NotInteger,
    /// The sum is no integer of 64 bits.
    Overflow,
    /// The value, or what is to be added, is no number.
    NotFloat,
    /// The sum is not finite.
    NotFinite,
    /// The value would be longer than values may be.
    TooLong,
}

impl Wrong {
    /// How Redis says it, without the `ERR` before it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Wrong::NotInteger => "value is not an integer or out of range",
            Wrong::Overflow => "increment or decrement would overflow",
            Wrong::NotFloat => "value is not a valid float",
            Wrong::NotFinite => "increment would produce NaN or Infinity",
            Wrong::TooLong => "string exceeds maximum allowed size (proto-max-bulk-len)",
        }
    }
}
