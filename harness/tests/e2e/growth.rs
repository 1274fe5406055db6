//! What may go otherwise when servers come and go: ways in, two wishes at once, deaths at each step, only differences on the
//! way, weights, and giving up on the only copies.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // waits with deadlines, so it reads the clock; tells what it saw

use std::process::{Command, Stdio};
use std::time::Duration;

use harness::real::{Cluster, Options, Writers, load, records};
use playground::node;
use playground::process::{Launch, Process, until};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const HEAL: Duration = Duration::from_secs(120);

fn pairs(count: usize, seed: u64) -> Vec<(String, String)> {
    records(count, seed).into_iter().map(|record| (record.key, record.value)).collect()
}

fn options(ecs: &[&str], server: &[&str]) -> Options {
    let owned = |words: &[&str]| words.iter().map(Into::into).collect();
    Options { ecs: owned(ecs), server: owned(server) }
}

fn ask(cluster: &Cluster, number: usize, line: &str) -> String {
    cluster.text(number).ask(line).unwrap_or_else(|error| panic!("server {number}, {line}: {error}"))
}

fn wait(cluster: &Cluster, what: &str, done: impl FnMut() -> bool) {
    assert!(until(HEAL, done), "no {what} within {HEAL:?}\n{}", cluster.logs(40));
}

/// Starts a server whose `-b` is as given.
fn newcomer(cluster: &Cluster, name: &str, bootstrap: &str) -> Process {
    newcomer_with(cluster, name, bootstrap, &[])
}

