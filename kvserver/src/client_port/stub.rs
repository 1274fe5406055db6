//! A stand-in for the node: a map whose answers a test can hold back and let go in any order.
//!
//! Keys that begin with `later`, `down`, `far`, `locked` or `lost` get the answers that a cluster gives in trouble.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::blob::Blob;
use common::control::Wish;
use common::forward::{Job, Keys};
use common::position::Position;
use common::sessions::Sessions;
use common::text::{Whole, encode_page};
use common::update::{Expiry, Only, Update, Updated, Wrong};
use common::{Outcome, Time};

use crate::relay::Once;
use crate::relay::core::Order;
use crate::replica::{Lasting, Read, Refusal, Reply, Scan, Token, Told, Write, WriteOp};
use crate::replies::Replies;

/// The wall clock, in milliseconds since the Unix epoch.
pub(super) const WALL: u64 = 1_700_000_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Stub {
    replies: Arc<Replies>,
    ids: Arc<Mutex<Sessions>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    map: BTreeMap<Vec<u8>, Bytes>,
    until: BTreeMap<Vec<u8>, u64>,
    relayed: Vec<Job>,
    holding: bool,
    alone: bool,
    held: Vec<(Token, Option<Write>, Bytes)>,
    writes: Vec<Write>,
}

impl Stub {
    pub(super) fn new(replies: Arc<Replies>) -> Arc<Stub> {
        let ids = Arc::new(Mutex::new(Sessions::new(1, Time(0), WALL)));
        Arc::new(Stub { replies, ids, state: Mutex::default() })
    }

    /// Answers at once, with what was asked.
    pub(super) fn question(&self, whole: &Whole<'_>, token: Token) {
        let told = Told { word: whole.success(), text: Some(Bytes::from_static(b"7")), counted: false };
        self.replies.complete(token, Reply::Told(told));
    }

    /// From now on writes wait for [`Stub::release`].
    pub(super) fn hold(&self) {
        self.state.lock().unwrap().holding = true;
    }

    /// How many requests wait.
    pub(super) fn held(&self) -> usize {
        self.state.lock().unwrap().held.len()
    }

    /// Executes what waits in order, and answers it in the order `pick` makes of it; later requests wait no more.
    pub(super) fn release(&self, pick: impl Fn(&mut Vec<(Token, Reply)>)) {
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock().unwrap();
            state.holding = false;
            for (token, write, key) in std::mem::take(&mut state.held) {
                let reply = match write {
                    Some(write) => state.apply(write),
                    None => Reply::Value(state.map.get(&key[..]).cloned()),
                };
                answers.push((token, reply));
            }
        }
        pick(&mut answers);
        for (token, reply) in answers {
            self.replies.complete(token, reply.clone());
            self.replies.complete(token, reply);
        }
    }

    /// The writes that were executed.
    pub(super) fn writes(&self) -> Vec<Write> {
        self.state.lock().unwrap().writes.clone()
    }

    /// As a server answers that is alone.
    pub(super) fn alone(&self) {
        self.state.lock().unwrap().alone = true;
    }

    pub(super) fn ecs(&self) -> Result<String, &'static str> {
        if self.state.lock().unwrap().alone { Err("alone") } else { Ok("127.0.0.1:3000".into()) }
    }

    /// Everything is one slot.
    pub(super) fn scan(&self, after: Option<&[u8]>, token: Token) -> Scan {
        let state = self.state.lock().unwrap();
        let records = state.map.iter().map(|(key, value)| (&key[..], &value[..]));
        let page = encode_page(Position(u128::MAX), records.filter(|(key, _)| after.is_none_or(|after| *key > after)));
        if state.holding {
            drop(state);
            self.replies.complete(token, Reply::Page(page));
            return Scan::Later;
        }
        Scan::Page(page)
    }

    pub(super) fn read<R>(&self, key: &[u8], token: Token, f: impl FnOnce(Read<'_>) -> R) -> R {
        let mut state = self.state.lock().unwrap();
        if key.starts_with(b"later") {
            state.held.push((token, None, Bytes::copy_from_slice(key)));
            return f(Read::Later);
        }
        match refusal(key) {
            Some(refusal) => f(Read::Refused(refusal)),
            None => f(state.map.get(key).map_or(Read::Missing, |value| Read::Value(value))),
        }
    }

    pub(super) fn lasting(&self, key: &[u8]) -> Read<'static> {
        let state = self.state.lock().unwrap();
        let lasting = match state.map.contains_key(key) {
            false => Lasting::Missing,
            true => state.until.get(key).map_or(Lasting::Forever, |at| Lasting::Until(*at)),
        };
        Read::Lasts(lasting)
    }

    pub(super) fn once(&self, now: Time) -> Once {
        Once::of(&self.ids, now)
    }

    /// Answers as another server would, which has the same map.
    pub(super) fn relay(&self, order: Order) {
        let Order { token, job, request, doubt, .. } = order;
        let reply = {
            let mut state = self.state.lock().unwrap();
            state.relayed.push(job.clone());
            match job {
                Job::Read(key) => Reply::Value(state.map.get(&key.0[..]).cloned()),
                Job::Lasts(_) => Reply::Lasts(Lasting::Forever),
                Job::Keys { .. } => {
                    let keys = state.map.keys().map(|key| Blob(Bytes::from(key.clone()))).collect();
                    Reply::Keys(Keys { keys, next: None })
                }
                Job::Write { key, what } => {
                    state.apply_anyhow(Write { key: key.0, op: what.into(), request, retry: doubt })
                }
            }
        };
        self.replies.complete(token, reply);
    }

    /// What was done elsewhere.
    pub(super) fn relayed(&self) -> usize {
        self.state.lock().unwrap().relayed.len()
    }

    pub(super) fn wish(&self, wish: &Wish, token: Token) {
        self.replies.complete(token, Reply::Page(Bytes::from(format!("+{wish:?}"))));
    }

    pub(super) fn write(&self, write: Write, token: Token) {
        let reply = {
            let mut state = self.state.lock().unwrap();
            if state.holding {
                let key = write.key.clone();
                state.held.push((token, Some(write), key));
                return;
            }
            state.apply(write)
        };
        self.replies.complete(token, reply);
    }
}

