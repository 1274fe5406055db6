//! Clients that speak Redis's protocol: one command at a time or several SETs, at any server, on a connection that is kept for
//! a while.
//!
//! They write values like the others, some with a deadline; they take and swap values, whose answers a repetition inside
//! the cluster must not change; and they count. What they are told is in the history with everything else.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use kvclient::router::Failure;

use super::client::{key_bytes, value_bytes, written_by};
use super::conns::Waiter;
use super::queue::Event;
use super::world::World;
use crate::history::Action;

/// One such client.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    conn: Option<u32>,
    /// What is not answered yet, in order.
    current: VecDeque<(Word, u32)>,
}

/// What it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Get,
    Set,
    /// With a deadline.
    SetFor,
    Delete,
    Swap,
    Take,
    Increment,
}

/// A server's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Spoken {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Bytes>),
}

impl Speaker {
    pub(super) fn idle(&self) -> bool {
        self.current.is_empty()
    }
}

impl World {
    /// Begins an operation of a client that speaks Redis.
    pub(super) fn speak(&mut self, c: usize) {
        let word = match self.rng.u8(0..20) {
            0..6 => Word::Get,
            6..9 => Word::Set,
            9..13 => Word::SetFor,
            13..14 => Word::Delete,
            14..16 => Word::Swap,
            16..17 => Word::Take,
            _ => Word::Increment,
        };
        let several = word == Word::Set && !self.options.plain && self.extra.bool();
        let count = if several { self.extra.usize(2..=MOST_AT_ONCE) } else { 1 };
        let (mut bytes, mut current) = (BytesMut::new(), VecDeque::new());
        for _ in 0..count {
            let key = self.rng.u32(0..self.plan.keys);
            let id = self.call(c, word, key);
            bytes.extend_from_slice(&self.words(word, key, id));
            current.push_back((word, id));
        }
        if self.rng.u8(0..12) == 0 {
            self.close(c);
        }
        let known = self.speaker(c).and_then(|speaker| speaker.conn).filter(|conn| self.is_open(*conn));
        let conn = known.unwrap_or_else(|| {
            let there: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].takes_part()).collect();
            let server = self.rng.choice(&there).copied().unwrap_or(0);
            self.dial(c, server)
        });
        if let Some(speaker) = self.speaker(c) {
            (speaker.conn, speaker.current) = (Some(conn), current);
        }
        let serial = self.serial(c);
        self.say(conn, &vec![Waiter::Spoken(serial); count], bytes);
        let patience = self.rng.u64(self.plan.patience.clone()) * 3;
        self.queue.at(self.now + patience, Event::Client { client: c, serial });
    }

    /// The operation's number in the history.
    fn call(&mut self, c: usize, word: Word, key: u32) -> u32 {
        self.stats.operations += 1;
        self.stats.bump("Redis: commands");
        let (client, now) = (u32::try_from(c).unwrap_or(0), self.now);
        match word {
            Word::Increment => self.counters.call(key % COUNTERS, now),
            _ => self.history.call(client, key, now, |value| match word {
                Word::Set => Action::Put { value, created: None },
                Word::SetFor => Action::PutFor { value },
                Word::Delete => Action::Delete { existed: None },
                Word::Swap => Action::Swap { value, old: None },
                Word::Take => Action::Take { old: None },
                Word::Get | Word::Increment => Action::Get { seen: None },
            }),
        }
    }

    fn words(&mut self, word: Word, key: u32, id: u32) -> BytesMut {
        let (name, value) = (key_bytes(key), value_bytes(id, self.rng.u8(0..40) == 0));
        let millis = self.rng.u64(20..4_000).to_string();
        match word {
            Word::Get => command(&[b"GET", &name]),
            Word::Set => command(&[b"SET", &name, &value]),
            Word::SetFor => command(&[b"SET", &name, &value, b"PX", millis.as_bytes()]),
            Word::Delete => command(&[b"DEL", &name]),
            Word::Swap => command(&[b"GETSET", &name, &value]),
            Word::Take => command(&[b"GETDEL", &name]),
            Word::Increment => command(&[b"INCR", &counter_bytes(key % COUNTERS)]),
        }
    }

    fn speaker(&mut self, c: usize) -> Option<&mut Speaker> {
        self.clients[c].speaker.as_mut()
    }

    /// The client turns to somebody else next. What is under way is not heard any more.
    fn close(&mut self, c: usize) {
        if let Some(conn) = self.speaker(c).and_then(|speaker| speaker.conn.take()) {
            self.leave_conn(conn);
        }
    }

    /// Bytes have come; `input` loses what is understood.
    pub(super) fn hear(input: &mut BytesMut) -> Result<Option<Spoken>, String> {
        let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&input[..end]).into_owned();
        let (kind, rest) = line.split_at(1.min(line.len()));
        let number = || rest.parse::<i64>().map_err(|_| format!("no number: {line:?}"));
        let spoken = match kind {
            "+" => Spoken::Simple(rest.to_owned()),
            "-" => Spoken::Error(rest.to_owned()),
            ":" => Spoken::Integer(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Spoken::Bulk(None),
                Ok(length) if input.len() < end + 2 + length + 2 => return Ok(None),
                Ok(length) => {
                    let value = Bytes::copy_from_slice(&input[end + 2..end + 2 + length]);
                    input.advance(length + 2);
                    Spoken::Bulk(Some(value))
                }
            },
            _ => return Err(format!("no reply: {line:?}")),
        };
        input.advance(end + 2);
        Ok(Some(spoken))
    }

    /// An answer to the client's command.
    pub(super) fn spoken(&mut self, c: usize, serial: u64, spoken: Spoken) {
        if !self.awaits(c, serial) {
            return;
        }
        let Some((word, id)) = self.speaker(c).and_then(|speaker| speaker.current.pop_front()) else { return };
        self.trace.line(self.now, || format!("c{c} {word:?} {id}: {spoken:?}"));
        let done = did(word, id, &spoken);
        let failed = done.is_err();
        match done {
            Ok(Some(action)) => self.history.answered(id, self.now, None, action),
            Ok(None) => {
                if let Spoken::Integer(sum) = spoken {
                    self.counters.answered(id, self.now, sum);
                }
            }
            Err(Why::Refused) => {
                self.stats.bump("Redis: refused");
                match word {
                    Word::Get => {}
                    Word::Increment => self.counters.refused(id),
                    _ => self.history.refused(id, self.now, None),
                }
            }
            Err(Why::Unknown) => self.stats.bump("outcomes unknown"),
            Err(Why::Nonsense) => return self.fail(format!("c{c} {word:?} {id} is answered with {spoken:?}")),
        }
        if !failed {
            self.stats.bump("operations answered");
        }
        if self.speaker(c).is_some_and(|speaker| speaker.idle()) {
            if failed {
                self.close(c);
            }
            self.rest(c);
        }
    }

    /// No answer has come, or none will.
    pub(super) fn unheard(&mut self, c: usize, serial: u64, how: Option<Failure>) {
        if !self.awaits(c, serial) {
            return;
        }
        let Some(current) = self.speaker(c).map(|speaker| std::mem::take(&mut speaker.current)) else { return };
        if current.is_empty() {
            return;
        }
        self.close(c);
        let executed = how.is_none_or(Failure::maybe_executed);
        for (word, id) in current {
            match word {
                Word::Get => self.stats.bump("reads given up"),
                _ if executed => self.stats.bump("outcomes unknown"),
                Word::Increment => self.counters.refused(id),
                _ => self.history.refused(id, self.now, None),
            }
        }
        self.rest(c);
    }
}

