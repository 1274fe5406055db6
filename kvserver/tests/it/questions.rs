//! Questions about the whole cluster, asked of real nodes on real sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // tests

use crate::support::fake_ecs::FakeEcs;
use crate::support::{Server, TempDir, eventually};
use common::text::{Form, Whole};
use kvserver::replica::Reply;
use serde_json::Value;

const SLOTS: u16 = 8;

struct Cluster {
    ecs: FakeEcs,
    servers: Vec<Server>,
    _dirs: Vec<TempDir>,
}

impl Cluster {
    async fn of(count: usize) -> Cluster {
        let ecs = FakeEcs::start(SLOTS, count).await;
        let dirs: Vec<TempDir> = (0..count).map(|_| TempDir::new()).collect();
        let name = |at: usize| format!("127.0.0.1:{}", 5001 + at);
        let servers: Vec<Server> =
            dirs.iter().enumerate().map(|(at, dir)| Server::clustered(dir, &name(at), &ecs.addr)).collect();
        for server in &servers {
            server.ready().await;
        }
        eventually("all slots in sync", || ecs.with(|ecs| ecs.views.iter().all(|view| view.isr.len() >= count.min(3))))
            .await;
        for server in &servers {
            server.ready().await;
        }
        Cluster { ecs, servers, _dirs: dirs }
    }

    /// Writes at whichever server coordinates the key.
    async fn put(&self, key: &str) {
        loop {
            for server in &self.servers {
                if matches!(server.put(key, "value").await, Reply::Written(_)) {
                    return;
                }
            }
        }
    }
}

fn json(answer: &(&'static str, String)) -> Value {
    serde_json::from_str(&answer.1).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_counts_all_slots_and_a_probe_counts_nothing() {
    let cluster = Cluster::of(4).await;
    for server in &cluster.servers {
        assert_eq!(server.ask(Whole::NumKeys).await, ("NUM_KEYS_SUCCESS", "0".into()));
        assert_eq!(server.ask(Whole::FirstKey(Form::Text)).await, ("FIRST_KEY_ERROR", String::new()));
    }
    for number in 0..50 {
        cluster.put(&format!("key{number:02}")).await;
    }
    for server in &cluster.servers {
        let status = json(&server.ask(Whole::Cluster).await);
        assert_eq!(status["slots"]["served"], SLOTS, "{status:#}");
        let failed = |server: &Value| server["write_probe"]["failed"] != 0 || server["read_probe"]["failed"] != 0;
        assert!(!status["servers"].as_array().unwrap().iter().any(failed), "{status:#}");
        assert_eq!(server.ask(Whole::NumKeys).await, ("NUM_KEYS_SUCCESS", "50".into()));
        assert_eq!(server.ask(Whole::FirstKey(Form::Text)).await, ("FIRST_KEY_SUCCESS", "key00".into()));
        assert_eq!(server.ask(Whole::LastKey(Form::Binary)).await, ("LAST_KEYB_SUCCESS", "key49".into()));
        let (word, list) = server.ask(Whole::NodeList).await;
        assert_eq!((word, list.matches(",up;").count()), ("NODE_LIST_SUCCESS", 4), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_nobody_serves_is_named_and_never_left_out() {
    let cluster = Cluster::of(3).await;
    cluster.put("key").await;
    // Its slots are not given to others: the ECS has not noticed.
    cluster.servers[1].node.halt();
    let (word, why) = cluster.servers[0].ask(Whole::NumKeys).await;
    assert_eq!(word, "SERVER_STOPPED", "{why}");
    assert!(why.starts_with("slot ") && why.contains("127.0.0.1:5002") && why.contains("is not served"), "{why}");

    let status = json(&cluster.servers[0].ask(Whole::Cluster).await);
    assert_eq!(status["health"], "unavailable", "{status:#}");
    let silent = status["servers"].as_array().unwrap().iter().find(|server| server["answers"] == false).unwrap();
    assert_eq!(silent["address"], "127.0.0.1:5002", "{status:#}");

    // Once others have them, every server knows all again.
    cluster.ecs.bury(cluster.servers[1].node.identity().node);
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let (word, text) = cluster.servers[2].ask(Whole::NumKeys).await;
        if word == "NUM_KEYS_SUCCESS" {
            assert_eq!(text, "1");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{word} {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_names_every_copy_and_the_rule() {
    let cluster = Cluster::of(4).await;
    cluster.put("key").await;
    for server in &cluster.servers {
        let told = json(&server.ask(Whole::Explain(b"key")).await);
        let copies = told["copies"].as_array().unwrap();
        assert_eq!(copies.len(), 3, "{told:#}");
        let first = copies.iter().find(|copy| copy["role"] == "coordinator").unwrap();
        assert_eq!(first["node"], told["view"]["coordinator"], "{told:#}");
        // R5 while the machine is too busy to keep leases.
        let why = first["why"].as_str().unwrap();
        assert!(why.starts_with("R1") || why.starts_with("R5"), "{told:#}");
        assert_eq!((&first["value_bytes"], &first["newest_committed"]), (&5.into(), &true.into()), "{told:#}");
        assert!(copies.iter().all(|copy| copy["in_sync"] == true), "{told:#}");
        assert_eq!(told["hash"], common::position::Position::of(b"key").to_string());
        let me = server.node.identity().node.to_string();
        let holds = copies.iter().any(|copy| copy["node"] == me.as_str());
        let why = told["asked"]["why"].as_str().unwrap();
        assert_eq!(holds, !why.contains("no part"), "{told:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_alone_answers_for_itself() {
    let dir = TempDir::new();
    let server = Server::standalone(&dir);
    server.ready().await;
    assert_eq!(server.getset("k", "one").await, Reply::Swapped(None));
    assert_eq!(server.getset("k", "two").await, Reply::Swapped(Some("one".into())));
    assert_eq!(server.ask(Whole::NumKeys).await.1, "1");
    assert_eq!(server.ask(Whole::LastKey(Form::Text)).await.1, "k");
    let status = json(&server.ask(Whole::Cluster).await);
    assert_eq!((&status["mode"], &status["slots"]["served"]), (&"standalone".into(), &256.into()), "{status:#}");
    let (word, why) = server.ask(Whole::Timeline).await;
    assert!(word == "TIMELINE_ERROR" && why.contains("no ECS"), "{word} {why}");
    assert_eq!(server.ask(Whole::NumKeys).await.1, "1", "the probe left no record");
}
