//! The way back of an answer: from whichever thread knows it to the connection that waits for it.
//!
//! A waiting request is named by its [`Token`]: connection and number. Whoever commits, a peer link or the ticker calls
//! [`Replies::complete`]; the connection's task drains its [`Inbox`]. Nothing here waits, allocates per reply beyond the
//! queue's own growth, or holds a lock while a task is woken.
//!
//! Bounds: a connection never has more requests waiting than its limit and each is answered once, so an inbox is no longer
//! than that. An answer for a connection that is gone is dropped: there is nobody to tell.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use crate::replica::{Reply, Token};

/// Connections are spread over this many locks, so that registering one rarely meets completing for another.
const SHARDS: usize = 16;

/// Answers for which an empty inbox keeps room.
const KEEP: usize = 64;

/// All connections that may wait for answers.
#[derive(Debug, Default)]
pub struct Replies {
    shards: [RwLock<BTreeMap<u32, Arc<Inbox>>>; SHARDS],
    next: AtomicU32,
}

/// The answers that have arrived for one connection.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Arrived>);

#[derive(Debug, Default)]
struct Arrived {
    replies: Vec<(u64, Reply)>,
    waiting: Option<Waker>,
}

/// A connection's membership in [`Replies`]; ends when dropped.
#[derive(Debug)]
pub struct Registered {
    all: Arc<Replies>,
    conn: u32,
    inbox: Arc<Inbox>,
}

impl Replies {
    /// No connections yet.
    #[must_use]
    pub fn new() -> Arc<Replies> {
        Arc::new(Replies::default())
    }

    /// Gives a new connection its number and its inbox.
    #[must_use]
    pub fn register(self: &Arc<Self>) -> Registered {
        let inbox = Arc::new(Inbox::default());
        loop {
            // Numbers come round after four thousand million connections: one still in use is skipped.
            let conn = self.next.fetch_add(1, Relaxed);
            let mut shard = self.shard(conn).write().unwrap_or_else(PoisonError::into_inner);
            if let std::collections::btree_map::Entry::Vacant(place) = shard.entry(conn) {
                place.insert(inbox.clone());
                return Registered { all: self.clone(), conn, inbox };
            }
        }
    }

    /// Delivers the answer to the request named by `token`. Cheap, from any thread; the first answer counts, and one for
    /// a connection that is gone is dropped.
    pub fn complete(&self, token: Token, reply: Reply) {
        let inbox = self.shard(token.conn).read().unwrap_or_else(PoisonError::into_inner).get(&token.conn).cloned();
        if let Some(inbox) = inbox {
            inbox.push(token.index, reply);
        }
    }

    /// Wakes a connection, so that it looks at what else has changed.
    pub fn nudge(&self, conn: u32) {
        let inbox = self.shard(conn).read().unwrap_or_else(PoisonError::into_inner).get(&conn).cloned();
        if let Some(inbox) = inbox {
            inbox.nudge();
        }
    }

    /// Wakes every connection that waits, so that each looks at what else has changed.
    pub fn nudge_all(&self) {
        for shard in &self.shards {
            // Collected first: a woken task may at once want to unregister.
            let inboxes: Vec<Arc<Inbox>> =
                shard.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            inboxes.iter().for_each(|inbox| inbox.nudge());
        }
    }

    fn shard(&self, conn: u32) -> &RwLock<BTreeMap<u32, Arc<Inbox>>> {
        &self.shards[conn as usize % SHARDS]
    }
}

impl Inbox {
    fn push(&self, index: u64, reply: Reply) {
        let waker = {
            let mut arrived = self.lock();
            arrived.replies.push((index, reply));
            arrived.waiting.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves everything that has arrived to the end of `into`; pending (and the task woken later) if there is nothing.
    pub fn poll_drain(&self, cx: &mut Context<'_>, into: &mut Vec<(u64, Reply)>) -> Poll<()> {
        let mut arrived = self.lock();
        if arrived.replies.is_empty() {
            if !arrived.waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                arrived.waiting = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        into.append(&mut arrived.replies);
        if arrived.replies.capacity() > KEEP {
            arrived.replies = Vec::new();
        }
        Poll::Ready(())
    }

    fn nudge(&self) {
        let waker = self.lock().waiting.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// The token of this connection's request number `index`.
    #[must_use]
    pub fn token(&self, index: u64) -> Token {
        Token { conn: self.conn, index }
    }

    /// Its number.
    #[must_use]
    pub fn conn(&self) -> u32 {
        self.conn
    }

    /// Where its answers arrive.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.all.shard(self.conn).write().unwrap_or_else(PoisonError::into_inner).remove(&self.conn);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use common::Outcome;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn an_answer_wakes_its_connection_once_and_no_other() {
        let replies = Replies::new();
        let (one, two) = (replies.register(), replies.register());
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut got = Vec::new();
        assert!(one.inbox().poll_drain(&mut cx, &mut got).is_pending());

        replies.complete(two.token(5), Reply::Value(None));
        assert_eq!(count.0.load(Relaxed), 0);
        replies.complete(one.token(7), Reply::Written(Outcome::Created));
        replies.complete(one.token(8), Reply::Written(Outcome::Updated));
        assert_eq!(count.0.load(Relaxed), 1);

        assert!(one.inbox().poll_drain(&mut cx, &mut got).is_ready());
        assert_eq!(got, [(7, Reply::Written(Outcome::Created)), (8, Reply::Written(Outcome::Updated))]);
        assert!(one.inbox().poll_drain(&mut cx, &mut got).is_pending());
    }

    #[test]
    fn an_answer_for_a_connection_that_is_gone_is_dropped() {
        let replies = Replies::new();
        let gone = replies.register();
        let token = gone.token(1);
        drop(gone);
        replies.complete(token, Reply::Value(None));
        let fresh = replies.register();
        let mut got = Vec::new();
        assert!(fresh.inbox().poll_drain(&mut Context::from_waker(Waker::noop()), &mut got).is_pending());
        assert_ne!(fresh.token(1), token);
    }

    #[test]
    fn everyone_can_be_woken_without_an_answer() {
        let replies = Replies::new();
        let all = [replies.register(), replies.register()];
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        for one in &all {
            assert!(one.inbox().poll_drain(&mut Context::from_waker(&waker), &mut Vec::new()).is_pending());
        }
        replies.nudge_all();
        assert_eq!(count.0.load(Relaxed), 2);
    }

    #[test]
    fn a_number_in_use_is_not_given_out_again() {
        let replies = Replies::new();
        let old = replies.register();
        replies.next.store(old.conn, Relaxed);
        assert_ne!(replies.register().conn, old.conn);
    }
}
