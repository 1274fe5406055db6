//! For how long writes to an arc stop when its coordinator is killed.

use std::path::Path;
use std::time::Duration;

use super::Bench;
use crate::bench::report::{Bound, Figure};
use crate::real::{Cluster, Options as ClusterOptions, Writers};

const HEAL: Duration = Duration::from_secs(60);
/// Keys per run: enough that every arc is written to all the time.
const KEYS: usize = 300;

/// Kills one coordinator after another, and takes the longest pause between two acknowledged writes of a client that goes
/// round all arcs. Between runs the cluster heals completely.
pub(super) fn measure(bench: &mut Bench<'_>, folder: &Path) -> anyhow::Result<()> {
    let mut cluster = Cluster::start_in(&bench.options.program, folder.join("annulus"), 3, ClusterOptions::default());
    let mut gaps = Vec::new();
    for run in 0..bench.options.failovers {
        let victim = run % 3 + 1;
        let others: Vec<String> =
            (1..=3).filter(|other| *other != victim).map(|other| cluster.address(other)).collect();
        let writers = Writers::start(&others, &format!("run{run}"), 1, KEYS);
        writers.wait_for_acks(KEYS as u64, HEAL);
        cluster.kill9(victim);
        let acks = writers.acks();
        writers.wait_for_acks(acks + 2 * KEYS as u64, HEAL);
        gaps.push(writers.stop().gap.as_secs_f64() * 1e3);
        cluster.restart(victim);
        cluster.settled(3, HEAL);
    }
    let figure = Figure::new("no writes after kill -9", " ms", gaps);
    bench.report.figures.push(figure.median(Bound::AtMost(250.0)).largest(Bound::AtMost(500.0)));
    Ok(())
}
