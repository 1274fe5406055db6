//! Redis clients: RESP2 and RESP3 on the client port.
//!
//! [`table`] says which commands there are, [`plan`] what those about keys ask for, [`owed`] what is under way for them and
//! the replies made of it, [`writes`] how writes are begun; [`connection`] and [`server`] answer the others at once. What this
//! server holds is read here and at once, what it coordinates written here; all else goes to the relay, which also takes what
//! this server refuses. So no client ever hears MOVED, and a failover is a pause.
//!
//! Differences from Redis are in `docs/redis.md`.

mod connection;
mod docs;
mod glob;
mod numbers;
pub(super) mod owed;
mod plan;
mod scan;
mod server;
mod table;
#[cfg(test)]
mod tests;
mod writes;

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use common::Time;
use common::blob::Blob;
use common::forward::Job;
use common::position::Position;
use common::resp::{self, Args, CommandParser, Out, Parsed, Proto, TooLarge};
use common::text::Limits;
use smallvec::{SmallVec, smallvec};
use xxhash_rust::xxh3::xxh3_64;

use self::owed::{Owed, Shape, Task, Tasks};
use self::plan::Plan;
use self::scan::Scan;
use self::table::{Command, Run};
use super::Settings;
use super::backend::Serves;
use super::pending::{EVERY_KEY, What as Kind};
use super::session::Session;
use super::together::{One, Together};
use crate::relay::core::Order;
use crate::replica::{Read, Reply, Token};
use crate::slot_of;

/// Words that both dialects know. On a connection that began as a line they are the text dialect's.
const TEXT_WORDS: [&str; 4] = ["get", "getset", "scan", "watch"];
/// No first word that matters is longer.
const LONGEST_WORD: usize = 32;

/// What is kept of a Redis client.
#[derive(Debug)]
pub(super) struct State {
    parser: CommandParser,
    limits: resp::Limits,
    proto: Proto,
    name: Bytes,
    library: (Bytes, Bytes),
    addr: Option<SocketAddr>,
    max_connections: usize,
    began: Option<Time>,
}

impl State {
    pub(super) fn new(settings: &Settings) -> State {
        let text: &Limits = &settings.limits;
        // A command of many keys may be as large as all that is under way.
        let limits = resp::Limits {
            argument: text.value.max(text.key),
            whole: settings.bounds.bytes.max(text.longest_request()),
        };
        State {
            parser: CommandParser::new(limits),
            limits,
            proto: Proto::Two,
            name: Bytes::new(),
            library: (Bytes::new(), Bytes::new()),
            addr: None,
            max_connections: settings.max_connections,
            began: None,
        }
    }

    /// The most bytes of an unfinished command.
    pub(super) fn longest_command(&self) -> usize {
        self.limits.whole + 128 * 1024
    }

    /// Bytes held beside the buffers.
    pub(super) fn memory(&self) -> usize {
        self.parser.memory() + self.name.len() + self.library.0.len() + self.library.1.len()
    }
}

/// A command that is being looked at.
struct Call<'a, B> {
    args: Args<'a>,
    now: Time,
    backend: &'a B,
    conn: u32,
}

/// Whether the first bytes of a connection are a Redis client's. None: that cannot be told yet.
pub(super) fn is_spoken(input: &[u8]) -> Option<bool> {
    if *input.first()? == b'*' {
        return Some(true);
    }
    let end = input.iter().take(LONGEST_WORD).position(u8::is_ascii_whitespace);
    let Some(end) = end else { return (input.len() >= LONGEST_WORD).then_some(false) };
    let word = &input[..end];
    let text = TEXT_WORDS.iter().any(|text| word.eq_ignore_ascii_case(text.as_bytes()));
    Some(!text && table::find(word).is_some())
}

/// The last words to a client that must go.
pub(super) fn farewell(bytes: &mut BytesMut, why: &str) {
    Out::new(bytes, Proto::Two).error(&format!("ERR {why}"));
}

impl Session {
    /// Where the client is, for CLIENT INFO.
    pub fn set_peer(&mut self, addr: SocketAddr) {
        self.redis.addr = Some(addr);
    }

