//! Clients that mean no good, by the thousand, and what they cost: connections, latencies of others, resident memory.
//! And those others: clients at work beside them, whose every answer is checked.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::text::Text;
use super::writers::{Writers, load};

/// Records that readers read.
const RECORDS: usize = 256;
/// Gets that a reader sends at a time,
const BATCH: usize = 16;
/// and its rest after them: the machine is to be busy, not full.
const REST: Duration = Duration::from_millis(5);

/// Opens `count` connections that say nothing. Those that the server closes again stay in the list all the same.
///
/// # Errors
/// One cannot be opened.
pub fn idle(address: &str, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| TcpStream::connect(address)).collect()
}

/// How many connections one process may open here, of those wanted; said aloud if that is fewer.
#[must_use]
pub fn affordable(wanted: usize) -> usize {
    /// Files of the test itself; and more than a server, which has the same limit, keeps for itself and other clients.
    const OWN: u64 = 1_000;
    let allowed = common::files::allow(wanted as u64 + OWN);
    let affordable = usize::try_from(allowed.saturating_sub(OWN)).unwrap_or(usize::MAX).min(wanted);
    if affordable < wanted {
        // Past the test runner's capture: it must be seen whether or not the test passes. Nothing is to be done about a
        // closed stderr.
        let _ = writeln!(
            io::stderr(),
            "ONLY {affordable} OF {wanted} CONNECTIONS: {allowed} open files are allowed here (ulimit -Hn)"
        );
    }
    affordable
}

/// Sends what the server takes within `patience` and never reads.
///
/// # Errors
/// It cannot be reached.
pub fn deaf(address: &str, bytes: &[u8], patience: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(patience))?;
    // What it does not take any more is the point.
    let _ = stream.write_all(bytes);
    Ok(stream)
}

/// Resident memory of a process, in bytes: now, and at its highest.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub fn resident(pid: u32) -> io::Result<(usize, usize)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("no {name} in /proc/{pid}/status")))
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// How long requests took, one after another: half of them up to, 99 of 100 up to, the longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// The middle.
    pub p50: Duration,
    /// All but one of a hundred.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// Asks for `line` so many times; every answer has to begin with `expected`.
///
/// # Errors
/// An answer does not come, or is another one.
pub fn latency(text: &mut Text, line: &str, expected: &str, times: usize) -> io::Result<Latency> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = Instant::now();
        let answer = text.ask(line)?;
        took.push(begun.elapsed());
        if !answer.starts_with(expected) {
            return Err(io::Error::other(answer));
        }
    }
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    Ok(Latency { p50: at(50), p99: at(99), max: took.last().copied().unwrap_or_default() })
}

/// Clients at work beside whatever a test does: [`Writers`] of keys of their own, and readers that stay with one server
/// each and know what every answer must be.
#[derive(Debug)]
pub struct Beside {
    writers: Writers,
    addresses: Vec<String>,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    readers: Vec<JoinHandle<Result<(), String>>>,
}

impl Beside {
    /// Starts so many of each.
    ///
    /// # Panics
    /// The records to be read cannot be written.
    #[must_use]
    pub fn start(addresses: &[String], writers: usize, readers: usize) -> Beside {
        let pairs: Vec<(String, String)> =
            (0..RECORDS).map(|number| (format!("beside{number}"), format!("value {number}"))).collect();
        let known = Arc::new(load(addresses, &pairs));
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let reader = |number: usize| {
            let address = addresses[number % addresses.len()].clone();
            let (known, stop, reads) = (known.clone(), stop.clone(), reads.clone());
            std::thread::spawn(move || {
                let read = read_on(&address, &known, &reads, &stop);
                read.map_err(|what| format!("{address}: {what}"))
            })
        };
        let readers = (0..readers).map(reader).collect();
        let writers = Writers::start(addresses, "beside-writer", writers, 50);
        Beside { writers, addresses: addresses.to_vec(), stop, reads, readers }
    }

    /// Waits until so many more writes are acknowledged and as many reads answered.
    ///
    /// # Panics
    /// They are not within `patience`.
    pub fn more(&self, wanted: u64, patience: Duration) {
        let (reads, deadline) = (self.reads.load(Ordering::Relaxed) + wanted, Instant::now() + patience);
        self.writers.wait_for_acks(self.writers.acks() + wanted, patience);
        while self.reads.load(Ordering::Relaxed) < reads {
            assert!(Instant::now() < deadline, "fewer than {wanted} reads within {patience:?}");
            std::thread::sleep(REST);
        }
    }

    /// Stops them, reads back what was written, and gives how many writes and reads were answered.
    ///
    /// # Panics
    /// An answer was wrong, or did not come.
    #[must_use]
    pub fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for reader in self.readers {
            reader.join().expect("a reader does not panic").unwrap_or_else(|what| panic!("{what}"));
        }
        let wrote = self.writers.stop();
        wrote.ledger.verify(&self.addresses).unwrap_or_else(|what| panic!("{what}"));
        (wrote.acks, self.reads.load(Ordering::Relaxed))
    }
}

fn read_on(address: &str, known: &Ledger, reads: &AtomicU64, stop: &AtomicBool) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut text = Text::connect(address).map_err(failed)?;
    let keys: Vec<&String> = known.0.keys().collect();
    for batch in keys.chunks(BATCH).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let requests: Vec<String> = batch.iter().map(|key| format!("get {key}")).collect();
        for (key, reply) in batch.iter().zip(text.ask_all(&requests).map_err(failed)?) {
            // A machine that stands still may cost a lease, and then a moment's refusal.
            if !matches!(reply.as_str(), "SERVER_STOPPED" | "SERVER_NOT_RESPONSIBLE") {
                known.judge(key, &reply)?;
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(REST);
    }
    Ok(())
}
