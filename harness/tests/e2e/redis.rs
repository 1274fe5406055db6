//! Redis clients against clusters of real processes: those that people use, with their defaults (`harness/clients/`, skipped
//! where they are not installed), and one of our own where a test needs to look closely.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // waits with deadlines, so it reads the clock; tells what it saw

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::real::{Cluster, Options, Resp};
use playground::{node, process};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const HEAL: Duration = Duration::from_secs(60);
/// A client's whole round of commands, or the end of a writer.
const PATIENCE: Duration = Duration::from_secs(120);

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/redis-clients")
}

/// A program of `harness/clients/`, unless it is not installed.
fn program(name: &str) -> Option<Command> {
    let (tools, sources) = (tools(), Path::new(env!("CARGO_MANIFEST_DIR")).join("clients"));
    let (runner, script) = match name {
        "redis-py" => (tools.join("venv/bin/python"), Some(sources.join("redis_py.py"))),
        "ioredis" => (PathBuf::from("node"), Some(tools.join("ioredis.mjs"))),
        "node-redis" => (PathBuf::from("node"), Some(tools.join("node_redis.mjs"))),
        "redis-rs" => (tools.join("redis-client"), None),
        other => (PathBuf::from(other), None),
    };
    let needs = match name {
        "ioredis" => tools.join("node_modules/ioredis"),
        "node-redis" => tools.join("node_modules/redis"),
        "redis-cli" | "redis-benchmark" => PathBuf::from("/usr/bin").join(name),
        _ => runner.clone(),
    };
    if !needs.exists() {
        println!("{name}: SKIPPED, not installed: see harness/clients/install");
        return None;
    }
    let mut command = Command::new(runner);
    command.args(script).env("PYTHONWARNINGS", "ignore").stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

fn ports(cluster: &Cluster) -> Vec<String> {
    cluster.addresses().iter().map(|address| port(address).to_owned()).collect()
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("an address has a port").1
}

/// What a program says until it ends well.
fn finish(name: &str, mut child: Child, cluster: &Cluster) -> String {
    let ended = process::until(PATIENCE, || child.try_wait().expect("a child can be waited for").is_some());
    if !ended {
        child.kill().expect("a child can be killed");
    }
    let output = child.wait_with_output().expect("a child has output");
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(ended && output.status.success(), "{name}: {said}{error}\n{}", cluster.logs(20));
    said.into_owned()
}

#[test]
fn the_clients_people_use_work_unchanged_with_every_server() {
    let cluster = Cluster::start(NODE, 3, Options::default());
    for name in ["redis-py", "ioredis", "node-redis", "redis-rs"] {
        let Some(mut command) = program(name) else { continue };
        let begun = Instant::now();
        let child = command.arg("commands").args(ports(&cluster)).spawn().expect("it starts");
        let said = finish(name, child, &cluster);
        assert!(said.ends_with("ok\n"), "{name}: {said}");
        println!("{name}: {:?}", begun.elapsed());
    }
}

#[test]
fn the_programs_of_redis_work_unchanged() {
    let cluster = Cluster::start(NODE, 3, Options::default());
    let port = ports(&cluster).remove(1);
    let cli = |arguments: &[&str]| -> Option<String> {
        let child = program("redis-cli")?.args(["-p", &port]).args(arguments).spawn().expect("it starts");
        Some(finish("redis-cli", child, &cluster))
    };
    if cli(&["ping"]).is_some() {
        for (arguments, reply) in [
            (&["set", "a", "1"][..], "OK\n"),
            (&["-3", "incr", "a"], "2\n"),
            (&["-3", "--json", "mget", "a", "b"], "[\"2\",null]\n"),
            (&["foo", "a", "b"], "ERR unknown command 'foo', with args beginning with: 'a' 'b' \n\n"),
            (&["--scan"], "a\n"),
            (&["--no-raw", "get", "none"], "(nil)\n"),
            (&["-3", "--no-raw", "config", "get", "save"], "1# \"save\" => \"\"\n"),
        ] {
            assert_eq!(cli(arguments).as_deref(), Some(reply), "{arguments:?}");
        }
        assert!(cli(&["command", "docs", "get"]).is_some_and(|docs| docs.contains("summary")));
    }
    for version in [None, Some("-3")] {
        let Some(mut benchmark) = program("redis-benchmark") else { break };
        let flags = ["-q", "-n", "3000", "-c", "20", "-P", "4", "-t", "ping,set,get,incr,mset", "-r", "1000"];
        let child = benchmark.args(["-p", &port]).args(version).args(flags).spawn().expect("it starts");
        let said = finish("redis-benchmark", child, &cluster);
        assert!(said.contains("GET: ") && said.contains("MSET (10 keys): ") && !said.contains("rror"), "{said}");
    }
}

/// A writer that is at work.
struct Writer {
    name: &'static str,
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Writer {
    fn start(name: &'static str, address: &str) -> Option<Writer> {
        let mut command = program(name)?;
        let mut child = command.args(["writer", port(address)]).stdin(Stdio::piped()).spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("it says something");
        if line != "ready\n" {
            panic!("{name}: {line}{:?}", child.wait_with_output());
        }
        Some(Writer { name, child, out })
    }

    fn stop(mut self, cluster: &Cluster) {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.out.read_to_string(&mut said).expect("it says something");
        finish(self.name, self.child, cluster);
        assert!(said.ends_with("ok\n"), "{}: {said}", self.name);
        println!("{}: {said}", self.name);
    }
}

#[test]
fn a_dead_coordinator_is_a_pause_to_clients_of_other_servers() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let address = cluster.address(1);
    let names = ["redis-py", "ioredis", "node-redis", "redis-rs"];
    let writers: Vec<Writer> = names.into_iter().filter_map(|name| Writer::start(name, &address)).collect();
    // One of ours, so that the test means something where no other is installed.
    let mut own = Resp::connect(&address).expect("it listens");
    let mut counts = [0_u32; 64];
    let mut add = |own: &mut Resp, rounds: u32| {
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            let slot = round as usize % counts.len();
            counts[slot] += 1;
            let begun = Instant::now();
            let reply = own.ask(&format!("INCR own{slot}")).expect("a reply");
            assert_eq!(reply, counts[slot].to_string(), "own{slot}");
            longest = longest.max(begun.elapsed());
        }
        longest
    };
    add(&mut own, 256);
    for victim in [2, 3] {
        cluster.kill9(victim);
        let longest = add(&mut own, 256);
        println!("longest pause {longest:?}");
        cluster.healed(2, HEAL);
        cluster.restart(victim);
        // Handing back is felt as little.
        cluster.settled(3, HEAL);
        add(&mut own, 256);
    }
    writers.into_iter().for_each(|writer| writer.stop(&cluster));
}

