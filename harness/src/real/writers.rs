//! Clients that keep writing while things happen to the cluster.
//!
//! Each writer owns its keys, so that the last acknowledged value of a key is known without a history checker. A write is
//! repeated with the same value until it is acknowledged; whatever is open when the writers stop is noted as unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::text::{Keyrange, Text};

/// The pause after a refusal.
const PAUSE: Duration = Duration::from_millis(5);
/// A server that does not answer for this long is left for another.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one writer did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// What must be in the cluster.
    pub ledger: Ledger,
    /// Acknowledged writes.
    pub acks: u64,
    /// The longest time from one acknowledgement to the next.
    pub gap: Duration,
    /// Replies that no server should give.
    pub odd: Vec<String>,
}

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Outcome>>,
}

impl Writers {
    /// Starts `writers` threads; each writes `keys` keys of its own, named `prefix-writer-key`, over and over.
    #[must_use]
    pub fn start(addresses: &[String], prefix: &str, writers: usize, keys: usize) -> Writers {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |writer: usize| {
            let (stop, acks, prefix) = (Arc::clone(&stop), Arc::clone(&acks), format!("{prefix}-{writer}"));
            let mut router = Router::new(addresses);
            std::thread::spawn(move || write_on(&mut router, &prefix, keys, &acks, &stop))
        };
        let threads = (0..writers).map(start).collect();
        Writers { stop, acks, threads }
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// Waits until so many writes are acknowledged.
    ///
    /// # Panics
    /// They are not within `patience`.
    pub fn wait_for_acks(&self, wanted: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.acks() < wanted {
            assert!(Instant::now() < deadline, "{} of {wanted} writes within {patience:?}", self.acks());
            std::thread::sleep(PAUSE);
        }
    }

    /// Stops them and gives what all of them did together.
    ///
    /// # Panics
    /// A writer did, or saw a reply that no server should give.
    #[must_use]
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for thread in self.threads {
            let one = thread.join().expect("a writer does not panic");
            all.ledger.merge(one.ledger);
            all.acks += one.acks;
            all.gap = all.gap.max(one.gap);
            all.odd.extend(one.odd);
        }
        assert!(all.odd.is_empty(), "odd replies to puts: {:?}", all.odd);
        all
    }
}

fn write_on(router: &mut Router, prefix: &str, keys: usize, acks: &AtomicU64, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut last = Instant::now();
    for number in 0_u64.. {
        let key = format!("{prefix}-{}", number % keys as u64);
        let value = format!("value {number} of {key}");
        outcome.ledger.unknown(&key, &value);
        match router.put(&key, &value, stop) {
            Put::Acked => {
                outcome.ledger.ack(&key, &value);
                outcome.acks += 1;
                acks.fetch_add(1, Ordering::Relaxed);
                outcome.gap = outcome.gap.max(last.elapsed());
                last = Instant::now();
            }
            Put::Odd(reply) => outcome.odd.push(reply),
            Put::Stopped => {}
        }
        if stop.load(Ordering::Relaxed) || outcome.odd.len() > 10 {
            break;
        }
    }
    outcome
}

/// How a put ended.
pub(crate) enum Put {
    /// Acknowledged.
    Acked,
    /// Given up because the writers are to stop: unknown.
    Stopped,
    /// With a reply that no server should give.
    Odd(String),
}

/// Finds coordinators and keeps a connection to each.
#[derive(Debug)]
pub(crate) struct Router {
    addresses: Vec<String>,
    keyrange: Option<Keyrange>,
    connections: BTreeMap<String, Text>,
    turn: usize,
}

impl Router {
    pub(crate) fn new(addresses: &[String]) -> Router {
        Router { addresses: addresses.to_vec(), keyrange: None, connections: BTreeMap::new(), turn: 0 }
    }

