//! Questions that any server answers for the whole cluster, and health by gRPC, with real processes.
#![allow(clippy::disallowed_methods)] // waits with deadlines, so it reads the clock

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::real::{Cluster, Options};
use kvclient::{Address, Client, Settings};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const PATIENCE: Duration = Duration::from_secs(30);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn json(answer: &str) -> Value {
    let (word, rest) = answer.split_once(' ').unwrap_or((answer, ""));
    assert!(word.ends_with("_SUCCESS"), "{answer}");
    serde_json::from_str(rest).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn ask(cluster: &Cluster, number: usize, line: &str) -> String {
    cluster.text(number).ask(line).unwrap_or_else(|error| panic!("server {number}, {line}: {error}"))
}

#[test]
fn any_server_answers_for_all_and_the_timeline_tells_a_death() {
    let mut cluster = Cluster::start(NODE, 4, Options::default());
    let runtime = runtime();
    let client = runtime.block_on(async {
        let seeds = cluster.addresses().iter().map(|address| Address::from(address.as_str())).collect();
        let client = Client::connect(seeds, Settings::default()).await.expect("a cluster");
        for number in 0..300 {
            client.put(format!("k{number:03}"), "v").await.expect("stored");
        }
        client.put("line\nend", "v").await.expect("stored");
        assert_eq!(client.getset("k000", "w").await.expect("stored").as_deref(), Some(&b"v"[..]));
        assert_eq!(client.getset("new", "w").await.expect("stored"), None);
        client
    });
    for number in 1..=4 {
        assert_eq!(ask(&cluster, number, "num_keys"), "NUM_KEYS_SUCCESS 302");
        assert_eq!(ask(&cluster, number, "first_key"), "FIRST_KEY_SUCCESS k000");
        assert_eq!(ask(&cluster, number, "last_key"), "LAST_KEY_SUCCESS new");
        assert_eq!(ask(&cluster, number, "node_list").matches(",up;").count(), 4);
        let status = json(&ask(&cluster, number, "status cluster"));
        assert_eq!((&status["health"], &status["slots"]["served"]), (&"ok".into(), &256.into()), "{status:#}");
        let told = json(&ask(&cluster, number, "explain k001"));
        assert_eq!(told["copies"].as_array().map(Vec::len), Some(3), "{told:#}");
    }

    let dead = cluster.address(2);
    cluster.kill9(2);
    // Asked all the while: what is answered is right, and an error names a slot.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(&cluster, 1, "num_keys").as_str() {
            "NUM_KEYS_SUCCESS 302" => break,
            other => assert!(other.starts_with("SERVER_STOPPED slot "), "{other}"),
        }
        assert!(Instant::now() < deadline, "{}", cluster.logs(40));
    }
    cluster.healed(3, PATIENCE);
    runtime.block_on(async {
        assert_eq!(client.num_keys().await.expect("counted"), 302);
        assert_eq!(client.last_key().await.expect("found").as_deref(), Some(&b"new"[..]));
        let status = client.cluster_status().await.expect("told");
        assert_eq!(status["health"], "degraded", "{status:#}");
        let nodes = client.node_list().await.expect("told");
        assert!(nodes.iter().any(|node| node.address == dead && node.state == "down"), "{nodes:?}");
    });
    let told = timeline(&cluster);
    let id =
        told["servers"].as_object().and_then(|all| all.iter().find(|(_, at)| **at == dead)).map(|(id, _)| id.clone());
    let id = id.expect("the dead server is known");
    let says = |what: &str| lines(&told).any(|line| line.starts_with(&id) && line.contains(what));
    assert!(says("suspected") && says("down:") && says("probe"), "{told:#}");
    assert!(lines(&told).any(|line| line.contains("failed over")), "{told:#}");

    // The ECS's own death is survived by what it noted, and by the answers.
    cluster.kill9_ecs();
    assert_eq!(ask(&cluster, 1, "num_keys"), "NUM_KEYS_SUCCESS 302");
    assert!(ask(&cluster, 1, "timeline").starts_with("TIMELINE_ERROR the ECS at"), "no ECS");
    cluster.restart_ecs();
    let before = lines(&told).count();
    let again = timeline(&cluster);
    assert!(lines(&again).count() >= before && lines(&again).any(|line| line.contains("failed over")), "{again:#}");
}

