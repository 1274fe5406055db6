//! Clients that mean no good, by the thousand, and what they cost: connections, latencies of others, resident memory.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::text::Text;

/// Opens `count` connections that say nothing. Those that the server closes again stay in the list all the same.
///
/// # Errors
/// One cannot be opened.
pub fn idle(address: &str, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| TcpStream::connect(address)).collect()
}

/// How many connections one process may open here, of those wanted; said aloud if that is fewer.
#[must_use]
#[allow(clippy::print_stderr)] // must be seen whether or not the test passes
pub fn affordable(wanted: usize) -> usize {
    /// Files of the test itself.
    const OWN: u64 = 500;
    let allowed = common::files::allow(wanted as u64 + OWN);
    let affordable = usize::try_from(allowed.saturating_sub(OWN)).unwrap_or(usize::MAX).min(wanted);
    if affordable < wanted {
        eprintln!("ONLY {affordable} OF {wanted} CONNECTIONS: {allowed} open files are allowed here (ulimit -Hn)");
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
