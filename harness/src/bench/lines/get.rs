//! One server against one redis without persistence, values of 100 bytes, 50 clients; and against a bare echo.

use std::path::Path;

use super::Bench;
use crate::bench::contest::{Side, play};
use crate::bench::dialect::Protocol;
use crate::bench::load::{Load, Target};
use crate::bench::peers::{Persistence, Redis, echo, installed};
use crate::bench::setup::{Alone, fill, keys, value};

const KEYS: usize = 10_000;
const CLIENTS: usize = 50;
/// Of requests: how many at a time, what is wanted against redis, what against the echo.
const DEPTHS: [(usize, f64, Option<f64>); 2] = [(1, 1.15, None), (16, 2.5, Some(0.65))];

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let (keys, value, options) = (keys(KEYS), value(100), bench.options);
    let resp = Protocol::Redis { wait: false };
    let ours = Alone::start(&options.program, folder, &[])?;
    let echo = echo::start(&options.program, folder)?;
    let start = || Redis::start(folder, Persistence::Nothing);
    let redis = bench.if_installed(installed("redis-server", "redis-server"), start)?;
    let mine = vec![Target::new(ours.address(), &keys)];
    fill(Protocol::Text, &mine, &value)?;
    let mut sides = vec![
        ("text", Protocol::Text, mine.clone()),
        ("resp", resp, mine),
        ("echo", Protocol::Echo, vec![Target::new(echo.address(), &keys)]),
    ];
    if let Some(redis) = &redis {
        let theirs = vec![Target::new(&redis.address, &keys)];
        fill(resp, &theirs, &value)?;
        sides.insert(1, ("redis", resp, theirs));
    }
    for (pipeline, wanted, of_echo) in DEPTHS {
        (bench.tell)(&format!("get, pipeline {pipeline}"));
        let side = |(name, protocol, targets): &(&str, Protocol, Vec<Target>)| Side {
            name: (*name).to_owned(),
            load: Load {
                protocol: *protocol,
                targets: targets.clone(),
                clients: CLIENTS,
                pipeline,
                put: None,
                length: options.length,
            },
        };
        let outcome = play(&sides.iter().map(side).collect::<Vec<_>>(), options.rounds)?;
        for dialect in ["text", "resp"] {
            let work = format!("get, {dialect}, {CLIENTS} clients, pipeline {pipeline}");
            bench.report.cells.extend(outcome.cell(&work, dialect, "redis", Some(wanted), Some(1.0)));
            bench.report.cells.extend(outcome.cell(&work, dialect, "echo", of_echo, None));
        }
    }
    Ok(())
}