#[test]
fn a_pipelines_writes_of_a_key_keep_their_order_through_failovers() {
    const AT_ONCE: usize = 20;
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let mut own = Resp::connect(&cluster.address(1)).expect("it listens");
    let (mut number, mut last, mut rng) = (0, [0; 6], fastrand::Rng::with_seed(1));
    let mut write = |own: &mut Resp| {
        let mut set = || {
            let key = rng.usize(0..last.len());
            number += 1;
            last[key] = number;
            format!("SET order{key} {number}")
        };
        let sets: Vec<String> = (0..AT_ONCE).map(|_| set()).collect();
        for (set, reply) in sets.iter().zip(own.ask_all(&sets).expect("replies")) {
            // The only one that need not be executed is one of which the key's later write was quicker.
            assert!(reply == "OK" || reply.contains("a later write of this connection"), "{set}: {reply}");
        }
        let gets: Vec<String> = (0..last.len()).map(|key| format!("GET order{key}")).collect();
        assert_eq!(own.ask_all(&gets).expect("replies"), last.map(written));
    };
    for victim in [2, 3] {
        std::thread::scope(|scope| {
            let fate = scope.spawn(|| {
                cluster.kill9(victim);
                cluster.healed(2, HEAL);
                cluster.restart(victim);
                cluster.settled(3, HEAL);
            });
            while !fate.is_finished() {
                write(&mut own);
            }
        });
    }
}

