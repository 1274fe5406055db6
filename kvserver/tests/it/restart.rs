//! What survives an orderly stop and a crash, and which directories are refused.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // tests

use crate::support::fake_ecs::FakeEcs;
use crate::support::{Server, TempDir, eventually, value};
use common::update::{Expiry, Only, Update, Updated, Wrong};
use common::{ClusterId, Outcome};
use kvserver::node::{Fatal, Node, NodeOptions};
use kvserver::replica::{Lasting, Refusal, Reply};
use kvserver::replies::Replies;
use tokio::runtime::Handle;

fn refused(options: NodeOptions) -> String {
    let started = Node::start(options, Replies::new(), &Handle::current());
    format!("{:#}", started.expect_err("the directory is refused"))
}

/// Lets go of everything a node holds, as a process does that is killed.
async fn crash(server: Server) {
    let node = std::sync::Arc::downgrade(&server.node);
    server.node.halt();
    drop(server);
    eventually("the node is gone", || node.upgrade().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_server_has_everything_after_a_stop_and_after_a_crash() {
    let dir = TempDir::new();
    for round in 0..4 {
        let server = Server::standalone(&dir);
        for before in 0..round {
            assert_eq!(server.get(&format!("key{before}")).await, value("v"));
        }
        assert_eq!(server.put(&format!("key{round}"), "v").await, Reply::Written(Outcome::Created));
        if round % 2 == 0 {
            server.node.stop().await.unwrap();
        }
        crash(server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_survive_a_stop_and_a_crash_and_pass_meanwhile() {
    let dir = TempDir::new();
    let set = |at| Update::Set { value: "v".into(), only: Only::Always, expiry: Expiry::At(at) };
    let (late, done) = (common::clock::wall_millis() + 3_600_000, Reply::Updated(Updated::Done { old: None }));
    let server = Server::standalone(&dir);
    assert_eq!(server.update("late", set(late)).await, done);
    let soon = common::clock::wall_millis() + 3_000;
    assert_eq!(server.update("soon", set(soon)).await, done);
    assert_eq!(server.lasting("soon").await, Reply::Lasts(Lasting::Until(soon)));
    server.node.stop().await.unwrap();
    crash(server).await;
    let server = Server::standalone(&dir);
    assert_eq!(server.update("late", Update::Add(1)).await, Reply::Updated(Updated::Wrong(Wrong::NotInteger)));
    assert_eq!(server.lasting("late").await, Reply::Lasts(Lasting::Until(late)));
    crash(server).await;
    eventually("the deadline has passed", || common::clock::wall_millis() > soon).await;
    let server = Server::standalone(&dir);
    assert_eq!(server.get("soon").await, Reply::Value(None));
    assert_eq!(server.get("late").await, value("v"));
    assert_eq!(server.put("late", "w").await, Reply::Written(Outcome::Updated));
    assert_eq!(server.lasting("late").await, Reply::Lasts(Lasting::Forever));
    assert_eq!(server.ask(common::text::Whole::NumKeys).await.1, "1");
    crash(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_maps_that_people_can_read() {
    let dir = TempDir::new();
    let server = Server::standalone(&dir);
    server.put("apple", "red").await;
    server.node.stop().await.unwrap();
    let text = std::fs::read(dir.0.join("coordinator.json")).unwrap();
    let map: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let slots = map["slots"].as_array().unwrap();
    assert!(slots.iter().any(|slot| slot["records"]["apple"] == "red"), "{map}");
    for empty in ["replica1.json", "replica2.json"] {
        assert!(serde_json::from_slice::<serde_json::Value>(&std::fs::read(dir.0.join(empty)).unwrap()).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_used_by_one_process_and_one_cluster_only() {
    let (dir, ecs) = (TempDir::new(), FakeEcs::start(8, 1).await);
    let server = Server::clustered(&dir, "127.0.0.1:5001", &ecs.addr);
    server.ready().await;
    let alone = NodeOptions::standalone(dir.0.clone(), "127.0.0.1:5001".into());
    assert!(refused(alone.clone()).contains("in use"), "{}", refused(alone));
    crash(server).await;
    assert!(refused(alone.clone()).contains("belongs to"), "{}", refused(alone));

    ecs.with(|ecs| ecs.cluster.cluster = ClusterId(99));
    let server = Server::clustered(&dir, "127.0.0.1:5001", &ecs.addr);
    let fatal = tokio::time::timeout(crate::support::DEADLINE, server.node.fatal()).await.unwrap();
    assert_eq!(fatal.code, Fatal::REFUSED);
    assert!(fatal.reason.contains("belongs to"), "{}", fatal.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_a_lone_server_does_not_join_a_cluster() {
    let dir = TempDir::new();
    crash(Server::standalone(&dir)).await;
    let mut options = NodeOptions::standalone(dir.0.clone(), "127.0.0.1:5001".into());
    options.ecs = vec!["127.0.0.1:1".into()];
    assert!(refused(options.clone()).contains("runs alone"), "{}", refused(options));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_served_before_the_ecs_has_answered() {
    let dir = TempDir::new();
    let server = Server::clustered(&dir, "127.0.0.1:5001", "127.0.0.1:1");
    assert!(!server.node.serving());
    assert!(matches!(server.put("k", "v").await, Reply::Refused(Refusal::Unavailable(_))));
    assert!(matches!(server.get("k").await, Reply::Refused(Refusal::Unavailable(_))));
    assert!(server.node.ready().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_comes_back_with_everything() {
    let ecs = FakeEcs::start(8, 3).await;
    let dirs = [TempDir::new(), TempDir::new(), TempDir::new()];
    let names = ["127.0.0.1:5001", "127.0.0.1:5002", "127.0.0.1:5003"];
    let start =
        || dirs.iter().zip(names).map(|(dir, name)| Server::clustered(dir, name, &ecs.addr)).collect::<Vec<_>>();
    let in_sync = || ecs.with(|ecs| ecs.views.len() == 8 && ecs.views.iter().all(|view| view.isr.len() == 3));

    let servers = start();
    eventually("all in sync", in_sync).await;
    for server in &servers {
        server.ready().await;
    }
    let mut written = 0;
    for number in 0..60 {
        for server in &servers {
            written += usize::from(matches!(server.put(&format!("key{number}"), "v").await, Reply::Written(_)));
        }
    }
    assert_eq!(written, 60, "each key has one coordinator");
    for server in servers {
        crash(server).await;
    }

    let servers = start();
    for server in &servers {
        server.ready().await;
    }
    eventually("all in sync again", in_sync).await;
    for server in &servers {
        server.ready().await;
        assert_eq!(server.node.identity().boot.0, 2);
        for number in 0..60 {
            assert_eq!(server.get(&format!("key{number}")).await, value("v"), "key{number}");
        }
    }
}
