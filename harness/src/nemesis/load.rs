//! Clients that record what they ask and hear while things happen to the cluster.
//!
//! Three kinds, because each sees what the others cannot: the product's client library (exactly-once writes, retries),
//! a text client that writes once and notes *unknown* when it hears nothing, and text clients that stay with one server
//! each, so that deposed, frozen and returning servers are read from too. All write values that no one else writes.
//!
//! Slow on purpose: a thousand operations a second over few keys say more about consistency than a hundred thousand.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::ensure;
use common::Outcome;
use kvclient::{Address, Client, Error, Settings};

use crate::history::{Action, End, History};
use crate::real::Text;

/// How many keys: enough to meet every slot's coordinator, few enough to be contended.
pub const KEYS: u32 = 48;
/// Tasks of the client library.
const TASKS: u32 = 4;
/// The rest between two operations of one client.
const REST: Duration = Duration::from_millis(4);
/// A text client leaves a server that says nothing for this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// The name of a key.
#[must_use]
pub fn name(key: u32) -> String {
    format!("key{key}")
}

/// What has been recorded so far.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    stop: AtomicBool,
    history: Mutex<History>,
    acks: AtomicU64,
    reads: AtomicU64,
    /// The longest that one of the library's tasks had no write acknowledged, in microseconds.
    gap: AtomicU64,
    odd: Mutex<Vec<String>>,
    /// Blanks behind each value.
    padding: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How one attempt ended.
