//! The comparisons: what against what, under which load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use playground::node;
use playground::process::{Launch, Process};

use super::disk;
use super::failover;
use super::load::{Load, Measured, Protocol, Target};
use super::peers::{Peer, installed};
use super::report::{Cell, Figure, Report};
use crate::real::{Cluster, Options as ClusterOptions};

const KEYS: usize = 10_000;
/// Durable writes are filled in through the same fsyncs that are measured.
const DURABLE_KEYS: usize = 2_000;
const LISTEN: Duration = Duration::from_secs(20);

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which is also the servers'.
    pub program: String,
    /// Data of everyone; on the disk that is to be measured.
    pub folder: PathBuf,
    /// How often each comparison alternates.
    pub rounds: usize,
    /// How long one side runs in a round.
    pub length: Duration,
    /// How many coordinators are killed.
    pub failovers: usize,
    /// Only what has this in its name.
    pub only: Option<String>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

/// Measures everything that is wanted and possible.
///
/// # Errors
/// A system does not start, or answers wrongly.
pub fn run(options: &Options, tell: &dyn Fn(&str)) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&options.folder)?;
    let mut report = Report::default();
    if options.wants("get") {
        gets(options, &mut report, tell)?;
    }
    if options.wants("put") {
        puts(options, &mut report, tell)?;
    }
    if options.wants("failover") {
        tell("failover");
        let mut values: Vec<f64> =
            failover::gaps(&options.program, options.failovers).iter().map(|gap| gap.as_secs_f64() * 1e3).collect();
        values.sort_by(f64::total_cmp);
        let name = "no writes after kill -9".to_owned();
        report.figures.push(Figure { name, unit: " ms", values, median_below: 250.0, worst_below: 500.0 });
    }
    Ok(report)
}

/// One server against one redis, values of 100 bytes, 50 clients.
fn gets(options: &Options, report: &mut Report, tell: &dyn Fn(&str)) -> anyhow::Result<()> {
    if let Err(why) = installed("redis-server", "redis-server") {
        report.skipped.push(why);
        return Ok(());
    }
    let folder = options.folder.join("get");
    fresh(&folder)?;
    let redis = Peer::redis(&folder)?;
    let ours = alone(options, &folder)?;
    let keys = keys(KEYS);
    let theirs = vec![Target { address: redis.address.clone(), keys: keys.clone() }];
    let mine = vec![Target { address: ours.address().to_owned(), keys }];
    fill(Protocol::Redis { wait: false }, &theirs)?;
    fill(Protocol::Text, &mine)?;
    for (pipeline, wanted) in [(1, 1.15), (16, 2.5)] {
        let name = format!("get 100 B, 50 clients, pipeline {pipeline}");
        tell(&name);
        let load = |protocol, targets: &[Target]| Load {
            protocol,
            targets: targets.to_vec(),
            clients: 50,
            pipeline,
            put: None,
            length: options.length,
        };
        let peer = load(Protocol::Redis { wait: false }, &theirs);
        let our = load(Protocol::Text, &mine);
        report.cells.push(compare(options, name, &our, redis.name, &peer, Some(wanted))?);
    }
    Ok(())
}

/// Three copies, all on disk before the answer.
fn puts(options: &Options, report: &mut Report, tell: &dyn Fn(&str)) -> anyhow::Result<()> {
    let folder = options.folder.join("put");
    fresh(&folder)?;
    let cluster = Cluster::start_in(&options.program, folder.join("annulus"), 3, ClusterOptions::default());
    let mine = our_targets(&cluster)?;
    fill(Protocol::Text, &mine)?;
    let redis = skip_or(report, installed("redis-server", "redis-server"), || Peer::durable_redis(&folder))?;
    let etcd = skip_or(report, installed("etcd", "etcd-server"), || Peer::etcd(&folder))?;
    let keys = keys(DURABLE_KEYS);
    for (peer, protocol) in [(&redis, Protocol::Redis { wait: true }), (&etcd, Protocol::Etcd)] {
        let Some(peer) = peer else { continue };
        let theirs = vec![Target { address: peer.address.clone(), keys: keys.clone() }];
        fill(protocol, &theirs)?;
        for clients in [1, 16, 64] {
            let name = format!("put 100 B, 3 disks, {clients} clients");
            tell(&format!("{name}, {}", peer.name));
            let wanted = match protocol {
                Protocol::Etcd => (clients == 64).then_some(10.0),
                _ => Some(2.0),
            };
            let our = put_load(Protocol::Text, &mine, clients, options.length);
            let their = put_load(protocol, &theirs, clients, options.length);
            report.cells.push(compare(options, name, &our, peer.name, &their, wanted)?);
        }
    }
    tell("put p50 against fdatasync p50");
    report.cells.push(put_against_disk(options, &folder, &mine)?);
    Ok(())
}

