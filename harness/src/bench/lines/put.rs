//! Three copies, all on disk before the answer, values of 100 bytes; and what one put costs beyond one sync of the disk.
//!
//! Clients of Annulus go to the coordinator of their keys, as its own client does; a line of its own has all of them go to
//! one server, as clients of redis do.

use std::path::Path;
use std::time::Duration;

use super::Bench;
use crate::bench::contest::{Side, play};
use crate::bench::dialect::Protocol;
use crate::bench::disk;
use crate::bench::load::{Load, Target};
use crate::bench::peers::{Peer, installed};
use crate::bench::report::{Bound, Cell, Figure};
use crate::bench::setup::{coordinators, fill, keys, value};
use crate::real::{Cluster, Options as ClusterOptions};

/// They are filled in through the same syncs that are measured.
const KEYS: usize = 2_000;
const CLIENTS: [usize; 3] = [1, 16, 64];
const RESP: Protocol = Protocol::Redis { wait: false };

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let options = bench.options;
    let cluster = Cluster::start_in(&options.program, folder.join("annulus"), 3, ClusterOptions::default());
    let (keys, value) = (keys(KEYS), value(100));
    let spread = coordinators(&cluster, &keys)?;
    fill(Protocol::Text, &spread, &value)?;
    let one = vec![Target::new(&cluster.address(1), &keys)];
    let mut sides = vec![("text", Protocol::Text, spread.clone()), ("resp", RESP, spread.clone())];
    sides.push(("resp, one server", RESP, one));
    let redis = bench.if_installed(installed("redis-server", "redis-server"), || Peer::durable_redis(folder))?;
    if let Some(redis) = &redis {
        let theirs = vec![Target::new(&redis.address, &keys)];
        fill(Protocol::Redis { wait: true }, &theirs, &value)?;
        sides.insert(1, (redis.name, Protocol::Redis { wait: true }, theirs));
    }
    let etcd = bench.if_installed(installed("etcd", "etcd-server"), || Peer::etcd(folder))?;
    if let Some(etcd) = &etcd {
        let theirs = vec![Target::new(&etcd.address, &keys)];
        sides.push((etcd.name, faster(bench, &theirs)?, theirs));
    }
    for clients in CLIENTS {
        (bench.tell)(&format!("put, {clients} clients"));
        let side = |(name, protocol, targets): &(&str, Protocol, Vec<Target>)| Side {
            name: (*name).to_owned(),
            load: load(*protocol, targets, clients, options.length),
        };
        let outcome = play(&sides.iter().map(side).collect::<Vec<_>>(), options.rounds)?;
        for side in ["text", "resp", "resp, one server"] {
            let work = format!("put x3, {side}, {clients} clients");
            let wanted = (side != "resp, one server").then_some(2.0);
            bench.report.cells.extend(outcome.cell(&work, side, "redis x3", wanted, wanted.and(Some(1.0))));
            let wanted = (side != "resp, one server" && clients == 64).then_some(10.0);
            bench.report.cells.extend(outcome.cell(&work, side, "etcd x3", wanted, None));
        }
    }
    (bench.tell)("put p50 against fdatasync p50");
    against_disk(bench, folder, &spread)?;
    (bench.tell)("four clients, as course projects are measured");
    as_courses(bench, &spread)
}

/// What the best of the course projects came to (in Java, three servers, four clients), and how many times that is wanted.
const COURSE_PUTS: f64 = 258.0;
const COURSE_GETS: f64 = 3_400.0;
const TIMES: f64 = 50.0;

fn as_courses(bench: &mut Bench<'_>, mine: &[Target]) -> anyhow::Result<()> {
    let puts = load(Protocol::Text, mine, 4, bench.options.length);
    let gets = Load { put: None, ..puts.clone() };
    for (name, load, theirs) in
        [("put x3, text, 4 clients", puts, COURSE_PUTS), ("get, text, three servers, 4 clients", gets, COURSE_GETS)]
    {
        let rates = (0..bench.options.rounds).map(|_| Ok(load.run()?.rate())).collect::<anyhow::Result<Vec<_>>>()?;
        bench.report.figures.push(Figure::new(name, "/s", rates).median(Bound::AtLeast(TIMES * theirs)));
    }
    Ok(())
}

fn load(protocol: Protocol, targets: &[Target], clients: usize, length: Duration) -> Load {
    Load { protocol, targets: targets.to_vec(), clients, pipeline: 1, put: Some(value(100)), length }
}

/// That interface of etcd through which more goes at 64 clients.
fn faster(bench: &mut Bench<'_>, theirs: &[Target]) -> anyhow::Result<Protocol> {
    let length = bench.options.length.max(Duration::from_secs(1));
    let mut rates = Vec::new();
    for protocol in [Protocol::EtcdV2, Protocol::EtcdV3] {
        fill(protocol, theirs, &value(100))?;
        rates.push(load(protocol, theirs, 64, length).run()?.rate());
    }
    let (v2, v3) = (rates[0], rates[1]);
    let (protocol, taken) = if v2 > v3 { (Protocol::EtcdV2, "v2") } else { (Protocol::EtcdV3, "v3") };
    bench.report.notes.push(format!(
        "etcd, 64 clients: {v2:.0} puts/s over its v2 API, {v3:.0} over v3's JSON gateway; {taken} is what is compared"
    ));
    Ok(protocol)
}

/// One client's median put against the median of one sync of the same disk.
fn against_disk(bench: &mut Bench<'_>, folder: &Path, mine: &[Target]) -> anyhow::Result<()> {
    let load = load(Protocol::Text, mine, 1, bench.options.length);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds {
        theirs.push(disk::fdatasync(folder, bench.options.length / 2)?.quantile(0.5).as_secs_f64() * 1e6);
        ours.push(load.run()?.latency.quantile(0.5).as_secs_f64() * 1e6);
    }
    bench.report.cells.push(Cell {
        name: "put x3 p50, text, 1 client".to_owned(),
        unit: " us",
        less_is_better: true,
        ours,
        peer: "fdatasync".to_owned(),
        theirs,
        wanted: Some(Bound::AtMost(2.5)),
        latency: None,
        core_to_core_ns: Vec::new(),
    });
    Ok(())
}
