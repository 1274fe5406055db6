//! The text protocol: what clients and servers say to each other, one line a message, in two dialects.
//!
//! Pure: bytes in, requests out; answers in, bytes out. [`RequestParser`] and [`encode`] are the server's half,
//! [`ReplyParser`] and [`encode_request`] the client's. `docs/protocol.md` is the description for people.
//!
//! Bytes, not characters: nothing in here looks at an encoding. The words that servers use among themselves do not exist
//! here; they have a port of their own.

mod admin;
mod answer;
mod client;
mod mistake;
mod page;
mod request;
#[cfg(test)]
mod tests;
mod whole;

use std::fmt;
use std::str::FromStr;

pub use answer::{Answer, encode};
pub use client::{ReplyError, ReplyParser, Response, Word, encode_request};
pub use mistake::Mistake;
pub use page::{Page, decode_page, encode_page};
pub use request::{Parsed, RequestParser};
pub use whole::Whole;

use crate::control::Wish;
use crate::entry::RequestId;
use crate::position::Position;

/// The family of clients a port speaks to. It cannot be guessed from the requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// Upper-case replies; `put k null` and `put k` delete.
    #[default]
    Uoft,
    /// Lower-case replies, a greeting; `null` is a value like any other.
    Tum,
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "uoft" => Ok(Dialect::Uoft),
            "tum" => Ok(Dialect::Tum),
            _ => Err(format!("unknown dialect `{text}`: known are uoft and tum")),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Uoft => "uoft",
            Dialect::Tum => "tum",
        })
    }
}

/// How much a request may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest key of a text `put`.
    pub text_key: usize,
    /// The longest value of a text `put`.
    pub text_value: usize,
    /// The longest line, its end not counted.
    pub line: usize,
    /// The longest key of the length-prefixed requests, and of the store.
    pub key: usize,
    /// The longest value of the length-prefixed requests, and of the store.
    pub value: usize,
}

impl Limits {
    /// The courses' key limit.
    pub const TEXT_KEY: usize = 20;
    /// The courses' value limit: 120 KiB.
    pub const TEXT_VALUE: usize = 120 * 1024;
    /// The courses' line limit, and the least this program takes.
    pub const LINE: usize = 128 * 1024;
    /// The store's key limit: room for paths and urls, small enough to be kept in every index.
    pub const KEY: usize = 1024;
    /// The store's value limit: one entry must fit into a journal line and a peer frame without delaying others.
    pub const VALUE: usize = 1024 * 1024;
    /// What a line holds beside key and value at most: `req`, an id, two numbers, `retry`, the word and the blanks.
    const LINE_OVERHEAD: usize = 128;

    /// Limits with a line limit that any text `put` within them fits into.
    #[must_use]
    pub fn new(text_key: usize, text_value: usize, key: usize, value: usize) -> Limits {
        let line = Self::LINE.max(text_key.saturating_add(text_value).saturating_add(Self::LINE_OVERHEAD));
        Limits { text_key, text_value, line, key, value }
    }

    /// The most bytes one unfinished request can occupy in an input buffer.
    #[must_use]
    pub fn longest_request(&self) -> usize {
        self.line.max(self.key.saturating_add(self.value).saturating_add(Self::LINE_OVERHEAD))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new(Self::TEXT_KEY, Self::TEXT_VALUE, Self::KEY, Self::VALUE)
    }
}

/// How key and value of a request are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// In the line, separated by one blank.
    Text,
    /// After the line, as many bytes as the line announces.
    Binary,
}

/// A well-formed request, borrowed from the input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// `get`, `getb`.
    Get {
        /// What is asked for.
        key: &'a [u8],
        /// How.
        form: Form,
    },
    /// `put`, `putb`, `getset`, `getsetb`, `delete`, `deleteb`, alone or inside a `req`.
    Write(WriteRequest<'a>),
    /// `keyrange`.
    Keyrange,
    /// `keyrange_read`.
    KeyrangeRead,
    /// `ecs`: where is the ECS?
    Ecs,
    /// `status`: how does this server stand?
    Status,
    /// Something that is answered for the whole cluster.
    Whole(Whole<'a>),
    /// A word about the cluster's membership, alone or inside an `admin`.
    Admin(AdminRequest<'a>),
    /// `scan`: a page of the records of the slot in which `at` lies.
    Scan {
        /// A position of the slot.
        at: Position,
        /// Only records behind the one with this key; None: from the first.
        after: Option<&'a [u8]>,
    },
}

/// What is asked about the membership, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminRequest<'a> {
    /// What shows that the client may ask, if it came with one.
    pub token: Option<&'a [u8]>,
    /// What is asked.
    pub wish: Wish,
}

impl AdminRequest<'_> {
    /// Whether it only asks, and changes nothing.
    #[must_use]
    pub fn is_question(&self) -> bool {
        matches!(self.wish, Wish::Progress | Wish::Plan | Wish::PlanWithout { .. })
    }

    /// The word with which its answer begins.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.wish {
            Wish::Leave { .. } => "LEAVE",
            Wish::Remove { .. } | Wish::GiveUp { .. } => "REMOVE",
            Wish::Progress => "CHANGE",
            Wish::Plan | Wish::PlanWithout { .. } => "PLAN",
            Wish::Rebalance => "REBALANCE",
            Wish::Cancel => "CANCEL",
        }
    }
}

/// A request that changes something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteRequest<'a> {
    /// Which key.
    pub key: &'a [u8],
    /// Its new value; None removes it.
    pub value: Option<&'a [u8]>,
    /// `getset`, `getsetb`: the value until then is to be told. There is a new one, then.
    pub swap: bool,
    /// How it was written.
    pub form: Form,
    /// Set if it came inside a `req`.
    pub once: Option<Once>,
}

/// What makes a write exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Once {
    /// Names the request for ever.
    pub id: RequestId,
    /// Whether the client says that it may have sent it before.
    pub retry: bool,
}
