//! What strangers, ghosts and broken peers get at the peer port.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // tests

use std::time::Duration;

use crate::support::fake_ecs::FakeEcs;
use crate::support::{DEADLINE, Server, TempDir, value};
use bytes::BytesMut;
use common::frame;
use common::peer::{Hello, HelloAck, Identity, PeerMsg, Pulse, Purpose};
use common::{BootId, ClusterId, Epoch, NodeId, Outcome, Seq, Slot, StoreUuid, Time};
use kvserver::replica::Reply;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Caller {
    stream: TcpStream,
    ack: HelloAck,
}

impl Caller {
    async fn call(server: &Server, purpose: Purpose, from: Identity) -> Caller {
        let mut stream = TcpStream::connect(server.node.peer_addr()).await.unwrap();
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, &Hello { purpose, from });
        stream.write_all(&bytes).await.unwrap();
        bytes.clear();
        let ack = loop {
            if let Some(ack) = frame::take(&mut bytes).unwrap() {
                break ack;
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "an answer comes before the end");
        };
        Caller { stream, ack }
    }

    fn refusal(&self) -> &str {
        self.ack.refused.as_deref().expect("the connection is refused")
    }

    async fn say<T: serde::Serialize>(&mut self, message: &T) {
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, message);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Waits until the server has closed the connection.
    async fn closed(mut self) {
        let end = async { while self.stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(DEADLINE, end).await.expect("the connection is closed");
    }
}

async fn one() -> (FakeEcs, Server, TempDir, Identity) {
    let (ecs, dir) = (FakeEcs::start(4, 1).await, TempDir::new());
    let server = Server::clustered(&dir, "127.0.0.1:5001", &ecs.addr);
    server.ready().await;
    let cluster = server.node.identity().cluster;
    let peer = Identity { cluster, node: NodeId(7), store: StoreUuid(7), boot: BootId(3) };
    (ecs, server, dir, peer)
}

async fn still_serves(server: &Server) {
    assert!(matches!(server.put("k", "v").await, Reply::Written(Outcome::Created | Outcome::Updated)));
    assert_eq!(server.get("k").await, value("v"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_answered_with_who_this_is() {
    let (_ecs, server, _dir, _) = one().await;
    let caller = Caller::call(&server, Purpose::Probe, Identity::default()).await;
    assert_eq!((caller.ack.from, caller.ack.refused.clone()), (server.node.identity(), None));
    caller.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_server_is_refused() {
    let (_ecs, server, _dir, peer) = one().await;
    let foreign = Identity { cluster: Some(ClusterId(1)), ..peer };
    let caller = Caller::call(&server, Purpose::Data, foreign).await;
    assert!(caller.refusal().contains("you belong to cluster"), "{}", caller.refusal());
    caller.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_start_ends_the_older_ones_connections_and_keeps_it_out() {
    let (_ecs, server, _dir, old) = one().await;
    let new = Identity { boot: BootId(4), ..old };
    let (data, pulse) =
        (Caller::call(&server, Purpose::Data, old).await, Caller::call(&server, Purpose::Pulse, old).await);
    assert_eq!((&data.ack.refused, &pulse.ack.refused), (&None, &None));
    assert_eq!(Caller::call(&server, Purpose::Data, new).await.ack.refused, None);
    data.closed().await;
    pulse.closed().await;
    assert!(Caller::call(&server, Purpose::Data, old).await.refusal().contains("is over"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_closes_its_connection_and_nothing_else() {
    let (_ecs, server, _dir, peer) = one().await;
    for first in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"put k v\r\nput k v\r\n",
        &[8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ] {
        let mut stream = TcpStream::connect(server.node.peer_addr()).await.unwrap();
        stream.write_all(first).await.unwrap();
        let ended = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 64])).await.expect("closed in time");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let mut data = Caller::call(&server, Purpose::Data, peer).await;
    data.stream.write_all(&[9; 512]).await.unwrap();
    data.closed().await;
    let mut pulse = Caller::call(&server, Purpose::Pulse, peer).await;
    pulse.stream.write_all(b"hello?").await.unwrap();
    pulse.stream.write_all(&[0; 512]).await.unwrap();
    pulse.closed().await;
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_a_slot_that_is_not_there_closes_the_connection() {
    let (_ecs, server, _dir, peer) = one().await;
    let mut data = Caller::call(&server, Purpose::Data, peer).await;
    data.say(&PeerMsg::PutAck { slot: Slot(4), epoch: Epoch(1), end: Seq(1) }).await;
    data.closed().await;
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_lease_is_refused() {
    let (_ecs, server, _dir, peer) = one().await;
    let mut pulse = Caller::call(&server, Purpose::Pulse, peer).await;
    pulse.say(&Pulse::Beacon { sent: Time(1), lease_ms: 100, slots: Vec::new() }).await;
    pulse.closed().await;
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_hello_does_not_keep_others_out() {
    let (_ecs, server, _dir, _) = one().await;
    let mut strangers = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.node.peer_addr()).await.unwrap();
        stream.write_all(&[40, 0]).await.unwrap();
        strangers.push(stream);
    }
    let probe = Caller::call(&server, Purpose::Probe, Identity::default());
    let caller = tokio::time::timeout(Duration::from_secs(1), probe).await.expect("a prompt answer");
    assert_eq!(caller.ack.refused, None);
}
