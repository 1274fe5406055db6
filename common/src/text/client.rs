//! The client's half of the codec: requests to bytes, bytes to replies.

use std::fmt::Write as _;

use bytes::BytesMut;
use memchr::memchr;

use super::request::{number, split, trim_end};
use super::{Form, Request, Whole, WriteRequest};

/// The longest reply line: a status of many slots is long, anything longer is not one of our servers.
const LINE: usize = 16 << 20;
/// The longest length-prefixed value: above every server's limit.
const VALUE: u64 = 1 << 30;

/// Appends `request` to `out`. The words are the same in both dialects.
///
/// A text `put` must not carry what a line cannot (CR or LF, an empty value, `null` where that deletes, a key with
/// blanks): send such things, or simply everything, in the binary form.
pub fn encode_request(out: &mut BytesMut, request: &Request<'_>) {
    match request {
        Request::Get { key, form: Form::Text } => line(out, "get", &[key]),
        Request::Get { key, form: Form::Binary } => counted(out, "getb", key, None),
        Request::Write(write) => encode_write(out, write),
        Request::Keyrange => line(out, "keyrange", &[]),
        Request::KeyrangeRead => line(out, "keyrange_read", &[]),
        Request::Ecs => line(out, "ecs", &[]),
        Request::Status => line(out, "status", &[]),
        Request::Whole(Whole::Explain(key)) => counted(out, "explainb", key, None),
        Request::Whole(whole) => line(out, whole.words(), &[]),
        Request::Admin(request) => super::admin::encode(out, request),
        Request::Scan { at, after: None } => line(out, "scan", &[at.to_string().as_bytes()]),
        Request::Scan { at, after: Some(after) } => counted(out, &format!("scan {at}"), after, None),
    }
}

fn encode_write(out: &mut BytesMut, write: &WriteRequest<'_>) {
    if let Some(once) = &write.once {
        let retry = if once.retry { "retry " } else { "" };
        // Writing to a growing buffer cannot fail.
        let _ = write!(out, "req {} {} {} {retry}", once.id.client, once.id.seq, once.id.lowest_unacked);
    }
    match (write.form, write.value) {
        (Form::Text, Some(value)) if write.swap => line(out, "getset", &[write.key, value]),
        (Form::Binary, Some(value)) if write.swap => counted(out, "getsetb", write.key, Some(value)),
        (Form::Text, Some(value)) => line(out, "put", &[write.key, value]),
        (Form::Text, None) => line(out, "delete", &[write.key]),
        (Form::Binary, Some(value)) => counted(out, "putb", write.key, Some(value)),
        (Form::Binary, None) => counted(out, "deleteb", write.key, None),
    }
}