/// What a key holds that was last set to this number; 0: never.
fn written(number: u32) -> String {
    if number == 0 { "nil".to_owned() } else { number.to_string() }
}

#[test]
fn a_deadline_survives_a_failover_and_a_restart_of_everything() {
    let mut cluster = Cluster::start(NODE, 3, Options::default());
    let mut first = Resp::connect(&cluster.address(1)).expect("it listens");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let (soon, late) = (now + 20_000, now + 1_000_000);
    for key in 0..60 {
        assert_eq!(first.ask(&format!("SET late{key} v PXAT {late}")).expect("a reply"), "OK");
        assert_eq!(first.ask(&format!("SET soon{key} v PXAT {soon}")).expect("a reply"), "OK");
        assert_eq!(first.ask(&format!("SET never{key} v")).expect("a reply"), "OK");
    }
    let check = |cluster: &Cluster, server: usize| {
        let mut own = Resp::connect(&cluster.address(server)).expect("it listens");
        for key in 0..60 {
            assert_eq!(own.ask(&format!("PEXPIRETIME late{key}")).expect("a reply"), late.to_string());
            assert_eq!(own.ask(&format!("PEXPIRETIME never{key}")).expect("a reply"), "-1");
        }
    };
    cluster.kill9(2);
    cluster.healed(2, HEAL);
    check(&cluster, 1);
    check(&cluster, 3);
    cluster.restart(2);
    cluster.settled(3, HEAL);
    cluster.stop_all();
    cluster.restart_ecs();
    (1..=3).for_each(|server| cluster.restart(server));
    cluster.settled(3, HEAL);
    (1..=3).for_each(|server| check(&cluster, server));
    let mut own = Resp::connect(&cluster.address(2)).expect("it listens");
    let gone =
        process::until(HEAL, || (0..60).all(|key| own.ask(&format!("EXISTS soon{key}")).expect("a reply") == "0"));
    assert!(gone, "keys outlive their deadline");
    let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    assert!(after >= soon, "they were gone {} ms too early", soon - after.min(soon));
    assert_eq!(own.ask("EXISTS late1 never1").expect("a reply"), "2");
}

#[test]
fn text_kvclient_and_redis_see_the_same_data() {
    let cluster = Cluster::start(NODE, 3, Options::default());
    let kvclient = |words: &[&str]| {
        let servers = cluster.addresses().join(",");
        let command = Command::new(NODE).args([node::KVCLIENT, "--servers", &servers]).args(words).output();
        let output = command.expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let mut redis = Resp::connect(&cluster.address(3)).expect("it listens");
    for key in 0..30 {
        redis.ask(&format!("SET redis{key} {key}")).expect("a reply");
    }
    assert_eq!(kvclient(&["get", "redis7"]), "7");
    kvclient(&["put", "client1", "x y"]);
    assert_eq!(redis.ask("GET client1").expect("a reply"), "x y");
    assert_eq!(redis.ask("DEL client1").expect("a reply"), "1");
    // A text client asks the server that coordinates the key, as these clients do.
    let mut said = Vec::new();
    for server in 1..=3 {
        let mut text = cluster.text(server);
        for key in 0..30 {
            said.push(text.ask(&format!("put redis{key} text{key}")).expect("a reply"));
        }
        assert!(
            ["GET_SUCCESS redis5 text5", "SERVER_NOT_RESPONSIBLE", "GET_SUCCESS redis5 5"]
                .contains(&text.ask("get redis5").expect("a reply").as_str())
        );
    }
    assert_eq!(said.iter().filter(|line| line.starts_with("PUT_UPDATE")).count(), 30, "{said:?}");
    for server in 1..=3 {
        let mut redis = Resp::connect(&cluster.address(server)).expect("it listens");
        for key in 0..30 {
            assert_eq!(redis.ask(&format!("GET redis{key}")).expect("a reply"), format!("text{key}"));
        }
        assert_eq!(redis.ask("DBSIZE").expect("a reply"), "30");
    }
}