impl State {
    fn apply(&mut self, write: Write) -> Reply {
        if let Some(refusal) = refusal(&write.key) {
            return Reply::Refused(refusal);
        }
        if write.key.starts_with(b"lost") {
            return Reply::Unknown("no answer from a replica");
        }
        self.apply_anyhow(write)
    }

    fn apply_anyhow(&mut self, write: Write) -> Reply {
        let (key, op) = (write.key.to_vec(), write.op.clone());
        self.writes.push(write);
        if let WriteOp::Swap(value) = op {
            return Reply::Swapped(self.map.insert(key, value));
        }
        if let WriteOp::Update(update) = op {
            return Reply::Updated(self.update(key, update));
        }
        Reply::Written(match op {
            WriteOp::Swap(_) | WriteOp::Update(_) | WriteOp::Probe => Outcome::Missing,
            WriteOp::Put(value) => self.put(key, value).map_or(Outcome::Created, |_| Outcome::Updated),
            WriteOp::Delete => self.map.remove(&key).map_or(Outcome::Missing, |_| Outcome::Deleted),
        })
    }
}

impl State {
    fn put(&mut self, key: Vec<u8>, value: Bytes) -> Option<Bytes> {
        self.until.remove(&key);
        self.map.insert(key, value)
    }

    /// As much of it as the port's tests look at.
    fn update(&mut self, key: Vec<u8>, update: Update) -> Updated {
        let old = self.map.get(&key).cloned();
        match update {
            Update::Set { only: Only::Missing, .. } if old.is_some() => Updated::Unchanged { old },
            Update::Set { only: Only::Present, .. } if old.is_none() => Updated::Unchanged { old },
            Update::Set { value, expiry, .. } => {
                match expiry {
                    Expiry::At(at) => drop(self.until.insert(key.clone(), at)),
                    Expiry::Never => drop(self.until.remove(&key)),
                    Expiry::Keep => {}
                }
                self.map.insert(key, value);
                Updated::Done { old }
            }
            Update::Take => {
                self.map.remove(&key);
                if old.is_some() { Updated::Done { old } } else { Updated::Unchanged { old } }
            }
            Update::Add(number) => {
                let text = old.as_deref().map_or("0".into(), String::from_utf8_lossy);
                let Ok(before) = text.parse::<i64>() else { return Updated::Wrong(Wrong::NotInteger) };
                self.map.insert(key, Bytes::from((before + number).to_string()));
                Updated::Number(before + number)
            }
            Update::AddFloat(text) => Updated::Text(text),
            Update::Append(more) => {
                let value = [&old.unwrap_or_default()[..], &more[..]].concat();
                let length = value.len() as u64;
                self.map.insert(key, Bytes::from(value));
                Updated::Length(length)
            }
            Update::Expire { at, .. } if old.is_some() => {
                self.until.insert(key, at);
                Updated::Done { old }
            }
            Update::Persist if self.until.remove(&key).is_some() => Updated::Done { old },
            Update::Expire { .. } | Update::Persist => Updated::Unchanged { old },
        }
    }
}

fn refusal(key: &[u8]) -> Option<Refusal> {
    match key {
        _ if key.starts_with(b"down") => Some(Refusal::Unavailable("its coordinator is not in sync yet")),
        _ if key.starts_with(b"far") => Some(Refusal::NotResponsible),
        _ if key.starts_with(b"locked") => Some(Refusal::WriteLocked),
        _ => None,
    }
}
