//! What three servers use of a processor each while nobody asks anything: heartbeats, beacons, audits.

use std::path::Path;

use super::Bench;
use crate::bench::report::{Bound, Figure};
use crate::bench::usage::shares;
use crate::real::{Cluster, Options as ClusterOptions};

const WANTED: f64 = 1.0;

pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let cluster = Cluster::start_in(&bench.options.program, folder.join("annulus"), 3, ClusterOptions::default());
    let pids: Vec<u32> = (1..=3).map(|number| cluster.pid(number)).collect();
    let values = shares(&pids, bench.options.idle)?;
    let name = "processor of an idle server, three servers";
    bench.report.figures.push(Figure::new(name, " %", values).largest(Bound::AtMost(WANTED)));
    Ok(())
}
