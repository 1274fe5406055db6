//! The same again with load generators that are not ours: redis-benchmark at one server and one redis, one-shot commands at
//! three servers and three etcds, and etcd's own check of its performance.

use std::path::Path;
use std::time::{Duration, Instant};

use playground::node;

use super::Bench;
use crate::bench::core_to_core::round_trip;
use crate::bench::dialect::Protocol;
use crate::bench::load::{Latency, Target};
use crate::bench::peers::{Peer, Persistence, Redis, installed};
use crate::bench::report::{Bound, Cell, Latencies};
use crate::bench::setup::{Alone, fill, keys, value};
use crate::bench::tools::{Row, check_perf, rows, run};
use crate::real::{Cluster, Options as ClusterOptions};

const KEYS: usize = 10_000;
/// Enough for a tool that was given work for a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests a second, at the most: what bounds the work that a tool is given.
const FASTEST: f64 = 2e6;
/// etcdctl's check takes a minute by its own clock.
const CHECK: Duration = Duration::from_secs(120);

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    if let Some(()) = bench.if_installed(installed("redis-benchmark", "redis-tools"), || Ok(()))? {
        redis_benchmark(bench, folder)?;
    }
    if let Some(()) = bench.if_installed(installed("etcdctl", "etcd-client"), || Ok(()))? {
        one_shot(bench, folder)?;
    }
    Ok(())
}

/// GET against a redis that keeps nothing, SET against one that syncs as we do: one copy on disk before the answer.
fn redis_benchmark(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let ours = Alone::start(&bench.options.program, folder, &[])?;
    let resp = Protocol::Redis { wait: false };
    fill(resp, &[Target::new(ours.address(), &keys(KEYS))], &value(100))?;
    for (test, persistence, name) in
        [("GET", Persistence::Nothing, "redis"), ("SET", Persistence::Synced, "redis, synced")]
    {
        let folder = folder.join(test);
        std::fs::create_dir_all(&folder)?;
        let start = || Redis::start(&folder, persistence);
        let Some(redis) = bench.if_installed(installed("redis-server", "redis-server"), start)? else { return Ok(()) };
        let beside = folder.join("beside");
        std::fs::create_dir_all(&beside)?;
        let another = Redis::start(&beside, persistence)?;
        for redis in [&redis, &another] {
            fill(resp, &[Target::new(&redis.address, &keys(KEYS))], &value(100))?;
        }
        for pipeline in [1, 16] {
            let work = format!("{test}, redis-benchmark -P {pipeline}");
            (bench.tell)(&work);
            let cell = in_turn(bench, &folder, work.clone(), [ours.address(), &redis.address], (test, pipeline))?;
            bench.report.cells.push(Cell { peer: name.to_owned(), ..cell });
            // How far the same comes out from itself: what a ratio near 1 is worth.
            let control = format!("control: redis, {work}");
            (bench.tell)(&control);
            let mut cell = in_turn(bench, &folder, control, [&another.address, &redis.address], (test, pipeline))?;
            cell.latency = cell.latency.map(|latency| Latencies { wanted: None, ..latency });
            bench.report.cells.push(Cell { peer: format!("another {name}"), ..cell });
        }
    }
    Ok(())
}

