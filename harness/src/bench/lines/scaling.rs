//! Linearizable reads of three servers against one, each with a quarter of a processor: whether copies add speed.
//!
//! The ECS and the load generator have what is left of the machine; all keys are read from every server.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Bench;
use crate::bench::contest::{Side, play};
use crate::bench::dialect::Protocol;
use crate::bench::load::{Load, Target};
use crate::bench::quota::Quota;
use crate::bench::setup::{coordinators, fill, keys, value};
use crate::bench::usage::cpu;
use crate::real::{Cluster, Options as ClusterOptions};

const KEYS: usize = 2_000;
const CLIENTS: usize = 96;
const CORES: f64 = 0.25;
const PERIOD: Duration = Duration::from_millis(10);
const WANTED: f64 = 2.7;

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let options = bench.options;
    let (keys, value) = (keys(KEYS), value(100));
    let (mut sides, mut held) = (Vec::new(), Vec::new());
    for (name, servers) in [("one server", 1), ("three servers", 3)] {
        let folder = folder.join(servers.to_string());
        let cluster = Cluster::start_in(&options.program, folder, servers, ClusterOptions::default());
        fill(Protocol::Text, &coordinators(&cluster, &keys)?, &value)?;
        let mut quotas = Vec::new();
        for number in 1..=servers {
            let quota = Quota::new(&format!("{servers}-{number}"), CORES, PERIOD)
                .and_then(|quota| quota.hold(cluster.pid(number)).map(|()| quota));
            match quota {
                Ok(quota) => quotas.push(quota),
                Err(why) => {
                    bench.skip(format!("SKIPPED scaling: {why}; it needs root and the cpu controller"));
                    return Ok(());
                }
            }
        }
        sides.push(Side {
            name: name.to_owned(),
            load: Load {
                protocol: Protocol::Text,
                targets: cluster.addresses().iter().map(|address| Target::new(address, &keys)).collect(),
                clients: CLIENTS,
                pipeline: 1,
                put: None,
                length: options.length,
            },
        });
        // The quotas go after the processes they hold.
        held.push((cluster, quotas));
    }
    let outcome = play(&sides, options.rounds)?;
    bench.report.notes.push(used(&sides[1].load, &held[1].0)?);
    let work = format!("get, three servers of {CORES} cores each");
    bench.report.cells.extend(outcome.cell(&work, "three servers", "one server", Some(WANTED), None));
    Ok(())
}

/// How much of what they may use the three servers do use under that load: far less than all of it means that the load
/// generator is the limit, and the ratio says nothing about them.
fn used(load: &Load, cluster: &Cluster) -> anyhow::Result<String> {
    let all = || (1..=3).map(|number| cpu(cluster.pid(number))).sum::<anyhow::Result<f64>>();
    let (began, before) = (Instant::now(), all()?);
    load.run()?;
    let share = (all()? - before) / (began.elapsed().as_secs_f64() * 3.0 * CORES) * 100.0;
    Ok(format!(
        "three servers of {CORES} cores each used {share:.0} % of that; far below 100 the load generator was the limit"
    ))
}
