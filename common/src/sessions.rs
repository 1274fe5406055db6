//! Request ids for exactly-once writes: for a client, and for a server that sees to the writes of clients without ids.
//!
//! A server keeps the last [`WINDOW`] results of a session and slot. So that it never has to forget one that is still
//! wanted, a session never has requests open that are further apart than that; when its oldest is stuck, the next write
//! opens another session instead of waiting. Sessions are also replaced after [`LIFETIME`]: servers forget the oldest
//! sessions first, and a client that runs for weeks should not be among them.
//!
//! Invariant: an id is given out once; `lowest_open` never falls.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::ClientId;
use crate::retry::WINDOW;
use crate::time::Time;

/// After this long a session takes no new requests.
const LIFETIME: Duration = Duration::from_secs(30);

/// The sessions of one client.
#[derive(Debug)]
pub struct Sessions {
    rng: fastrand::Rng,
    /// The Unix time in milliseconds that `Time(0)` would be.
    wall_at_zero: u64,
    list: Vec<Session>,
}

#[derive(Debug)]
struct Session {
    client: ClientId,
    opened: Time,
    next: u64,
    open: BTreeSet<u64>,
}

impl Session {
    fn has_room(&self, now: Time) -> bool {
        let oldest = self.open.first().copied().unwrap_or(self.next);
        self.next - oldest < WINDOW as u64 && now.since(self.opened) < LIFETIME
    }
}

impl Sessions {
    /// No session yet. `wall` is the Unix time in milliseconds at `now`.
    #[must_use]
    pub fn new(seed: u64, now: Time, wall: u64) -> Sessions {
        let wall_at_zero = wall.saturating_sub(now.0 / 1000);
        Sessions { rng: fastrand::Rng::with_seed(seed), wall_at_zero, list: Vec::new() }
    }

    /// A fresh id.
    pub fn begin(&mut self, now: Time) -> (ClientId, u64) {
        self.list.retain(|session| !session.open.is_empty() || session.has_room(now));
        if let Some(session) = self.list.iter_mut().find(|session| session.has_room(now)) {
            let seq = session.next;
            session.next += 1;
            session.open.insert(seq);
            return (session.client, seq);
        }
        let started = u128::from(self.wall_at_zero + now.0 / 1000);
        let client = ClientId(started << 64 | u128::from(self.rng.u64(..)));
        self.list.push(Session { client, opened: now, next: 2, open: BTreeSet::from([1]) });
        (client, 1)
    }

    /// The lowest number of the session whose answer is still missing.
    #[must_use]
    pub fn lowest_open(&self, client: ClientId) -> u64 {
        let session = self.list.iter().find(|session| session.client == client);
        session.map_or(0, |session| session.open.first().copied().unwrap_or(session.next))
    }

    /// The client has its answer, or has given up.
    pub fn end(&mut self, client: ClientId, seq: u64) {
        if let Some(session) = self.list.iter_mut().find(|session| session.client == client) {
            session.open.remove(&seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stuck_request_opens_a_second_session_instead_of_holding_up_the_rest() {
        let mut sessions = Sessions::new(1, Time(0), 1_700_000_000_000);
        let (stuck, first) = sessions.begin(Time(0));
        for _ in 1..WINDOW {
            let (client, seq) = sessions.begin(Time(0));
            assert_eq!(client, stuck);
            sessions.end(client, seq);
        }
        let (other, _) = sessions.begin(Time(0));
        assert_ne!(other, stuck);
        assert_eq!(sessions.lowest_open(stuck), first);
        sessions.end(stuck, first);
        assert_eq!(sessions.begin(Time(0)).0, stuck, "the first has room again");
    }

    #[test]
    fn an_old_session_is_replaced_by_one_that_orders_after_it() {
        let mut sessions = Sessions::new(1, Time(5_000_000), 1_700_000_000_000);
        let (old, _) = sessions.begin(Time(5_000_000));
        let (young, _) = sessions.begin(Time(5_000_000) + LIFETIME);
        assert!(young > old);
        assert_eq!(old.0 >> 64, 1_700_000_000_000);
    }

    proptest! {
        #[test]
        fn open_requests_of_a_session_stay_within_the_window_and_ids_are_unique(ends in proptest::collection::vec(any::<Option<u8>>(), 1..400)) {
            let mut sessions = Sessions::new(7, Time(0), 0);
            let mut open: Vec<(ClientId, u64)> = Vec::new();
            let mut lowest: BTreeMap<ClientId, u64> = BTreeMap::new();
            let mut seen = BTreeSet::new();
            for (step, end) in ends.into_iter().enumerate() {
                if let (Some(n), false) = (end, open.is_empty()) {
                    let (client, seq) = open.swap_remove(usize::from(n) % open.len());
                    sessions.end(client, seq);
                }
                let id = sessions.begin(Time(step as u64 * 100_000));
                prop_assert!(seen.insert(id));
                open.push(id);
                let now = sessions.lowest_open(id.0);
                prop_assert!(id.1 - now < WINDOW as u64);
                prop_assert!(lowest.insert(id.0, now).is_none_or(|before| before <= now));
            }
        }
    }
}
