//! Real data through real failures: 30,000 records in five servers, of which one after another is killed, with writes
//! going on, until two are left; then all return. After each step every record is read from every server that may answer.
#![allow(clippy::print_stdout)] // tells what it saw, for those who run it by hand

use std::time::Duration;

use harness::real::{Cluster, Ledger, Options, Writers, load, records};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const SERVERS: usize = 5;
const RECORDS: usize = 30_000;
/// Detection, failover and copying what is missing, on a machine that does other things as well.
const HEAL: Duration = Duration::from_secs(90);

/// The addresses of the servers with these numbers.
fn addresses(cluster: &Cluster, numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|number| cluster.address(*number)).collect()
}

/// Reads everything back from everyone in `live`.
fn verify(cluster: &Cluster, ledger: &Ledger, live: &[usize], after: &str) {
    match ledger.verify(&addresses(cluster, live)) {
        Ok(reads) => println!("{after}: {} keys right in {reads} reads", ledger.acked()),
        Err(what) => panic!("{after}: {what}\n{}", cluster.logs(40)),
    }
}

/// Kills `victims` while writers are at work, waits until the cluster has healed, and reads everything back.
fn kill_and_verify(cluster: &mut Cluster, ledger: &mut Ledger, victims: &[usize], live: &[usize]) {
    let prefix = format!("w{}", live.len());
    let writers = Writers::start(&addresses(cluster, live), &prefix, 4, 50);
    writers.wait_for_acks(100, HEAL);
    for victim in victims {
        cluster.kill9(*victim);
    }
    cluster.healed(live.len(), HEAL);
    writers.wait_for_acks(writers.acks() + 100, HEAL);
    let outcome = writers.stop();
    println!("killed {victims:?}: {} writes went on, longest gap {:?}", outcome.acks, outcome.gap);
    ledger.merge(outcome.ledger);
    verify(cluster, ledger, live, &format!("after kill -9 of {victims:?}"));
}

#[test]
fn thirty_thousand_records_survive_kills_down_to_two_servers_and_a_full_restart() {
    let mut cluster = Cluster::start(NODE, SERVERS, Options::default());
    let all: Vec<usize> = (1..=SERVERS).collect();
    let home = cluster.keyrange(1);
    let pairs: Vec<_> = records(RECORDS, 1).into_iter().map(|record| (record.key, record.value)).collect();
    let mut ledger = load(&cluster.addresses(), &pairs);
    assert_eq!(ledger.acked(), RECORDS);
    verify(&cluster, &ledger, &all, "after the load");

    kill_and_verify(&mut cluster, &mut ledger, &[5], &[1, 2, 3, 4]);
    kill_and_verify(&mut cluster, &mut ledger, &[1], &[2, 3, 4]);
    kill_and_verify(&mut cluster, &mut ledger, &[3], &[2, 4]);

    for number in [1, 3, 5] {
        cluster.restart(number);
    }
    cluster.settled(SERVERS, HEAL);
    verify(&cluster, &ledger, &all, "after the return of three");
    assert_eq!(cluster.keyrange(2), home, "each server coordinates its arc again");

    kill_and_verify(&mut cluster, &mut ledger, &[2, 3], &[1, 4, 5]);

    for (name, status) in cluster.stop_all() {
        assert!(status.success() || name == "server 2" || name == "server 3", "{name}: {status}\n{}", cluster.logs(40));
    }
    cluster.restart_ecs();
    for number in &all {
        cluster.restart(*number);
    }
    cluster.settled(SERVERS, HEAL);
    verify(&cluster, &ledger, &all, "after a stop and a start of everything");
    assert_eq!(cluster.keyrange(1), home, "each server coordinates its arc again");
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
    verify(&cluster, &ledger, &[1, 2, 3], "after a power failure");
}
