//! Real processes, real failures: what was acknowledged is there afterwards, at every server that may answer.
#![allow(clippy::print_stdout)] // tells what it saw, for those who run it by hand

use std::time::Duration;

use harness::real::{Cluster, Options, Writers, load, records, survive};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const RECORDS: usize = 30_000;
const HEAL: Duration = Duration::from_secs(90);

#[test]
fn thirty_thousand_records_survive_kills_down_to_two_servers_and_a_full_restart() {
    survive(NODE, &records(RECORDS, 1), &|step| println!("{step}")).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn all_servers_killed_at_once_return_with_everything() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let pairs: Vec<_> = records(2_000, 2).into_iter().map(|record| (record.key, record.value)).collect();
    let mut ledger = load(&cluster.addresses(), &pairs);
    let writers = Writers::start(&cluster.addresses(), "w", 4, 50);
    writers.wait_for_acks(100, HEAL);
    cluster.kill9_ecs();
    for number in 1..=3 {
        cluster.kill9(number);
    }
    ledger.merge(writers.stop().ledger);
    cluster.restart_ecs();
    for number in 1..=3 {
        cluster.restart(number);
    }
    cluster.settled(3, HEAL);
    match ledger.verify(&cluster.addresses()) {
        Ok(reads) => println!("after a power failure: {} records right in {reads} reads", ledger.acked()),
        Err(what) => panic!("{what}\n{}", cluster.logs(40)),
    }
}