    /// Repeats the put until it is acknowledged or `stop` is set.
    pub(crate) fn put(&mut self, key: &str, value: &str, stop: &AtomicBool) -> Put {
        let request = format!("put {key} {value}");
        while !stop.load(Ordering::Relaxed) {
            let server = self.coordinator(key);
            let reply = match self.ask(&server, &request) {
                Ok(reply) => reply,
                Err(_) => {
                    self.lost(&server);
                    continue;
                }
            };
            match reply.split(' ').next().unwrap_or("") {
                "PUT_SUCCESS" | "PUT_UPDATE" => return Put::Acked,
                "SERVER_STOPPED" | "SERVER_WRITE_LOCK" | "PUT_ERROR" | "SERVER_NOT_RESPONSIBLE" => {
                    self.keyrange = None;
                    std::thread::sleep(PAUSE);
                }
                _ => return Put::Odd(reply),
            }
        }
        Put::Stopped
    }

    /// Whom the last keyrange names, or the next in turn where there is none.
    fn coordinator(&mut self, key: &str) -> String {
        if self.keyrange.is_none() {
            self.turn += 1;
            let any = self.addresses[self.turn % self.addresses.len()].clone();
            match self.connection(&any).and_then(|text| text.keyrange(false)) {
                Ok(keyrange) => self.keyrange = Some(keyrange),
                Err(_) => self.lost(&any),
            }
        }
        let named = self.keyrange.as_ref().and_then(|keyrange| keyrange.servers(key).first().copied());
        named.map_or_else(|| self.addresses[self.turn % self.addresses.len()].clone(), str::to_owned)
    }

    fn ask(&mut self, server: &str, request: &str) -> std::io::Result<String> {
        self.connection(server)?.ask(request)
    }

    fn connection(&mut self, server: &str) -> std::io::Result<&mut Text> {
        if !self.connections.contains_key(server) {
            let mut text = Text::connect(server)?;
            text.patience(PATIENCE)?;
            self.connections.insert(server.to_owned(), text);
        }
        self.connections.get_mut(server).ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    /// The connection is of no more use, and the ring has probably changed.
    fn lost(&mut self, server: &str) {
        self.connections.remove(server);
        self.keyrange = None;
        std::thread::sleep(PAUSE);
    }
}

/// Writes all of `pairs` through the cluster, with pipelining and as many threads as there are servers, and notes them as
/// acknowledged.
///
/// # Panics
/// A write is not acknowledged within a minute.
#[must_use]
pub fn load(addresses: &[String], pairs: &[(String, String)]) -> Ledger {
    let chunk = pairs.len().div_ceil(addresses.len()).max(1);
    let mut ledger = Ledger::default();
    std::thread::scope(|scope| {
        let start = |pairs: &'_ [(String, String)]| {
            let pairs = pairs.to_vec();
            scope.spawn(move || load_part(&mut Router::new(addresses), pairs))
        };
        let threads: Vec<_> = pairs.chunks(chunk).map(start).collect();
        for thread in threads {
            ledger.merge(thread.join().expect("a loader does not panic"));
        }
    });
    ledger
}

fn load_part(router: &mut Router, pairs: Vec<(String, String)>) -> Ledger {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut ledger = Ledger::default();
    let mut open = pairs;
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{} writes are not acknowledged", open.len());
        let mut by_server: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for pair in std::mem::take(&mut open) {
            by_server.entry(router.coordinator(&pair.0)).or_default().push(pair);
        }
        for (server, pairs) in by_server {
            let requests: Vec<String> = pairs.iter().map(|(key, value)| format!("put {key} {value}")).collect();
            let replies = router.connection(&server).and_then(|text| text.ask_all(&requests)).unwrap_or_default();
            let acked = |reply: Option<&String>| {
                reply.is_some_and(|reply| reply.starts_with("PUT_SUCCESS") || reply.starts_with("PUT_UPDATE"))
            };
            for (index, pair) in pairs.into_iter().enumerate() {
                if acked(replies.get(index)) {
                    ledger.ack(&pair.0, &pair.1);
                } else {
                    open.push(pair);
                }
            }
            if replies.len() < requests.len() {
                router.lost(&server);
            }
        }
        if !open.is_empty() {
            router.keyrange = None;
            std::thread::sleep(PAUSE);
        }
    }
    ledger
}
