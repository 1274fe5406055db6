//! Exactly once: what each slot remembers of the requests it has executed.
//!
//! The table is part of the replicated state: it changes only when a committed entry is applied, so all copies of a slot
//! forget the same results at the same entry. A retry is answered from it, executed if it provably never was, and
//! otherwise answered with *unknown*; it is never executed twice.
//!
//! Two bounds, both deterministic. Per client the last [`WINDOW`] results are kept. Per slot the [`CLIENTS`] youngest
//! clients are kept, by [`ClientId`] order, which is start order: so one number, `horizon`, tells a client that was
//! forgotten from one that never wrote here. The cost: a client that has been running for longer than 1,024 younger ones
//! loses the safety of its retries in that slot, and is told so (*unknown*), never lied to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entry::{Outcome, RequestId};
use crate::ids::ClientId;

/// Results kept per client and slot.
pub const WINDOW: usize = 64;
/// Clients kept per slot.
///
/// In simulation builds so few that runs get there.
pub const CLIENTS: usize = if cfg!(feature = "switches") { 6 } else { 1024 };

/// How a server words it that a result is gone. Clients look for it: asking again would be pointless.
pub const FORGOTTEN: &str = "the result of this request is no longer kept";

/// What the table knows of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// It was executed; this was its outcome.
    Done(Outcome),
    /// It was never executed here.
    Never,
    /// It is too old for its client's window: executed and its result gone, or given up by the client. Whether this is a
    /// retry or a first attempt that was delayed on its way, it must not be executed now.
    Forgotten,
    /// The client itself has been forgotten: a first attempt is a new request, a retry may have been executed.
    Stranger,
}

/// One client's results.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Session {
    /// Results at or below this number are gone.
    horizon: u64,
    results: BTreeMap<u64, Outcome>,
}

/// The results of one slot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RetryTable {
    /// The oldest clients, up to this id, have been forgotten.
    horizon: Option<ClientId>,
    clients: BTreeMap<ClientId, Session>,
}

impl RetryTable {
    /// What is known of `request`.
    #[must_use]
    pub fn lookup(&self, request: &RequestId) -> Known {
        match self.clients.get(&request.client) {
            Some(session) => match session.results.get(&request.seq) {
                Some(outcome) => Known::Done(*outcome),
                None if request.seq <= session.horizon => Known::Forgotten,
                None => Known::Never,
            },
            None if self.horizon.is_some_and(|h| request.client <= h) => Known::Stranger,
            None => Known::Never,
        }
    }

    /// Records the outcome of an applied entry.
    pub fn record(&mut self, request: &RequestId, outcome: Outcome) {
        let session = self.clients.entry(request.client).or_default();
        session.results.insert(request.seq, outcome);
        let acked = request.lowest_unacked.saturating_sub(1);
        if acked > session.horizon {
            session.results = session.results.split_off(&(acked + 1));
            session.horizon = acked;
        }
        while session.results.len() > WINDOW {
            if let Some((seq, _)) = session.results.pop_first() {
                session.horizon = session.horizon.max(seq);
            }
        }
        while self.clients.len() > CLIENTS {
            if let Some((client, _)) = self.clients.pop_first() {
                self.horizon = self.horizon.max(Some(client));
            }
        }
    }

    /// How many clients are remembered.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether nothing was ever recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.horizon.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(client: u128, seq: u64, lowest_unacked: u64) -> RequestId {
        RequestId { client: ClientId(client), seq, lowest_unacked }
    }

    #[test]
    fn a_result_is_kept_until_the_client_has_it() {
        let mut table = RetryTable::default();
        table.record(&request(1, 5, 5), Outcome::Created);
        assert_eq!(table.lookup(&request(1, 5, 5)), Known::Done(Outcome::Created));
        table.record(&request(1, 6, 6), Outcome::Updated);
        assert_eq!(table.lookup(&request(1, 5, 5)), Known::Forgotten);
        assert_eq!(table.lookup(&request(1, 7, 5)), Known::Never);
    }

    #[test]
    fn the_window_is_bounded_and_says_what_it_forgot() {
        let mut table = RetryTable::default();
        for seq in 1..=100 {
            table.record(&request(1, seq, 1), Outcome::Created);
        }
        assert_eq!(table.lookup(&request(1, 36, 1)), Known::Forgotten);
        assert_eq!(table.lookup(&request(1, 37, 1)), Known::Done(Outcome::Created));
    }

    #[test]
    fn the_oldest_clients_go_first_and_are_never_mistaken_for_new_ones() {
        let mut table = RetryTable::default();
        for client in 1..=(CLIENTS as u128 + 2) {
            table.record(&request(client, 1, 1), Outcome::Created);
        }
        assert_eq!(table.clients(), CLIENTS);
        assert_eq!(table.lookup(&request(2, 1, 1)), Known::Stranger);
        assert_eq!(table.lookup(&request(3, 1, 1)), Known::Done(Outcome::Created));
        assert_eq!(table.lookup(&request(5000, 1, 1)), Known::Never);
    }
}
