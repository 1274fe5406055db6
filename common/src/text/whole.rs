//! Questions that any server answers for the whole cluster: their words, and what is owed to each.

use super::Form;

/// A question about the whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole<'a> {
    /// `first_key`, `first_keyb`: which key comes first in the order of bytes?
    FirstKey(Form),
    /// `last_key`, `last_keyb`.
    LastKey(Form),
    /// `num_keys`: how many records are there?
    NumKeys,
    /// `node_list`: which servers are there?
    NodeList,
    /// `status cluster`: how does every server stand?
    Cluster,
    /// `explain`, `explainb`: where does this key lie, who holds it, who would answer for it, and why?
    Explain(&'a [u8]),
    /// `timeline`: who accused whom, what did the probe say, what was decided, and when?
    Timeline,
}

impl Whole<'_> {
    /// The first word of the reply.
    #[must_use]
    pub fn success(&self) -> &'static str {
        match self {
            Whole::FirstKey(Form::Text) => "FIRST_KEY_SUCCESS",
            Whole::FirstKey(Form::Binary) => "FIRST_KEYB_SUCCESS",
            Whole::LastKey(Form::Text) => "LAST_KEY_SUCCESS",
            Whole::LastKey(Form::Binary) => "LAST_KEYB_SUCCESS",
            Whole::NumKeys => "NUM_KEYS_SUCCESS",
            Whole::NodeList => "NODE_LIST_SUCCESS",
            Whole::Cluster => "STATUS_SUCCESS",
            Whole::Explain(_) => "EXPLAIN_SUCCESS",
            Whole::Timeline => "TIMELINE_SUCCESS",
        }
    }

    /// The first word of the reply where the question could not be answered; the only one where there is no key to tell.
    #[must_use]
    pub fn error(&self) -> &'static str {
        match self {
            Whole::FirstKey(Form::Text) => "FIRST_KEY_ERROR",
            Whole::FirstKey(Form::Binary) => "FIRST_KEYB_ERROR",
            Whole::LastKey(Form::Text) => "LAST_KEY_ERROR",
            Whole::LastKey(Form::Binary) => "LAST_KEYB_ERROR",
            Whole::NumKeys => "NUM_KEYS_ERROR",
            Whole::NodeList => "NODE_LIST_ERROR",
            Whole::Cluster => "STATUS_ERROR",
            Whole::Explain(_) => "EXPLAIN_ERROR",
            Whole::Timeline => "TIMELINE_ERROR",
        }
    }

    /// The words of the question that has no key.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Whole::FirstKey(Form::Text) => "first_key",
            Whole::FirstKey(Form::Binary) => "first_keyb",
            Whole::LastKey(Form::Text) => "last_key",
            Whole::LastKey(Form::Binary) => "last_keyb",
            Whole::NumKeys => "num_keys",
            Whole::NodeList => "node_list",
            Whole::Cluster => "status cluster",
            Whole::Explain(_) => "explainb",
            Whole::Timeline => "timeline",
        }
    }

    /// The questions of one word.
    pub(super) const ALONE: [Whole<'static>; 7] = [
        Whole::FirstKey(Form::Text),
        Whole::FirstKey(Form::Binary),
        Whole::LastKey(Form::Text),
        Whole::LastKey(Form::Binary),
        Whole::NumKeys,
        Whole::NodeList,
        Whole::Timeline,
    ];
}
