//! One connection without its socket: bytes in, requests to the node, answers out, in order.
//!
//! Bounds. Input: what one unfinished request may hold, plus one read. Requests under way, and the bytes kept for them and
//! for answers not yet taken by the client: [`Bounds`]; at either bound no further request is looked at and nothing more is
//! read, until answers have left. So a client that never reads costs a fixed amount of memory and delays nobody. While all
//! connections together hold much, the bound of each is [`TIGHT`].

use common::Time;
use common::text::{Answer, Dialect, Form, Limits, RequestParser, encode};

use super::Settings;
use super::backend::Serves;
use super::buffer::Buffer;
use super::pending::Pending;
use super::redis;
use super::stats::Counts;
use crate::replica::Reply;

/// What a connection may keep busy while memory is short: enough for small requests to be sent in bulk.
const TIGHT: usize = 64 * 1024;
/// What a read that is answered later is taken to cost until its value is there.
pub(super) const PARKED: usize = 8 * 1024;

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
    pub(super) trusted: bool,
    pub(super) admin_token: Option<std::sync::Arc<str>>,
    pub(super) parser: RequestParser,
    pub(super) dialect: Dialect,
    pub(super) limits: Limits,
    bounds: Bounds,
    pub(super) pending: Pending,
    input: Buffer,
    pub(super) out: Buffer,
    /// Memory is short: see [`TIGHT`].
    tight: bool,
    /// Requests that were understood and bytes that were sent, ever: whether anything moves.
    pub(super) moved: u64,
    /// The next request waits for an earlier one on the same key.
    pub(super) held: bool,
    /// The client has sent all it will; what it sent is still looked at and answered.
    ended: bool,
    /// No further request is looked at; what is under way is still answered.
    closing: bool,
    /// What is kept of a Redis client.
    pub(super) redis: redis::State,
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
            redis: redis::State::new(settings),
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

    /// Whether nothing is left of what the client has sent: not a byte, and no request under way.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.input.rest().is_empty()
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
        self.input.memory() + self.out.memory() + self.pending.memory() + self.redis.memory()
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
            match self.caller {
                Caller::Redis => redis::farewell(self.out.end(), why),
                Caller::Unknown | Caller::Text => {
                    encode(self.out.end(), self.dialect, Form::Text, &Answer::Failed(why));
                }
            }
        }
    }

    /// Requests that still wait for their answers.
    pub fn waiting(&self) -> usize {
        self.pending.waiting()
    }

    /// Sends what is answered, and starts as many of the received requests as the bounds allow. `now` must have been read
    /// after the last byte was received.
    pub fn process(&mut self, now: Time, backend: &impl Serves, conn: u32) {
        loop {
            for order in self.pending.redo(conn) {
                backend.relay(now, order);
            }
            self.pending.flush(self.dialect, &mut self.out, self.bounds.bytes);
            let mut input = std::mem::take(&mut self.input);
            let used = self.requests(input.rest(), now, backend, conn);
            input.take(used);
            self.input = input;
            // What was answered while it was being started (several keys that are all here, a refusal) is seen to at once:
            // nothing else may come to wake this connection.
            if !self.pending.was_stirred() {
                break;
            }
        }
        debug_assert!(self.input.rest().len() <= self.longest_request() + super::task::READ || !self.wants_input());
    }

    /// The most bytes that an unfinished request of this client can occupy.
    fn longest_request(&self) -> usize {
        match self.caller {
            Caller::Redis => self.redis.longest_command(),
            Caller::Unknown | Caller::Text => self.limits.longest_request(),
        }
    }

    fn requests(&mut self, input: &[u8], now: Time, backend: &impl Serves, conn: u32) -> usize {
        self.held = false;
        let at = if self.caller == Caller::Unknown { self.recognise(input) } else { 0 };
        at + match self.caller {
            Caller::Unknown => 0,
            Caller::Text => self.lines(&input[at..], now, backend, conn),
            Caller::Redis => self.commands(&input[at..], now, backend, conn),
        }
    }

    /// Looks at the first bytes that say something about the caller, and returns where they are.
    fn recognise(&mut self, input: &[u8]) -> usize {
        let at = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if let Some(redis) = redis::is_spoken(&input[at..]) {
            self.caller = if redis { Caller::Redis } else { Caller::Text };
        }
        at
    }

    /// Whether a further request may be looked at.
    pub(super) fn may_start(&self) -> bool {
        !self.closing && !self.is_full()
    }

    fn is_full(&self) -> bool {
        !self.has_room(1, 0)
    }

    /// Whether so many requests, with so many bytes, may be under way beside those that are.
    pub(super) fn has_room(&self, requests: usize, bytes: usize) -> bool {
        let most = if self.tight { TIGHT.min(self.bounds.bytes) } else { self.bounds.bytes };
        let held = self.pending.bytes() + self.output().len();
        self.pending.waiting() + requests <= self.bounds.pending && held + bytes < most
    }
}