    /// Starts as many commands as the bounds allow, and returns how many bytes are done with.
    pub(super) fn commands(&mut self, input: &[u8], now: Time, backend: &impl Serves, conn: u32) -> usize {
        self.redis.began.get_or_insert(now);
        let (mut at, mut run) = (0, Together::new());
        loop {
            if run.is_empty() && !self.may_start() {
                return at;
            }
            let rest = &input[at..];
            let (used, parsed) = self.redis.parser.next(rest);
            if let Some((key, what)) = self.plain(&parsed, rest) {
                run.push(One { from: at, key, what });
                at += used;
                if run.is_full()
                    && let Some(back) = self.start_run(&mut run, at, now, backend, conn)
                {
                    self.redis.parser.rewind();
                    return back;
                }
                continue;
            }
            if !run.is_empty()
                && let Some(back) = self.start_run(&mut run, at, now, backend, conn)
            {
                self.redis.parser.rewind();
                return back;
            }
            match parsed {
                Parsed::More => return at + used,
                Parsed::Skipped => {}
                Parsed::Command => {
                    let parser = std::mem::replace(&mut self.redis.parser, CommandParser::new(self.redis.limits));
                    self.held = !self.command(&Call { args: parser.args(rest), now, backend, conn });
                    self.redis.parser = parser;
                    if self.held {
                        return at;
                    }
                    self.moved += 1;
                }
                Parsed::TooLarge(what) => self.too_large(what),
                Parsed::Broken(what) => {
                    self.counts.mistakes += 1;
                    self.say(|out| out.error(&format!("ERR {what}")));
                    self.close();
                }
            }
            at += used;
        }
    }

