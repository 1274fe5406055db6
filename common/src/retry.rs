//! Exactly once: what each slot remembers of the requests it has executed.
//!
//! The table is part of the replicated state: it changes only when a committed entry is applied, so all copies of a slot
//! forget the same results at the same entry. A retry is answered from it, executed if it provably never was, and
//! otherwise answered with *unknown*; it is never executed twice.
//!
//! Four bounds, all deterministic. Per client the last [`WINDOW`] results are kept. Per slot the [`CLIENTS`] youngest
//! clients are kept, by [`ClientId`] order, which is start order: so one number, `horizon`, tells a client that was
//! forgotten from one that never wrote here. The cost: a client that has been running for longer than 1,024 younger ones
//! loses the safety of its retries in that slot, and is told so (*unknown*), never lied to. Of the last [`FORMER`] clients
//! that were forgotten the number of the latest request is kept, so that a first attempt that comes behind its own retry is
//! not taken for a new request, although its client is no longer known. And of the bytes in answers (the
//! values that were replaced, and sums that are text), which a retry must be told again, the last [`OLD_BYTES`] are kept per
//! slot (one more if it is larger): those forgotten first are the oldest, or those that their client has the answer to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::entry::{Entry, Op, Outcome, RequestId};
use crate::ids::ClientId;

/// Results kept per client and slot.
pub const WINDOW: usize = 64;
/// Clients kept per slot.
///
/// In simulation builds so few that runs get there.
pub const CLIENTS: usize = if cfg!(feature = "switches") { 6 } else { 1024 };
/// Forgotten clients of which the latest request is still known, per slot.
///
/// In simulation builds so few that they are forgotten, too.
pub const FORMER: usize = if cfg!(feature = "switches") { 4 } else { 1024 };
/// Bytes of answers kept per slot: a client asks again within seconds, and 256 slots hold 64 MiB at most.
pub const OLD_BYTES: usize = 256 << 10;
/// What keeping one costs beside its bytes.
const OLD_COST: usize = 64;

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
    #[serde(with = "as_map")]
    results: Results,
}

/// A client's results by number: few, nearly always recorded in order and forgotten from the front.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Results(Vec<(u64, Outcome)>);

impl Results {
    fn get(&self, seq: u64) -> Option<Outcome> {
        let at = self.0.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        Some(self.0[at].1)
    }

    fn insert(&mut self, seq: u64, outcome: Outcome) {
        match self.0.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(at) => self.0[at].1 = outcome,
            Err(at) => self.0.insert(at, (seq, outcome)),
        }
    }

    /// The latest number.
    fn last(&self) -> Option<u64> {
        self.0.last().map(|(seq, _)| *seq)
    }

    /// Forgets what is at or below `horizon`.
    fn forget_to(&mut self, horizon: u64) {
        let gone = self.0.partition_point(|(seq, _)| *seq <= horizon);
        self.0.drain(..gone);
        if self.0.capacity() > 4 * self.0.len().max(4) {
            self.0.shrink_to(2 * self.0.len());
        }
    }

    /// The number of the last one that is too many, if there are more than [`WINDOW`].
    fn beyond_window(&self) -> Option<u64> {
        let many = self.0.len().checked_sub(WINDOW + 1)?;
        Some(self.0[many].0)
    }
}

/// The results in files and frames: a map from number to outcome.
mod as_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Outcome, Results};

    pub(super) fn serialize<S: Serializer>(results: &Results, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(results.0.iter().map(|(seq, outcome)| (seq, outcome)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Results, D::Error> {
        // In whatever order they come, and each number once.
        let map = BTreeMap::<u64, Outcome>::deserialize(d)?;
        Ok(Results(map.into_iter().collect()))
    }
}

/// The bytes in the answer to a request: the value that it replaced, as a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Old {
    request: (ClientId, u64),
    value: Blob,
}

impl Old {
    fn cost(&self) -> usize {
        OLD_COST + self.value.0.len()
    }
}

/// The results of one slot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RetryTable {
    /// The oldest clients, up to this id, have been forgotten.
    horizon: Option<ClientId>,
    clients: BTreeMap<ClientId, Session>,
    /// The latest requests of clients that have been forgotten, those forgotten first in front.
    #[serde(default)]
    former: Vec<(ClientId, u64)>,
    /// Bytes of answers, oldest first.
    #[serde(default)]
    olds: Vec<Old>,
}

impl RetryTable {
    /// What is known of `request`.
    #[must_use]
    pub fn lookup(&self, request: &RequestId) -> Known {
        match self.clients.get(&request.client) {
            Some(session) => match session.results.get(request.seq) {
                Some(outcome) => Known::Done(outcome),
                None if request.seq <= session.horizon => Known::Forgotten,
                None => Known::Never,
            },
            None if self.former(request.client).is_some_and(|(_, latest)| request.seq <= latest) => Known::Forgotten,
            None if self.horizon.is_some_and(|h| request.client <= h) => Known::Stranger,
            None => Known::Never,
        }
    }