/// So many SETs may be sent at once: more than are answered together.
const MOST_AT_ONCE: usize = 12;

/// Keys that are only counted.
pub(super) const COUNTERS: u32 = 3;

/// A counter's key.
pub(super) fn counter_bytes(counter: u32) -> Bytes {
    Bytes::from(format!("n{counter}"))
}

fn command(words: &[&[u8]]) -> BytesMut {
    let mut bytes = BytesMut::from(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Why an answer is none.
enum Why {
    /// It was certainly not executed.
    Refused,
    Unknown,
    Nonsense,
}

/// What the client knows now. None: a count.
fn did(word: Word, id: u32, spoken: &Spoken) -> Result<Option<Action>, Why> {
    let old = |value: &Option<Bytes>| match value {
        None => Ok(None),
        Some(value) => written_by(value).map(Some).ok_or(Why::Nonsense),
    };
    Ok(Some(match (word, spoken) {
        (_, Spoken::Error(text)) if text.starts_with("ERR unknown outcome") => return Err(Why::Unknown),
        (_, Spoken::Error(text)) if text.starts_with("ERR unavailable") => return Err(Why::Refused),
        (_, Spoken::Error(text)) if text.starts_with("LOADING") => return Err(Why::Refused),
        (Word::Increment, Spoken::Integer(_)) => return Ok(None),
        (Word::Get, Spoken::Bulk(value)) => Action::Get { seen: old(value)? },
        (Word::Set, Spoken::Simple(_)) => Action::Put { value: id, created: None },
        (Word::SetFor, Spoken::Simple(_)) => Action::PutFor { value: id },
        (Word::Delete, Spoken::Integer(gone)) => Action::Delete { existed: Some(*gone == 1) },
        (Word::Swap, Spoken::Bulk(value)) => Action::Swap { value: id, old: Some(old(value)?) },
        (Word::Take, Spoken::Bulk(value)) => Action::Take { old: Some(old(value)?) },
        _ => return Err(Why::Nonsense),
    }))
}
