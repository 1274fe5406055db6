//! One to twenty servers, all on this machine: what they cost each other, not what more machines bring.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Options, Table, up_to};
use crate::bench::dialect::Protocol;
use crate::bench::load::Load;
use crate::bench::setup::{coordinators, fill, keys, value};
use crate::bench::usage::shares;
use crate::real::{Cluster, Options as ClusterOptions};

const STEPS: [usize; 5] = [1, 3, 5, 10, 20];
const CLIENTS: usize = 64;
const KEYS: usize = 2_000;
/// How long twenty servers on a small machine may take to come to rest.
const SETTLE: Duration = Duration::from_secs(300);
/// How often the whole cluster is asked for its status.
const ASKED: usize = 5;

pub(super) fn measure(options: &Options, folder: &Path, tell: &dyn Fn(&str)) -> anyhow::Result<Table> {
    let mut table = Table::new(
        &format!(
            "Servers: all on this machine, up to three copies, values of 100 bytes, {CLIENTS} clients spread over them."
        ),
        &[
            ("servers", "count"),
            ("from nothing to settled", " s"),
            ("put", "/s"),
            ("put p99", " us"),
            ("get", "/s"),
            ("get p99", " us"),
            ("idle, each", " %"),
            ("idle, the ECS", " %"),
            ("status cluster", " ms"),
        ],
    );
    for servers in up_to(options.servers, &STEPS) {
        tell(&format!("{servers} servers"));
        let began = Instant::now();
        let cluster = start(options, folder.join(servers.to_string()), servers);
        let settled = began.elapsed().as_secs_f64();
        let pids: Vec<u32> = (1..=servers).map(|number| cluster.pid(number)).chain([cluster.ecs_pid()]).collect();
        let idle = shares(&pids, options.length.max(Duration::from_secs(2)) * 2)?;
        let (ecs, each) = (idle[servers], idle[..servers].iter().sum::<f64>() / servers as f64);
        let targets = coordinators(&cluster, &keys(KEYS))?;
        fill(Protocol::Text, &targets, &value(100))?;
        let load = Load {
            protocol: Protocol::Text,
            targets,
            clients: CLIENTS,
            pipeline: 1,
            put: Some(value(100)),
            length: options.length,
        };
        let puts = load.run()?;
        let gets = Load { put: None, ..load }.run()?;
        table.rows.push(vec![
            servers as f64,
            settled,
            puts.rate(),
            puts.percentiles().p99,
            gets.rate(),
            gets.percentiles().p99,
            each,
            ecs,
            status(&cluster)?,
        ]);
    }
    Ok(table)
}

fn start(options: &Options, folder: PathBuf, servers: usize) -> Cluster {
    let mut cluster = Cluster::start_in(&options.program, folder, 1, ClusterOptions::default());
    (1..servers).for_each(|_| {
        cluster.add();
    });
    cluster.settled(servers, SETTLE);
    cluster
}

/// The median time of an answer for the whole cluster, in milliseconds.
fn status(cluster: &Cluster) -> anyhow::Result<f64> {
    let mut text = cluster.text(1);
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        let answer = text.ask("status cluster")?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.starts_with("STATUS_SUCCESS"), "no status of the cluster: {answer:.300}");
    }
    Ok(crate::bench::report::middle(&took))
}
