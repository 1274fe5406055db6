//! A thousand to ten million keys in one server.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Options, Table, stalls, up_to};
use crate::bench::dialect::Protocol;
use crate::bench::load::{Load, Target};
use crate::bench::setup::{Alone, fill, keys, until_right, value};
use crate::bench::usage::{resident, rested};
use crate::real::Text;

const STEPS: [usize; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
const CLIENTS: usize = 50;
/// How long a stop may take: it writes a checkpoint of everything.
const STOP: Duration = Duration::from_secs(120);
const RESP: Protocol = Protocol::Redis { wait: false };

pub(super) fn measure(options: &Options, folder: &Path, tell: &dyn Fn(&str)) -> anyhow::Result<Table> {
    let mut table = Table::new(
        &format!(
            "Keys: one server, one copy, keys of 16 and values of 100 bytes, {CLIENTS} clients. Put p99 and the longest put \
             inside and outside of a checkpoint are those of one more client beside sixteen others."
        ),
        &[
            ("keys", "count"),
            ("filled in", "/s"),
            ("get", "/s"),
            ("put", "/s"),
            ("memory per key", " B"),
            ("restart", " s"),
            ("checkpoint", " s"),
            ("put p99 meanwhile", " us"),
            ("put p99 otherwise", " us"),
            ("longest put meanwhile", " us"),
            ("longest otherwise", " us"),
        ],
    );
    for count in up_to(options.keys, &STEPS) {
        tell(&format!("{count} keys"));
        let folder = folder.join(count.to_string());
        std::fs::create_dir_all(&folder)?;
        table.rows.push(row(options, &folder, count)?);
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    Ok(table)
}

fn row(options: &Options, folder: &Path, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut server = Alone::start(&options.program, folder, &[])?;
    let pid = server.process.id();
    let (before, keys) = (resident(pid)?, keys(count));
    let target = Target::new(server.address(), &keys);
    let began = Instant::now();
    fill(RESP, std::slice::from_ref(&target), &value(100))?;
    let filled = count as f64 / began.elapsed().as_secs_f64();
    let memory = (rested(pid)? as f64 - before as f64) / count as f64;
    let gets = Load {
        protocol: RESP,
        targets: vec![target],
        clients: CLIENTS,
        pipeline: 1,
        put: None,
        length: options.length,
    };
    let puts = Load { put: Some(value(100)), ..gets.clone() };
    let (gets, puts) = (gets.run()?.rate(), puts.run()?.rate());
    server.process.stop(STOP)?;
    // From here on checkpoints come as often as they may, so that one is seen soon.
    let address = server.launch_with(&["--checkpoint-seconds", "2"])?;
    let question = format!("get {}", keys[count - 1]);
    let right =
        || Text::connect(&address).and_then(|mut text| text.ask(&question)).is_ok_and(|a| a.starts_with("GET_S"));
    let restart = until_right("the server", right)?.as_secs_f64();
    server.listening()?;
    let stalls = stalls::watch(&address, &keys)?;
    let (during, outside) = (&stalls.during, &stalls.outside);
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    let p99 = |latency: &crate::bench::Histogram| micros(latency.quantile(0.99));
    let checkpoint = stalls.checkpoint.as_secs_f64();
    let latencies = [p99(during), p99(outside), micros(during.worst()), micros(outside.worst())];
    Ok([&[count as f64, filled, gets, puts, memory, restart, checkpoint][..], &latencies].concat())
}
