//! A question about the whole cluster that has left its connection's buffer, and the answer in the words it asks for. Pure.

use bytes::Bytes;
use common::blob::Blob;
use common::question::Extents;
use common::text::{Form, Whole};

use crate::replica::{Refusal, Reply, Told};

/// A question that has left the connection's buffer.
#[derive(Clone, Debug)]
pub struct Asked {
    success: &'static str,
    error: &'static str,
    /// What.
    pub what: What,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum What {
    /// The first key,
    First(Form),
    /// the last one,
    Last(Form),
    /// how many there are.
    Count,
    /// The node table.
    Nodes,
    /// How everybody stands.
    Cluster,
    /// Where a key lies and who holds it.
    Explain(Blob),
    /// What the ECS saw and decided.
    Timeline,
}

impl Asked {
    /// From the line.
    #[must_use]
    pub fn of(whole: &Whole<'_>) -> Asked {
        let what = match whole {
            Whole::FirstKey(form) => What::First(*form),
            Whole::LastKey(form) => What::Last(*form),
            Whole::NumKeys => What::Count,
            Whole::NodeList => What::Nodes,
            Whole::Cluster => What::Cluster,
            Whole::Explain(key) => What::Explain(Blob(Bytes::copy_from_slice(key))),
            Whole::Timeline => What::Timeline,
        };
        Asked { success: whole.success(), error: whole.error(), what }
    }

    /// The answer as text.
    pub fn told(&self, text: impl Into<Bytes>) -> Reply {
        Reply::Told(Told { word: self.success, text: Some(text.into()), counted: false })
    }

    /// Why there is no answer. What is counted says so like any read: its own error word is kept for "there is none".
    #[must_use]
    pub fn failed(&self, why: String) -> Reply {
        let counts = matches!(self.what, What::First(_) | What::Last(_) | What::Count);
        let word = if counts { "SERVER_STOPPED" } else { self.error };
        Reply::Told(Told { word, text: Some(why.into()), counted: false })
    }

    /// A key, or that there is none.
    #[must_use]
    pub fn key(&self, key: Option<Blob>, form: Form) -> Reply {
        let counted = form == Form::Binary;
        match key {
            None => Reply::Told(Told { word: self.error, text: None, counted: false }),
            Some(key) if !counted && key.0.iter().any(|byte| matches!(byte, b'\r' | b'\n')) => {
                let why = "the key holds a line end, which a text reply cannot carry: ask with a `b` behind the word";
                Reply::Told(Told { word: Told::FAILED, text: Some(why.into()), counted: false })
            }
            Some(key) => Reply::Told(Told { word: self.success, text: Some(key.0), counted }),
        }
    }

    /// The answer to what is counted, once every slot is.
    #[must_use]
    pub fn counted(&self, all: Extents) -> Reply {
        match self.what {
            What::First(form) => self.key(all.first, form),
            What::Last(form) => self.key(all.last, form),
            _ => self.told(all.records.to_string()),
        }
    }
}

/// A refusal in words.
#[must_use]
pub fn words(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotResponsible => "does not coordinate it any more",
        Refusal::WriteLocked => "hands it over at the moment",
        Refusal::Unavailable(why) => why,
    }
}