fn line(out: &mut BytesMut, word: &str, parts: &[&[u8]]) {
    out.extend_from_slice(word.as_bytes());
    for part in parts {
        out.extend_from_slice(b" ");
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

fn counted(out: &mut BytesMut, word: &str, key: &[u8], value: Option<&[u8]>) {
    let _ = write!(out, "{word} {}", key.len());
    if let Some(value) = value {
        let _ = write!(out, " {}", value.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(key);
    out.extend_from_slice(value.unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// A reply's first word, without regard to its case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the protocol's
pub enum Word {
    GetSuccess,
    GetError,
    PutSuccess,
    PutUpdate,
    PutError,
    DeleteSuccess,
    DeleteError,
    GetbSuccess,
    GetbError,
    PutbSuccess,
    PutbUpdate,
    PutbError,
    DeletebSuccess,
    DeletebError,
    GetsetSuccess,
    GetsetUpdate,
    GetsetError,
    GetsetbSuccess,
    GetsetbUpdate,
    GetsetbError,
    FirstKeybSuccess,
    LastKeybSuccess,
    /// `NUM_KEYS_SUCCESS`, `NODE_LIST_SUCCESS` and other answers for the whole cluster in one line.
    Told,
    /// The same questions, not answered: `EXPLAIN_ERROR` and the like.
    NotTold,
    /// `FIRST_KEY_ERROR`, `LAST_KEY_ERROR` and their length-prefixed forms: there is no key.
    NoKey,
    KeyrangeSuccess,
    KeyrangeReadSuccess,
    EcsSuccess,
    EcsError,
    StatusSuccess,
    /// The answer to a word about membership.
    AdminSuccess,
    /// Why it is not done.
    AdminError,
    ScanSuccess,
    ServerStopped,
    ServerWriteLock,
    ServerNotResponsible,
    /// `FAILED`, or `error`.
    Failed,
    /// None of ours: a greeting, or another server's.
    Other,
}

const WORDS: &[(&str, Word)] = &[
    ("GET_SUCCESS", Word::GetSuccess),
    ("GET_ERROR", Word::GetError),
    ("PUT_SUCCESS", Word::PutSuccess),
    ("PUT_UPDATE", Word::PutUpdate),
    ("PUT_ERROR", Word::PutError),
    ("DELETE_SUCCESS", Word::DeleteSuccess),
    ("DELETE_ERROR", Word::DeleteError),
    ("GETB_SUCCESS", Word::GetbSuccess),
    ("GETB_ERROR", Word::GetbError),
    ("PUTB_SUCCESS", Word::PutbSuccess),
    ("PUTB_UPDATE", Word::PutbUpdate),
    ("PUTB_ERROR", Word::PutbError),
    ("DELETEB_SUCCESS", Word::DeletebSuccess),
    ("DELETEB_ERROR", Word::DeletebError),
    ("GETSET_SUCCESS", Word::GetsetSuccess),
    ("GETSET_UPDATE", Word::GetsetUpdate),
    ("GETSET_ERROR", Word::GetsetError),
    ("GETSETB_SUCCESS", Word::GetsetbSuccess),
    ("GETSETB_UPDATE", Word::GetsetbUpdate),
    ("GETSETB_ERROR", Word::GetsetbError),
    ("FIRST_KEYB_SUCCESS", Word::FirstKeybSuccess),
    ("LAST_KEYB_SUCCESS", Word::LastKeybSuccess),
    ("FIRST_KEY_SUCCESS", Word::Told),
    ("LAST_KEY_SUCCESS", Word::Told),
    ("NUM_KEYS_SUCCESS", Word::Told),
    ("NODE_LIST_SUCCESS", Word::Told),
    ("EXPLAIN_SUCCESS", Word::Told),
    ("TIMELINE_SUCCESS", Word::Told),
    ("NUM_KEYS_ERROR", Word::NotTold),
    ("NODE_LIST_ERROR", Word::NotTold),
    ("STATUS_ERROR", Word::NotTold),
    ("EXPLAIN_ERROR", Word::NotTold),
    ("TIMELINE_ERROR", Word::NotTold),
    ("FIRST_KEY_ERROR", Word::NoKey),
    ("LAST_KEY_ERROR", Word::NoKey),
    ("FIRST_KEYB_ERROR", Word::NoKey),
    ("LAST_KEYB_ERROR", Word::NoKey),
    ("KEYRANGE_SUCCESS", Word::KeyrangeSuccess),
    ("KEYRANGE_READ_SUCCESS", Word::KeyrangeReadSuccess),
    ("ECS_SUCCESS", Word::EcsSuccess),
    ("ECS_ERROR", Word::EcsError),
    ("STATUS_SUCCESS", Word::StatusSuccess),
    ("LEAVE_SUCCESS", Word::AdminSuccess),
    ("LEAVE_ERROR", Word::AdminError),
    ("REMOVE_SUCCESS", Word::AdminSuccess),
    ("REMOVE_ERROR", Word::AdminError),
    ("CHANGE_SUCCESS", Word::AdminSuccess),
    ("CHANGE_ERROR", Word::AdminError),
    ("PLAN_SUCCESS", Word::AdminSuccess),
    ("PLAN_ERROR", Word::AdminError),
    ("REBALANCE_SUCCESS", Word::AdminSuccess),
    ("REBALANCE_ERROR", Word::AdminError),
    ("CANCEL_SUCCESS", Word::AdminSuccess),
    ("CANCEL_ERROR", Word::AdminError),
    ("SCAN_SUCCESS", Word::ScanSuccess),
    ("SERVER_STOPPED", Word::ServerStopped),
    ("SERVER_WRITE_LOCK", Word::ServerWriteLock),
    ("SERVER_NOT_RESPONSIBLE", Word::ServerNotResponsible),
    ("FAILED", Word::Failed),
    ("ERROR", Word::Failed),
];

impl Word {
    /// Whether as many bytes follow the line as it says.
    fn is_counted(self) -> bool {
        use Word as W;
        matches!(self, W::GetbSuccess | W::ScanSuccess | W::GetsetbUpdate | W::FirstKeybSuccess | W::LastKeybSuccess)
    }
}

/// One reply, borrowed from the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// Its first word.
    pub word: Word,
    /// The rest of the line; the value itself for [`Word::GetbSuccess`] and other replies with a length, the page for
    /// [`Word::ScanSuccess`]; the whole line for [`Word::Other`].
    pub rest: &'a [u8],
}

impl<'a> Response<'a> {
    /// The value in the reply to `get key`; None if this is no such reply.
    #[must_use]
    pub fn value_of(&self, key: &[u8]) -> Option<&'a [u8]> {
        match self.word {
            Word::GetSuccess => self.rest.strip_prefix(key)?.strip_prefix(b" "),
            Word::GetbSuccess => Some(self.rest),
            _ => None,
        }
    }

    /// Whether the write asked for may or may not have happened. Every other reply that is no success guarantees that
    /// nothing was executed.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self.word {
            Word::PutError | Word::PutbError | Word::GetsetError | Word::GetsetbError => true,
            Word::Failed => self.rest.starts_with(b"unknown outcome"),
            _ => false,
        }
    }
}

/// The bytes are not replies of this protocol; the connection is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    /// A line that does not end.
    #[error("reply line over {LINE} bytes: this is no Annulus server")]
    Line,
    /// A value whose length is no number, or absurd.
    #[error("reply with a wrong length: this is no Annulus server, or the connection is out of step")]
    Length,
}

/// Finds the replies in a stream of bytes. Like the request parser it holds none of them.
#[derive(Clone, Debug, Default)]
pub struct ReplyParser {
    scanned: usize,
}

impl ReplyParser {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> ReplyParser {
        ReplyParser::default()
    }

    /// Looks for the first reply in `input`. The number says how many bytes are done with: the next call's input must begin
    /// right behind them.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Response<'a>>), ReplyError> {
        let blank =
            if self.scanned == 0 { input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count() } else { 0 };
        let rest = &input[blank..];
        let Some(end) = memchr(b'\n', &rest[self.scanned..]).map(|found| self.scanned + found) else {
            self.scanned = rest.len();
            return if rest.len() > LINE { Err(ReplyError::Line) } else { Ok((blank, None)) };
        };
        let line = trim_end(&rest[..end]);
        let response = response(line);
        let start = end + 1;
        if !response.word.is_counted() {
            self.scanned = 0;
            return Ok((blank + start, Some(response)));
        }
        let length = number(response.rest).filter(|length| *length <= VALUE).ok_or(ReplyError::Length)?;
        let length = usize::try_from(length).map_err(|_| ReplyError::Length)?;
        let Some(value) = rest.get(start..start + length) else {
            self.scanned = end;
            return Ok((blank, None));
        };
        self.scanned = 0;
        Ok((blank + start + length, Some(Response { word: response.word, rest: value })))
    }
}

fn response(line: &[u8]) -> Response<'_> {
    let (word, rest) = split(line);
    match WORDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes())) {
        Some((_, word)) => Response { word: *word, rest: rest.unwrap_or_default() },
        None => Response { word: Word::Other, rest: line },
    }
}
