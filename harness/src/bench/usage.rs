//! What a process uses, as `/proc` tells it.

use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Ticks of `/proc/PID/stat` in a second: a constant of Linux's interface, whatever the kernel was built with.
const TICKS: f64 = 100.0;
/// Memory is at rest when it has moved by less than a hundredth for so long.
const REST: Duration = Duration::from_secs(2);
/// It is taken as it is after this.
const RESTLESS: Duration = Duration::from_secs(30);

/// Resident memory in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let (now, _) = crate::real::crowd::resident(pid).with_context(|| format!("memory of process {pid}"))?;
    Ok(now as u64)
}

/// Resident memory in bytes, once it is at rest: checkpoints and rewrites that follow a load are over then.
pub(crate) fn rested(pid: u32) -> anyhow::Result<u64> {
    let began = Instant::now();
    let (mut last, mut since) = (resident(pid)?, began);
    while since.elapsed() < REST && began.elapsed() < RESTLESS {
        std::thread::sleep(Duration::from_millis(100));
        let now = resident(pid)?;
        if now.abs_diff(last) > last / 100 {
            (last, since) = (now, Instant::now());
        }
    }
    resident(pid)
}

/// Processor time used so far, in seconds.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    ticks(&stat).map(|ticks| ticks / TICKS).with_context(|| format!("/proc/{pid}/stat has another shape: {stat}"))
}

/// The share of one processor that each process uses while nothing is asked of it, in percent.
pub(crate) fn shares(pids: &[u32], length: Duration) -> anyhow::Result<Vec<f64>> {
    let all = || pids.iter().map(|pid| cpu(*pid)).collect::<anyhow::Result<Vec<f64>>>();
    let (began, before) = (Instant::now(), all()?);
    std::thread::sleep(length);
    let (after, elapsed) = (all()?, began.elapsed().as_secs_f64());
    Ok(before.iter().zip(after).map(|(before, after)| (after - before) / elapsed * 100.0).collect())
}

/// User and system time. The name, in parentheses, may hold anything: fields are counted from its end.
fn ticks(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(number(11)? + number(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a ) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 1000 1 1";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(ticks("42 (x) S 1"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let me = std::process::id();
        assert!(resident(me).unwrap() > 1 << 16);
        assert!(cpu(me).unwrap() >= 0.0);
    }
}
