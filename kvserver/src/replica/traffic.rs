//! What the slots of one process share while they bring learners up to date: how many do so at a time, which bounds
//! memory, and how fast while clients are served, which keeps their waiting short.
//!
//! Pure but shared: a replica asks with the time in hand, and a refusal means asking again at the next tick. Nothing that
//! is safe depends on it; all of it is forgotten in a restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::Time;

/// Walks at a time. Each holds a window of frames and what is written meanwhile, so this times those is the most memory
/// that catching up takes, however many slots there are.
const WALKS: usize = 16;
/// The same while clients are served: few slots at a time, each done soon, instead of all of them slowly.
const WALKS_BUSY: usize = 4;
/// Records of one frame, in bytes (one record may be larger).
const FRAME_BYTES: usize = 512 << 10;
/// The same while clients are served: a request may wait for a frame that is being cut or taken in.
const FRAME_BYTES_BUSY: usize = 64 << 10;
/// How many times as fast a second copy of something is made.
const SINGLE: usize = 4;
/// Requests of clients in a second from which on this counts as serving them.
const BUSY_RATE: u64 = 10;
/// Over which time they are counted.
const COUNTED_OVER: Duration = Duration::from_millis(200);
/// For how long it counts as serving them after the last such time: clients that are held up ask less, and letting go then
/// would hold them up for good.
const BUSY_FOR: Duration = Duration::from_secs(3);

/// See the module. Clones share.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The most walks, and how many there are.
    most: usize,
    walks: usize,
    /// Bytes a second while clients are served; 0: as fast as it goes.
    rate: u64,
    busy: bool,
    busy_until: Time,
    /// What may be sent, in bytes, as of `filled`; below zero after a large record.
    allowance: i64,
    filled: Time,
    /// Requests of clients, and when they were counted.
    requests: u64,
    counted: Time,
}

impl Traffic {
    /// At most `rate` bytes a second while clients are served; 0: as fast as it goes.
    #[must_use]
    pub fn new(rate: u64) -> Traffic {
        Traffic::with_walks(rate, WALKS)
    }

    /// The same with at most so many walks at a time.
    #[must_use]
    pub fn with_walks(rate: u64, most: usize) -> Traffic {
        Traffic(Arc::new(Mutex::new(State {
            most,
            walks: 0,
            rate,
            busy: false,
            busy_until: Time::ZERO,
            allowance: 0,
            filled: Time::ZERO,
            requests: 0,
            counted: Time::ZERO,
        })))
    }

    /// Clients have asked so many things since the start. Told every now and then by whoever counts.
    pub fn count(&self, now: Time, requests: u64) {
        let mut state = self.lock();
        let passed = now.since(state.counted);
        if passed < COUNTED_OVER {
            return;
        }
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        if requests.saturating_sub(state.requests).saturating_mul(1_000_000) / micros >= BUSY_RATE {
            state.busy_until = now + BUSY_FOR;
        }
        (state.busy, state.requests, state.counted) = (now < state.busy_until, requests, now);
    }

    /// Whether clients are being served, and so what moves is held back.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        let state = self.lock();
        state.busy && state.rate > 0
    }

    /// How many walks there are.
    #[must_use]
    pub fn walks(&self) -> usize {
        self.lock().walks
    }

    /// A place for one walk, given back when dropped. None: all are taken; to be asked again.
    pub(super) fn enter(&self) -> Option<Turn> {
        let mut state = self.lock();
        let most = if state.busy && state.rate > 0 { state.most.min(WALKS_BUSY) } else { state.most };
        if state.walks >= most {
            return None;
        }
        state.walks += 1;
        Some(Turn(self.clone()))
    }

    /// How large a frame may be cut now. None: not yet; to be asked again.
    pub(super) fn frame(&self, now: Time) -> Option<usize> {
        let mut state = self.lock();
        if !state.busy || state.rate == 0 {
            return Some(FRAME_BYTES);
        }
        let passed = u64::try_from(now.since(state.filled).as_micros()).unwrap_or(u64::MAX);
        let earned = u128::from(passed) * u128::from(state.rate) / 1_000_000;
        if earned > 0 {
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            // What was not used is not saved up: that would be a burst later.
            state.allowance = state.allowance.saturating_add(earned).min(FRAME_BYTES_BUSY as i64);
            state.filled = now;
        }
        (state.allowance > 0).then_some(FRAME_BYTES_BUSY)
    }

    /// So many bytes were cut. Those of a slot with a single copy count less: until there is a second one, clients' comfort
    /// is not the first thing.
    pub(super) fn spent(&self, bytes: usize, single: bool) {
        let bytes = if single { bytes / SINGLE } else { bytes };
        let mut state = self.lock();
        if state.busy {
            state.allowance = state.allowance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A walk's place; see [`Traffic::enter`].
#[derive(Debug)]
pub(super) struct Turn(Traffic);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().walks -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn busy(rate: u64) -> Traffic {
        let traffic = Traffic::new(rate);
        traffic.count(Time::ZERO + MS * 1_000, 1_000);
        traffic
    }

    #[test]
    fn places_are_few_and_come_back() {
        let traffic = Traffic::new(1);
        let mut turns: Vec<Turn> = std::iter::from_fn(|| traffic.enter()).collect();
        assert_eq!((turns.len(), traffic.walks()), (WALKS, WALKS));
        turns.pop();
        assert!(traffic.enter().is_some());
        drop(turns);
        assert_eq!(traffic.walks(), 0);
        assert_eq!(std::iter::repeat_with(|| busy(1).enter()).take(1).flatten().count(), 1);
    }

    #[test]
    fn without_clients_nothing_is_held_back() {
        let traffic = Traffic::new(1);
        let now = Time::ZERO + MS;
        for _ in 0..1_000 {
            assert_eq!(traffic.frame(now), Some(FRAME_BYTES));
            traffic.spent(FRAME_BYTES, false);
        }
        assert!(!traffic.is_held_back() && busy(1).is_held_back() && !busy(0).is_held_back());
    }

    #[test]
    fn with_clients_it_keeps_to_the_rate_and_saves_nothing_up() {
        let traffic = busy(1_000_000);
        let (start, mut sent) = (Time::ZERO + MS * 60_000, 0);
        for step in 0..10_000u32 {
            if let Some(frame) = traffic.frame(start + MS * step) {
                traffic.spent(frame, false);
                sent += frame;
            }
        }
        // Ten seconds, and the minute before gave one frame at most.
        assert!((9_900_000..=10_000_000 + 2 * FRAME_BYTES_BUSY).contains(&sent), "{sent}");
    }

    #[test]
    fn it_is_idle_again_once_clients_are_silent() {
        let traffic = busy(1);
        for (at, asked, held_back) in [(1_100, 1_000, true), (1_300, 1_002, true), (1_600, 1_002, true)] {
            traffic.count(Time::ZERO + MS * at, asked);
            assert_eq!(traffic.is_held_back(), held_back, "after {at} ms");
        }
        for (at, asked, held_back) in
            [(3_900, 1_002, true), (4_100, 1_002, false), (4_400, 1_003, false), (4_700, 1_010, true)]
        {
            traffic.count(Time::ZERO + MS * at, asked);
            assert_eq!(traffic.is_held_back(), held_back, "after {at} ms");
        }
    }
}