    /// Where a forgotten client stands, and its latest request.
    fn former(&self, client: ClientId) -> Option<(usize, u64)> {
        if self.horizon.is_none_or(|horizon| client > horizon) {
            return None;
        }
        let at = self.former.iter().position(|(former, _)| *former == client)?;
        Some((at, self.former[at].1))
    }

    fn forget(&mut self, client: ClientId, session: &Session) {
        self.horizon = self.horizon.max(Some(client));
        let latest = session.results.last().unwrap_or(0).max(session.horizon);
        if self.former.len() >= FORMER {
            self.former.remove(0);
        }
        self.former.push((client, latest));
    }

    /// Records the outcome of an applied entry.
    pub fn record(&mut self, request: &RequestId, outcome: Outcome) {
        let former = self.former(request.client);
        let session = self.clients.entry(request.client).or_default();
        if let Some((at, latest)) = former {
            session.horizon = latest;
            self.former.remove(at);
        }
        session.results.insert(request.seq, outcome);
        let acked = request.lowest_unacked.saturating_sub(1);
        if acked > session.horizon {
            session.results.forget_to(acked);
            session.horizon = acked;
        }
        if let Some(seq) = session.results.beyond_window() {
            session.results.forget_to(seq);
            session.horizon = session.horizon.max(seq);
        }
        while self.clients.len() > CLIENTS {
            if let Some((client, session)) = self.clients.pop_first() {
                self.forget(client, &session);
            }
        }
    }

    /// Records the outcome of an applied entry that answers a request, with the bytes that belong to the answer.
    pub fn record_entry(&mut self, entry: &Entry) {
        let Some(request) = &entry.request else { return };
        self.record(request, entry.outcome);
        let told = match &entry.op {
            Op::Swap { old: told, .. } | Op::Update { told, .. } => told.as_ref(),
            _ => None,
        };
        if self.olds.is_empty() && told.is_none() {
            return;
        }
        let answered = |old: &Old| old.request.0 == request.client && old.request.1 < request.lowest_unacked;
        self.olds.retain(|old| !answered(old));
        if let Some(value) = told {
            self.olds.push(Old { request: (request.client, request.seq), value: value.clone() });
        }
        let mut bytes: usize = self.olds.iter().map(Old::cost).sum();
        let mut forgotten = 0;
        while bytes > OLD_BYTES && forgotten + 1 < self.olds.len() {
            bytes -= self.olds[forgotten].cost();
            forgotten += 1;
        }
        self.olds.drain(..forgotten);
    }

