//! Real nodes on real sockets, registered at a scripted ECS.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // tests

use crate::support::fake_ecs::FakeEcs;
use crate::support::{Server, TempDir, eventually, value};
use common::update::{Expiry, Only, Update, Updated};
use common::{NodeId, Outcome};
use kvserver::node::Fatal;
use kvserver::replica::{Lasting, Refusal, Reply};

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
        let cluster = Cluster { ecs, servers, _dirs: dirs };
        cluster.in_sync(count.min(3)).await;
        cluster
    }

    /// Waits until every slot has so many copies in sync.
    async fn in_sync(&self, copies: usize) {
        let all = || self.ecs.with(|ecs| ecs.views.iter().all(|view| view.isr.len() >= copies));
        eventually("all slots in sync", all).await;
        for server in self.alive() {
            server.ready().await;
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Server> {
        let down = |id: &NodeId| self.ecs.with(|ecs| ecs.nodes[id].state == common::NodeState::Down);
        self.servers.iter().filter(move |server| !down(&server.node.identity().node))
    }

    fn server(&self, node: NodeId) -> &Server {
        self.servers.iter().find(|server| server.node.identity().node == node).unwrap()
    }

    fn coordinator(&self, key: &str) -> &Server {
        let slot = common::position::Position::of(key.as_bytes()).slot(SLOTS);
        self.server(self.ecs.with(|ecs| ecs.views[usize::from(slot.0)].coordinator))
    }

    async fn put(&self, key: &str, value: &str) -> Outcome {
        let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
        loop {
            match self.coordinator(key).put(key, value).await {
                Reply::Written(outcome) => return outcome,
                Reply::Refused(why) => {
                    assert!(tokio::time::Instant::now() < deadline, "put {key}: {why:?}");
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
                other => panic!("put {key}: {other:?}"),
            }
        }
    }

    async fn read_everywhere(&self, key: &str, expected: &str) {
        for server in self.alive() {
            assert_eq!(server.get(key).await, value(expected), "{key} at {:?}", server.node.identity());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_replicate_and_all_answer_reads() {
    let cluster = Cluster::of(3).await;
    for number in 0..60 {
        assert_eq!(cluster.put(&format!("key{number}"), "first").await, Outcome::Created);
    }
    for number in 0..60 {
        assert_eq!(cluster.put(&format!("key{number}"), &format!("value{number}")).await, Outcome::Updated);
        cluster.read_everywhere(&format!("key{number}"), &format!("value{number}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_another_than_the_coordinator_is_refused() {
    let cluster = Cluster::of(3).await;
    let coordinator = cluster.coordinator("key").node.identity().node;
    for server in &cluster.servers {
        if server.node.identity().node != coordinator {
            assert_eq!(server.put("key", "v").await, Reply::Refused(Refusal::NotResponsible));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_goes_on_without_a_killed_server() {
    let cluster = Cluster::of(3).await;
    for number in 0..40 {
        cluster.put(&format!("key{number}"), "before").await;
    }
    let dead = cluster.servers[1].node.identity().node;
    cluster.servers[1].node.halt();
    cluster.ecs.bury(dead);
    for number in 0..40 {
        let key = format!("key{number}");
        cluster.read_everywhere(&key, "before").await;
        assert_eq!(cluster.put(&key, "after").await, Outcome::Updated);
        cluster.read_everywhere(&key, "after").await;
    }
}

/// Nobody reads the keys meanwhile: whoever coordinates removes them, and a deadline outlives the coordinator it was given to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_kept_by_all_and_by_the_next_coordinator() {
    let cluster = Cluster::of(3).await;
    let now = common::clock::wall_millis();
    let (soon, late) = (now + 5_000, now + 3_600_000);
    for number in 0..20u64 {
        let at = if number < 10 { soon } else { late };
        let (key, expiry) = (format!("key{number}"), Expiry::At(at));
        let set = Update::Set { value: "v".into(), only: Only::Always, expiry };
        let done = Reply::Updated(Updated::Done { old: None });
        assert_eq!(cluster.coordinator(&key).update(&key, set).await, done);
        for server in cluster.alive() {
            assert_eq!(server.lasting(&key).await, Reply::Lasts(Lasting::Until(at)), "{key}");
        }
    }
    let dead = cluster.servers[1].node.identity().node;
    cluster.servers[1].node.halt();
    cluster.ecs.bury(dead);
    for number in 0..20 {
        let key = format!("key{number}");
        for server in cluster.alive() {
            match number {
                0..10 => crate::support::until_missing(server, &key).await,
                _ => assert_eq!(server.lasting(&key).await, Reply::Lasts(Lasting::Until(late)), "{key}"),
            }
        }
    }
    assert!(common::clock::wall_millis() >= soon, "none was gone before its deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_member_is_reported_and_writes_go_on() {
    let cluster = Cluster::of(3).await;
    cluster.put("key", "before").await;
    let coordinator = cluster.coordinator("key").node.identity().node;
    let silent = cluster.servers.iter().find(|server| server.node.identity().node != coordinator).unwrap();
    silent.node.halt();
    // Nobody tells the ECS: the coordinators notice, and ask for the member's removal.
    assert_eq!(cluster.put("key", "after").await, Outcome::Updated);
    let slot = common::position::Position::of(b"key").slot(SLOTS);
    let gone = silent.node.identity().node;
    assert!(cluster.ecs.with(|ecs| !ecs.views[usize::from(slot.0)].isr.contains_key(&gone)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_handed_over_while_it_is_written() {
    let cluster = Cluster::of(3).await;
    cluster.put("key", "0").await;
    let slot = common::position::Position::of(b"key").slot(SLOTS);
    for round in 1..=6 {
        let from = cluster.coordinator("key").node.identity().node;
        let at = cluster.servers.iter().position(|server| server.node.identity().node == from).unwrap();
        let to = cluster.servers[(at + 1) % 3].node.identity().node;
        cluster.ecs.hand_over(slot, to);
        let moved = || cluster.ecs.with(|ecs| ecs.views[usize::from(slot.0)].coordinator == to);
        eventually("the slot moves", moved).await;
        cluster.put("key", &round.to_string()).await;
        cluster.read_everywhere("key", &round.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_and_reports_reach_the_ecs() {
    let cluster = Cluster::of(3).await;
    let up_to_date = || {
        cluster.ecs.with(|ecs| {
            let highest = ecs.views.iter().map(|view| view.epoch).max().unwrap();
            ecs.heartbeats.len() == 3 && ecs.heartbeats.values().all(|beat| beat.highest_epoch == highest)
        })
    };
    eventually("heartbeats carry the latest epoch", up_to_date).await;
    let reported = || {
        cluster.ecs.with(|ecs| {
            let slots = ecs.reports.values().flat_map(|report| &report.slots);
            slots.filter(|slot| slot.active).count() == usize::from(SLOTS)
        })
    };
    eventually("every slot is reported active by one server", reported).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyrange_names_every_server_and_reads_may_go_to_all() {
    let cluster = Cluster::of(3).await;
    for server in &cluster.servers {
        let (own, all) = (server.node.keyrange(), server.node.keyrange_read());
        assert_eq!(own.matches(';').count(), 3, "{own}");
        for other in &cluster.servers {
            let addr = other.node.status_json()["client_addr"].as_str().unwrap().to_owned();
            assert!(own.contains(&addr) && all.contains(&addr), "{own} {all}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_is_announced() {
    let cluster = Cluster::of(3).await;
    let leaving = cluster.servers[0].node.identity().node;
    cluster.servers[0].node.stop().await.unwrap();
    eventually("the goodbye arrives", || cluster.ecs.with(|ecs| ecs.goodbyes.contains(&leaving))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_server_says_why_and_stops() {
    let ecs = FakeEcs::start(SLOTS, 1).await;
    ecs.with(|ecs| ecs.refuse = Some(("another cluster's directory".into(), true)));
    let dir = TempDir::new();
    let server = Server::clustered(&dir, "127.0.0.1:5001", &ecs.addr);
    let fatal = tokio::time::timeout(crate::support::DEADLINE, server.node.fatal()).await.unwrap();
    assert_eq!(fatal.code, Fatal::REFUSED);
    assert!(fatal.reason.contains("another cluster's directory"), "{}", fatal.reason);
    assert!(matches!(server.put("k", "v").await, Reply::Refused(Refusal::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_server_serves_at_once() {
    let dir = TempDir::new();
    let server = Server::standalone(&dir);
    // Not a moment is waited: a write waits by itself for the slots' first records to be on disk.
    assert!(server.node.serving());
    assert_eq!(server.put("k", "v").await, Reply::Written(Outcome::Created));
    assert_eq!(server.get("k").await, value("v"));
    eventually("it is ready", || server.node.ready() == Ok(())).await;
    let zeros_and_ones = format!("{},{},127.0.0.1:5001;", "0".repeat(32), "f".repeat(32));
    assert_eq!((&*server.node.keyrange(), &*server.node.keyrange_read()), (&*zeros_and_ones, &*zeros_and_ones));
}