fn lines(timeline: &Value) -> impl Iterator<Item = &str> {
    timeline["entries"].as_array().into_iter().flatten().filter_map(|entry| entry["what"].as_str())
}

/// Once the server has found the ECS.
fn timeline(cluster: &Cluster) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(cluster, 1, "timeline");
        if answer.starts_with("TIMELINE_SUCCESS") {
            return json(&answer);
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}

/// What a health client that is not ours sees: Google's, from Python.
const HEALTH: &str = r#"
import sys, grpc
from grpc_health.v1 import health_pb2 as pb, health_pb2_grpc as rpc
stub = rpc.HealthStub(grpc.insecure_channel(sys.argv[1]))
name = pb.HealthCheckResponse.ServingStatus.Name
ask = lambda service: pb.HealthCheckRequest(service=service)
for service in ["", sys.argv[2]]:
    print("check", name(stub.Check(ask(service), timeout=20).status), flush=True)
try:
    stub.Check(ask("nobody"), timeout=20)
except grpc.RpcError as error:
    print("check", error.code().name, flush=True)
for seen in stub.Watch(ask(sys.argv[2]), timeout=60):
    print("watch", name(seen.status), flush=True)
    if seen.status == pb.HealthCheckResponse.SERVING:
        break
"#;

/// A Python with grpcio and grpcio-health-checking: the system's, or one fetched from PyPI into the build's folder.
fn python() -> Option<PathBuf> {
    let has = |python: &Path| {
        let tried = Command::new(python).args(["-c", "import grpc, grpc_health"]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-venv");
    let own = folder.join("bin/python");
    if let Some(python) = [Path::new("python3").to_owned(), own.clone()].into_iter().find(|python| has(python)) {
        return Some(python);
    }
    let done = |command: &mut Command| command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let made = done(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let packages = ["install", "--quiet", "--timeout", "15", "grpcio", "grpcio-health-checking"];
    (made && done(Command::new(folder.join("bin/pip")).args(packages)) && has(&own)).then_some(own)
}

fn admin(cluster: &Cluster, number: usize) -> String {
    let status = json(&ask(cluster, number, "status"));
    status["admin_addr"].as_str().expect("an admin port").to_owned()
}

#[test]
fn a_health_client_of_others_sees_what_readyz_says() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no Python with grpcio and grpcio-health-checking here, and PyPI cannot be reached");
        return;
    };
    let server = ["--admin-port", "0"].map(Into::into).to_vec();
    let ecs = server.clone();
    let mut cluster = Cluster::start(NODE, 1, Options { ecs, server });
    let seen = |addr: &str, service: &str, until: &mut dyn FnMut(&str)| {
        let mut child = Command::new(&python)
            .args(["-c", HEALTH, addr, service])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let lines: Vec<String> = lines.map_while(Result::ok).inspect(|line| until(line)).collect();
        assert!(child.wait().expect("python ends").success(), "{lines:?}");
        lines
    };
    let serving = ["check SERVING", "check SERVING", "check NOT_FOUND", "watch SERVING"];
    assert_eq!(seen(&admin(&cluster, 1), "annulus.kv", &mut |_| {}), serving);

    // A server that cannot register is alive and does not serve; the watcher hears when it does.
    cluster.kill9_ecs();
    let late = cluster.add();
    let addr = admin(&cluster, late);
    let lines = seen(&addr, "annulus.kv", &mut |line| {
        if line == "watch NOT_SERVING" {
            cluster.restart_ecs();
        }
    });
    let expected = ["check NOT_SERVING", "check NOT_SERVING", "check NOT_FOUND", "watch NOT_SERVING", "watch SERVING"];
    assert_eq!(lines, expected, "{}", cluster.logs(20));
}