fn newcomer_with(cluster: &Cluster, name: &str, bootstrap: &str, more: &[&str]) -> Process {
    let data = cluster.folder().join(name);
    let args = [node::KVSERVER, "-p", "0", "-b", bootstrap].into_iter().chain(more.iter().copied()).map(Into::into);
    let args = args.chain(["-d".into(), data.into_os_string()]).collect();
    let log = cluster.folder().join(format!("{name}.log"));
    let launch = Launch { name: name.to_owned(), program: NODE.into(), args, log, announces: "kvserver listening on " };
    Process::start(launch, HEAL).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The change in progress, as the ECS tells it.
fn change(cluster: &Cluster) -> Value {
    cluster.status()["change"].clone()
}

#[test]
fn a_newcomer_finds_its_way_by_any_server_and_past_dead_addresses() {
    let cluster = Cluster::start(NODE, 2, Options::default());
    // A port that nobody has: bound, and given back.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let by_server = newcomer(&cluster, "by-server", &cluster.address(2));
    cluster.settled(3, HEAL);
    let list = format!("{nobody},nowhere.invalid:1,{},{}", cluster.address(1), cluster.ecs());
    let by_list = newcomer(&cluster, "by-list", &list);
    cluster.settled(4, HEAL);
    let keyrange = cluster.keyrange(1);
    for server in [by_server.address(), by_list.address()] {
        assert!(keyrange.0.iter().any(|arc| arc.server == server), "{server} is not in {keyrange:?}");
    }
}

#[test]
fn a_newcomer_that_no_server_can_reach_is_turned_back_and_may_come_again() {
    let cluster = Cluster::start(NODE, 2, options(&["--patience-s", "2"], &[]));
    let ledger = load(&cluster.addresses(), &pairs(500, 7));
    let before = cluster.keyrange(1);
    // It listens on 127.0.0.1 only, and says that it is elsewhere.
    let mut lost = newcomer_with(&cluster, "lost", cluster.ecs(), &["--advertise", "127.0.0.99"]);
    wait(&cluster, "undone join", || ask(&cluster, 1, "timeline").contains(" is undone: nothing has moved"));
    wait(&cluster, "end of the change", || change(&cluster) == Value::Null);
    assert_eq!(cluster.keyrange(1), before, "{}", cluster.logs(40));
    assert_eq!(cluster.keyrange(2), before);
    ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
    lost.kill().expect("its end");
    let found = newcomer(&cluster, "lost", cluster.ecs());
    cluster.settled(3, HEAL);
    let all = [cluster.address(1), cluster.address(2), found.address().to_owned()];
    ledger.verify(&all).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}

#[test]
fn of_two_changes_the_second_waits_and_then_comes() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let ledger = load(&cluster.addresses(), &pairs(2_000, 1));
    let joiner = cluster.add();
    // Frozen in mid-join, so that there is a change to wait for.
    cluster.wait("join", HEAL, |summary| summary.joining || summary.servers.len() == 4);
    cluster.pause(joiner);
    let frozen = change(&cluster) != Value::Null;
    let seeds = cluster.addresses()[..3].join(",");
    let mut leave = Command::new(NODE)
        .args([node::KVCLIENT, "-s", &seeds, "leave", "--server", &cluster.address(2)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a client");
    let busy = |cluster: &Cluster| ask(cluster, 2, "leave").starts_with("LEAVE_ERROR busy: ");
    if frozen && change(&cluster)["kind"] == "join" {
        println!("busy while the joiner stands still: {}", busy(&cluster));
    }
    cluster.resume(joiner);
    let end = leave.wait().expect("the client ends");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut leave.stderr.take().expect("piped"), &mut said).expect("text");
    assert!(end.success(), "{end}: {said}\n{}", cluster.logs(40));
    let gone = cluster.ended(2, HEAL);
    assert_eq!(gone.code(), Some(0), "{}", cluster.logs(40));
    cluster.settled(3, HEAL);
    let left: Vec<String> = [1, 3, joiner].map(|number| cluster.address(number)).to_vec();
    ledger.verify(&left).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}

/// Kills the ECS, or the joiner, once the join has come to each of these points, and lets it end well.
#[test]
fn a_join_survives_deaths_at_its_steps() {
    // So slow that one can be in the middle of it.
    let mut cluster = Cluster::start(NODE, 2, options(&["--slots", "64"], &["--move-rate", "300000"]));
    let mut ledger = load(&cluster.addresses(), &pairs(60_000, 2));
    let writers = Writers::start(&cluster.addresses(), "w", 2, 100);
    writers.wait_for_acks(50, HEAL);
    let joiner = cluster.add();
    let mut struck = Vec::new();
    for (step, done) in [("copying", 0), ("copying", 8), ("copying", 24), ("handing over", 0)] {
        let mut there = false;
        wait(&cluster, step, || {
            let change = change(&cluster);
            let far = change["done"].as_u64().is_some_and(|slots| slots >= done);
            there = change["step"] == step && far;
            there || (change == Value::Null && cluster.summary().is_ok_and(|summary| summary.settled(3)))
        });
        if !there {
            continue;
        }
        let before = change(&cluster);
        struck.push(format!("{step} with {} of {} slots done", before["done"], before["slots"]));
        if struck.len() % 2 == 1 {
            // A slot that was being handed over at this moment waits for the ecs.
            cluster.kill9_ecs();
            cluster.restart_ecs();
            writers.wait_for_acks(writers.acks() + 20, HEAL);
            wait(&cluster, "word of the change", || {
                let after = change(&cluster);
                // What it is about is the same as before, and what was done still counts.
                after == Value::Null
                    || (after["slots"] == before["slots"] && after["done"].as_u64() >= before["done"].as_u64())
            });
        } else {
            cluster.kill9(joiner);
            writers.wait_for_acks(writers.acks() + 20, HEAL);
            cluster.restart(joiner);
        }
    }
    println!("struck while {}", struck.join("; "));
    assert!(struck.len() >= 2, "{struck:?}");
    cluster.settled(3, HEAL);
    ledger.merge(writers.stop().ledger);
    ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}

/// The sum of a counter of all catch-ups that these servers served.
fn sent(cluster: &Cluster, numbers: &[usize], field: &str) -> u64 {
    numbers.iter().map(|number| cluster.status_of(*number)["moves"][field].as_u64().unwrap_or(0)).sum()
}

#[test]
fn a_server_that_was_away_is_sent_what_differs_and_no_more() {
    // Few slots, so that more is written to each than is kept of its log.
    let mut cluster = Cluster::start(NODE, 3, options(&["--slots", "8"], &[]));
    let ledger = load(&cluster.addresses(), &pairs(20_000, 3));
    cluster.settled(3, HEAL);
    let numbers = [1, 2];
    let before = ["walks", "records_sent", "records_held"].map(|field| sent(&cluster, &numbers, field));
    cluster.kill9(3);
    cluster.healed(2, HEAL);
    let changed: Vec<(String, String)> = (0..200).map(|key| (format!("c{key}"), "x".repeat(2_000))).collect();
    let mut newer = ledger;
    for _ in 0..4 {
        newer.merge(load(&cluster.addresses()[..2], &changed));
    }
    let (deleted, _) = pairs(20_000, 3).swap_remove(77);
    let answer = cluster.keyrange(1).servers(&deleted).first().map(ToString::to_string).expect("a coordinator");
    let at = 1 + cluster.addresses().iter().position(|address| *address == answer).expect("a server");
    assert!(ask(&cluster, at, &format!("delete {deleted}")).starts_with("DELETE_SUCCESS"));
    cluster.restart(3);
    cluster.settled(3, HEAL);
    let after = ["walks", "records_sent", "records_held"].map(|field| sent(&cluster, &numbers, field));
    let [walks, records, held] = [0, 1, 2].map(|at| after[at] - before[at]);
    println!("{walks} slots were compared by content: {records} of {held} records were sent, 201 differed");
    assert!(walks > 0 && held > 10_000, "nothing was compared by content: {walks} walks of {held} records");
    // A leaf is the least that is sent: 1,024 of them a slot, of 2.4 records each.
    assert!(records >= 200 && records < held / 10, "{records} of {held}");
    for number in 1..=3 {
        let reply = ask(&cluster, number, &format!("get {deleted}"));
        assert!(reply == format!("GET_ERROR {deleted}"), "server {number}: {reply}");
    }
    newer.verify_but(&deleted, &cluster.addresses()).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}

#[test]
fn a_heavier_server_gets_more_and_a_changed_weight_waits_for_rebalance() {
    let cluster = Cluster::start(NODE, 2, Options::default());
    let data = cluster.folder().join("heavy");
    let args = [node::KVSERVER, "-p", "0", "--weight", "300", "-b", cluster.ecs(), "-d"].map(Into::into);
    let args = args.into_iter().chain([data.into_os_string()]).collect();
    let log = cluster.folder().join("heavy.log");
    let launch = Launch { name: "heavy".into(), program: NODE.into(), args, log, announces: "kvserver listening on " };
    let mut heavy = Process::start(launch, HEAL).unwrap_or_else(|error| panic!("{error:#}"));
    cluster.settled(3, HEAL);
    let home = |address: &str| -> (u64, u64) {
        let status = cluster.status();
        let servers = status["servers"].as_array().expect("servers").clone();
        let server = servers.iter().find(|server| server["address"] == address).expect("a server");
        (server["home"].as_u64().unwrap_or(0), server["weight"].as_u64().unwrap_or(0))
    };
    let (share, weight) = home(heavy.address());
    assert!((152..=155).contains(&share) && weight == 300, "three fifths of 256: {share}, {weight}");
    // The same server, said to be ordinary now: nothing moves until it is asked for.
    let mut launch = heavy.launch().clone();
    let (_, port) = heavy.address().rsplit_once(':').expect("a port");
    launch.args[2] = port.into();
    launch.args[4] = "100".into();
    heavy.stop(HEAL).expect("it stops");
    let heavy = Process::start(launch, HEAL).unwrap_or_else(|error| panic!("{error:#}"));
    cluster.settled(3, HEAL);
    assert_eq!(home(heavy.address()), (share, 100));
    let plan = ask(&cluster, 1, "plan");
    assert!(plan.contains("\"weight\":100"), "{plan}");
    let answer = ask(&cluster, 1, "rebalance");
    assert!(answer.starts_with("REBALANCE_SUCCESS"), "{answer}");
    wait(&cluster, "rebalance", || change(&cluster) == Value::Null && home(heavy.address()).0 < 90);
    cluster.settled(3, HEAL);
    assert!((85..=86).contains(&home(heavy.address()).0), "{:?}", home(heavy.address()));
}

#[test]
fn the_only_copies_are_given_up_by_their_own_word_only_and_the_timeline_tells() {
    let mut cluster = Cluster::start(NODE, 2, Options::default());
    let old = load(&cluster.addresses(), &[("old".to_owned(), "both have it".to_owned())]);
    cluster.kill9(2);
    cluster.healed(1, HEAL);
    let new = load(&[cluster.address(1)], &[("new".to_owned(), "server 1 has it".to_owned())]);
    assert_eq!((old.acked(), new.acked()), (1, 1));
    cluster.kill9(1);
    cluster.restart(2);
    wait(&cluster, "death of server 1", || {
        cluster.summary().is_ok_and(|s| s.servers.iter().any(|server| server.state == "down"))
    });
    let dead = cluster.address(1);
    for wrong in [format!("remove {dead}"), format!("remove {dead} force")] {
        let told = |answer: &str| answer.starts_with("REMOVE_ERROR ") && answer.contains("accept-data-loss");
        wait(&cluster, "refusal that names the way", || told(&ask(&cluster, 2, &wrong)));
    }
    assert!(ask(&cluster, 2, "get old").starts_with("SERVER_"), "served without a copy in sync");
    // Through the client, as an operator does it.
    let said = Command::new(NODE)
        .args([node::KVCLIENT, "-s", &cluster.address(2), "remove", &dead, "--accept-data-loss"])
        .output()
        .expect("a client");
    assert!(said.status.success(), "{}\n{}", String::from_utf8_lossy(&said.stderr), cluster.logs(40));
    let summary = cluster.wait("recovery", HEAL, |summary| summary.settled(1));
    assert_eq!(summary.servers.len(), 1, "{summary:?}");
    assert_eq!(ask(&cluster, 2, "get old"), "GET_SUCCESS old both have it");
    assert_eq!(ask(&cluster, 2, "get new"), "GET_ERROR new", "what was given up is lost, and nothing else");
    assert!(ask(&cluster, 2, "put new again").starts_with("PUT_SUCCESS"));
    assert!(ask(&cluster, 2, "timeline").contains("DATA LOSS ACCEPTED"), "{}", ask(&cluster, 2, "timeline"));
    // The dead one is told what was decided without it.
    cluster.restart(1);
    let end = cluster.ended(1, HEAL);
    assert_eq!(end.code(), Some(71), "{}", cluster.logs(40));
}
