//! For how long writes to an arc stop when its coordinator is killed.

use std::time::Duration;

use crate::real::{Cluster, Options, Writers};

const HEAL: Duration = Duration::from_secs(60);
/// Keys per run: enough that every arc is written to all the time.
const KEYS: usize = 300;

/// Kills one coordinator after another, `runs` times, and gives the longest pause between two acknowledged writes of a
/// client that goes round all arcs. Between runs the cluster heals completely.
pub(crate) fn gaps(program: &str, runs: usize) -> Vec<Duration> {
    let mut cluster = Cluster::start(program, 3, Options::default());
    let mut gaps = Vec::new();
    for run in 0..runs {
        let victim = run % 3 + 1;
        let others: Vec<String> =
            (1..=3).filter(|other| *other != victim).map(|other| cluster.address(other)).collect();
        let writers = Writers::start(&others, &format!("run{run}"), 1, KEYS);
        writers.wait_for_acks(KEYS as u64, HEAL);
        cluster.kill9(victim);
        let acks = writers.acks();
        writers.wait_for_acks(acks + 2 * KEYS as u64, HEAL);
        gaps.push(writers.stop().gap);
        cluster.restart(victim);
        cluster.settled(3, HEAL);
    }
    gaps
}
