//! What all client connections hold in memory together, and what happens when that becomes too much.
//!
//! Each connection accounts for its buffers, the requests under way and the answers not yet taken, in steps of [`STEP`].
//! Two thresholds:
//!
//! - From half of the limit on everybody is held [`Pressure::Tight`]: a connection starts its next request only when it
//!   holds next to nothing of earlier ones. Every client goes on, pipelines get shallow.
//! - Beyond the limit connections are cut: first the biggest of those that have moved nothing for [`STALLED`] (a client
//!   that does not read, or never ends its request), and only if there is none of them the biggest of all. Waiting would
//!   not do: whoever holds memory and does not go on holds it for ever.
//!
//! Invariant: a connection is accounted for until what it started is answered, even if its client is gone. So nobody gets
//! around the limit by hanging up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::Time;

/// Less than this is not accounted for: small requests then cost no shared counter anything.
const STEP: usize = 4 * 1024;
/// Without any progress for so long, a connection is among the first to go.
const STALLED: Duration = Duration::from_secs(1);

/// How near the limit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pressure {
    /// Far.
    Calm,
    /// Half of it is used: no deep pipelines.
    Tight,
    /// It is exceeded.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    total: AtomicUsize,
    /// Of it, what connections hold that have been told to go.
    going: AtomicUsize,
    cut: AtomicU64,
    holders: Mutex<BTreeMap<u32, Arc<Holder>>>,
}

/// A connection that holds at least one step.
#[derive(Debug, Default)]
struct Holder {
    bytes: AtomicUsize,
    moved: AtomicU64,
    cut: AtomicBool,
}

/// One connection's account; what it holds is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Account<'m> {
    memory: &'m Memory,
    conn: u32,
    steps: usize,
    holder: Option<Arc<Holder>>,
}

impl Memory {
    /// Nothing is held yet.
    pub(super) fn new(limit: usize) -> Memory {
        Memory {
            limit,
            total: AtomicUsize::new(0),
            going: AtomicUsize::new(0),
            cut: AtomicU64::new(0),
            holders: Mutex::default(),
        }
    }

    /// A connection's account.
    pub(super) fn account(&self, conn: u32) -> Account<'_> {
        Account { memory: self, conn, steps: 0, holder: None }
    }

    /// Bytes held by all.
    pub(super) fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// How many connections were cut, since the start.
    pub(super) fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }

    fn pressure(&self) -> Pressure {
        match self.total() {
            total if total > self.limit => Pressure::Over,
            total if total > self.limit / 2 => Pressure::Tight,
            _ => Pressure::Calm,
        }
    }

    /// Chooses who must go for the rest to be within the limit, and marks them; they are to be woken.
    pub(super) fn relieve(&self, now: Time) -> Vec<u32> {
        let holders = self.lock();
        let mut chosen = Vec::new();
        while self.total().saturating_sub(self.going.load(Relaxed)) > self.limit {
            let staying = holders.iter().filter(|(_, holder)| !holder.cut.load(Relaxed));
            let Some((conn, holder)) = staying.max_by_key(|(_, holder)| holder.rank(now)) else { break };
            holder.cut.store(true, Relaxed);
            self.going.fetch_add(holder.bytes.load(Relaxed), Relaxed);
            self.cut.fetch_add(1, Relaxed);
            chosen.push(*conn);
        }
        chosen
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Holder>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// The highest goes first.
    fn rank(&self, now: Time) -> (bool, usize) {
        (now.since(Time(self.moved.load(Relaxed))) >= STALLED, self.bytes.load(Relaxed))
    }
}

