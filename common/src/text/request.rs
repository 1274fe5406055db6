//! The server's half of the codec, way in: bytes to requests.
//!
//! A parser holds no bytes. It looks at what has arrived and says how much of it is done with; what belongs to an
//! unfinished request stays with the caller, at most [`Limits::longest_request`] bytes. What is to be skipped (the rest of
//! an over-long line, the bytes of an over-long value) is done with at once.

use memchr::memchr;

use super::mistake::shown;
use super::{Dialect, Form, Limits, Mistake, Once, Request, Whole, WriteRequest};
use crate::entry::RequestId;
use crate::position::Position;

/// Carriage returns at a line's end that do not count towards its limit.
const RETURNS: usize = 2;
/// The longest line of a length-prefixed request. It is looked at again whenever more of what it announces has come, so a
/// long one (of zeros, of blanks) would cost its length for each byte that follows.
const HEADER: usize = 256;

/// Finds the requests in a stream of bytes.
#[derive(Clone, Debug)]
pub struct RequestParser {
    dialect: Dialect,
    limits: Limits,
    /// How much of the unfinished line is known to hold no line feed.
    scanned: usize,
    skip: Skip,
}

/// What is to be thrown away first.
#[derive(Clone, Copy, Debug)]
enum Skip {
    Nothing,
    Line,
    Bytes(u64),
}

/// What a look at the input found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed<'a> {
    /// No whole request yet.
    More,
    /// Bytes were thrown away, as an earlier mistake said they would be: look again behind them.
    Skipped,
    /// A request.
    Request(Request<'a>),
    /// Something that is no request; the stream goes on behind it.
    Mistake(Mistake),
    /// A browser that was talked into calling this port: hang up without an answer.
    Close,
}

