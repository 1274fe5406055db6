//! Crowds: ten thousand connections that say nothing, and clients that together want more memory than there is.
//!
//! The figures are printed (`--nocapture`) and stand in docs/operations.md. Asserted are memory, generously, since other tests
//! run beside these, and that everybody else is answered, and rightly; how fast, is for the benchmarks (`just growth`).

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use harness::real::crowd::{Beside, affordable, deaf, idle, latency, resident};
use harness::real::{Cluster, Options, Text};
use playground::process::until;

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;
/// Writes, and as many reads, that others must get through.
const MORE: u64 = 300;

/// A text connection to the server that coordinates `key`, and the server's number.
fn owner(cluster: &Cluster, key: &str) -> (Text, usize) {
    let address = cluster.keyrange(1).servers(key)[0].to_owned();
    let number = cluster.addresses().iter().position(|other| *other == address).expect("one of ours") + 1;
    (Text::connect(&address).expect("the owner takes connections"), number)
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_keep_nobody_from_being_served() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let (mut text, number) = owner(&cluster, "k");
    let count = affordable(10_000);
    let measure = |text: &mut Text| {
        let put = latency(text, "put k v", "PUT_", 400).expect("puts are answered");
        (put, latency(text, "get k", "GET_SUCCESS k v", 4_000).expect("gets are answered"))
    };
    // At work from before the crowd comes until after it has gone.
    let beside = Beside::start(&cluster.addresses(), 3, 6);
    beside.more(MORE, PATIENCE);
    let before = measure(&mut text);
    let (alone, _) = resident(cluster.pid(number)).expect("it runs");
    let crowd = idle(&cluster.address(number), count).expect("connections can be made");
    // The last one has been accepted when it is answered.
    let mut last = cluster.text(number);
    assert!(last.ask("get k").expect("an answer").starts_with("GET_"));
    let (crowded, _) = resident(cluster.pid(number)).expect("it runs");
    let after = measure(&mut text);
    beside.more(MORE, PATIENCE);
    let each = crowded.saturating_sub(alone) / count.max(1);
    println!("{count} idle connections: {} MiB resident, before {} MiB: {each} bytes each", crowded / MIB, alone / MIB);
    println!(
        "puts before {:?}\n      after {:?}\ngets before {:?}\n      after {:?}",
        before.0, after.0, before.1, after.1
    );
    // Beside the crowd's part there is what the others' work takes.
    assert!(crowded < alone + count * 8 * 1024 + 8 * MIB, "{each} bytes for an idle connection");
    drop(crowd);
    beside.more(MORE, PATIENCE);
    let (acks, reads) = beside.stop();
    println!("beside: {acks} writes and {reads} reads, all right");

    // The same at the ECS's port, where a crowd must not keep servers out.
    let (alone, _) = resident(cluster.ecs_pid()).expect("it runs");
    let crowd = idle(cluster.ecs(), affordable(2_000)).expect("connections can be made");
    cluster.settled(3, PATIENCE);
    let fourth = cluster.add();
    cluster.settled(4, Duration::from_secs(120));
    let (crowded, _) = resident(cluster.ecs_pid()).expect("it runs");
    println!("{} idle connections at the ecs: {} MiB, before {} MiB", crowd.len(), crowded / MIB, alone / MIB);
    assert!(crowded < alone + 64 * MIB);
    assert!(cluster.text(fourth).ask("get k").is_ok());
}

#[test]
fn memory_stays_bounded_whatever_clients_do_together() {
    const LIMIT: usize = 64 * MIB;
    let options =
        Options { server: vec!["--max-client-memory".into(), LIMIT.to_string().into()], ..Options::default() };
    let cluster = Cluster::start(NODE, 1, options);
    let (address, pid) = (cluster.address(1), cluster.pid(1));
    let mut text = cluster.text(1);
    let value = "v".repeat(100_000);
    assert!(text.ask(&format!("put big {value}")).expect("an answer").starts_with("PUT_"));
    let (alone, _) = resident(pid).expect("it runs");
    let half = [b"putb 1 1000000\r\nk".as_slice(), &vec![b'v'; 999_000]].concat();
    let many = b"get big\r\n".repeat(2_000);
    let mut attackers: Vec<TcpStream> = Vec::new();
    for round in 0..200 {
        let bytes = if round % 2 == 0 { &half } else { &many };
        attackers.push(deaf(&address, bytes, Duration::from_millis(100)).expect("connections can be made"));
        if round % 20 == 0 {
            let took = latency(&mut text, "get big", "GET_SUCCESS big", 20).expect("others are served");
            assert!(took.p99 < PATIENCE, "{took:?}");
        }
    }
    let (_, highest) = resident(pid).expect("it runs");
    println!(
        "200 attackers at --max-client-memory of 64 MiB: at most {} MiB, before {} MiB",
        highest / MIB,
        alone / MIB
    );
    // Allocators round up, and buffers are copied when they grow; without a bound it would be 500 MiB.
    assert!(highest < alone + 3 * LIMIT, "{highest} bytes, before {alone}");
    assert!(text.ask("put small v").expect("an answer").starts_with("PUT_"));
    drop(attackers);
    assert!(text.ask("get small").expect("an answer").starts_with("GET_SUCCESS small v"));
}

#[test]
fn slow_clients_and_too_many_of_them_are_told_and_harm_nobody() {
    let options = Options { server: ["--max-connections", "300"].map(Into::into).to_vec(), ..Options::default() };
    let cluster = Cluster::start(NODE, 1, options);
    let address = cluster.address(1);
    let mut text = cluster.text(1);
    // A letter at a time, never a line's end.
    let mut slow = idle(&address, 250).expect("connections can be made");
    for letter in *b"put slow loris" {
        slow.iter_mut().for_each(|stream| stream.write_all(&[letter]).expect("it takes bytes"));
        assert!(text.ask("put k v").expect("an answer").starts_with("PUT_"));
    }
    // The places run out: one line says so, and the connection ends.
    let full = idle(&address, 49).expect("connections can be made");
    let mut refused = Text::connect(&address).expect("it is still accepted");
    let line = refused.receive().expect("it is told why");
    assert!(line.starts_with("FAILED ") && line.contains("--max-connections"), "{line}");
    assert!(refused.receive().is_err(), "it is closed");
    assert!(text.ask("get k").expect("an answer").starts_with("GET_SUCCESS k v"));
    drop((slow, full));
    let free =
        || Text::connect(&address).and_then(|mut text| text.ask("get k")).is_ok_and(|line| line.starts_with("GET_"));
    assert!(until(PATIENCE, free), "places of those who left are not given to others");
}
