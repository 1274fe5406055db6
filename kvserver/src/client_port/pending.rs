//! The requests of one connection that are under way, in order, and their answers as they come.
//!
//! Answers may come in any order; they leave in the order of the requests. Invariant: the first entry is only answered
//! while the output is full; otherwise what is answered at the front has already moved there.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use common::text::{Answer, Dialect, Form, encode};

use super::buffer::Buffer;
use crate::replica::{Refusal, Reply, Told};

/// Entries for which room is kept when there are none.
const KEEP: usize = 64;

/// The hash of a request that concerns all keys. A key that happens to have it only costs a needless wait.
pub(super) const EVERY_KEY: u64 = 0;

/// A request that waits for its answer: what the answer must repeat, and what later requests must know.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The key's hash. Two keys with one hash only cost a needless wait.
    pub(super) hash: u64,
    pub(super) what: What,
    /// Empty in the binary form, whose answers repeat nothing.
    pub(super) key: Bytes,
    /// As `key`; None for a read and for a delete.
    pub(super) value: Option<Bytes>,
    pub(super) form: Form,
    /// Whether the client is one of ours, to whom a refusal says why.
    pub(super) explain: bool,
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
        self.entries.retain(|entry| matches!(entry.state, State::Waiting(_)));
        self.bytes = self.entries.iter().map(|entry| entry.cost()).sum();
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
                State::Answered(..) | State::Encoded(_) => false,
            })
    }

    /// A request whose answer comes later, under the number [`Pending::next_index`] gave.
    pub(super) fn push(&mut self, asked: Asked) {
        *self.count(asked.what) += 1;
        self.bytes += asked.cost;
        self.entries.push_back(Entry { index: self.next, state: State::Waiting(asked) });
        self.next += 1;
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
        let Ok(at) = self.entries.binary_search_by_key(&index, |entry| entry.index) else { return };
        let state = &mut self.entries[at].state;
        let State::Waiting(asked) = state else { return };
        let what = asked.what;
        let mut asked = asked.clone();
        let brought = match &reply {
            Reply::Value(value) | Reply::Swapped(value) => value.clone(),
            Reply::Page(page) => Some(page.clone()),
            Reply::Told(told) => told.text.clone(),
            _ => None,
        };
        if let Some(value) = brought {
            asked.cost += value.len();
            self.bytes += value.len();
        }
        *state = State::Answered(asked, reply);
        *self.count(what) -= 1;
    }

    /// Moves the answers whose turn it is to `out`, until that holds `enough`.
    pub(super) fn flush(&mut self, dialect: Dialect, out: &mut Buffer, enough: usize) {
        while let Some(entry) = self.entries.front().filter(|_| out.rest().len() < enough) {
            match &entry.state {
                State::Waiting(_) => break,
                State::Answered(asked, reply) => encode(out.end(), dialect, asked.form, &asked.answer(reply)),
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

impl Entry {
    fn cost(&self) -> usize {
        match &self.state {
            State::Waiting(asked) | State::Answered(asked, _) => asked.cost,
            State::Encoded(answers) => answers.capacity(),
        }
    }
}

impl Asked {
    fn answer<'a>(&'a self, reply: &'a Reply) -> Answer<'a> {
        let (key, value) = (&self.key, self.value.as_deref());
        match reply {
            Reply::Written(outcome) => Answer::Written { key, value, outcome: *outcome },
            Reply::Value(Some(value)) => Answer::Value { key, value },
            Reply::Value(None) => Answer::Missing { key },
            Reply::Page(text) if self.what == What::Admin => {
                let (done, text) = (text.first() == Some(&b'+'), text.get(1..).unwrap_or_default());
                let word = std::str::from_utf8(key).unwrap_or_default();
                Answer::Admin { word, done, text: std::str::from_utf8(text).unwrap_or_default() }
            }
            Reply::Page(page) => Answer::Page(page),
            Reply::Swapped(old) => Answer::Swapped { key, old: old.as_deref() },
            Reply::Told(told) => self.told(told),
            // Never asked for by a request of this dialect.
            Reply::Extent(_) | Reply::Updated(_) | Reply::Lasts(_) => Answer::Failed("an answer to another question"),
            Reply::Refused(refusal) => refused(*refusal, self.explain),
            Reply::Unknown(why) if self.what == What::Swap => {
                Answer::SwapUnknown { key, value: value.unwrap_or_default(), why }
            }
            Reply::Unknown(why) => Answer::Unknown { key, value, why },
        }
    }

    fn told<'a>(&self, told: &'a Told) -> Answer<'a> {
        let text = told.text.as_deref();
        match text {
            Some(why) if told.word == Told::FAILED => Answer::Failed(std::str::from_utf8(why).unwrap_or_default()),
            _ => Answer::Told { word: told.word, text, counted: told.counted },
        }
    }
}

/// A refusal as an answer; `explain` adds the reason, which the courses' clients do not expect.
pub(super) fn refused<'a>(refusal: Refusal, explain: bool) -> Answer<'a> {
    match refusal {
        Refusal::NotResponsible => Answer::NotResponsible,
        Refusal::WriteLocked => Answer::WriteLock,
        Refusal::Unavailable(why) => Answer::Stopped(explain.then_some(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(what: What, hash: u64) -> Asked {
        Asked { hash, what, key: Bytes::new(), value: None, form: Form::Binary, explain: true, cost: 1 }
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
