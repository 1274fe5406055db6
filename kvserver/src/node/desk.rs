//! Wishes about the membership on their way to the ECS and back: who waits for which answer. Pure.
//!
//! Bound: [`LIMIT`] wishes under way; more are refused. Whoever loses the control connection answers all of them with
//! [`lost`], so none waits for ever.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use common::control::{Granted, Wish};

/// Wishes are rare: more at a time are a mistake.
pub const LIMIT: usize = 64;

/// See the module. `A` is whoever waits.
#[derive(Debug)]
pub struct Desk<A> {
    last: u64,
    queued: VecDeque<(u64, Wish)>,
    waiting: BTreeMap<u64, A>,
}

impl<A> Default for Desk<A> {
    fn default() -> Desk<A> {
        Desk { last: 0, queued: VecDeque::new(), waiting: BTreeMap::new() }
    }
}

impl<A> Desk<A> {
    /// Takes a wish that `asker` waits for.
    ///
    /// # Errors
    /// The asker back, and what to tell it: too many wait already.
    pub fn push(&mut self, wish: Wish, asker: A) -> Result<(), (A, Granted)> {
        if self.waiting.len() >= LIMIT {
            return Err((asker, Granted::Busy(format!("{LIMIT} requests of this kind are waiting here"))));
        }
        self.last += 1;
        self.queued.push_back((self.last, wish));
        self.waiting.insert(self.last, asker);
        Ok(())
    }

    /// Takes all that is to be sent.
    pub fn take(&mut self) -> Vec<(u64, Wish)> {
        self.queued.drain(..).collect()
    }

    /// Whose wish has been answered.
    pub fn answered(&mut self, id: u64) -> Option<A> {
        self.waiting.remove(&id)
    }

    /// The control connection has ended: everybody who waits is to be told [`lost`].
    pub fn lose(&mut self) -> impl Iterator<Item = A> {
        self.queued.clear();
        std::mem::take(&mut self.waiting).into_values()
    }
}

/// An answer as the client port passes it on: its first byte says whether it is a success.
#[must_use]
pub fn told(granted: &Granted) -> Bytes {
    Bytes::from(match granted {
        Granted::Yes(text) => format!("+{text}"),
        Granted::Busy(text) => format!("-busy: {text}; try again later"),
        Granted::No(text) => format!("-{text}"),
    })
}

/// The control connection has ended before an answer came.
#[must_use]
pub fn lost() -> Granted {
    Granted::No(
        "the connection to the ECS was lost: whether it was done is unknown; see `change`, and ask again".into(),
    )
}

/// There is no control connection.
#[must_use]
pub fn unconnected() -> Granted {
    Granted::No("this server has no connection to the ECS: nothing was done; try again, or another server".into())
}
