//! A Redis client's request that is under way: what is to be done for it, what has come of that, and the reply made of it.

use common::Outcome;
use common::forward::Job;
use common::resp::{Out, Proto};
use common::update::Updated;
use smallvec::SmallVec;

use super::scan::{Scan, Step};
use crate::client_port::pending::brought;
use crate::relay::Once;
use crate::relay::core::Order;
use crate::replica::{Lasting, Refusal, Reply, Token};

/// What a task is taken to cost beside its bytes.
const TASK: usize = 256;
const OVERTAKEN: &str = "a later write of this connection to the same key was executed first";

/// A request's tasks: one, unless it is about several keys or a run.
pub(super) type Tasks = SmallVec<[Task; 1]>;

/// See the module.
#[derive(Debug)]
pub(in crate::client_port) struct Owed {
    /// The version in which it was asked.
    pub(super) proto: Proto,
    pub(super) shape: Shape,
    pub(in crate::client_port) tasks: Tasks,
    /// Tasks without an answer. A command may have thousands: nothing goes through all of them for each.
    missing: usize,
    /// Bytes of the tasks, and of what came with the answers.
    cost: usize,
}

/// One key's part of a request.
#[derive(Debug)]
pub(in crate::client_port) struct Task {
    pub(in crate::client_port) hash: u64,
    pub(in crate::client_port) job: Job,
    /// The request id, kept until the answer is there.
    pub(super) once: Option<Once>,
    /// The relay has it; its answer is the last.
    pub(super) relayed: bool,
    pub(super) doubt: bool,
    pub(in crate::client_port) reply: Option<Reply>,
}

/// What the reply looks like.
#[derive(Debug)]
pub(in crate::client_port) enum Shape {
    /// The value, or none.
    Value,
    /// The values, in a list.
    Values,
    /// The value's length.
    Length,
    /// How many of the keys exist.
    Exists,
    /// What kind of value it is.
    Type,
    /// A part of the value.
    Range(i64, i64),
    /// How Redis would keep it in memory.
    Encoding,
    /// A constant, if the key exists.
    Constant(i64),
    /// What the record takes in memory.
    Usage,
    /// How long the key lasts: from this time on, or None: as a date. In seconds or in milliseconds.
    Lasts { from: Option<u64>, seconds: bool },
    /// SET: done or not.
    Set,
    /// SETNX, EXPIRE and PERSIST: 1 or 0.
    Changed,
    /// The value before.
    Old,
    /// A number, or a length.
    Number,
    /// How many keys were deleted.
    Deleted,
    /// All are stored.
    Stored,
    /// A run of SETs: a reply to each.
    Each,
    /// A count of the whole cluster.
    Whole,
    /// A list of keys.
    Scan(Box<Scan>),
}

/// What [`Owed::take`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::client_port) enum Taken {
    /// The task is done.
    Done,
    /// It must be done elsewhere, or goes on elsewhere.
    Again,
    /// It had its answer.
    Ignored,
}

impl Task {
    /// A task that is not begun.
    pub(super) fn new(hash: u64, job: Job) -> Task {
        Task { hash, job, once: None, relayed: false, doubt: false, reply: None }
    }

    /// Whether it writes the key with this hash.
    pub(in crate::client_port) fn writes(&self, hash: u64) -> bool {
        self.hash == hash && self.job.is_write()
    }

    /// Whether it was executed.
    pub(in crate::client_port) fn is_executed(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !matches!(reply, Reply::Refused(_) | Reply::Unknown(_)))
    }

    /// Whether it is a write that went to the relay.
    pub(in crate::client_port) fn is_relayed_write(&self) -> bool {
        self.relayed && self.job.is_write()
    }
}

impl Owed {
    /// Nothing is answered yet.
    pub(super) fn new(proto: Proto, shape: Shape, tasks: Tasks) -> Owed {
        let cost = Owed::cost_of(tasks.len(), tasks.iter().map(|task| task.job.size()).sum());
        Owed { proto, shape, missing: tasks.len(), tasks, cost }
    }

    /// What so many tasks with so many bytes take.
    pub(super) fn cost_of(tasks: usize, bytes: usize) -> usize {
        TASK * tasks + bytes
    }

    /// Whether it is a run of requests, which may write a key more than once. A request's own keys are different ones.
    pub(in crate::client_port) fn is_run(&self) -> bool {
        matches!(self.shape, Shape::Each)
    }

