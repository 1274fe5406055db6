//! From the start of a process that has a million keys on its disk to its first right answer.
//!
//! The files are in the system's cache, for both sides: what is measured is reading and building, not the disk.

use std::path::Path;
use std::time::Duration;

use playground::process::until;
use serde_json::Value;

use super::Bench;
use crate::bench::dialect::Protocol;
use crate::bench::load::Target;
use crate::bench::peers::{Persistence, Redis, installed};
use crate::bench::report::{Bound, Cell, Figure};
use crate::bench::setup::{Alone, fill, keys, until_right, value};
use crate::real::{Resp, Text};

const WANTED: f64 = 1.5;
/// How long a checkpoint of everything may take to come.
const CHECKPOINT: Duration = Duration::from_secs(120);
/// How long a server may take to stop in order: it writes a checkpoint.
const STOP: Duration = Duration::from_secs(60);
/// Restarts of each kind, at most.
const TIMES: usize = 3;
const RESP: Protocol = Protocol::Redis { wait: false };

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let (count, times) = (bench.options.keys, bench.options.rounds.min(TIMES));
    let (killed, stopped) = ours(bench, &folder.join("annulus"), count, times)?;
    let mut theirs = Vec::new();
    for (name, persistence) in [("redis, RDB", Persistence::Snapshot), ("redis, AOF", Persistence::Log)] {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let start = || Redis::start(&folder, persistence);
        if let Some(redis) = bench.if_installed(installed("redis-server", "redis-server"), start)? {
            (bench.tell)(&format!("restart of {name}"));
            theirs.push((name, redis_restarts(redis, persistence, count, times)?));
        }
    }
    for (how, seconds) in [("after kill -9", killed), ("after SIGTERM", stopped)] {
        let work = format!("restart {how}, {count} keys");
        bench.report.figures.push(Figure::new(&work, " s", seconds.clone()).median(Bound::AtMost(WANTED)));
        for (peer, theirs) in &theirs {
            bench.report.cells.push(Cell {
                name: work.clone(),
                unit: " s",
                less_is_better: true,
                ours: seconds.clone(),
                peer: (*peer).to_owned(),
                theirs: theirs.clone(),
                wanted: None,
                latency: None,
                core_to_core_ns: Vec::new(),
            });
        }
    }
    Ok(())
}

/// Killed after a checkpoint of everything; stopped in order.
fn ours(
    bench: &Bench<'_>,
    folder: &std::path::Path,
    count: usize,
    times: usize,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    std::fs::create_dir_all(folder)?;
    let mut server = Alone::start(&bench.options.program, folder, &["--checkpoint-seconds", "2"])?;
    fill(RESP, &[Target::new(server.address(), &keys(count))], &value(100))?;
    let whole = || all_in_checkpoint(server.address(), count);
    anyhow::ensure!(until(CHECKPOINT, whole), "no checkpoint within {CHECKPOINT:?}");
    let (mut killed, mut stopped) = (Vec::new(), Vec::new());
    for _ in 0..times {
        server.process.kill()?;
        killed.push(first_answer(&mut server, count)?);
    }
    for _ in 0..times {
        let end = server.process.stop(STOP)?;
        anyhow::ensure!(end.success(), "the server did not stop in order: {end}\n{}", server.process.tail(20));
        stopped.push(first_answer(&mut server, count)?);
    }
    Ok((killed, stopped))
}

/// Whether a checkpoint of all records was written. One that has just begun has taken a new journal, too, but holds nothing yet.
fn all_in_checkpoint(address: &str, count: usize) -> bool {
    let status = Text::connect(address).and_then(|mut text| text.ask("status")).unwrap_or_default();
    let status: Value = serde_json::from_str(status.trim_start_matches("STATUS_SUCCESS ")).unwrap_or_default();
    let journal = &status["journal"];
    let least = (count * value(100).len()) as u64;
    journal["checkpoint"]["bytes"].as_u64() >= Some(least) && journal["bytes"] == 0 && journal["waiting_bytes"] == 0
}

fn first_answer(server: &mut Alone, count: usize) -> anyhow::Result<f64> {
    let address = server.launch()?;
    let question = format!("get {}", keys(count)[count - 1]);
    let right = || {
        let answer = Text::connect(&address).and_then(|mut text| text.ask(&question));
        answer.is_ok_and(|answer| answer.starts_with("GET_SUCCESS "))
    };
    let took = until_right("our server", right)?;
    server.listening()?;
    Ok(took.as_secs_f64())
}

fn redis_restarts(mut redis: Redis, persistence: Persistence, count: usize, times: usize) -> anyhow::Result<Vec<f64>> {
    fill(RESP, &[Target::new(&redis.address, &keys(count))], &value(100))?;
    if persistence == Persistence::Snapshot {
        let saved = redis.ask("SAVE")?;
        anyhow::ensure!(saved == "OK", "redis does not save: {saved}");
    } else {
        // While a sync is under way redis keeps back what it would write: killed then, it would lose that.
        let written = || redis.ask("INFO persistence").is_ok_and(|info| info.contains("aof_buffer_length:0\r\n"));
        anyhow::ensure!(until(CHECKPOINT, written), "redis has not written its log within {CHECKPOINT:?}");
    }
    let question = format!("GET {}", keys(count)[count - 1]);
    let mut seconds = Vec::new();
    for _ in 0..times {
        redis.kill();
        redis.launch()?;
        let address = redis.address.clone();
        let right = || Resp::connect(&address).and_then(|mut resp| resp.ask(&question)).is_ok_and(|v| v.len() == 100);
        seconds.push(until_right("redis", right)?.as_secs_f64());
    }
    Ok(seconds)
}
