//! What it costs to move records to a new server: how fast when nothing else is going on, and what clients feel of it.
//!
//! Real processes, the product's client. The time counts from the start of the new server's process to the moment at which
//! the last slot it is to hold has it in sync; the hand-over of what it is to coordinate is told apart.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvclient::{Address, Client, Settings};
use serde::Serialize;
use serde_json::Value;

use super::dialect::Protocol;
use super::disk;
use super::histogram::Histogram;
use super::setup::{self, coordinators, fill};
use crate::real::{Cluster, Options as ClusterOptions};

/// How often the ECS is asked how far it is, and memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// A move that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);
const KEY: usize = 16;
const VALUE: usize = 100;

/// What to move, and under which load.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which is also the servers'.
    pub program: String,
    /// Data of everyone; on the disk that is to be measured.
    pub folder: PathBuf,
    /// Records that the new server is to get.
    pub keys: usize,
    /// Servers before.
    pub servers: usize,
    /// Clients that read and write, half and half, one request after another each; 0: nothing else is going on.
    pub clients: usize,
    /// For how long they are measured before.
    pub before: Duration,
    /// More arguments of every server.
    pub server_args: Vec<String>,
}

/// How clients fared in one span of time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Felt {
    /// Requests a second.
    pub rate: f64,
    /// Of gets, in milliseconds.
    pub get_p50: f64,
    /// The same.
    pub get_p99: f64,
    /// Of puts, in milliseconds.
    pub put_p50: f64,
    /// The same.
    pub put_p99: f64,
    /// The longest of all, in milliseconds.
    pub worst: f64,
    /// Requests that ended with an error.
    pub errors: usize,
}

/// One server's memory in MiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident before.
    pub before: u64,
    /// The most that was seen on the way.
    pub most: u64,
    /// Resident when all had moved.
    pub after: u64,
}

/// What one move came to.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// Records the new server holds.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// From the start of its process until it held all of them, in seconds.
    pub seconds: f64,
    /// The same from the first copy that was begun.
    pub copying: f64,
    /// Until it coordinated its share, from its start.
    pub joined: f64,
    /// A plain copy of as many bytes into a file, synced, in seconds: the middle one of three.
    pub file_copy: f64,
    /// Each old server's memory.
    pub sources: Vec<Memory>,
    /// The new server's.
    pub target: Memory,
    /// For how long writes to a slot were refused: how many slots, the median and the longest, in milliseconds.
    pub locks: (u64, f64, f64),
    /// Clients before.
    pub before: Option<Felt>,
    /// Clients on the way.
    pub during: Option<Felt>,
}

impl Moved {
    /// Records a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.seconds.max(1e-9)
    }
}

/// Fills a cluster, adds a server and watches.
///
/// # Errors
/// A process does not start, or what is asked of it fails.
///
/// # Panics
/// The cluster does not come to rest.
pub fn run(options: &Options, tell: &dyn Fn(&str)) -> anyhow::Result<Moved> {
    if options.folder.exists() {
        std::fs::remove_dir_all(&options.folder)?;
    }
    std::fs::create_dir_all(&options.folder)?;
    let mut server: Vec<_> = ["--admin-port", "0"].map(Into::into).to_vec();
    server.extend(options.server_args.iter().map(Into::into));
    let folder = options.folder.join("annulus");
    let mut cluster =
        Cluster::start_in(&options.program, folder, options.servers, ClusterOptions { server, ..Default::default() });
    let keys = total_keys(options);
    tell(&format!("filling {} servers with {keys} records", options.servers));
    let targets = coordinators(&cluster, &setup::keys(keys))?;
    fill(Protocol::Text, &targets, &setup::value(VALUE))?;
    drop(targets);
    cluster.settled(options.servers, PATIENCE);
    let bytes = options.keys * (KEY + VALUE);
    let mut copies: Vec<f64> =
        (0..3).map(|_| Ok(disk::copy(&options.folder, bytes)?.as_secs_f64())).collect::<std::io::Result<_>>()?;
    copies.sort_by(f64::total_cmp);
    let load = (options.clients > 0).then(|| Felts::start(&cluster, options.clients, keys));
    if load.is_some() {
        tell("clients alone");
        std::thread::sleep(options.before);
    }
    tell("moving");
    let mut moved = watch(&mut cluster, options, load.as_ref());
    moved.file_copy = copies[1];
    if let Some(load) = load {
        let [before, during, _after] = load.stop();
        (moved.before, moved.during) = (Some(before), Some(during));
    }
    moved.locks = locks(&cluster, options.servers);
    Ok(moved)
}

/// So many that the new server's part of all copies comes to what was asked for.
fn total_keys(options: &Options) -> usize {
    let copies = 3.min(options.servers + 1);
    options.keys * (options.servers + 1) / copies
}