    /// Whether it only reads.
    pub(in crate::client_port) fn reads(&self) -> bool {
        self.tasks.first().is_none_or(|task| !task.job.is_write())
    }

    /// How many tasks have no answer.
    pub(in crate::client_port) fn missing(&self) -> usize {
        self.missing
    }

    /// The memory it takes.
    pub(in crate::client_port) fn cost(&self) -> usize {
        self.cost
    }

    /// Whether a request on the key with this hash must consider it.
    pub(in crate::client_port) fn concerns(&self, hash: u64) -> bool {
        let all = matches!(self.shape, Shape::Whole | Shape::Scan(_));
        self.tasks.iter().any(|task| task.reply.is_none() && (all || task.hash == hash))
    }

    /// Whether a write of this key is with the relay.
    pub(in crate::client_port) fn is_relayed(&self, hash: u64) -> bool {
        self.tasks.iter().any(|task| task.reply.is_none() && task.relayed && task.writes(hash))
    }

    /// Takes the answer to a task.
    pub(in crate::client_port) fn take(&mut self, index: usize, reply: Reply) -> Taken {
        let Some(task) = self.tasks.get_mut(index).filter(|task| task.reply.is_none()) else { return Taken::Ignored };
        match &reply {
            Reply::Refused(_) if !task.relayed => return Taken::Again,
            Reply::Unknown(why) if !task.relayed && *why != common::retry::FORGOTTEN && task.once.is_some() => {
                task.doubt = true;
                return Taken::Again;
            }
            _ => {}
        }
        if let (Shape::Scan(scan), Reply::Keys(keys)) = (&mut self.shape, &reply) {
            let before = scan.cost();
            let step = scan.take(keys);
            self.cost += scan.cost() - before;
            if let Step::Go { job } = step {
                (task.job, task.relayed) = (job, false);
                return Taken::Again;
            }
        } else {
            self.cost += brought(&reply);
        }
        (task.reply, task.once) = (Some(reply), None);
        self.missing -= 1;
        Taken::Done
    }

    /// The task as the relay takes it.
    pub(in crate::client_port) fn order(&mut self, index: usize, token: Token) -> Option<Order> {
        let task = self.tasks.get_mut(index)?;
        let tried_here = !task.relayed && !matches!(task.job, Job::Keys { .. });
        task.relayed = true;
        let request = task.once.as_ref().map(Once::request);
        Some(Order { token, job: task.job.clone(), request, doubt: task.doubt, tried_here })
    }

    /// Ends a task that was not done; true: it was open.
    pub(in crate::client_port) fn give_up(&mut self, index: usize) -> bool {
        let Some(task) = self.tasks.get_mut(index).filter(|task| task.reply.is_none()) else { return false };
        let reply =
            if task.doubt { Reply::Unknown(OVERTAKEN) } else { Reply::Refused(Refusal::Unavailable(OVERTAKEN)) };
        (task.reply, task.once) = (Some(reply), None);
        self.missing -= 1;
        true
    }

    /// The reply, or a run's replies, once nothing is missing.
    pub(in crate::client_port) fn encode(&self, bytes: &mut bytes::BytesMut) {
        let mut out = Out::new(bytes, self.proto);
        let replies = || self.tasks.iter().filter_map(|task| task.reply.as_ref());
        if self.is_run() {
            return replies().for_each(|reply| match failure(reply) {
                Some(failed) => out.error(&failed),
                None => self.shape.one(reply, &mut out),
            });
        }
        if let Some(failed) = replies().find_map(failure) {
            return out.error(&failed);
        }
        match &self.shape {
            Shape::Values => {
                out.array(self.tasks.len());
                replies().for_each(|reply| out.bulk_or_null(value(reply)));
            }
            Shape::Exists => out.count(replies().filter(|reply| value(reply).is_some()).count()),
            Shape::Deleted => {
                out.count(replies().filter(|reply| matches!(reply, Reply::Written(Outcome::Deleted))).count());
            }
            Shape::Stored => out.ok(),
            Shape::Scan(scan) => scan.encode(&mut out),
            shape => {
                if let Some(reply) = replies().next() {
                    shape.one(reply, &mut out);
                }
            }
        }
    }
}

