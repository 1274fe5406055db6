//! One connection without its socket: bytes in, requests to the node, answers out, in order.
//!
//! Bounds. Input: what one unfinished request may hold, plus one read. Requests under way, and the bytes kept for them and
//! for answers not yet taken by the client: [`Bounds`]; at either bound no further request is looked at and nothing more is
//! read, until answers have left. So a client that never reads costs a fixed amount of memory and delays nobody. While all
//! connections together hold much, the bound of each is [`TIGHT`].

use bytes::Bytes;
use common::Time;
use common::position::Position;
use common::text::{
    AdminRequest, Answer, Dialect, Form, Limits, Parsed, Request, RequestParser, Whole, WriteRequest, encode,
};
use xxhash_rust::xxh3::xxh3_64;

use super::Settings;
use super::backend::Serves;
use super::buffer::Buffer;
use super::pending::{Asked, EVERY_KEY, Pending, What, refused};
use super::stats::Counts;
use crate::replica::{Read, Reply, Scan, Token, Write, WriteOp};

/// What a connection may keep busy while memory is short: enough for small requests to be sent in bulk.
const TIGHT: usize = 64 * 1024;
/// What a read that is answered later is taken to cost until its value is there.
const PARKED: usize = 8 * 1024;
/// The answer to a client that speaks Redis's protocol.
const NO_REDIS: &[u8] = b"-ERR Redis protocol is not served by this version\r\n";

/// What a connection may keep busy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Requests that wait for an answer.
    pub pending: usize,
    /// Bytes of them, and of answers that have not been sent.
    pub bytes: usize,
}

/// Who is calling. Seen from the first byte, and kept to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    Unknown,
    Text,
    Redis,
}

/// A connection's state.
#[derive(Debug)]
pub struct Session {
    caller: Caller,
    trusted: bool,
    admin_token: Option<std::sync::Arc<str>>,
    parser: RequestParser,
    dialect: Dialect,
    limits: Limits,
    bounds: Bounds,
    pending: Pending,
    input: Buffer,
    out: Buffer,
    /// Memory is short: see [`TIGHT`].
    tight: bool,
    /// Requests that were understood and bytes that were sent, ever: whether anything moves.
    moved: u64,
    /// The next request waits for an earlier one on the same key.
    held: bool,
    /// The client has sent all it will; what it sent is still looked at and answered.
    ended: bool,
    /// No further request is looked at; what is under way is still answered.
    closing: bool,
    /// What happened since the counts were last taken.
    pub(super) counts: Counts,
}

impl Session {
    /// `trusted`: the client is on this machine, and may ask for changes of membership.
    pub fn new(settings: &Settings, trusted: bool) -> Session {
        let mut out = Buffer::default();
        if let Some(greeting) = &settings.greeting {
            out.end().extend_from_slice(greeting.as_bytes());
            out.end().extend_from_slice(b"\r\n");
        }
        Session {
            // Who is greeted is a text client: a Redis client would take the greeting for an answer.
            caller: if settings.greeting.is_some() { Caller::Text } else { Caller::Unknown },
            trusted,
            admin_token: settings.admin_token.clone(),
            parser: RequestParser::new(settings.dialect, settings.limits),
            dialect: settings.dialect,
            limits: settings.limits,
            bounds: settings.bounds,
            pending: Pending::default(),
            input: Buffer::default(),
            out,
            tight: false,
            moved: 0,
            held: false,
            ended: false,
            closing: false,
            counts: Counts::default(),
        }
    }

    /// Takes bytes from the client.
    pub fn received(&mut self, bytes: &[u8]) {
        self.input.end().extend_from_slice(bytes);
    }

    /// Takes the answer to request `index`.
    pub fn settle(&mut self, index: u64, reply: Reply) {
        self.pending.settle(index, reply);
    }

    /// The client has sent all it will.
    pub fn ended(&mut self) {
        self.ended = true;
    }

    /// No further request is looked at.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether that was said.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether more bytes from the client are of use.
    pub fn wants_input(&self) -> bool {
        !self.closing && !self.ended && !self.held && !self.is_full()
    }

    /// Whether everything asked was answered and sent, and nothing more will be. To be asked after [`Session::process`],
    /// which leaves no request unstarted unless something is under way.
    pub fn is_done(&self) -> bool {
        (self.closing || self.ended) && self.pending.is_empty() && self.output().is_empty()
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.out.rest()
    }

    /// This much of the output was sent.
    pub fn sent(&mut self, count: usize) {
        self.moved += count as u64;
        self.out.take(count);
    }

    /// How much memory this connection holds.
    pub fn memory(&self) -> usize {
        self.input.memory() + self.out.memory() + self.pending.memory()
    }

