//! Servers come and go while clients write: nothing fails, nothing is lost, and every keyrange covers the circle.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // waits with deadlines, so it reads the clock; tells what it saw

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::real::{Cluster, Keyrange, Ledger, Options, Text, Writers, load, records};
use kvclient::{Address, Client, Settings};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const HEAL: Duration = Duration::from_secs(120);
/// How long after a server's end another may still name it, because it was not told yet.
const STALE: Duration = Duration::from_secs(2);

/// Writers that are users of the product's client: an error is an error they would see.
struct Users {
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<(Ledger, Vec<String>, Duration)>,
}

impl Users {
    fn start(seeds: &[String], users: usize, keys: usize) -> Users {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let seeds: Vec<Address> = seeds.iter().map(|seed| Address::from(seed.as_str())).collect();
        let (ends, counts) = (stop.clone(), acks.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = Client::new(seeds, Settings::default());
                let users = (0..users)
                    .map(|user| tokio::spawn(write(client.clone(), user, keys, ends.clone(), counts.clone())));
                let mut all = (Ledger::default(), Vec::new(), Duration::ZERO);
                for user in users.collect::<Vec<_>>() {
                    let (ledger, errors, gap) = user.await.expect("a user does not panic");
                    all.0.merge(ledger);
                    all.1.extend(errors);
                    all.2 = all.2.max(gap);
                }
                all
            })
        });
        Users { stop, acks, thread }
    }

    fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    fn stop(self) -> (Ledger, Vec<String>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a thread does not panic")
    }
}

async fn write(
    client: Client,
    user: usize,
    keys: usize,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
) -> (Ledger, Vec<String>, Duration) {
    let (mut ledger, mut errors, mut gap, mut last) = (Ledger::default(), Vec::new(), Duration::ZERO, Instant::now());
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("u{user}-{}", number % keys as u64), format!("value {number}"));
        ledger.unknown(&key, &value);
        match client.put(key.clone(), value.clone()).await {
            Ok(_) => ledger.ack(&key, &value),
            Err(error) => errors.push(format!("put {key}: {error}")),
        }
        acks.fetch_add(1, Ordering::Relaxed);
        gap = gap.max(last.elapsed());
        last = Instant::now();
    }
    (ledger, errors, gap)
}

type Names = BTreeMap<String, Option<Instant>>;

/// Asks everybody for their keyranges all the time, and checks each.
struct Watcher {
    stop: Arc<AtomicBool>,
    /// Who may be named: all that ever came, with the time at which they had gone.
    live: Arc<Mutex<Names>>,
    thread: std::thread::JoinHandle<(usize, Vec<String>)>,
}

impl Watcher {
    fn start(first: &str) -> Watcher {
        let stop = Arc::new(AtomicBool::new(false));
        let live = Arc::new(Mutex::new(Names::from([(first.to_owned(), None)])));
        let (ends, servers) = (stop.clone(), live.clone());
        let thread = std::thread::spawn(move || {
            let (mut seen, mut wrong) = (0, Vec::new());
            while !ends.load(Ordering::Relaxed) && wrong.len() < 10 {
                let now: Vec<String> = present(&servers.lock().expect("nobody panics"));
                for server in &now {
                    // One that does not serve (yet, or any more) says so, or has gone.
                    let Ok(keyrange) = Text::connect(server).and_then(|mut text| text.keyrange(false)) else {
                        continue;
                    };
                    seen += 1;
                    let known = servers.lock().expect("nobody panics").clone();
                    wrong.extend(check(&keyrange, &known).err().map(|what| format!("{server}: {what}")));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (seen, wrong)
        });
        Watcher { stop, live, thread }
    }

    fn joins(&self, server: &str) {
        self.live.lock().expect("nobody panics").insert(server.to_owned(), None);
    }

    fn has_gone(&self, server: &str) {
        self.live.lock().expect("nobody panics").insert(server.to_owned(), Some(Instant::now()));
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let (seen, wrong) = self.thread.join().expect("a thread does not panic");
        assert!(wrong.is_empty(), "wrong keyranges: {wrong:#?}");
        seen
    }
}

fn present(names: &Names) -> Vec<String> {
    names.iter().filter(|(_, gone)| gone.is_none()).map(|(name, _)| name.clone()).collect()
}

/// Every position once, each with a server that is there.
fn check(keyrange: &Keyrange, live: &Names) -> Result<(), String> {
    let Keyrange(arcs) = keyrange;
    for (at, arc) in arcs.iter().enumerate() {
        let before = &arcs[(at + arcs.len() - 1) % arcs.len()];
        if arc.from != before.to.wrapping_add(1) {
            return Err(format!("a gap or an overlap at {:032x}: {arcs:?}", arc.from));
        }
        let there = |gone: &Option<Instant>| gone.is_none_or(|at| at.elapsed() < STALE);
        if !live.get(&arc.server).is_some_and(there) {
            return Err(format!("{} is named, which is not there: {arcs:?}", arc.server));
        }
    }
    let wraps = arcs.iter().filter(|arc| arc.from > arc.to).count();
    if wraps > 1 || arcs.is_empty() { Err(format!("{wraps} arcs wrap: {arcs:?}")) } else { Ok(()) }
}

fn pairs(count: usize, seed: u64) -> Vec<(String, String)> {
    records(count, seed).into_iter().map(|record| (record.key, record.value)).collect()
}

#[test]
fn a_loaded_cluster_grows_from_one_to_five_and_shrinks_to_one() {
    let options = Options { server: vec!["--leave".into()], ..Options::default() };
    let mut cluster = Cluster::start(NODE, 1, options);
    let mut ledger = load(&cluster.addresses(), &pairs(10_000, 4));
    let users = Users::start(&cluster.addresses(), 4, 200);
    let watcher = Watcher::start(&cluster.address(1));
    for number in 2..=5 {
        let (begun, acks) = (Instant::now(), users.acks());
        assert_eq!(cluster.add(), number);
        watcher.joins(&cluster.address(number));
        cluster.settled(number, HEAL);
        println!("server {number} joined in {:?}, {} writes went on", begun.elapsed(), users.acks() - acks);
    }
    for number in (2..=5).rev() {
        let (begun, acks) = (Instant::now(), users.acks());
        match number {
            5 => assert_ok(cluster.text(5).ask("leave"), "LEAVE_SUCCESS"),
            4 => cluster.terminate(4),
            // By another's word, by its address.
            3 => assert_ok(cluster.text(1).ask(&format!("remove {}", cluster.address(3))), "REMOVE_SUCCESS"),
            _ => cluster.terminate(2),
        }
        let end = cluster.ended(number, HEAL);
        assert_eq!(end.code(), Some(0), "server {number}\n{}", cluster.logs(40));
        println!("server {number} left in {:?}, {} writes went on", begun.elapsed(), users.acks() - acks);
        let summary = cluster.settled(number - 1, HEAL);
        assert_eq!(summary.servers.len(), number - 1, "{summary:?}");
        watcher.has_gone(&cluster.address(number));
    }
    // The last one only if it must.
    let refused = cluster.text(1).ask("leave").expect("server 1 answers");
    assert!(refused.starts_with("LEAVE_ERROR ") && refused.contains("the last server"), "{refused}");
    let (written, errors, gap) = users.stop();
    ledger.merge(written);
    println!("longest pause of a write {gap:?}; {} keyranges checked", watcher.stop());
    assert!(errors.is_empty(), "{} errors: {:#?}\n{}", errors.len(), &errors[..errors.len().min(10)], cluster.logs(60));
    let reads = ledger.verify(&[cluster.address(1)]).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(60)));
    println!("{} records right in {reads} reads", ledger.acked());
}

