//! The requests of one connection that are under way, in order, and their answers as they come.
//!
//! Answers may come in any order; they leave in the order of the requests. Invariant: the first entry is only answered
//! while the output is full; otherwise what is answered at the front has already moved there.

use std::collections::VecDeque;

use bytes::BytesMut;
use common::text::{Dialect, encode};

use super::buffer::Buffer;
use super::redis::owed::{Owed, Taken};
use super::text::Echo;
use crate::relay::core::Order;
use crate::replica::{Reply, Token};

/// Entries for which room is kept when there are none.
const KEEP: usize = 64;

/// The hash of a request that concerns all keys. A key that happens to have it only costs a needless wait.
pub(super) const EVERY_KEY: u64 = 0;

/// A text request that waits for its answer: what the answer must repeat, and what later requests must know.
#[derive(Debug)]
pub(super) struct Asked {
    /// The key's hash. Two keys with one hash only cost a needless wait.
    pub(super) hash: u64,
    pub(super) what: What,
    /// What the answer repeats.
    pub(super) echo: Echo,
    /// Bytes that it keeps in memory while it is under way.
    pub(super) cost: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Read,
    Write,
    /// A write that is answered with the value before.
    Swap,
    /// About the membership. Its answer comes as text behind a byte that says whether it is a success; `key` is the word.
    Admin,
}

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    next: u64,
    reads: usize,
    writes: usize,
    bytes: usize,
    /// Tasks of Redis clients whose server did not do them.
    again: Vec<u64>,
    /// Writes among them that are with the relay.
    relayed: usize,
    /// A Redis client's task was answered since that was last asked.
    stirred: bool,
}

#[derive(Debug)]
struct Entry {
    index: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Asked),
    Answered(Asked, Reply),
    /// A Redis client's; it has as many numbers as tasks.
    Owed(Box<Owed>),
    /// Answers that were known at once but have to wait for their turn.
    Encoded(BytesMut),
}

