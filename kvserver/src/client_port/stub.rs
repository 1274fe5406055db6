//! A stand-in for the node: a map whose answers a test can hold back and let go in any order.
//!
//! Keys that begin with `later`, `down`, `far`, `locked` or `lost` get the answers that a cluster gives in trouble.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::Outcome;
use common::control::Wish;
use common::position::Position;
use common::text::{Whole, encode_page};

use crate::replica::{Read, Refusal, Reply, Scan, Token, Told, Write, WriteOp};
use crate::replies::Replies;

/// See the module.
#[derive(Debug)]
pub(super) struct Stub {
    replies: Arc<Replies>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    map: BTreeMap<Vec<u8>, Bytes>,
    holding: bool,
    alone: bool,
    held: Vec<(Token, Option<Write>, Bytes)>,
    writes: Vec<Write>,
}

impl Stub {
    pub(super) fn new(replies: Arc<Replies>) -> Arc<Stub> {
        Arc::new(Stub { replies, state: Mutex::default() })
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
        let (key, op) = (write.key.to_vec(), write.op.clone());
        self.writes.push(write);
        if let WriteOp::Swap(value) = op {
            return Reply::Swapped(self.map.insert(key, value));
        }
        Reply::Written(match op {
            WriteOp::Swap(_) | WriteOp::Probe | WriteOp::Update(_) => Outcome::Missing,
            WriteOp::Put(value) => self.map.insert(key, value).map_or(Outcome::Created, |_| Outcome::Updated),
            WriteOp::Delete => self.map.remove(&key).map_or(Outcome::Missing, |_| Outcome::Deleted),
        })
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