fn put_load(protocol: Protocol, targets: &[Target], clients: usize, length: Duration) -> Load {
    Load { protocol, targets: targets.to_vec(), clients, pipeline: 1, put: Some(value()), length }
}

/// One client's median put against the median of one sync of the same disk.
fn put_against_disk(options: &Options, folder: &Path, mine: &[Target]) -> anyhow::Result<Cell> {
    let load = put_load(Protocol::Text, mine, 1, options.length);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        theirs.push(disk::fdatasync(folder, options.length / 2)?.quantile(0.5).as_secs_f64() * 1e6);
        ours.push(load.run()?.latency.quantile(0.5).as_secs_f64() * 1e6);
    }
    let name = "put p50 at 1 client".to_owned();
    Ok(Cell { name, unit: " us", ours, peer: "fdatasync".to_owned(), theirs, wanted: Some(-2.5) })
}

/// Both sides in turn; who begins changes from round to round.
fn compare(
    options: &Options,
    name: String,
    our: &Load,
    peer: &str,
    their: &Load,
    wanted: Option<f64>,
) -> anyhow::Result<Cell> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        if round % 2 == 0 {
            theirs.push(Measured::rate(&their.run()?));
            ours.push(Measured::rate(&our.run()?));
        } else {
            ours.push(Measured::rate(&our.run()?));
            theirs.push(Measured::rate(&their.run()?));
        }
    }
    Ok(Cell { name, unit: "/s", ours, peer: peer.to_owned(), theirs, wanted })
}

fn skip_or<T>(
    report: &mut Report,
    installed: Result<(), String>,
    start: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    match installed {
        Ok(()) => start().map(Some),
        Err(why) => {
            report.skipped.push(why);
            Ok(None)
        }
    }
}

/// A ring of one.
fn alone(options: &Options, folder: &Path) -> anyhow::Result<Process> {
    let data = folder.join("annulus");
    let args = [node::KVSERVER.into(), "-p".into(), "0".into(), "-d".into(), data.into_os_string()];
    let launch = Launch {
        name: "server".to_owned(),
        program: options.program.clone().into(),
        args: args.to_vec(),
        log: folder.join("annulus.log"),
        announces: "kvserver listening on ",
    };
    Process::start(launch, LISTEN)
}

/// Each server with the keys that it coordinates.
fn our_targets(cluster: &Cluster) -> anyhow::Result<Vec<Target>> {
    let keyrange = cluster.keyrange(1);
    let mut targets: Vec<Target> =
        cluster.addresses().into_iter().map(|address| Target { address, keys: Vec::new() }).collect();
    for key in keys(DURABLE_KEYS) {
        let owner = keyrange.servers(&key).first().copied().unwrap_or_default().to_owned();
        if let Some(target) = targets.iter_mut().find(|target| target.address == owner) {
            target.keys.push(key);
        }
    }
    anyhow::ensure!(targets.iter().all(|target| !target.keys.is_empty()), "a server coordinates nothing: {keyrange:?}");
    Ok(targets)
}

/// Writes every key once.
fn fill(protocol: Protocol, targets: &[Target]) -> anyhow::Result<()> {
    for target in targets {
        Load::fill(protocol, target, &value())?;
    }
    Ok(())
}

/// Keys of 16 bytes.
fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key:{number:012}")).collect()
}

/// A value of 100 bytes.
fn value() -> String {
    "v".repeat(100)
}

fn fresh(folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)
}
