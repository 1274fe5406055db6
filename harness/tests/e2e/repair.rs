//! A copy damaged by hand, in memory or on disk, the coordinator's or a replica's, is found and made whole while the
//! cluster serves.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // waits with deadlines, so it reads the clock; tells what it saw

use std::time::Duration;

use harness::real::{Cluster, Options, Writers, memory};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const PATIENCE: Duration = Duration::from_secs(60);

fn cluster() -> Cluster {
    let server = ["--audit-seconds", "1", "--checkpoint-seconds", "1"].map(Into::into).to_vec();
    Cluster::start(NODE, 3, Options { server, ..Options::default() })
}

/// A counter of a server's status.
fn audit(cluster: &Cluster, number: usize, field: &str) -> u64 {
    cluster.status_of(number)["audit"][field].as_u64().unwrap_or(0)
}

fn total(cluster: &Cluster, field: &str) -> u64 {
    (1..=3).map(|number| audit(cluster, number, field)).sum()
}

fn wait(cluster: &Cluster, what: &str, done: impl Fn() -> bool) {
    assert!(playground::process::until(PATIENCE, done), "no {what} within {PATIENCE:?}\n{}", cluster.logs(60));
}

/// What every server that may answer says of `key`.
fn everywhere(cluster: &Cluster, key: &str) -> Vec<String> {
    (1..=3).map(|number| cluster.text(number).ask(&format!("get {key}")).unwrap_or_default()).collect()
}

/// Damages the copy that the server in `place` of the key's preference list (0: its coordinator) has in memory.
fn damage_in_memory(place: usize) {
    let mut cluster = cluster();
    let value = format!("a value found nowhere else {place} {}", std::process::id());
    let reply = cluster.text(1).keyrange(false).expect("a keyrange").servers("needle").first().map(ToString::to_string);
    let coordinator = 1 + cluster.addresses().iter().position(|a| Some(a) == reply.as_ref()).expect("a known server");
    let answer = cluster.text(coordinator).ask(&format!("put needle {value}")).expect("an answer");
    assert!(answer.starts_with("PUT_SUCCESS"), "{answer}");
    let victim = (coordinator - 1 + place) % 3 + 1;
    // After a restart the record is in the map only, and in no log or buffer.
    cluster.stop(victim);
    cluster.restart(victim);
    cluster.settled(3, PATIENCE);
    let writers = Writers::start(&cluster.addresses(), "w", 2, 100);

    let flipped = match memory::flip(cluster.pid(victim), value.as_bytes()) {
        Ok(flipped) => flipped,
        Err(error) => return println!("SKIPPED: this process may not write into another one's memory: {error}"),
    };
    assert!(flipped > 0, "the value is nowhere in the memory of server {victim}");
    wait(&cluster, "condemned copy", || total(&cluster, "copies_condemned") >= 1);
    wait(&cluster, "repaired copy", || audit(&cluster, victim, "copies_repaired") >= 1);
    cluster.settled(3, PATIENCE);
    for answer in everywhere(&cluster, "needle") {
        assert_eq!(answer, format!("GET_SUCCESS needle {value}"));
    }
    writers.wait_for_acks(writers.acks() + 50, PATIENCE);
    let outcome = writers.stop();
    outcome.ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}"));
}

#[test]
fn a_replicas_damaged_memory_is_found_and_healed() {
    damage_in_memory(1);
}

#[test]
fn the_coordinators_damaged_memory_is_found_and_healed() {
    damage_in_memory(0);
}

#[test]
fn a_file_damaged_under_a_running_server_is_replaced() {
    let mut cluster = cluster();
    let answer = cluster.text(1).ask("keyrange").expect("an answer");
    assert!(answer.starts_with("KEYRANGE_SUCCESS"), "{answer}");
    let writers = Writers::start(&cluster.addresses(), "w", 2, 100);
    writers.wait_for_acks(200, PATIENCE);
    let outcome = writers.stop();
    wait(&cluster, "scrub", || audit(&cluster, 2, "scrubs") >= 2);
    let generation = |cluster: &Cluster| cluster.status_of(2)["journal"]["checkpoint"]["generation"].as_u64();
    let before = generation(&cluster);

    let path = cluster.data(2).join("coordinator.json");
    let mut content = std::fs::read(&path).expect("a map");
    let middle = content.len() / 2;
    content[middle] ^= 4;
    std::fs::write(&path, &content).expect("the map can be written");

    wait(&cluster, "damage found", || audit(&cluster, 2, "scrub_damage") >= 1);
    wait(&cluster, "new checkpoint", || generation(&cluster) > before);
    cluster.kill9(2);
    cluster.restart(2);
    cluster.settled(3, PATIENCE);
    assert!(!cluster.logs(400).contains("is begun anew"), "the damage reached the restart\n{}", cluster.logs(40));
    outcome.ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}"));
}
