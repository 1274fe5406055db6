//! What can be wrong with a request: what, which limit, how to mend it.

use thiserror::Error;

/// A request that was not understood. Nothing was executed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Mistake {
    /// The first word is none of ours.
    #[error(
        "unknown request `{0}`: known are put, get, delete, keyrange, keyrange_read, ecs, status, putb, getb, deleteb, req, scan, change, plan, \
         leave, remove, rebalance, cancel, admin"
    )]
    Unknown(String),
    /// A word that needs a key came without one.
    #[error("`{0}` without a key: write `{0} <key>{1}`, with exactly one space between the parts")]
    NoKey(&'static str, &'static str),
    /// A `put` without a value, in the dialect where that is not a delete.
    #[error("`put` without a value: write `put <key> <value>`, or `delete <key>` to remove the key")]
    NoValue,
    /// A text key over its limit.
    #[error("key of {0} bytes is over the limit of {1}: take a shorter key, or send it with putb (up to {2} bytes)")]
    TextKey(usize, usize, usize),
    /// A text value over its limit.
    #[error(
        "value of {0} bytes is over the limit of {1}: take a shorter value, or send it with putb (up to {2} bytes)"
    )]
    TextValue(usize, usize, usize),
    /// A line that does not end soon enough.
    #[error("line over the limit of {0} bytes, skipped up to its end: send large values with putb")]
    Line(usize),
    /// A carriage return that is not at the end of the line.
    #[error("carriage return inside the line: send keys and values with such bytes with putb, getb and deleteb")]
    CarriageReturn,
    /// A `getset` without a value.
    #[error("no value: write `getset <key> <value>`, or `delete <key>` to remove the key")]
    NoValueToSwap,
    /// More words than the request takes.
    #[error("`{0}` takes {1}: leave out the rest of the line")]
    TooMuch(&'static str, &'static str),
    /// The lengths of a length-prefixed request are not numbers, or not as many as needed.
    #[error("`{0}` needs decimal lengths: write `{0} {1}`, end the line, then send exactly that many bytes")]
    Lengths(&'static str, &'static str),
    /// The line of a length-prefixed request is longer than any that makes sense.
    #[error(
        "header of a length-prefixed request over the limit of {0} bytes: write lengths without leading zeros or blanks"
    )]
    Header(usize),
    /// A length-prefixed key over the store's limit.
    #[error("key of {0} bytes is over the limit of {1}: take a shorter key (the announced bytes are skipped)")]
    Key(u64, usize),
    /// A length-prefixed value over the store's limit.
    #[error(
        "value of {0} bytes is over the limit of {1}: split it over several keys (the announced bytes are skipped)"
    )]
    Value(u64, usize),
    /// A length-prefixed key of no bytes.
    #[error("key of 0 bytes: keys have at least one (the announced bytes are skipped)")]
    EmptyKey,
    /// The head of a `scan` is wrong.
    #[error(
        "`scan` with a wrong head: write `scan <position, up to 32 hex digits> [<key bytes>]`, and the key after it"
    )]
    ScanHead,
    /// The head of a `req` is wrong.
    #[error(
        "`req` with a wrong head: write `req <client, up to 32 hex digits> <number> <lowest unanswered number> [retry] <request>`"
    )]
    ReqHead,
    /// A word that was not written as it must be.
    #[error("`{0}` is written `{1}`")]
    Form(&'static str, &'static str),
    /// An `admin` around something else.
    #[error(
        "`admin` is written `admin <token> <request>`, the request being leave, remove, rebalance, cancel, plan or change"
    )]
    Admin,
    /// A `req` around something that is no write.
    #[error("`req` around `{0}`: it takes put, getset, delete, putb, getsetb or deleteb")]
    ReqOf(String),
}

/// A word as an error may show it: printable, and short.
pub(super) fn shown(word: &[u8]) -> String {
    const SHOWN: usize = 32;
    let mut text = word[..word.len().min(SHOWN)].escape_ascii().to_string();
    if word.len() > SHOWN {
        text.push_str("...");
    }
    text
}