    /// Changes whenever a request was understood or an answer taken.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether memory is short.
    pub fn tighten(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// The connection is of no more use: only what was started still counts, until it is answered. Says goodbye with
    /// `why` if that cannot be taken for the answer to a request.
    pub fn abandon(&mut self, why: Option<&str>) {
        let silent = self.output().is_empty() && self.pending.is_empty();
        self.input.clear();
        self.out.clear();
        self.pending.forget_answers();
        self.closing = true;
        if let Some(why) = why.filter(|_| silent) {
            encode(self.out.end(), self.dialect, Form::Text, &Answer::Failed(why));
        }
    }

    /// Requests that still wait for their answers.
    pub fn waiting(&self) -> usize {
        self.pending.waiting()
    }

    /// Sends what is answered, and starts as many of the received requests as the bounds allow. `now` must have been read
    /// after the last byte was received.
    pub fn process(&mut self, now: Time, backend: &impl Serves, conn: u32) {
        self.pending.flush(self.dialect, &mut self.out, self.bounds.bytes);
        let mut input = std::mem::take(&mut self.input);
        let used = self.requests(input.rest(), now, backend, conn);
        input.take(used);
        self.input = input;
        debug_assert!(
            self.input.rest().len() <= self.limits.longest_request() + super::task::READ || !self.wants_input()
        );
    }

    fn requests(&mut self, input: &[u8], now: Time, backend: &impl Serves, conn: u32) -> usize {
        self.held = false;
        let mut at = if self.caller == Caller::Unknown { self.recognise(input) } else { 0 };
        while !self.closing && !self.is_full() {
            let (used, parsed) = self.parser.next(&input[at..]);
            match parsed {
                Parsed::More => return at + used,
                Parsed::Skipped => {}
                Parsed::Request(request) => {
                    self.held = !self.start(&request, now, backend, conn);
                    if self.held {
                        return at;
                    }
                    self.moved += 1;
                }
                Parsed::Mistake(mistake) => {
                    self.counts.mistakes += 1;
                    self.answer(Form::Text, &Answer::Failed(&mistake.to_string()));
                }
                Parsed::Close => self.closing = true,
            }
            at += used;
        }
        at
    }

    /// Looks at the first byte that says something about the caller, and returns where it is.
    fn recognise(&mut self, input: &[u8]) -> usize {
        let at = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        match input.get(at) {
            None => {}
            Some(b'*') => {
                self.caller = Caller::Redis;
                self.closing = true;
                self.out.end().extend_from_slice(NO_REDIS);
            }
            Some(_) => self.caller = Caller::Text,
        }
        at
    }

    /// Starts a request; false if it has to wait for an earlier one.
    fn start(&mut self, request: &Request<'_>, now: Time, backend: &impl Serves, conn: u32) -> bool {
        match request {
            Request::Get { key, form } => return self.get(key, *form, now, backend, conn),
            Request::Write(write) => return self.write(write, now, backend, conn),
            Request::Scan { at, after } => return self.scan(*at, *after, now, backend, conn),
            Request::Whole(whole) => return self.whole(whole, backend, conn),
            Request::Ecs => match backend.ecs() {
                Ok(addr) => self.answer(Form::Text, &Answer::Ecs(&addr)),
                Err(why) => self.answer(Form::Text, &Answer::NoEcs(why)),
            },
            Request::Admin(request) => self.admin(request, backend, conn),
            Request::Status => self.answer(Form::Text, &Answer::Status(&backend.status())),
            Request::Keyrange | Request::KeyrangeRead if !backend.serving() => {
                self.answer(Form::Text, &Answer::Stopped(None));
            }
            Request::Keyrange => self.answer(Form::Text, &Answer::Keyrange(&backend.keyrange())),
            Request::KeyrangeRead => self.answer(Form::Text, &Answer::KeyrangeRead(&backend.keyrange_read())),
        }
        self.counts.others += 1;
        true
    }

    /// About the membership: passed on if this client may ask.
    fn admin(&mut self, request: &AdminRequest<'_>, backend: &impl Serves, conn: u32) {
        let word = request.word();
        let known = |token: &[u8]| self.admin_token.as_deref().is_some_and(|own| same(own.as_bytes(), token));
        let text = match request.token {
            Some(token) if !known(token) => "this is not the server's --admin-token",
            None if !self.trusted && !request.is_question() => {
                "this is asked from another machine: send `admin <token> <request>`, with the server's --admin-token"
            }
            _ => {
                let token = Token { conn, index: self.pending.next_index() };
                self.pending.push(Asked {
                    hash: u64::MAX,
                    what: What::Admin,
                    key: Bytes::from_static(word.as_bytes()),
                    value: None,
                    form: Form::Text,
                    explain: true,
                    cost: 0,
                });
                backend.wish(request.wish.clone(), token);
                return;
            }
        };
        self.answer(Form::Text, &Answer::Admin { word, done: false, text });
    }

    fn get(&mut self, key: &[u8], form: Form, now: Time, backend: &impl Serves, conn: u32) -> bool {
        let hash = if self.pending.waiting() == 0 { 0 } else { xxh3_64(key) };
        if self.pending.conflicts(What::Read, hash) {
            return false;
        }
        self.counts.gets += 1;
        let explain = form == Form::Binary;
        let token = Token { conn, index: self.pending.next_index() };
        let later = backend.read(now, key, token, |read| {
            let answer = match read {
                Read::Value(value) => Answer::Value { key, value },
                Read::Missing => Answer::Missing { key },
                Read::Refused(refusal) => refused(refusal, explain),
                Read::Lasts(_) => Answer::Failed("an answer to another question"),
                Read::Later => return true,
            };
            self.answer(form, &answer);
            false
        });
        if later {
            let (hash, cost) = (xxh3_64(key), key.len() + PARKED);
            let key = repeated(form, key);
            self.pending.push(Asked { hash, what: What::Read, key, value: None, form, explain, cost });
        }
        true
    }

    /// A page may hold any key: it waits for every earlier request that is under way. Walks are rare.
    fn scan(&mut self, at: Position, after: Option<&[u8]>, now: Time, backend: &impl Serves, conn: u32) -> bool {
        if self.pending.waiting() > 0 {
            return false;
        }
        self.counts.gets += 1;
        match backend.scan(now, at, after, Token { conn, index: self.pending.next_index() }) {
            Scan::Page(page) => self.answer(Form::Binary, &Answer::Page(&page)),
            Scan::Refused(refusal) => self.answer(Form::Binary, &refused(refusal, true)),
            Scan::Later => self.pending.push(Asked {
                hash: EVERY_KEY,
                what: What::Read,
                key: Bytes::new(),
                value: None,
                form: Form::Binary,
                explain: true,
                cost: after.map_or(0, <[u8]>::len) + PARKED,
            }),
        }
        true
    }

    /// Counts what earlier requests of the connection have written: it waits for them, as a scan does.
    fn whole(&mut self, whole: &Whole<'_>, backend: &impl Serves, conn: u32) -> bool {
        if self.pending.waiting() > 0 {
            return false;
        }
        self.counts.others += 1;
        backend.question(whole, Token { conn, index: self.pending.next_index() });
        let (key, form) = (Bytes::new(), Form::Binary);
        self.pending.push(Asked { hash: EVERY_KEY, what: What::Read, key, value: None, form, explain: true, cost: 0 });
        true
    }

    fn write(&mut self, write: &WriteRequest<'_>, now: Time, backend: &impl Serves, conn: u32) -> bool {
        let hash = xxh3_64(write.key);
        if self.pending.conflicts(What::Write, hash) {
            return false;
        }
        self.counts.writes += 1;
        let (key, value) = (Bytes::copy_from_slice(write.key), write.value.map(Bytes::copy_from_slice));
        let token = Token { conn, index: self.pending.next_index() };
        self.pending.push(Asked {
            hash,
            what: if write.swap { What::Swap } else { What::Write },
            key: if write.form == Form::Text { key.clone() } else { Bytes::new() },
            value: value.as_ref().map(|value| if write.form == Form::Text { value.clone() } else { Bytes::new() }),
            form: write.form,
            explain: write.form == Form::Binary || write.once.is_some(),
            cost: write.key.len() + write.value.map_or(0, <[u8]>::len),
        });
        let op = value.map_or(WriteOp::Delete, if write.swap { WriteOp::Swap } else { WriteOp::Put });
        let (request, retry) = write.once.map_or((None, false), |once| (Some(once.id), once.retry));
        backend.write(now, Write { key, op, request, retry }, token);
        true
    }

    /// Answers a request behind all those before it.
    fn answer(&mut self, form: Form, answer: &Answer<'_>) {
        let dialect = self.dialect;
        if self.pending.is_empty() {
            encode(self.out.end(), dialect, form, answer);
        } else {
            self.pending.encoded(|out| encode(out, dialect, form, answer));
        }
    }

    fn is_full(&self) -> bool {
        let bytes = if self.tight { TIGHT.min(self.bounds.bytes) } else { self.bounds.bytes };
        self.pending.waiting() >= self.bounds.pending || self.pending.bytes() + self.output().len() >= bytes
    }
}

/// Compares in a time that does not tell how much is right.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(one.len() ^ other.len(), |all, (a, b)| all | usize::from(a ^ b));
    differing == 0
}

fn repeated(form: Form, key: &[u8]) -> Bytes {
    if form == Form::Text { Bytes::copy_from_slice(key) } else { Bytes::new() }
}
