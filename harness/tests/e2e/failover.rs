//! Writes to an arc go on when its coordinator is killed. For how long they stop is the benchmark's to tell (`just bench`).
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // waits with deadlines, so it reads the clock; tells what it saw

use std::time::{Duration, Instant};

use harness::real::{Cluster, Options, Writers};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const HEAL: Duration = Duration::from_secs(60);

#[test]
fn writes_to_a_killed_coordinators_arc_go_on_within_a_moment() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    for victim in 1..=3 {
        let others: Vec<String> =
            (1..=3).filter(|other| *other != victim).map(|other| cluster.address(other)).collect();
        // One writer over many keys: its gap is that of the slowest arc.
        let writers = Writers::start(&others, &format!("v{victim}"), 1, 300);
        let killed = Instant::now();
        cluster.kill9(victim);
        writers.wait_for_acks(writers.acks() + 600, HEAL);
        cluster.healed(2, HEAL);
        let outcome = writers.stop();
        println!(
            "victim {victim}: gap {:?}, healed after {:?}, {} writes",
            outcome.gap,
            killed.elapsed(),
            outcome.acks
        );
        outcome.ledger.verify(&others).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
        cluster.restart(victim);
        cluster.settled(3, HEAL);
    }
}

#[test]
fn reads_and_writes_go_on_without_the_ecs_and_it_returns_with_its_state() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let before = cluster.keyrange(1);
    cluster.kill9_ecs();
    let writers = Writers::start(&cluster.addresses(), "w", 2, 100);
    let mut text = cluster.text(1);
    let killed = Instant::now();
    // Long enough for every lease to end that nobody renews, and for every patience with the ecs.
    while killed.elapsed() < Duration::from_secs(4) {
        writers.wait_for_acks(writers.acks() + 10, HEAL);
        let reply = text.ask("get nothing").expect("server 1 answers");
        assert_ne!(reply, "SERVER_STOPPED", "after {:?}\n{}", killed.elapsed(), cluster.logs(40));
    }
    let outcome = writers.stop();
    println!("longest pause of a write: {:?} of {} writes", outcome.gap, outcome.acks);
    cluster.restart_ecs();
    cluster.settled(3, HEAL);
    outcome.ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}"));
    assert_eq!(cluster.keyrange(2), before, "a restarted ecs knows the ring");
}

#[test]
fn a_frozen_server_comes_back_without_a_stale_answer() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let others: Vec<String> = [1, 3].iter().map(|other| cluster.address(*other)).collect();
    let writers = Writers::start(&others, "w", 2, 100);
    cluster.pause(2);
    cluster.healed(2, HEAL);
    let outcome = writers.stop();
    assert!(outcome.acks > 0, "no write went on\n{}", cluster.logs(40));
    cluster.resume(2);
    // At once: what it answers now must be refused or right.
    outcome.ledger.verify(&[cluster.address(2)]).err().into_iter().for_each(|what| {
        assert!(what.starts_with("only "), "the woken server: {what}\n{}", cluster.logs(40));
    });
    cluster.settled(3, HEAL);
    outcome.ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}