/// What one line turned out to be, before any bytes that follow it are looked at.
enum Line<'a> {
    Whole(Parsed<'a>),
    /// `getb` and friends: this many bytes of key and value follow.
    Counted {
        verb: Counted,
        key: u64,
        value: u64,
        once: Option<Once>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Get,
    Put,
    Swap,
    Delete,
    Explain,
    Scan(Position),
}

impl RequestParser {
    /// At the start of a stream.
    #[must_use]
    pub fn new(dialect: Dialect, limits: Limits) -> RequestParser {
        RequestParser { dialect, limits, scanned: 0, skip: Skip::Nothing }
    }

    /// The caller goes back to the beginning of a request that it was given already, or of the one after that.
    pub fn rewind(&mut self) {
        (self.scanned, self.skip) = (0, Skip::Nothing);
    }

    /// Looks for the first request in `input`. The number says how many bytes are done with: the next call's input must
    /// begin right behind them. A caller that is not ready for a request may leave its bytes where they are, and finds
    /// it again.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Parsed<'a>) {
        if !matches!(self.skip, Skip::Nothing) {
            return self.skip(input);
        }
        let mut at = 0;
        if self.scanned == 0 {
            at = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n' | b' ' | b'\t')).count();
        }
        let rest = &input[at..];
        let Some(end) = memchr(b'\n', &rest[self.scanned..]).map(|found| self.scanned + found) else {
            return self.unfinished(at, rest);
        };
        self.scanned = 0;
        let line = trim_end(&rest[..end]);
        if line.len() > self.limits.line || end > self.limits.line + RETURNS {
            return (at + end + 1, Parsed::Mistake(Mistake::Line(self.limits.line)));
        }
        match self.line(line) {
            Line::Whole(parsed) => (at + end + 1, parsed),
            Line::Counted { .. } if line.len() > HEADER => (at + end + 1, Parsed::Mistake(Mistake::Header(HEADER))),
            Line::Counted { verb, key, value, once } => self.counted(input, at, end, (verb, key, value, once)),
        }
    }

    /// Throws away what is to be skipped. Alone in its call, so that a request can be looked at again by a caller that
    /// was not ready for it.
    fn skip<'a>(&mut self, input: &'a [u8]) -> (usize, Parsed<'a>) {
        let length = input.len() as u64;
        let (used, left) = match self.skip {
            Skip::Nothing => (0, Skip::Nothing),
            Skip::Line => memchr(b'\n', input).map_or((input.len(), Skip::Line), |end| (end + 1, Skip::Nothing)),
            Skip::Bytes(count) if count > length => (input.len(), Skip::Bytes(count - length)),
            Skip::Bytes(count) => (usize::try_from(count).unwrap_or(input.len()), Skip::Nothing),
        };
        self.skip = left;
        (used, if matches!(left, Skip::Nothing) { Parsed::Skipped } else { Parsed::More })
    }

    fn unfinished<'a>(&mut self, at: usize, rest: &'a [u8]) -> (usize, Parsed<'a>) {
        // Carriage returns may still turn out to be the line's end, but not any number of them. They are only counted once
        // there may be too many: this is asked with every byte of a slow line.
        let line = self.limits.line;
        if rest.len() > line && (rest.len() > line + RETURNS || trim_end(rest).len() > line) {
            (self.scanned, self.skip) = (0, Skip::Line);
            return (at + rest.len(), Parsed::Mistake(Mistake::Line(self.limits.line)));
        }
        self.scanned = rest.len();
        (at, Parsed::More)
    }

    /// A length-prefixed request whose line ends at `at + end`.
    fn counted<'a>(
        &mut self,
        input: &'a [u8],
        at: usize,
        end: usize,
        (verb, key, value, once): (Counted, u64, u64, Option<Once>),
    ) -> (usize, Parsed<'a>) {
        let start = at + end + 1;
        if let Some(mistake) = self.over_limit(key, value) {
            self.skip = Skip::Bytes(key.saturating_add(value));
            return (start, Parsed::Mistake(mistake));
        }
        // Within the limits, so within usize.
        let (key, value) = (usize::try_from(key).unwrap_or(0), usize::try_from(value).unwrap_or(0));
        let Some(body) = input.get(start..start + key + value) else {
            // The line is looked at again when more has arrived: short, and its end is found at once.
            self.scanned = end;
            return (at, Parsed::More);
        };
        let (key, value) = body.split_at(key);
        let form = Form::Binary;
        let request = match verb {
            Counted::Get => Request::Get { key, form },
            Counted::Put | Counted::Swap => {
                Request::Write(WriteRequest { key, value: Some(value), swap: verb == Counted::Swap, form, once })
            }
            Counted::Delete => Request::Write(WriteRequest { key, value: None, swap: false, form, once }),
            Counted::Explain => Request::Whole(Whole::Explain(key)),
            Counted::Scan(at) => Request::Scan { at, after: Some(key) },
        };
        (start + body.len(), Parsed::Request(request))
    }

    fn over_limit(&self, key: u64, value: u64) -> Option<Mistake> {
        if key == 0 {
            Some(Mistake::EmptyKey)
        } else if key > self.limits.key as u64 {
            Some(Mistake::Key(key, self.limits.key))
        } else if value > self.limits.value as u64 {
            Some(Mistake::Value(value, self.limits.value))
        } else {
            None
        }
    }

    fn line<'a>(&self, line: &'a [u8]) -> Line<'a> {
        let (word, rest) = split(line);
        if is(word, "post") || word.get(..5).is_some_and(|start| is(start, "host:")) {
            return Line::Whole(Parsed::Close);
        }
        if memchr(b'\r', line).is_some() {
            return mistake(Mistake::CarriageReturn);
        }
        if is(word, "get") {
            // More words than one: a key that no text `put` can have made. Looked up all the same, it is found missing.
            return match rest.unwrap_or_default().trim_ascii_end() {
                [] | [b' ', ..] => mistake(Mistake::NoKey("get", "")),
                key => Line::Whole(Parsed::Request(Request::Get { key, form: Form::Text })),
            };
        }
        if let Some(line) = self.write(word, rest, None) {
            return line;
        }
        match word {
            _ if is(word, "getb") => counts(Counted::Get, rest, None),
            _ if is(word, "scan") => scan(rest.unwrap_or_default()),
            _ if is(word, "req") => self.req(rest.unwrap_or_default()),
            _ if is(word, "keyrange") => alone("keyrange", rest, Request::Keyrange),
            _ if is(word, "keyrange_read") => alone("keyrange_read", rest, Request::KeyrangeRead),
            _ if is(word, "ecs") => alone("ecs", rest, Request::Ecs),
            _ if is(word, "status") => match rest.unwrap_or_default().trim_ascii() {
                b"" => Line::Whole(Parsed::Request(Request::Status)),
                of if is(of, "cluster") => Line::Whole(Parsed::Request(Request::Whole(Whole::Cluster))),
                _ => mistake(Mistake::TooMuch("status", "nothing after it, or `cluster`")),
            },
            _ if is(word, "explain") => match rest.unwrap_or_default().trim_ascii_end() {
                [] | [b' ', ..] => mistake(Mistake::NoKey("explain", "")),
                key => Line::Whole(Parsed::Request(Request::Whole(Whole::Explain(key)))),
            },
            _ if is(word, "explainb") => counts(Counted::Explain, rest, None),
            _ => match Whole::ALONE.into_iter().find(|whole| is(word, whole.words())) {
                Some(whole) => alone(whole.words(), rest, Request::Whole(whole)),
                None => match super::admin::parse(word, rest.unwrap_or_default()) {
                    Some(request) => request_or(request.map(Request::Admin)),
                    None => mistake(Mistake::Unknown(shown(word))),
                },
            },
        }
    }

    /// The words that may stand inside a `req`.
    fn write<'a>(&self, word: &[u8], rest: Option<&'a [u8]>, once: Option<Once>) -> Option<Line<'a>> {
        Some(match word {
            _ if is(word, "put") => request_or(self.put("put", rest.unwrap_or_default(), once)),
            _ if is(word, "getset") => request_or(self.put("getset", rest.unwrap_or_default(), once)),
            _ if is(word, "delete") => request_or(self.delete(rest.unwrap_or_default(), once)),
            _ if is(word, "putb") => counts(Counted::Put, rest, once),
            _ if is(word, "getsetb") => counts(Counted::Swap, rest, once),
            _ if is(word, "deleteb") => counts(Counted::Delete, rest, once),
            _ => return None,
        })
    }

    /// `put` and `getset`, which only ever stores: it would be no help if `null` took the value away.
    fn put<'a>(&self, word: &'static str, rest: &'a [u8], once: Option<Once>) -> Result<Request<'a>, Mistake> {
        let swap = word == "getset";
        let (key, value) = split(rest);
        let value = value.unwrap_or_default();
        if key.is_empty() {
            return Err(Mistake::NoKey(word, " <value>"));
        }
        if key.len() > self.limits.text_key {
            return Err(Mistake::TextKey(key.len(), self.limits.text_key, self.limits.key));
        }
        if value.len() > self.limits.text_value {
            return Err(Mistake::TextValue(value.len(), self.limits.text_value, self.limits.value));
        }
        let value = match self.dialect {
            _ if swap && value.is_empty() => return Err(Mistake::NoValueToSwap),
            _ if swap => Some(value),
            Dialect::Uoft if value.is_empty() || value == b"null" => None,
            Dialect::Tum if value.is_empty() => return Err(Mistake::NoValue),
            _ => Some(value),
        };
        Ok(Request::Write(WriteRequest { key, value, swap, form: Form::Text, once }))
    }

    fn delete<'a>(&self, rest: &'a [u8], once: Option<Once>) -> Result<Request<'a>, Mistake> {
        match split(rest) {
            (b"", _) => Err(Mistake::NoKey("delete", "")),
            (_, Some(more)) if !more.trim_ascii().is_empty() => Err(Mistake::TooMuch("delete", "one key")),
            (key, _) if key.len() > self.limits.key => Err(Mistake::Key(key.len() as u64, self.limits.key)),
            (key, _) => Ok(Request::Write(WriteRequest { key, value: None, swap: false, form: Form::Text, once })),
        }
    }

    fn req<'a>(&self, rest: &'a [u8]) -> Line<'a> {
        let Some((once, inner)) = once(rest) else { return mistake(Mistake::ReqHead) };
        let (word, rest) = split(inner);
        self.write(word, rest, Some(once)).unwrap_or_else(|| mistake(Mistake::ReqOf(shown(word))))
    }
}

