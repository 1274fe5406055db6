//! The server's half of the codec, way out: answers to bytes.

use std::fmt::Write as _;

use bytes::BytesMut;
use memchr::memchr2;

use super::{Dialect, Form};
use crate::entry::Outcome;

/// What a server says to one request.
///
/// Two families never mix: [`Answer::Unknown`] means that the write may or may not have happened; every other answer that
/// is not a success guarantees that nothing was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// The key's value.
    Value {
        /// The key as asked.
        key: &'a [u8],
        /// What it holds.
        value: &'a [u8],
    },
    /// The key has no value.
    Missing {
        /// The key as asked.
        key: &'a [u8],
    },
    /// The write is committed.
    Written {
        /// The key as sent.
        key: &'a [u8],
        /// The value as sent; None for a delete.
        value: Option<&'a [u8]>,
        /// What it changed.
        outcome: Outcome,
    },
    /// The write may or may not have happened.
    Unknown {
        /// The key as sent.
        key: &'a [u8],
        /// The value as sent; None for a delete.
        value: Option<&'a [u8]>,
        /// Why that is not known.
        why: &'a str,
    },
    /// A `getset` is committed.
    Swapped {
        /// The key as sent.
        key: &'a [u8],
        /// Its value until then, if it had one.
        old: Option<&'a [u8]>,
    },
    /// A `getset` may or may not have happened.
    SwapUnknown {
        /// The key as sent.
        key: &'a [u8],
        /// The value as sent.
        value: &'a [u8],
        /// Why that is not known.
        why: &'a str,
    },
    /// An answer for the whole cluster.
    Told {
        /// Its first word.
        word: &'static str,
        /// The rest, if there is any.
        text: Option<&'a [u8]>,
        /// Whether the text goes out with its length, so that it may hold any bytes.
        counted: bool,
    },
    /// `keyrange`: the triples.
    Keyrange(&'a str),
    /// `keyrange_read`: the triples.
    KeyrangeRead(&'a str),
    /// `ecs`: its address.
    Ecs(&'a str),
    /// `ecs`: why there is none to tell.
    NoEcs(&'a str),
    /// `scan`: a page, as [`super::encode_page`] makes it.
    Page(&'a [u8]),
    /// `status`: one line of JSON.
    Status(&'a str),
    /// An answer about membership.
    Admin {
        /// The word that was asked, in capitals.
        word: &'a str,
        /// Whether it is done, or under way.
        done: bool,
        /// What, or why not.
        text: &'a str,
    },
    /// Not served at the moment. The courses' requests get the bare word, ours the reason too.
    Stopped(Option<&'a str>),
    /// The key's slot is being handed over.
    WriteLock,
    /// Another server is the one to ask.
    NotResponsible,
    /// Not understood, or not possible in this form: what, limit, how to mend.
    Failed(&'a str),
}

/// Appends `answer`, to a request of this form, to `out`.
pub fn encode(out: &mut BytesMut, dialect: Dialect, form: Form, answer: &Answer<'_>) {
    let mut line = Writer { out, dialect };
    match (answer, form) {
        (Answer::Value { key, value }, Form::Text) => line.value(key, value),
        (Answer::Value { value, .. }, Form::Binary) => line.counted("GETB_SUCCESS", value),
        (Answer::Page(page), _) => line.counted("SCAN_SUCCESS", page),
        (Answer::Missing { key }, Form::Text) => line.missing(key),
        (Answer::Missing { .. }, Form::Binary) => line.word("GETB_ERROR"),
        (Answer::Written { key, value, outcome }, Form::Text) => line.written(key, *value, *outcome),
        (Answer::Written { outcome, .. }, Form::Binary) => line.written_counted(*outcome),
        (Answer::Unknown { key, value: Some(value), .. }, Form::Text) => line.words("PUT_ERROR", &[key, value]),
        (Answer::Unknown { value: Some(_), why, .. }, Form::Binary) => line.text("PUTB_ERROR", why),
        (Answer::Unknown { value: None, why, .. }, _) => line.failed("unknown outcome: ", why),
        (Answer::Swapped { key, old }, Form::Text) => line.swapped(key, *old),
        (Answer::Swapped { old: Some(old), .. }, Form::Binary) => line.counted("GETSETB_UPDATE", old),
        (Answer::Swapped { old: None, .. }, Form::Binary) => line.word("GETSETB_SUCCESS"),
        (Answer::SwapUnknown { key, value, .. }, Form::Text) => line.words("GETSET_ERROR", &[key, value]),
        (Answer::SwapUnknown { why, .. }, Form::Binary) => line.text("GETSETB_ERROR", why),
        (Answer::Told { word, text, counted }, _) => line.told(word, *text, *counted),
        (Answer::Keyrange(triples), _) => line.text("KEYRANGE_SUCCESS", triples),
        (Answer::KeyrangeRead(triples), _) => line.text("KEYRANGE_READ_SUCCESS", triples),
        (Answer::Ecs(addr), _) => line.text("ECS_SUCCESS", addr),
        (Answer::NoEcs(why), _) => line.text("ECS_ERROR", why),
        (Answer::Status(json), _) => line.text("STATUS_SUCCESS", json),
        (Answer::Admin { word, done, text }, _) => {
            line.text(&format!("{word}_{}", if *done { "SUCCESS" } else { "ERROR" }), text);
        }
        (Answer::Stopped(None), _) => line.word("SERVER_STOPPED"),
        (Answer::Stopped(Some(why)), _) => line.text("SERVER_STOPPED", why),
        (Answer::WriteLock, _) => line.word("SERVER_WRITE_LOCK"),
        (Answer::NotResponsible, _) => line.word("SERVER_NOT_RESPONSIBLE"),
        (Answer::Failed(text), _) => line.failed("", text),
    }
    line.out.extend_from_slice(b"\r\n");
}

struct Writer<'o> {
    out: &'o mut BytesMut,
    dialect: Dialect,
}

impl Writer<'_> {
    fn value(&mut self, key: &[u8], value: &[u8]) {
        // Such a value or key was stored by another form of request; in a line it could not be told from what surrounds it.
        if memchr2(b'\r', b'\n', value).is_some() {
            self.failed("", "the value holds a line end, which a text reply cannot carry: use getb");
        } else if key.contains(&b' ') {
            self.failed("", "the key holds a blank, which a text reply cannot carry: use getb");
        } else {
            self.words("GET_SUCCESS", &[key, value]);
        }
    }

    fn missing(&mut self, key: &[u8]) {
        match self.dialect {
            Dialect::Uoft => self.words("GET_ERROR", &[key]),
            Dialect::Tum => self.words("GET_ERROR", &[key, b"no such key"]),
        }
    }

    fn written(&mut self, key: &[u8], value: Option<&[u8]>, outcome: Outcome) {
        let word = match outcome {
            Outcome::Created => "PUT_SUCCESS",
            // The other is never told by this dialect: its words make no such request.
            Outcome::Updated | Outcome::Came(_) => "PUT_UPDATE",
            Outcome::Deleted => "DELETE_SUCCESS",
            Outcome::Missing => "DELETE_ERROR",
        };
        match value {
            Some(value) if self.dialect == Dialect::Uoft => self.words(word, &[key, value]),
            _ => self.words(word, &[key]),
        }
    }

    /// The old value follows one blank; where a line cannot carry it, neither does: the value is gone all the same.
    fn swapped(&mut self, key: &[u8], old: Option<&[u8]>) {
        match old {
            None => self.words("GETSET_SUCCESS", &[key]),
            Some(old) if memchr2(b'\r', b'\n', old).is_some() => self.words("GETSET_UPDATE", &[key]),
            Some(old) => self.words("GETSET_UPDATE", &[key, old]),
        }
    }

    fn told(&mut self, word: &str, text: Option<&[u8]>, counted: bool) {
        match text {
            None => self.word(word),
            Some(text) if counted => self.counted(word, text),
            Some(text) => self.words(word, &[text]),
        }
    }

    fn written_counted(&mut self, outcome: Outcome) {
        self.word(match outcome {
            Outcome::Created => "PUTB_SUCCESS",
            Outcome::Updated | Outcome::Came(_) => "PUTB_UPDATE",
            Outcome::Deleted => "DELETEB_SUCCESS",
            Outcome::Missing => "DELETEB_ERROR",
        });
    }

    fn counted(&mut self, word: &str, value: &[u8]) {
        self.word(word);
        // Writing to a growing buffer cannot fail.
        let _ = write!(self.out, " {}\r\n", value.len());
        self.out.extend_from_slice(value);
    }

    fn failed(&mut self, before: &str, text: &str) {
        self.out.extend_from_slice(match self.dialect {
            Dialect::Uoft => b"FAILED ",
            Dialect::Tum => b"error ",
        });
        self.out.extend_from_slice(before.as_bytes());
        self.out.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, word: &str, text: &str) {
        self.words(word, &[text.as_bytes()]);
    }

    fn words(&mut self, word: &str, parts: &[&[u8]]) {
        self.word(word);
        for part in parts {
            self.out.extend_from_slice(b" ");
            self.out.extend_from_slice(part);
        }
    }

    fn word(&mut self, word: &str) {
        let start = self.out.len();
        self.out.extend_from_slice(word.as_bytes());
        if self.dialect == Dialect::Tum {
            self.out[start..].make_ascii_lowercase();
        }
    }
}
