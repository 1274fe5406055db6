//! Linearizable reads of three servers against one, each with a quarter of a processor: whether copies add speed.
//!
//! The ECS and the load generator have what is left of the machine; all keys are read from every server.

use std::path::PathBuf;
use std::time::Duration;

use super::Bench;
use crate::bench::contest::{Side, play};
use crate::bench::dialect::Protocol;
use crate::bench::load::{Load, Target};
use crate::bench::quota::Quota;
use crate::bench::setup::{coordinators, fill, keys, value};
use crate::real::{Cluster, Options as ClusterOptions};

const KEYS: usize = 2_000;
const CLIENTS: usize = 96;
const CORES: f64 = 0.25;
const PERIOD: Duration = Duration::from_millis(10);
const WANTED: f64 = 2.7;

pub(super) fn measure(bench: &mut Bench<'_>, folder: PathBuf) -> anyhow::Result<()> {
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
    let work = format!("get, three servers of {CORES} cores each");
    bench.report.cells.extend(outcome.cell(&work, "three servers", "one server", Some(WANTED), None));
    Ok(())
}