impl Shape {
    /// The reply to one read that was answered at once.
    pub(super) fn read(&self, value: Option<&[u8]>, out: &mut Out<'_>) {
        match (self, value) {
            (Shape::Value, value) => out.bulk_or_null(value),
            (Shape::Length, value) => out.count(value.map_or(0, <[u8]>::len)),
            (Shape::Exists, value) => out.count(usize::from(value.is_some())),
            (Shape::Type, value) => out.simple(if value.is_some() { "string" } else { "none" }),
            (Shape::Range(from, to), value) => out.bulk(range(value.unwrap_or_default(), *from, *to)),
            (_, None) => out.null(),
            (Shape::Encoding, Some(value)) => out.bulk(encoding(value)),
            (Shape::Constant(number), Some(_)) => out.integer(*number),
            (Shape::Usage, Some(value)) => out.count(value.len() + 96),
            (_, Some(value)) => out.bulk(value),
        }
    }

    /// The reply to how long a key lasts.
    pub(super) fn lasts(&self, lasting: Lasting, out: &mut Out<'_>) {
        let Shape::Lasts { from, seconds } = self else { return out.null() };
        out.integer(match lasting {
            Lasting::Missing => -2,
            Lasting::Forever => -1,
            Lasting::Until(at) => {
                let millis = at.saturating_sub(from.unwrap_or(0));
                let told = if *seconds { millis.saturating_add(500) / 1000 } else { millis };
                i64::try_from(told).unwrap_or(i64::MAX)
            }
        });
    }

    fn one(&self, reply: &Reply, out: &mut Out<'_>) {
        match reply {
            Reply::Value(value) => self.read(value.as_deref(), out),
            Reply::Lasts(lasting) => self.lasts(*lasting, out),
            Reply::Written(_) => out.ok(),
            Reply::Updated(updated) => self.updated(updated, out),
            Reply::Told(told) => whole(told, out),
            _ => out.error("ERR an answer to another question"),
        }
    }

    fn updated(&self, updated: &Updated, out: &mut Out<'_>) {
        match (self, updated) {
            (_, Updated::Wrong(wrong)) => out.error(&format!("ERR {}", wrong.text())),
            (_, Updated::Number(number)) => out.integer(*number),
            (_, Updated::Text(text)) => out.bulk(text),
            (_, Updated::Length(length)) => out.integer(i64::try_from(*length).unwrap_or(i64::MAX)),
            (Shape::Changed, Updated::Done { .. }) => out.integer(1),
            (Shape::Changed, Updated::Unchanged { .. }) => out.integer(0),
            (Shape::Old, Updated::Done { old } | Updated::Unchanged { old }) => out.bulk_or_null(old.as_deref()),
            (_, Updated::Done { .. }) => out.ok(),
            (_, Updated::Unchanged { .. }) => out.null(),
        }
    }
}

fn value(reply: &Reply) -> Option<&[u8]> {
    if let Reply::Value(value) = reply { value.as_deref() } else { None }
}

/// Redis has no word for either; the words say which it is.
fn failure(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Refused(Refusal::Unavailable(why)) => Some(format!("ERR unavailable, nothing was executed: {why}")),
        Reply::Refused(_) => Some("ERR unavailable, nothing was executed: no server takes it at the moment".to_owned()),
        Reply::Unknown(why) => Some(format!("ERR unknown outcome, it may or may not have been executed: {why}")),
        _ => None,
    }
}

/// An answer made for the text dialect: digits, or why there are none.
fn whole(told: &crate::replica::Told, out: &mut Out<'_>) {
    let text = told.text.as_deref().and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    match text.parse() {
        Ok(number) => out.integer(number),
        Err(_) => out.error(&format!("ERR unavailable: {text}")),
    }
}

/// The bytes from one place to another, both included, counted from the end if negative.
fn range(value: &[u8], from: i64, to: i64) -> &[u8] {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if from < 0 && to < 0 && from > to {
        return &[];
    }
    let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let (from, to) = (place(from), place(to).min(length - 1));
    if from > to {
        return &[];
    }
    let index = |at: i64| usize::try_from(at).unwrap_or(0);
    &value[index(from)..=index(to)]
}

fn encoding(value: &[u8]) -> &'static [u8] {
    let integer = value.len() <= 20 && super::numbers::integer(value).is_some();
    match value.len() {
        _ if integer => b"int",
        0..=44 => b"embstr",
        _ => b"raw",
    }
}

/// The wall clock's milliseconds at the start of a request, from which what is left of a key's time is counted.
pub(super) fn lasts(millis: bool, date: bool, wall: u64) -> Shape {
    Shape::Lasts { from: (!date).then_some(wall), seconds: !millis }
}