impl Account<'_> {
    /// The connection holds so many bytes now; `moved` says whether it has taken answers or finished a request since this
    /// was last called.
    pub(super) fn holds(&mut self, now: Time, bytes: usize, moved: bool) -> Pressure {
        let steps = bytes / STEP;
        if steps != self.steps {
            self.change(now, steps);
        }
        if let Some(holder) = self.holder.as_ref().filter(|_| moved) {
            holder.moved.store(now.0, Relaxed);
        }
        self.memory.pressure()
    }

    /// Whether so many bytes are what was last said.
    pub(super) fn covers(&self, bytes: usize) -> bool {
        bytes / STEP == self.steps
    }

    /// Whether this connection must go.
    pub(super) fn is_cut(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.cut.load(Relaxed))
    }

    fn change(&mut self, now: Time, steps: usize) {
        let (before, after) = (self.steps * STEP, steps * STEP);
        self.steps = steps;
        let mut holders = self.memory.lock();
        let holder = self.holder.get_or_insert_with(|| {
            let holder = Arc::new(Holder { moved: AtomicU64::new(now.0), ..Holder::default() });
            holders.insert(self.conn, holder.clone());
            holder
        });
        holder.bytes.store(after, Relaxed);
        let going = holder.cut.load(Relaxed);
        shift(&self.memory.total, before, after);
        if going {
            shift(&self.memory.going, before, after);
        } else if after == 0 {
            holders.remove(&self.conn);
            self.holder = None;
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if self.holder.is_some() {
            self.change(Time::ZERO, 0);
            self.memory.lock().remove(&self.conn);
        }
    }
}

/// Under the holders' lock, so that nobody sees a sum in between.
fn shift(sum: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        sum.fetch_add(after - before, Relaxed);
    } else {
        sum.fetch_sub(before - after, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Time = Time(60_000_000);

    #[test]
    fn what_is_held_is_counted_in_steps_and_given_back() {
        let memory = Memory::new(100 * STEP);
        let mut one = memory.account(1);
        assert_eq!(one.holds(LATER, STEP - 1, true), Pressure::Calm);
        assert_eq!((memory.total(), memory.lock().len()), (0, 0));
        assert_eq!(one.holds(LATER, 51 * STEP, true), Pressure::Tight);
        let mut two = memory.account(2);
        assert_eq!(two.holds(LATER, 50 * STEP, true), Pressure::Over);
        drop(one);
        assert_eq!(two.holds(LATER, 50 * STEP + 1, true), Pressure::Calm);
        drop(two);
        assert_eq!((memory.total(), memory.lock().len()), (0, 0));
    }

    #[test]
    fn the_biggest_that_stands_still_goes_first_and_no_more_than_needed() {
        let memory = Memory::new(100 * STEP);
        let mut accounts: Vec<Account<'_>> = (0..4).map(|conn| memory.account(conn)).collect();
        // The biggest of all is at work; of those that stand still, number 2 is the biggest.
        for (account, steps) in accounts.iter_mut().zip([60, 10, 30, 5]) {
            account.holds(Time::ZERO, steps * STEP, true);
        }
        assert_eq!(accounts[0].holds(LATER, 60 * STEP, true), Pressure::Over);
        assert_eq!(memory.relieve(LATER), [2]);
        assert!(accounts[2].is_cut() && !accounts[0].is_cut());
        // It has been told and is not gone yet: nobody else has to go for it.
        assert!(memory.relieve(LATER).is_empty());
        accounts.remove(2);
        assert_eq!(accounts[0].holds(LATER, 60 * STEP, true), Pressure::Tight);
        assert_eq!((memory.going.load(Relaxed), memory.cut()), (0, 1));
    }

    #[test]
    fn when_everybody_is_at_work_the_biggest_goes() {
        let memory = Memory::new(100 * STEP);
        let mut accounts: Vec<Account<'_>> = (0..3).map(|conn| memory.account(conn)).collect();
        for (account, steps) in accounts.iter_mut().zip([40, 70, 20]) {
            account.holds(LATER, steps * STEP, true);
        }
        assert_eq!(memory.relieve(LATER), [1]);
        // What it gives back bit by bit is not counted twice.
        accounts[1].holds(LATER, 10 * STEP, false);
        assert_eq!((memory.total(), memory.going.load(Relaxed)), (70 * STEP, 10 * STEP));
        accounts.clear();
        assert_eq!((memory.total(), memory.going.load(Relaxed)), (0, 0));
    }
}