#[derive(Debug)]
pub enum Heard {
    /// With this answer.
    Answer(Action),
    /// Certainly not executed.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Record {
    fn new(padding: usize) -> Record {
        let (acks, reads, gap) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (history, odd) = (Mutex::default(), Mutex::default());
        Record { began: Instant::now(), stop: AtomicBool::new(false), history, acks, reads, gap, odd, padding }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes a call. The time is taken with the history locked, so that calls stand in the order of their times.
    pub fn call(&self, client: u32, key: u32, action: impl FnOnce(u32) -> Action) -> u32 {
        let mut history = locked(&self.history);
        history.call(client, key, self.now(), action)
    }

    /// Notes what came of it.
    pub fn heard(&self, id: u32, server: Option<u32>, heard: Heard) {
        let mut history = locked(&self.history);
        let now = self.now();
        match heard {
            Heard::Answer(action) => {
                let counter = if matches!(action, Action::Get { .. }) { &self.reads } else { &self.acks };
                counter.fetch_add(1, Ordering::Relaxed);
                history.answered(id, now, server, action);
            }
            Heard::Refused => history.refused(id, now, server),
            Heard::Unknown => {}
        }
    }

    /// The text of a value.
    #[must_use]
    pub fn value(&self, id: u32) -> String {
        format!("{id} {}", "x".repeat(self.padding))
    }

    /// Notes something that no server should say.
    pub fn odd(&self, what: String) {
        let mut odd = locked(&self.odd);
        if odd.len() < 20 {
            odd.push(what);
        }
    }

    /// Keys without an acknowledged write among the operations from number `from` on.
    fn unwritten(&self, from: usize) -> BTreeSet<u32> {
        let mut missing: BTreeSet<u32> = (0..KEYS).collect();
        for op in &locked(&self.history).ops()[from..] {
            if matches!(op.end, End::Answered(_)) && !matches!(op.action, Action::Get { .. }) {
                missing.remove(&op.key);
            }
        }
        missing
    }

    /// Whether the clients are to stop.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A get's answer as a value's number.
    fn seen(&self, text: &str) -> Option<u32> {
        let number = text.split(' ').next().and_then(|number| number.parse().ok());
        if number.is_none() {
            self.odd(format!("a value that nobody wrote: {text:.80}"));
        }
        number
    }

    /// One get of a text client, recorded.
    pub fn text_get(&self, text: &mut Text, client: u32, server: u32, key: u32) -> Result<Option<String>, std::io::Error> {
        let id = self.call(client, key, |_| Action::Get { seen: None });
        let reply = text.ask(&format!("get {}", name(key)))?;
        let word = reply.split(' ').next().unwrap_or_default();
        let heard = match word {
            "GET_SUCCESS" => {
                let value = reply.splitn(3, ' ').nth(2).unwrap_or_default();
                self.seen(value).map_or(Heard::Unknown, |seen| Heard::Answer(Action::Get { seen: Some(seen) }))
            }
            "GET_ERROR" => Heard::Answer(Action::Get { seen: None }),
            "SERVER_STOPPED" | "SERVER_NOT_RESPONSIBLE" => Heard::Refused,
            // A server that is short of file descriptors; it hangs up.
            "FAILED" if reply.contains("connections are taken") => Heard::Refused,
            _ => {
                self.odd(format!("server {server} answered get with {reply:.80}"));
                Heard::Refused
            }
        };
        let refused = matches!(heard, Heard::Refused).then(|| reply.clone());
        self.heard(id, Some(server), heard);
        Ok(refused)
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    /// What they record.
    pub record: Arc<Record>,
    addresses: Vec<String>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients of servers at these addresses; values get this many bytes more.
    #[must_use]
    pub fn start(addresses: &[String], padding: usize) -> Load {
        let record = Arc::new(Record::new(padding));
        let mut load = Load { record, addresses: addresses.to_vec(), threads: Vec::new() };
        let (record, seeds) = (load.record.clone(), addresses.to_vec());
        load.threads.push(std::thread::spawn(move || library(&record, &seeds)));
        let (record, seeds) = (load.record.clone(), addresses.to_vec());
        load.threads.push(std::thread::spawn(move || write_once(&record, &seeds)));
        for number in 1..=addresses.len() {
            load.reader(number, &addresses[number - 1]);
        }
        load
    }

    /// One more text client that stays with server `number`.
    pub fn reader(&mut self, number: usize, address: &str) {
        let (record, address) = (self.record.clone(), address.to_owned());
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        if !self.addresses.contains(&address) {
            self.addresses.push(address.clone());
        }
        self.threads.push(std::thread::spawn(move || read_on(&record, number, &address)));
    }

    /// Acknowledged writes so far.
    #[must_use]
    pub fn acks(&self) -> u64 {
        self.record.acks.load(Ordering::Relaxed)
    }

    /// Answered reads so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.record.reads.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes are acknowledged and as many reads answered.
    ///
    /// # Errors
    /// They are not in time.
    pub fn more(&self, wanted: u64, patience: Duration) -> anyhow::Result<()> {
        let (acks, reads, began) = (self.acks(), self.reads(), Instant::now());
        while self.acks() < acks + wanted || self.reads() < reads + wanted {
            let (wrote, read) = (self.acks() - acks, self.reads() - reads);
            ensure!(began.elapsed() < patience, "{wrote} writes and {read} reads of {wanted} within {patience:?}");
            std::thread::sleep(REST);
        }
        Ok(())
    }

    /// Waits until every key has been written by a request that is sent from now on, which no slot without a coordinator
    /// allows.
    ///
    /// # Errors
    /// Some have not in time.
    pub fn every_key(&self, patience: Duration) -> anyhow::Result<()> {
        let (from, began) = (locked(&self.record.history).ops().len(), Instant::now());
        loop {
            let missing = self.record.unwritten(from);
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(began.elapsed() < patience, "within {patience:?} nobody could write the keys {missing:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the clients and gives what they recorded.
    #[must_use]
    pub fn stop(mut self) -> Recorded {
        self.record.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                self.record.odd("a client panicked".to_owned());
            }
        }
        Recorded(self.record.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
    }
}

/// What stopped clients recorded; final reads may be added.
#[derive(Debug)]
pub struct Recorded(pub Arc<Record>);

impl Recorded {
    /// The history.
    #[must_use]
    pub fn history(&self) -> History {
        locked(&self.0.history).clone()
    }

    /// The longest pause of writes.
    #[must_use]
    pub fn gap(&self) -> Duration {
        Duration::from_micros(self.0.gap.load(Ordering::Relaxed))
    }

    /// Answers that no server should give.
    #[must_use]
    pub fn odd(&self) -> Vec<String> {
        locked(&self.0.odd).clone()
    }

    /// Acknowledged writes and answered reads.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.0.acks.load(Ordering::Relaxed), self.0.reads.load(Ordering::Relaxed))
    }
}

fn library(record: &Arc<Record>, seeds: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return record.odd("no runtime for the library's clients".to_owned()) };
    runtime.block_on(async {
        let client = Client::new(seeds.iter().cloned().map(Address::from).collect(), Settings::default());
        let tasks = (0..TASKS).map(|task| tokio::spawn(library_task(record.clone(), client.clone(), task)));
        for task in tasks.collect::<Vec<_>>() {
            if task.await.is_err() {
                record.odd("a task of the library panicked".to_owned());
            }
        }
    });
}

async fn library_task(record: Arc<Record>, client: Client, task: u32) {
    let mut random = fastrand::Rng::with_seed(u64::from(task));
    let mut last = Instant::now();
    while !record.stopped() {
        let key = random.u32(..KEYS);
        let write = random.u8(..10) < 7;
        let delete = random.u8(..10) == 0;
        let action = match (write, delete) {
            (true, true) => library_delete(&record, &client, task, key).await,
            (true, false) => library_put(&record, &client, task, key).await,
            _ => library_get(&record, &client, task, key).await,
        };
        if write && action {
            let gap = u64::try_from(last.elapsed().as_micros()).unwrap_or(u64::MAX);
            record.gap.fetch_max(gap, Ordering::Relaxed);
            last = Instant::now();
        }
        tokio::time::sleep(REST).await;
    }
}

/// Notes the result of an operation of the library; whether it was answered.
fn note(record: &Record, id: u32, result: Result<Action, Error>) -> bool {
    let heard = match result {
        Ok(action) => Heard::Answer(action),
        Err(Error::Unknown(_)) => Heard::Unknown,
        Err(Error::Rejected { server, reason }) if !reason.contains("unknown") => {
            // A full disk and the like: refused for certain, but worth telling if a scenario does not expect it.
            log::info!("{server} says {reason}");
            Heard::Refused
        }
        Err(Error::Refused(_) | Error::Unreachable(_)) => Heard::Refused,
        Err(_) => Heard::Unknown,
    };
    let answered = matches!(heard, Heard::Answer(_));
    record.heard(id, None, heard);
    answered
}

async fn library_put(record: &Record, client: &Client, task: u32, key: u32) -> bool {
    let id = record.call(task, key, |value| Action::Put { value, created: None });
    let result = client.put(name(key), record.value(id)).await;
    let action = |outcome| Action::Put { value: id, created: Some(outcome == Outcome::Created) };
    note(record, id, result.map(action))
}

async fn library_delete(record: &Record, client: &Client, task: u32, key: u32) -> bool {
    let id = record.call(task, key, |_| Action::Delete { existed: None });
    let result = client.delete(name(key)).await;
    note(record, id, result.map(|outcome| Action::Delete { existed: Some(outcome == Outcome::Deleted) }))
}

async fn library_get(record: &Record, client: &Client, task: u32, key: u32) -> bool {
    let id = record.call(task, key, |_| Action::Get { seen: None });
    let result = client.get(name(key)).await;
    let seen = |value: Option<bytes::Bytes>| match value {
        Some(value) => record.seen(&String::from_utf8_lossy(&value)),
        None => None,
    };
    note(record, id, result.map(|value| Action::Get { seen: seen(value) }))
}

/// A text client that stays with one server and reads.
fn read_on(record: &Record, server: u32, address: &str) {
    let mut random = fastrand::Rng::with_seed(u64::from(server));
    let mut text = None;
    while !record.stopped() {
        if text.is_none() {
            text = connect(address);
        }
        if let Some(open) = &mut text {
            // Whatever is unheard stays unknown; for a read that says nothing.
            match record.text_get(open, 100 + server, server, random.u32(..KEYS)) {
                Ok(None) => {}
                Ok(Some(_)) => std::thread::sleep(REST),
                Err(_) => text = None,
            }
        }
        std::thread::sleep(REST);
    }
}

fn connect(address: &str) -> Option<Text> {
    let connected = Text::connect_within(address, PATIENCE).and_then(|mut text| text.patience(PATIENCE).map(|()| text));
    if connected.is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
    connected.ok()
}

/// A text client that sends each write once, to whom the last keyrange named.
fn write_once(record: &Record, seeds: &[String]) {
    let mut random = fastrand::Rng::with_seed(77);
    let mut open: Option<(String, Text)> = None;
    let mut turn = 0;
    while !record.stopped() {
        let key = random.u32(..KEYS);
        let named = open.as_mut().and_then(|(_, text)| text.keyrange(false).ok());
        let server = named.and_then(|keyrange| keyrange.servers(&name(key)).first().map(|server| (*server).to_owned()));
        let server = server.unwrap_or_else(|| {
            turn += 1;
            seeds[turn % seeds.len()].clone()
        });
        if open.as_ref().is_none_or(|(at, _)| *at != server) {
            open = connect(&server).map(|text| (server.clone(), text));
        }
        if let Some((_, text)) = &mut open
            && !text_put(record, text, key)
        {
            open = None;
        }
        std::thread::sleep(REST);
    }
}

/// One put of a text client; whether the connection is still of use.
fn text_put(record: &Record, text: &mut Text, key: u32) -> bool {
    let id = record.call(200, key, |value| Action::Put { value, created: None });
    let Ok(reply) = text.ask(&format!("put {} {}", name(key), record.value(id))) else { return false };
    let heard = match reply.split(' ').next().unwrap_or_default() {
        "PUT_SUCCESS" => Heard::Answer(Action::Put { value: id, created: Some(true) }),
        "PUT_UPDATE" => Heard::Answer(Action::Put { value: id, created: Some(false) }),
        "PUT_ERROR" => Heard::Unknown,
        "SERVER_STOPPED" | "SERVER_WRITE_LOCK" | "SERVER_NOT_RESPONSIBLE" => Heard::Refused,
        "FAILED" if !reply.contains("unknown") => Heard::Refused,
        _ => {
            record.odd(format!("a put was answered with {reply:.80}"));
            Heard::Unknown
        }
    };
    record.heard(id, None, heard);
    true
}