impl Pending {
    /// Whether an answer known now can go out now.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many requests wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.reads + self.writes
    }

    /// Whether any of them reads.
    pub(super) fn is_reading(&self) -> bool {
        self.reads > 0
    }

    /// Bytes kept for requests under way and for answers that wait for their turn.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory behind it: those bytes, and the entries themselves.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.entries.capacity() * size_of::<Entry>()
    }

    /// Nobody is there any more to be answered: what waits for its turn is dropped, what is under way stays.
    pub(super) fn forget_answers(&mut self) {
        // Nor does anybody wait for what would have to be done elsewhere.
        for index in std::mem::take(&mut self.again) {
            self.give_up(index);
        }
        self.entries.retain(Entry::waits);
        self.bytes = self.entries.iter().map(Entry::cost).sum();
    }

    /// The number that the next request to wait will have.
    pub(super) fn next_index(&self) -> u64 {
        self.next
    }

    /// Whether a request on this key must wait for an earlier one: a read must see the connection's writes before it and
    /// none after it. Writes need not wait for writes, whose order the slot's log keeps.
    pub(super) fn conflicts(&self, what: What, hash: u64) -> bool {
        let others = if what == What::Write { self.reads } else { self.waiting() };
        others > 0
            && self.entries.iter().any(|entry| match &entry.state {
                State::Waiting(asked) => {
                    (asked.hash == hash || asked.hash == EVERY_KEY) && (what == What::Read || asked.what == What::Read)
                }
                State::Owed(owed) => (what == What::Read || owed.reads()) && owed.concerns(hash),
                State::Answered(..) | State::Encoded(_) => false,
            })
    }

    /// Whether a write on this key is with the relay: another one must go there too, to stay behind it.
    pub(super) fn is_relayed(&self, hash: u64) -> bool {
        let with = |entry: &Entry| matches!(&entry.state, State::Owed(owed) if owed.is_relayed(hash));
        self.relayed > 0 && self.entries.iter().any(with)
    }

    /// A request whose answer comes later, under the number [`Pending::next_index`] gave.
    pub(super) fn push(&mut self, asked: Asked) {
        *self.count(asked.what) += 1;
        self.bytes += asked.cost;
        self.entries.push_back(Entry { index: self.next, state: State::Waiting(asked) });
        self.next += 1;
    }

    /// A Redis client's request, whose tasks have the numbers from [`Pending::next_index`] on.
    pub(super) fn owe(&mut self, owed: Owed) {
        let (tasks, missing) = (owed.tasks.len() as u64, owed.missing());
        *self.count(if owed.reads() { What::Read } else { What::Write }) += missing;
        self.bytes += owed.cost();
        self.entries.push_back(Entry { index: self.next, state: State::Owed(Box::new(owed)) });
        self.next += tasks;
    }

    /// Appends an answer behind all that are waited for.
    pub(super) fn encoded(&mut self, append: impl FnOnce(&mut BytesMut)) {
        if !matches!(self.entries.back(), Some(Entry { state: State::Encoded(_), .. })) {
            self.entries.push_back(Entry { index: self.next, state: State::Encoded(BytesMut::new()) });
            self.next += 1;
        }
        if let Some(Entry { state: State::Encoded(answers), .. }) = self.entries.back_mut() {
            let before = answers.capacity();
            append(answers);
            self.bytes += answers.capacity() - before;
        }
    }

    /// Takes an answer. One for a request that has its answer already is ignored.
    pub(super) fn settle(&mut self, index: u64, reply: Reply) {
        let Some(at) = self.find(index) else { return };
        let entry = &mut self.entries[at];
        match &mut entry.state {
            State::Owed(owed) => {
                self.stirred = true;
                let (reads, before) = (owed.reads(), owed.cost());
                let task = usize::try_from(index - entry.index).unwrap_or(usize::MAX);
                let taken = owed.take(task, reply);
                let relayed = taken == Taken::Done && owed.tasks[task].is_relayed_write();
                self.relayed -= usize::from(relayed);
                let after = owed.cost();
                self.bytes = (self.bytes + after).saturating_sub(before);
                match taken {
                    Taken::Done => *self.count(if reads { What::Read } else { What::Write }) -= 1,
                    Taken::Again => self.again.push(index),
                    Taken::Ignored => {}
                }
            }
            State::Waiting(_) => {
                let State::Waiting(mut asked) = std::mem::replace(&mut entry.state, State::Encoded(BytesMut::new()))
                else {
                    return;
                };
                let what = asked.what;
                let brought = brought(&reply);
                asked.cost += brought;
                entry.state = State::Answered(asked, reply);
                self.bytes += brought;
                *self.count(what) -= 1;
            }
            State::Answered(..) | State::Encoded(_) => {}
        }
    }

    /// Whether a Redis client's task was answered since this was last asked.
    pub(super) fn was_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    /// The tasks that must be done elsewhere, in order. A write waits until no later one of its key is out, for it would be
    /// executed after that; if a later one was executed meanwhile, it is too late for it.
    pub(super) fn redo(&mut self, conn: u32) -> Vec<Order> {
        if self.again.is_empty() {
            return Vec::new();
        }
        let mut again = std::mem::take(&mut self.again);
        again.sort_unstable();
        again.dedup();
        let mut orders = Vec::new();
        for index in &again {
            match self.later(*index, &again) {
                Later::Out => self.again.push(*index),
                Later::Executed => self.give_up(*index),
                Later::None => orders.extend(self.order(*index, conn)),
            }
        }
        orders
    }

    /// The task as the relay takes it; from now on it is there.
    pub(super) fn order(&mut self, index: u64, conn: u32) -> Option<Order> {
        let at = self.find(index)?;
        let entry = &mut self.entries[at];
        let State::Owed(owed) = &mut entry.state else { return None };
        let task = usize::try_from(index - entry.index).unwrap_or(usize::MAX);
        let order = owed.order(task, Token { conn, index })?;
        self.relayed += usize::from(order.job.is_write());
        Some(order)
    }

    fn later(&self, index: u64, again: &[u64]) -> Later {
        let Some(hash) = self.hash_of_write(index) else { return Later::None };
        let mut found = Later::None;
        let from = self.find(index).unwrap_or(0);
        for entry in self.entries.range(from..) {
            let State::Owed(owed) = &entry.state else { continue };
            if entry.index <= index && !owed.is_run() {
                continue;
            }
            let tasks = (entry.index..).zip(&owed.tasks);
            for (number, task) in tasks.filter(|(number, task)| *number > index && task.writes(hash)) {
                if task.is_executed() {
                    return Later::Executed;
                }
                if task.reply.is_none() && !again.contains(&number) {
                    found = Later::Out;
                }
            }
        }
        found
    }

    fn hash_of_write(&self, index: u64) -> Option<u64> {
        let entry = &self.entries[self.find(index)?];
        let State::Owed(owed) = &entry.state else { return None };
        let task = owed.tasks.get(usize::try_from(index - entry.index).ok()?)?;
        task.job.is_write().then_some(task.hash)
    }

    /// Ends a task that came back as undone.
    fn give_up(&mut self, index: u64) {
        let Some(at) = self.find(index) else { return };
        let entry = &mut self.entries[at];
        let State::Owed(owed) = &mut entry.state else { return };
        let what = if owed.reads() { What::Read } else { What::Write };
        if owed.give_up(usize::try_from(index - entry.index).unwrap_or(usize::MAX)) {
            *self.count(what) -= 1;
        }
    }

    fn find(&self, index: u64) -> Option<usize> {
        // Most entries have one number, but for those of many keys and of runs.
        let guess = usize::try_from(index.checked_sub(self.entries.front()?.index)?).ok()?;
        let at = match self.entries.get(guess) {
            Some(entry) if entry.index == index => guess,
            _ => self.entries.partition_point(|entry| entry.index <= index).checked_sub(1)?,
        };
        let entry = &self.entries[at];
        let numbers = if let State::Owed(owed) = &entry.state { owed.tasks.len() as u64 } else { 1 };
        (index < entry.index + numbers).then_some(at)
    }

    /// Moves the answers whose turn it is to `out`, until that holds `enough`.
    pub(super) fn flush(&mut self, dialect: Dialect, out: &mut Buffer, enough: usize) {
        while let Some(entry) = self.entries.front().filter(|_| out.rest().len() < enough) {
            match &entry.state {
                State::Waiting(_) => break,
                State::Owed(owed) if owed.missing() > 0 => break,
                State::Owed(owed) => owed.encode(out.end()),
                State::Answered(asked, reply) => {
                    encode(out.end(), dialect, asked.echo.form, &asked.echo.answer(asked.what, reply));
                }
                State::Encoded(answers) => out.end().extend_from_slice(answers),
            }
            self.bytes -= entry.cost();
            self.entries.pop_front();
        }
        if self.entries.is_empty() && self.entries.capacity() > KEEP {
            self.entries = VecDeque::new();
        }
    }

    fn count(&mut self, what: What) -> &mut usize {
        match what {
            What::Read => &mut self.reads,
            What::Write | What::Swap | What::Admin => &mut self.writes,
        }
    }
}