fn in_turn(
    bench: &Bench<'_>,
    folder: &Path,
    name: String,
    addresses: [&str; 2],
    (test, pipeline): (&str, usize),
) -> anyhow::Result<Cell> {
    let (rounds, length) = (bench.options.rounds, bench.options.length.as_secs_f64());
    let mut rates = [Vec::new(), Vec::new()];
    let mut latencies = [Vec::new(), Vec::new()];
    let mut core_to_core_ns = Vec::new();
    // The tool counts requests, not seconds: a short run says how many make up the time that is wanted.
    let mut requests = [20_000 * pipeline / 4, 20_000 * pipeline / 4];
    for side in [0, 1] {
        let rate = shoot(folder, addresses[side], test, pipeline, requests[side])?.rate;
        requests[side] = (rate.min(FASTEST) * length).max(1_000.0) as usize;
    }
    for round in 0..rounds {
        core_to_core_ns.push(round_trip());
        for side in if round % 2 == 0 { [1, 0] } else { [0, 1] } {
            let row = shoot(folder, addresses[side], test, pipeline, requests[side])?;
            rates[side].push(row.rate);
            latencies[side].push(Latency { p50: row.p50, p99: row.p99, p999: f64::NAN, worst: row.worst });
        }
    }
    let ([ours, theirs], [our, their]) = (rates, latencies);
    let latency = Some(Latencies { ours: our, theirs: their, wanted: Some(Bound::AtMost(1.0)) });
    Ok(Cell {
        name,
        unit: "/s",
        less_is_better: false,
        ours,
        peer: String::new(),
        theirs,
        wanted: None,
        latency,
        core_to_core_ns,
    })
}

fn shoot(folder: &Path, address: &str, test: &str, pipeline: usize, requests: usize) -> anyhow::Result<Row> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
    let words = format!(
        "-h {host} -p {port} -t {} -n {requests} -c 50 -P {pipeline} -d 100 -r {KEYS} --csv --precision 3",
        test.to_lowercase()
    );
    let args: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let rows = rows(&run("redis-benchmark", &args, folder, &[0], PATIENCE)?)?;
    let row = rows.into_iter().find(|row| row.test == test);
    row.ok_or_else(|| anyhow::anyhow!("redis-benchmark did not tell of {test}"))
}

/// A put a process: `etcdctl put` against `kvclient put`; and etcd as its own tool sees it.
fn one_shot(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let start = || Peer::etcd(folder);
    let Some(etcd) = bench.if_installed(installed("etcd", "etcd-server"), start)? else { return Ok(()) };
    let options = bench.options;
    let cluster = Cluster::start_in(&options.program, folder.join("annulus"), 3, ClusterOptions::default());
    (bench.tell)("put, one-shot commands");
    let value = value(100);
    let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let ours = words(&[node::KVCLIENT, "-s", &cluster.address(1), "put", "key:000000000001", &value]);
    let theirs = words(&["--endpoints", &etcd.address, "put", "key:000000000001", &value]);
    let (mut our, mut their) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for side in if round % 2 == 0 { [1, 0] } else { [0, 1] } {
            if side == 0 {
                our.push(loop_of(&options.program, &ours, folder, options.length)?);
            } else {
                their.push(loop_of("etcdctl", &theirs, folder, options.length)?);
            }
        }
    }
    bench.report.cells.push(Cell {
        name: "put x3, kvclient against etcdctl, one by one".to_owned(),
        unit: "/s",
        less_is_better: false,
        ours: our,
        peer: "etcd x3".to_owned(),
        theirs: their,
        wanted: None,
        latency: None,
        core_to_core_ns: Vec::new(),
    });
    if options.check_perf {
        (bench.tell)("etcdctl check perf, a minute");
        let args = words(&["--endpoints", &etcd.address, "check", "perf", "--load", "l"]);
        // It is discontent (1) with anything below 8,000 writes a second.
        let text = run("etcdctl", &args, folder, &[0, 1], CHECK)?;
        let rate = check_perf(&text).ok_or_else(|| anyhow::anyhow!("etcdctl check perf told nothing: {text:.500}"))?;
        let note = format!("etcd by its own tool (`etcdctl check perf --load l`, gRPC, 500 clients): {rate:.0} puts/s");
        bench.report.notes.push(note);
    }
    Ok(())
}

/// How often a second a command can be run to success.
fn loop_of(program: &str, args: &[String], folder: &Path, length: Duration) -> anyhow::Result<f64> {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < length {
        run(program, args, folder, &[0], PATIENCE)?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