/// `<client> <seq> <lowest unacked> [retry]`, and what follows.
fn once(rest: &[u8]) -> Option<(Once, &[u8])> {
    let (client, rest) = split(rest);
    let (seq, rest) = split(rest?);
    let (lowest, rest) = split(rest?);
    let mut inner = rest?;
    let client = std::str::from_utf8(client).ok()?.parse().ok()?;
    let id = RequestId { client, seq: number(seq)?, lowest_unacked: number(lowest)? };
    let retry = match split(inner) {
        (word, Some(rest)) if is(word, "retry") => {
            inner = rest;
            true
        }
        _ => false,
    };
    Some((Once { id, retry }, inner))
}

fn counts<'a>(verb: Counted, rest: Option<&[u8]>, once: Option<Once>) -> Line<'a> {
    let (name, form) = match verb {
        Counted::Get => ("getb", "<key bytes>"),
        Counted::Put => ("putb", "<key bytes> <value bytes>"),
        Counted::Swap => ("getsetb", "<key bytes> <value bytes>"),
        Counted::Explain => ("explainb", "<key bytes>"),
        Counted::Delete => ("deleteb", "<key bytes>"),
        Counted::Scan(_) => ("scan", "<position> <key bytes>"),
    };
    let (key, value) = split(rest.unwrap_or_default().trim_ascii_end());
    let value = match (verb, value) {
        (Counted::Put | Counted::Swap, Some(value)) => number(value),
        (Counted::Get | Counted::Delete | Counted::Explain | Counted::Scan(_), None) => Some(0),
        _ => None,
    };
    match (number(key), value) {
        (Some(key), Some(value)) => Line::Counted { verb, key, value, once },
        _ => mistake(Mistake::Lengths(name, form)),
    }
}