/// What became of the later writes of a key.
enum Later {
    None,
    Out,
    Executed,
}

/// The bytes that an answer brings.
pub(super) fn brought(reply: &Reply) -> usize {
    use common::update::Updated;
    match reply {
        Reply::Value(value) | Reply::Swapped(value) => value.as_ref().map_or(0, |value| value.len()),
        Reply::Updated(Updated::Done { old } | Updated::Unchanged { old }) => old.as_ref().map_or(0, |old| old.len()),
        Reply::Updated(Updated::Text(text)) => text.len(),
        Reply::Keys(keys) => keys.keys.iter().map(|key| key.0.len() + size_of_val(key)).sum(),
        Reply::Page(page) => page.len(),
        Reply::Told(told) => told.text.as_ref().map_or(0, |text| text.len()),
        _ => 0,
    }
}

impl Entry {
    fn cost(&self) -> usize {
        match &self.state {
            State::Waiting(asked) | State::Answered(asked, _) => asked.cost,
            State::Owed(owed) => owed.cost(),
            State::Encoded(answers) => answers.capacity(),
        }
    }

    fn waits(&self) -> bool {
        match &self.state {
            State::Waiting(_) => true,
            State::Owed(owed) => owed.missing() > 0,
            State::Answered(..) | State::Encoded(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use common::text::Form;

    use super::*;

    fn asked(what: What, hash: u64) -> Asked {
        Asked { hash, what, echo: Echo::nothing(Form::Binary), cost: 1 }
    }

    #[test]
    fn only_a_read_and_a_write_of_one_key_wait_for_each_other() {
        let mut pending = Pending::default();
        pending.push(asked(What::Write, 7));
        assert!(
            pending.conflicts(What::Read, 7) && !pending.conflicts(What::Write, 7) && !pending.conflicts(What::Read, 8)
        );
        pending.push(asked(What::Read, 8));
        assert!(pending.conflicts(What::Write, 8) && !pending.conflicts(What::Write, 9));
        pending.push(asked(What::Read, EVERY_KEY));
        assert!(pending.conflicts(What::Write, 9), "a scan sees no write behind it");

        let mut out = Buffer::default();
        for index in [2, 1, 1, 0] {
            pending.settle(index, Reply::Value(None));
            assert!(out.rest().is_empty());
            pending.flush(Dialect::Uoft, &mut out, 1000);
        }
        assert!(!pending.conflicts(What::Read, 7) && !pending.conflicts(What::Write, 9));
        assert!(pending.is_empty() && pending.waiting() == 0 && pending.bytes() == 0);
    }

    #[test]
    fn answers_wait_where_they_are_while_the_output_is_full() {
        let mut pending = Pending::default();
        let value = Bytes::from(vec![b'v'; 1000]);
        for index in 0..200 {
            pending.push(asked(What::Read, index));
        }
        for index in 0..200 {
            pending.settle(index, Reply::Value(Some(value.clone())));
        }
        let (mut out, mut sent) = (Buffer::default(), 0);
        while !pending.is_empty() {
            pending.flush(Dialect::Uoft, &mut out, 10_000);
            assert!(out.rest().len() < 12_000, "{}", out.rest().len());
            sent += out.rest().len();
            out.clear();
        }
        assert!(sent > 200_000 && pending.bytes() == 0 && pending.memory() < 20_000);
    }

    #[test]
    fn without_a_client_only_what_is_under_way_counts() {
        let mut pending = Pending::default();
        (0..3).for_each(|hash| pending.push(asked(What::Write, hash)));
        pending.encoded(|out| out.extend_from_slice(&[0; 5000]));
        pending.settle(1, Reply::Value(Some(Bytes::from(vec![0; 9000]))));
        pending.forget_answers();
        assert_eq!((pending.waiting(), pending.bytes()), (2, 2));
        pending.settle(0, Reply::Value(None));
        pending.settle(2, Reply::Value(None));
        assert_eq!(pending.waiting(), 0);
    }
}