fn assert_ok(answer: std::io::Result<String>, word: &str) {
    let answer = answer.expect("an answer");
    assert!(answer.starts_with(word), "{answer}");
}

#[test]
fn a_join_and_a_leave_survive_the_death_of_the_ecs() {
    let mut cluster = Cluster::start(NODE, 2, Options::default());
    let mut ledger = load(&cluster.addresses(), &pairs(10_000, 5));
    let writers = Writers::start(&cluster.addresses(), "w", 2, 100);
    cluster.add();
    cluster.wait("join", HEAL, |summary| summary.joining || summary.servers.len() == 3);
    // A slot that was being handed over at this moment waits for the ecs, so writes are waited for only when it is back.
    cluster.kill9_ecs();
    cluster.restart_ecs();
    writers.wait_for_acks(writers.acks() + 20, HEAL);
    cluster.settled(3, HEAL);
    assert_ok(cluster.text(3).ask("leave"), "LEAVE_SUCCESS");
    cluster.kill9_ecs();
    cluster.restart_ecs();
    writers.wait_for_acks(writers.acks() + 20, HEAL);
    let end = cluster.ended(3, HEAL);
    assert_eq!(end.code(), Some(0), "{}", cluster.logs(40));
    let summary = cluster.settled(2, HEAL);
    assert_eq!(summary.servers.len(), 2, "{summary:?}");
    ledger.merge(writers.stop().ledger);
    let left = [cluster.address(1), cluster.address(2)];
    ledger.verify(&left).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}

#[test]
fn a_leaver_that_is_killed_is_gone_and_told_so_when_it_returns() {
    let mut cluster = Cluster::start(NODE, 4, Options::default());
    let mut ledger = load(&cluster.addresses(), &pairs(10_000, 6));
    let others: Vec<String> = (1..=3).map(|other| cluster.address(other)).collect();
    let writers = Writers::start(&others, "w", 2, 100);
    // Killed between the ECS's word and its own part, as near as can be.
    assert_ok(cluster.text(4).ask("leave"), "LEAVE_SUCCESS");
    cluster.kill9(4);
    let summary = cluster.wait("leave", HEAL, |summary| summary.settled(3) && summary.servers.len() == 3);
    assert!(summary.servers.iter().all(|server| server.state == "up"), "{summary:?}");
    cluster.restart(4);
    let end = cluster.ended(4, HEAL);
    assert_eq!(end.code(), Some(71), "{}", cluster.logs(40));
    assert!(cluster.logs(40).contains("--rejoin"), "{}", cluster.logs(40));
    ledger.merge(writers.stop().ledger);
    ledger.verify(&others).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}

#[test]
fn a_server_that_stops_in_order_leaves_no_gap() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let others: Vec<String> = [1, 3].iter().map(|other| cluster.address(*other)).collect();
    let writers = Writers::start(&others, "w", 1, 300);
    writers.wait_for_acks(300, HEAL);
    let begun = Instant::now();
    let end = cluster.stop(2);
    println!("stopped in {:?}", begun.elapsed());
    writers.wait_for_acks(writers.acks() + 300, HEAL);
    let outcome = writers.stop();
    println!("longest pause of a write: {:?} of {} writes", outcome.gap, outcome.acks);
    assert_eq!(end.code(), Some(0), "{}", cluster.logs(40));
    // Nobody had to find out that it was gone: others coordinated before it went.
    let told = cluster.text(1).ask("timeline").expect("told");
    assert!(told.contains("is about to stop") && told.contains("handed over"), "{told}");
    assert!(told.contains("it said goodbye") && !told.contains("failed over"), "{told}");
    outcome.ledger.verify(&others).unwrap_or_else(|what| panic!("{what}\n{}", cluster.logs(40)));
}