/// Adds a server and waits until it holds its share.
fn watch(cluster: &mut Cluster, options: &Options, load: Option<&Felts>) -> Moved {
    let old: Vec<u32> = (1..=options.servers).map(|number| cluster.pid(number)).collect();
    let mut sources: Vec<Memory> = old.iter().map(|pid| Memory::of(*pid)).collect();
    if let Some(load) = load {
        load.span.store(1, Ordering::Relaxed);
    }
    let begun = Instant::now();
    let number = cluster.add();
    let (pid, mut target) = (cluster.pid(number), Memory::default());
    let (mut first, mut held, mut joined) = (None, None, None);
    while joined.is_none() {
        assert!(begun.elapsed() < PATIENCE, "no end within {PATIENCE:?}\n{}", cluster.logs(20));
        sources.iter_mut().zip(&old).for_each(|(memory, pid)| memory.look(*pid));
        target.look(pid);
        let status = cluster.status();
        let share = &status["servers"].as_array().and_then(|all| all.iter().find(|s| is(s, &cluster.address(number))));
        let count = |name: &str| share.map_or(0, |server| server[name].as_u64().unwrap_or(0));
        if first.is_none() && count("learns") + count("in_sync") > 0 {
            first = Some(begun.elapsed());
        }
        if held.is_none() && first.is_some() && count("learns") == 0 {
            held = Some(begun.elapsed());
            if let Some(load) = load {
                load.span.store(2, Ordering::Relaxed);
            }
        }
        let settled = status["settled"] == true && held.is_some();
        joined = settled.then(|| begun.elapsed());
        std::thread::sleep(LOOK);
    }
    sources.iter_mut().zip(&old).for_each(|(memory, pid)| memory.end(*pid));
    target.end(pid);
    let status = cluster.status_of(number);
    let counts = |name: &str| status["counts"][name].as_u64().unwrap_or(0);
    let seconds = |at: Option<Duration>| at.unwrap_or_default().as_secs_f64();
    Moved {
        records: counts("records"),
        bytes: counts("bytes"),
        seconds: seconds(held),
        copying: seconds(held) - seconds(first),
        joined: seconds(joined),
        file_copy: 0.0,
        sources,
        target,
        locks: (0, 0.0, 0.0),
        before: None,
        during: None,
    }
}

fn is(server: &Value, address: &str) -> bool {
    server["address"] == address
}

/// What the old servers counted of slots they handed over.
fn locks(cluster: &Cluster, servers: usize) -> (u64, f64, f64) {
    let of = |number| cluster.status_of(number)["moves"]["write_lock"].clone();
    let all: Vec<Value> = (1..=servers).map(of).collect();
    let most = |name: &str| all.iter().filter_map(|lock| lock[name].as_f64()).fold(0.0, f64::max);
    (all.iter().filter_map(|lock| lock["slots"].as_u64()).sum(), most("median_ms"), most("max_ms"))
}

impl Memory {
    fn of(pid: u32) -> Memory {
        let now = resident(pid);
        Memory { before: now, most: now, after: now }
    }

    fn look(&mut self, pid: u32) {
        self.most = self.most.max(resident(pid));
    }

    fn end(&mut self, pid: u32) {
        self.after = resident(pid);
    }
}

/// Resident memory in MiB; 0 if the process has gone.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Clients that go on until they are stopped; each request counts for the span of time in which it began.
struct Felts {
    span: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<[Span; 3]>,
}

#[derive(Clone, Default)]
struct Span {
    gets: Histogram,
    puts: Histogram,
    errors: usize,
    began: Option<Instant>,
    ended: Option<Instant>,
}

impl Felts {
    fn start(cluster: &Cluster, clients: usize, keys: usize) -> Felts {
        let (span, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let seeds: Vec<Address> = cluster.addresses().iter().map(|seed| Address::from(seed.as_str())).collect();
        let (now, ends) = (span.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = Client::new(seeds, Settings::default());
                let one = |number| tokio::spawn(ask_on(client.clone(), number, keys, now.clone(), ends.clone()));
                let mut all: [Span; 3] = Default::default();
                for client in (0..clients).map(one).collect::<Vec<_>>() {
                    let spans = client.await.expect("a client does not panic");
                    all.iter_mut().zip(&spans).for_each(|(all, one)| all.merge(one));
                }
                all
            })
        });
        Felts { span, stop, thread }
    }

    fn stop(self) -> [Felt; 3] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a thread does not panic").map(|span| span.felt())
    }
}

async fn ask_on(client: Client, number: usize, keys: usize, now: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> [Span; 3] {
    let mut spans: [Span; 3] = Default::default();
    let mut random = fastrand::Rng::with_seed(number as u64);
    let value = "w".repeat(VALUE);
    while !stop.load(Ordering::Relaxed) {
        let span = &mut spans[now.load(Ordering::Relaxed)];
        let (key, begun) = (setup::key(random.usize(..keys)), Instant::now());
        span.began.get_or_insert(begun);
        let failed = if random.bool() {
            let failed = client.get(key).await.is_err();
            span.gets.add(begun.elapsed());
            failed
        } else {
            let failed = client.put(key, value.clone()).await.is_err();
            span.puts.add(begun.elapsed());
            failed
        };
        span.errors += usize::from(failed);
        span.ended = Some(Instant::now());
    }
    spans
}

impl Span {
    fn merge(&mut self, other: &Span) {
        self.gets.merge(&other.gets);
        self.puts.merge(&other.puts);
        self.errors += other.errors;
        self.began = self.began.into_iter().chain(other.began).min();
        self.ended = self.ended.max(other.ended);
    }

    fn felt(&self) -> Felt {
        let ms = |histogram: &Histogram, part| histogram.quantile(part).as_secs_f64() * 1e3;
        let length = self.began.zip(self.ended).map_or(0.0, |(began, ended)| (ended - began).as_secs_f64());
        Felt {
            rate: (self.gets.count() + self.puts.count()) as f64 / length.max(1e-9),
            get_p50: ms(&self.gets, 0.5),
            get_p99: ms(&self.gets, 0.99),
            put_p50: ms(&self.puts, 0.5),
            put_p99: ms(&self.puts, 0.99),
            worst: self.gets.worst().max(self.puts.worst()).as_secs_f64() * 1e3,
            errors: self.errors,
        }
    }
}