    /// The key of a GET or of a SET, and what is to be set, if it can be part of a run.
    fn plain<'a>(&self, parsed: &Parsed, input: &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        // Whoever has to wait for a read would be parsed again with each answer, and all behind it with it.
        if *parsed != Parsed::Command || self.pending.is_reading() {
            return None;
        }
        let parser = &self.redis.parser;
        let (key, value) = match parser.plain(input, b"set") {
            Some([key, value]) => (key, Some(value)),
            None if self.pending.is_empty() => parser.plain(input, b"get").map(|[key]| (key, None))?,
            None => return None,
        };
        let fits = value.is_none_or(|value| value.len() <= self.limits.value && key.len() <= slot_of::LONGEST);
        (fits && plan::key_within(key, &self.limits).is_ok()).then_some((key, value))
    }

    /// Starts what a run consists of, and says where to go on if that is not behind it, at `end`.
    fn start_run<B: Serves>(
        &mut self,
        run: &mut Together<'_, Option<&[u8]>>,
        end: usize,
        now: Time,
        backend: &B,
        conn: u32,
    ) -> Option<usize> {
        let (all, positions) = run.take();
        let call = Call { args: Args::default(), now, backend, conn };
        if self.store_run(&all, &positions, &call) {
            self.moved += all.len() as u64;
            return (!self.may_start()).then_some(end);
        }
        for (one, position) in all.iter().zip(positions) {
            if !self.may_start() {
                return Some(one.from);
            }
            self.held = !match one.what {
                None => self.look(one.key, Some(position), Shape::Value, now, backend, conn),
                Some(value) => {
                    slot_of::remember(one.key, position);
                    let (key, what) = plan::put(one.key, value);
                    self.store_one(key, what, Shape::Set, &call)
                }
            };
            if self.held {
                return Some(one.from);
            }
            self.moved += 1;
        }
        (!self.may_start()).then_some(end)
    }

    /// Appends a reply behind all that are waited for.
    fn say(&mut self, reply: impl FnOnce(&mut Out<'_>)) {
        let proto = self.redis.proto;
        if self.pending.is_empty() {
            reply(&mut Out::new(self.out.end(), proto));
        } else {
            self.pending.encoded(|bytes| reply(&mut Out::new(bytes, proto)));
        }
    }

    fn too_large(&mut self, what: TooLarge) {
        self.counts.mistakes += 1;
        let (key, value, whole) = (self.limits.key, self.limits.value, self.redis.limits.whole);
        let why = match what {
            TooLarge::Argument(length) => format!(
                "ERR argument of {length} bytes: values may have {value} (--max-value-bytes), keys {key} (--max-key-bytes)"
            ),
            TooLarge::Whole => {
                format!("ERR command of more than {whole} bytes (--max-pending-bytes): send fewer keys at once")
            }
        };
        self.say(|out| out.error(&why));
    }

    /// Starts a command; false if it has to wait for an earlier one.
    fn command<B: Serves>(&mut self, call: &Call<'_, B>) -> bool {
        let Some(command) = table::find(call.args.get(0)) else {
            self.counts.mistakes += 1;
            self.say(|out| out.error_bytes(&unknown(&call.args)));
            return true;
        };
        if !command.takes(call.args.len()) {
            self.counts.mistakes += 1;
            self.say(|out| out.error(&wrong_arity(command.name)));
            return true;
        }
        match plan::plan(command, &call.args, || call.backend.wall(), &self.limits) {
            Ok(Some(plan)) => self.perform(plan, call),
            Ok(None) => self.other(command, call),
            Err(why) => {
                self.counts.mistakes += 1;
                self.say(|out| out.error(&why));
                true
            }
        }
    }

    fn perform<B: Serves>(&mut self, plan: Plan<'_>, call: &Call<'_, B>) -> bool {
        match plan {
            Plan::Read(key, shape) => self.look(key, None, shape, call.now, call.backend, call.conn),
            Plan::Lasts(key, shape) => self.look_when(key, shape, call),
            Plan::ReadAll(shape) => self.look_all(shape, call),
            Plan::Write(key, what, shape) => self.store_one(key, what, shape, call),
            Plan::WriteAll(all, shape) => self.store(all, shape, call),
        }
    }

    /// A command that is not about given keys.
    fn other<B: Serves>(&mut self, command: &Command, call: &Call<'_, B>) -> bool {
        match command.run {
            Run::DbSize | Run::Scan | Run::Keys | Run::RandomKey => return self.walk(command.run, call),
            // All that was acknowledged before must be known, for the number to mean something.
            Run::Wait if self.pending.waiting() > 0 => return false,
            Run::Object | Run::Memory => return self.about(command, call),
            Run::Refused(why) => {
                self.counts.mistakes += 1;
                let name = command.name.to_ascii_uppercase();
                self.say(|out| out.error(&format!("ERR {name} is not supported: {why}")));
                return true;
            }
            run => self.at_once(run, call),
        }
        self.counts.others += 1;
        true
    }

    fn look<B: Serves>(
        &mut self,
        key: &[u8],
        at: Option<Position>,
        shape: Shape,
        now: Time,
        backend: &B,
        conn: u32,
    ) -> bool {
        let hash = if self.pending.waiting() == 0 { 0 } else { xxh3_64(key) };
        if self.pending.conflicts(Kind::Read, hash) {
            return false;
        }
        self.counts.gets += 1;
        let token = Token { conn, index: self.pending.next_index() };
        let done = backend.read(now, key, at, token, |read| self.found(read, &shape));
        if let Some(immediate) = done {
            self.owe_read(Job::Read(Blob(Bytes::copy_from_slice(key))), shape, immediate);
        }
        true
    }

    fn look_when<B: Serves>(&mut self, key: &[u8], shape: Shape, call: &Call<'_, B>) -> bool {
        if self.pending.conflicts(Kind::Read, xxh3_64(key)) {
            return false;
        }
        self.counts.gets += 1;
        let token = Token { conn: call.conn, index: self.pending.next_index() };
        let done = self.found(call.backend.lasting(call.now, key, token), &shape);
        if let Some(immediate) = done {
            self.owe_read(Job::Lasts(Blob(Bytes::copy_from_slice(key))), shape, immediate);
        }
        true
    }

    /// Replies with what was read; otherwise: what is known by now of a read that is answered later.
    fn found(&mut self, read: Read<'_>, shape: &Shape) -> Option<Option<Reply>> {
        match read {
            Read::Value(value) => self.say(|out| shape.read(Some(value), out)),
            Read::Missing => self.say(|out| shape.read(None, out)),
            Read::Lasts(lasting) => self.say(|out| shape.lasts(lasting, out)),
            Read::Refused(refusal) => return Some(Some(Reply::Refused(refusal))),
            Read::Later => return Some(None),
        }
        None
    }

    fn owe_read(&mut self, job: Job, shape: Shape, immediate: Option<Reply>) {
        let hash = match &job {
            Job::Read(key) | Job::Lasts(key) | Job::Write { key, .. } => xxh3_64(&key.0),
            Job::Keys { .. } => EVERY_KEY,
        };
        let index = self.pending.next_index();
        self.pending.owe(Owed::new(self.redis.proto, shape, smallvec![Task::new(hash, job)]));
        if let Some(reply) = immediate {
            self.pending.settle(index, reply);
        }
    }

    /// Several keys, each on its own. As a rule all of them are here, and nothing is kept of any.
    fn look_all<B: Serves>(&mut self, shape: Shape, call: &Call<'_, B>) -> bool {
        let waits = self.pending.waiting() > 0;
        if waits && call.args.from(1).any(|key| self.pending.conflicts(Kind::Read, xxh3_64(key))) {
            return false;
        }
        self.counts.gets += call.args.len() as u64 - 1;
        let base = self.pending.next_index();
        let mut tasks = Tasks::with_capacity(call.args.len() - 1);
        let mut replies = Vec::new();
        let keys: SmallVec<[&[u8]; Position::AT_ONCE]> = call.args.from(1).collect();
        let positions = keys.chunks(Position::AT_ONCE).flat_map(Position::of_each);
        for ((index, key), position) in (base..).zip(&keys).zip(positions) {
            let key_of = || Blob(Bytes::copy_from_slice(key));
            tasks.push(Task::new(xxh3_64(key), Job::Read(key_of())));
            let token = Token { conn: call.conn, index };
            let reply = call.backend.read(call.now, key, Some(position), token, |read| match read {
                Read::Value(value) => Some(Reply::Value(Some(Bytes::copy_from_slice(value)))),
                Read::Missing => Some(Reply::Value(None)),
                Read::Refused(refusal) => Some(Reply::Refused(refusal)),
                Read::Later | Read::Lasts(_) => None,
            });
            replies.extend(reply.map(|reply| (index, reply)));
        }
        self.pending.owe(Owed::new(self.redis.proto, shape, tasks));
        replies.into_iter().for_each(|(index, reply)| self.pending.settle(index, reply));
        true
    }

    fn relay<B: Serves>(&mut self, index: u64, call: &Call<'_, B>) {
        if let Some(order) = self.pending.order(index, call.conn) {
            call.backend.relay(call.now, Order { tried_here: false, ..order });
        }
    }

    /// Lists or counts the keys of the cluster: after whatever the connection has written before.
    fn walk<B: Serves>(&mut self, run: Run, call: &Call<'_, B>) -> bool {
        if self.pending.waiting() > 0 {
            return false;
        }
        self.counts.others += 1;
        let index = self.pending.next_index();
        let slots = call.backend.slots().max(1);
        let begun = match run {
            Run::Scan => server::scan(&call.args, slots),
            Run::Keys => Ok(Some(Scan::keys(call.args.get(1), slots))),
            Run::RandomKey => Ok(Some(Scan::random(xxh3_64(&(call.now.0, call.conn).0.to_le_bytes()), slots))),
            _ => Ok(None),
        };
        match begun {
            Ok(Some((scan, job))) => {
                self.owe_read(job, Shape::Scan(Box::new(scan)), None);
                self.relay(index, call);
            }
            Ok(None) => {
                let nowhere = Job::Keys { slot: common::Slot(0), from: 0, count: 0 };
                let task = Task { relayed: true, ..Task::new(EVERY_KEY, nowhere) };
                self.pending.owe(Owed::new(self.redis.proto, Shape::Whole, smallvec![task]));
                call.backend.question(&common::text::Whole::NumKeys, Token { conn: call.conn, index });
            }
            Err(why) => self.say(|out| out.error(&why)),
        }
        true
    }

    /// OBJECT and MEMORY: what can be said of a string.
    fn about<B: Serves>(&mut self, command: &Command, call: &Call<'_, B>) -> bool {
        match server::about(command, &call.args) {
            Ok((key, shape)) => self.look(key, None, shape, call.now, call.backend, call.conn),
            Err(why) => {
                self.say(|out| out.error_bytes(&why));
                true
            }
        }
    }
}

/// As Redis says it, to the letter.
fn unknown(args: &Args<'_>) -> Vec<u8> {
    const LONGEST: usize = 128;
    let cut = |text: &[u8], most: usize| {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        text[..end.min(most)].to_vec()
    };
    let mut told = Vec::new();
    for arg in args.from(1) {
        if told.len() >= LONGEST {
            break;
        }
        let left = LONGEST - told.len();
        told.push(b'\'');
        told.extend(cut(arg, left));
        told.extend_from_slice(b"' ");
    }
    let name = cut(args.get(0), LONGEST);
    [b"ERR unknown command '", &name[..], b"', with args beginning with: ", &told].concat()
}

fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}
