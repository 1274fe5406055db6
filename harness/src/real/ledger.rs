//! What must be in the cluster: every acknowledged write, and the writes of which nobody learned the outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::text::Text;

/// A server that refuses reads for longer than this, of keys that it says it answers, has failed the test.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// What is known of one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    /// The last acknowledged value.
    pub(crate) acked: Option<String>,
    /// Later values whose fate is unknown.
    pub(crate) maybe: BTreeSet<String>,
}

/// What is known of all keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger(pub(crate) BTreeMap<String, Known>);

impl Ledger {
    /// How many keys have an acknowledged value.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.0.values().filter(|known| known.acked.is_some()).count()
    }

    /// Notes an acknowledged write.
    pub fn ack(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), Known { acked: Some(value.to_owned()), maybe: BTreeSet::new() });
    }

    /// Notes a write of unknown outcome.
    pub fn unknown(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().maybe.insert(value.to_owned());
    }

    /// Takes over what another ledger knows better.
    pub fn merge(&mut self, newer: Ledger) {
        self.0.extend(newer.0);
    }

    /// Reads every key from every server that `keyrange_read` names for it, and gives how many reads that were.
    ///
    /// # Errors
    /// A sentence for a lost, wrong or unreadable key.
    pub fn verify(&self, addresses: &[String]) -> Result<usize, String> {
        let mut reads = 0;
        for address in addresses {
            reads += self.verify_at(address)?;
        }
        // Whoever is named for no key at all would make this test nothing.
        if reads < self.0.len() {
            return Err(format!("only {reads} reads for {} keys: some keys are answered by no server", self.0.len()));
        }
        Ok(reads)
    }

    /// The same without one key, of which it is known that it was deleted.
    ///
    /// # Errors
    /// As for [`Ledger::verify`].
    pub fn verify_but(mut self, key: &str, addresses: &[String]) -> Result<usize, String> {
        self.0.remove(key);
        self.verify(addresses)
    }

    /// Reads from one server what it says that it answers; asks again what it refuses for a moment.
    fn verify_at(&self, address: &str) -> Result<usize, String> {
        let failed = |error: std::io::Error| format!("{address}: {error}");
        let mut text = Text::connect(address).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        let mut open: BTreeSet<&String> = self.0.keys().collect();
        let mut reads = 0;
        loop {
            let keyrange = text.keyrange(true).map_err(failed)?;
            open.retain(|key| keyrange.servers(key).contains(&address));
            let keys: Vec<&String> = open.iter().copied().collect();
            let requests: Vec<String> = keys.iter().map(|key| format!("get {key}")).collect();
            let mut refused = String::new();
            for (key, reply) in keys.iter().zip(text.ask_all(&requests).map_err(failed)?) {
                if matches!(reply.as_str(), "SERVER_STOPPED" | "SERVER_NOT_RESPONSIBLE") {
                    refused = format!("{address} answers {reply} to get {key}, which its keyrange_read names it for");
                    continue;
                }
                self.judge(key, &reply).map_err(|what| format!("{address}: {what}"))?;
                open.remove(*key);
                reads += 1;
            }
            if open.is_empty() {
                return Ok(reads);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} keys unread after {PATIENCE:?}: {refused}", open.len()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether `reply` may be the answer to `get key`.
    pub(super) fn judge(&self, key: &str, reply: &str) -> Result<(), String> {
        let known = &self.0[key];
        let value = reply
            .strip_prefix("GET_SUCCESS ")
            .and_then(|rest| rest.strip_prefix(key))
            .and_then(|rest| rest.strip_prefix(' '));
        let fits = match value {
            Some(value) => known.acked.as_deref() == Some(value) || known.maybe.contains(value),
            None => known.acked.is_none() && *reply == format!("GET_ERROR {key}"),
        };
        if fits { Ok(()) } else { Err(format!("get {key} answered {reply:?}; known: {known:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_old_value_is_noticed_and_an_unknown_one_allowed() {
        let mut ledger = Ledger::default();
        ledger.ack("k", "v1");
        assert!(ledger.judge("k", "GET_SUCCESS k v1").is_ok());
        assert!(ledger.judge("k", "GET_ERROR k").is_err());
        ledger.unknown("k", "v2");
        assert!(ledger.judge("k", "GET_SUCCESS k v1").is_ok() && ledger.judge("k", "GET_SUCCESS k v2").is_ok());
        ledger.ack("k", "v3");
        assert!(ledger.judge("k", "GET_SUCCESS k v2").is_err());
        ledger.unknown("new", "v");
        assert!(ledger.judge("new", "GET_ERROR new").is_ok());
        assert!(ledger.judge("new", "FAILED something").is_err());
    }
}
