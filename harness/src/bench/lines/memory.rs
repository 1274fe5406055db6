//! Memory per key: one copy, keys of 16 bytes and values of 100. Resident after less resident before, by the number of keys.

use std::path::Path;

use super::Bench;
use crate::bench::dialect::Protocol;
use crate::bench::load::Target;
use crate::bench::peers::{Persistence, Redis, installed};
use crate::bench::report::{Bound, Cell, Figure};
use crate::bench::setup::{Alone, fill, keys, value};
use crate::bench::usage::rested;

const WANTED: f64 = 190.0;
const RESP: Protocol = Protocol::Redis { wait: false };

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let options = bench.options;
    let ours = Alone::start(&options.program, folder, &[])?;
    let mine = per_key(ours.process.id(), ours.address(), options.keys)?;
    drop(ours);
    let name = format!("memory per key, {} keys", options.keys);
    bench.report.figures.push(Figure::new(&name, " B", vec![mine]).median(Bound::AtMost(WANTED)));
    let start = || Redis::start(folder, Persistence::Nothing);
    let Some(redis) = bench.if_installed(installed("redis-server", "redis-server"), start)? else { return Ok(()) };
    let theirs = per_key(redis.pid()?, &redis.address, options.keys)?;
    bench.report.cells.push(Cell {
        name,
        unit: " B",
        less_is_better: true,
        ours: vec![mine],
        peer: "redis".to_owned(),
        theirs: vec![theirs],
        wanted: None,
        latency: None,
        core_to_core_ns: Vec::new(),
    });
    Ok(())
}

fn per_key(pid: u32, address: &str, count: usize) -> anyhow::Result<f64> {
    let before = rested(pid)?;
    fill(RESP, &[Target::new(address, &keys(count))], &value(100))?;
    let after = rested(pid)?;
    Ok((after as f64 - before as f64) / count as f64)
}