    /// The bytes in the answer to a request, if they are still kept.
    #[must_use]
    pub fn replaced(&self, request: &RequestId) -> Option<&Blob> {
        self.olds.iter().find(|old| old.request == (request.client, request.seq)).map(|old| &old.value)
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
    use crate::entry::LogId;
    use crate::update::{Becomes, Updated, Wrong};

    fn request(client: u128, seq: u64, lowest_unacked: u64) -> RequestId {
        RequestId { client: ClientId(client), seq, lowest_unacked }
    }

    fn swap(request: RequestId, old: usize) -> Entry {
        let (key, value) = ("k".into(), "v".into());
        let old = Some(Blob(vec![b'x'; old].into()));
        Entry {
            id: LogId::default(),
            op: Op::Swap { key, value, old },
            outcome: Outcome::Updated,
            request: Some(request),
        }
    }

    #[test]
    fn a_first_attempt_behind_its_retry_is_not_executed_though_its_client_is_forgotten() {
        let mut table = RetryTable::default();
        let younger = |table: &mut RetryTable, from: u128| {
            (from..from + CLIENTS as u128).for_each(|client| table.record(&request(client, 1, 1), Outcome::Created));
        };
        younger(&mut table, 10);
        // The retry of an old client, who never wrote here, is executed, and forgotten at once.
        assert_eq!(table.lookup(&request(5, 3, 3)), Known::Never);
        table.record(&request(5, 3, 3), Outcome::Updated);
        assert_eq!(table.clients(), CLIENTS);
        assert_eq!(table.lookup(&request(5, 3, 3)), Known::Forgotten);
        assert_eq!(table.lookup(&request(5, 4, 3)), Known::Stranger);
        // What it has written before is not forgotten when it writes again.
        table.record(&request(5, 4, 3), Outcome::Updated);
        assert_eq!(table.lookup(&request(5, 3, 3)), Known::Forgotten);
        assert_eq!(table.lookup(&request(5, 4, 3)), Known::Forgotten);
        // So it stays until many others have been forgotten.
        younger(&mut table, 100);
        assert_eq!(table.lookup(&request(5, 4, 3)), Known::Forgotten);
        (0..FORMER as u128 + 2).for_each(|i| table.record(&request(5_000 + i, 1, 1), Outcome::Created));
        assert_eq!(table.lookup(&request(5, 4, 3)), Known::Stranger);
        assert_eq!(table.former.len(), FORMER);
    }

    #[test]
    fn replaced_values_are_kept_until_answered_and_within_bounds() {
        let mut table = RetryTable::default();
        table.record_entry(&swap(request(1, 1, 1), 10));
        table.record_entry(&swap(request(2, 1, 1), 20));
        assert_eq!(table.replaced(&request(1, 1, 1)).map(|old| old.0.len()), Some(10));
        let put = Entry { op: Op::Noop, ..swap(request(1, 2, 2), 0) };
        table.record_entry(&put);
        assert_eq!(table.replaced(&request(1, 1, 1)), None, "its client has the answer");
        assert_eq!(table.replaced(&request(2, 1, 1)).map(|old| old.0.len()), Some(20));

        for seq in 2..=20 {
            table.record_entry(&swap(request(2, seq, 1), OLD_BYTES / 8));
        }
        assert_eq!(table.replaced(&request(2, 1, 1)), None, "the oldest go first");
        assert_eq!(table.lookup(&request(2, 1, 1)), Known::Done(Outcome::Updated), "the outcome is still known");
        assert!(table.replaced(&request(2, 20, 1)).is_some());
        assert!(table.olds.iter().map(Old::cost).sum::<usize>() <= OLD_BYTES);
        table.record_entry(&swap(request(2, 21, 1), OLD_BYTES * 2));
        assert_eq!(table.olds.len(), 1, "the last one is always kept");
    }

    #[test]
    fn the_answer_of_an_update_is_put_together_again() {
        let mut table = RetryTable::default();
        let answers = [
            Updated::Done { old: Some("v".into()) },
            Updated::Done { old: None },
            Updated::Unchanged { old: Some("v".into()) },
            Updated::Number(-7),
            Updated::Text("1.5".into()),
            Updated::Length(9),
            Updated::Wrong(Wrong::Overflow),
        ];
        for (answer, seq) in answers.iter().zip(1..) {
            let (came, bytes) = answer.clone().split();
            let op = Op::Update { key: "k".into(), becomes: Becomes::Same, told: bytes.map(Blob) };
            table.record_entry(&Entry { op, outcome: Outcome::Came(came), ..swap(request(1, seq, 1), 0) });
        }
        let again = |table: &RetryTable, seq| {
            let request = request(1, seq, 1);
            let Known::Done(Outcome::Came(came)) = table.lookup(&request) else { panic!("it was recorded") };
            came.whole(table.replaced(&request))
        };
        for (answer, seq) in answers.iter().zip(1..) {
            assert_eq!(again(&table, seq).as_ref(), Some(answer));
        }
        table.record_entry(&swap(request(2, 1, 1), OLD_BYTES * 2));
        assert_eq!(again(&table, 1), None, "the bytes are gone");
        assert_eq!(again(&table, 4), Some(Updated::Number(-7)));
        let kept: RetryTable = serde_json::from_str(&serde_json::to_string(&table).unwrap()).unwrap();
        assert_eq!(kept, table);
    }

    #[test]
    fn results_are_a_map_in_files_and_frames() {
        let (mut results, mut map) = (Results::default(), BTreeMap::new());
        for seq in [9, 4, 7, 5, 7] {
            results.insert(seq, Outcome::Updated);
            map.insert(seq, Outcome::Updated);
        }
        let session = Session { horizon: 3, results };
        let json = serde_json::to_value(&session).unwrap();
        assert_eq!(json, serde_json::json!({ "horizon": 3, "results": &map }));
        assert_eq!(serde_json::from_value::<Session>(json).unwrap(), session);
        let frame = postcard::to_stdvec(&session).unwrap();
        assert_eq!(frame, postcard::to_stdvec(&(3_u64, &map)).unwrap());
        assert_eq!(postcard::from_bytes::<Session>(&frame).unwrap(), session);
    }

    #[test]
    fn memory_of_results_that_are_gone_is_given_back() {
        let mut table = RetryTable::default();
        (1..=WINDOW as u64).for_each(|seq| table.record(&request(1, seq, 1), Outcome::Created));
        table.record(&request(1, 100, 100), Outcome::Created);
        let results = &table.clients[&ClientId(1)].results;
        assert!(results.0.len() == 1 && results.0.capacity() <= 16, "{}", results.0.capacity());
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
        assert_eq!(table.lookup(&request(2, 1, 1)), Known::Forgotten);
        assert_eq!(table.lookup(&request(2, 2, 1)), Known::Stranger);
        assert_eq!(table.lookup(&request(3, 1, 1)), Known::Done(Outcome::Created));
        assert_eq!(table.lookup(&request(5000, 1, 1)), Known::Never);
    }
}