/// `<position> [<key bytes>]`
fn scan<'a>(rest: &[u8]) -> Line<'a> {
    let (at, after) = split(rest.trim_ascii_end());
    let digits = std::str::from_utf8(at).unwrap_or_default();
    let at = u128::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).map(Position);
    match (at, after.map(number)) {
        (Some(at), None) => Line::Whole(Parsed::Request(Request::Scan { at, after: None })),
        (Some(at), Some(Some(key))) => Line::Counted { verb: Counted::Scan(at), key, value: 0, once: None },
        _ => mistake(Mistake::ScanHead),
    }
}

fn alone<'a>(word: &'static str, rest: Option<&[u8]>, request: Request<'a>) -> Line<'a> {
    if rest.unwrap_or_default().trim_ascii().is_empty() {
        Line::Whole(Parsed::Request(request))
    } else {
        mistake(Mistake::TooMuch(word, "nothing after it"))
    }
}

fn request_or<'a>(result: Result<Request<'a>, Mistake>) -> Line<'a> {
    Line::Whole(result.map_or_else(Parsed::Mistake, Parsed::Request))
}

fn mistake<'a>(mistake: Mistake) -> Line<'a> {
    Line::Whole(Parsed::Mistake(mistake))
}

/// The first part, and what follows the blank behind it, if there is one.
pub(super) fn split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr(b' ', line) {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    }
}

/// Without the carriage returns (and line feeds) at its end.
pub(super) fn trim_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    &line[..end]
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// A number in plain decimal digits: no sign, no blanks.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}
