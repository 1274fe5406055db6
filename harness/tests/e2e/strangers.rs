//! Strangers at every port: other protocols, forged hellos, frames, lines and accusations. Nobody is evicted, nothing
//! ends, and the logs stay short.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use common::control::{FromServer, Heartbeat, Question};
use common::frame;
use common::peer::{Hello, HelloAck, Identity, PeerMsg, Pulse, Purpose};
use common::{BootId, ClusterId, Epoch, NodeId, NodeInfo, NodeState, Slot, StoreUuid, Time};
use harness::real::{Cluster, Options, crowd};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const PATIENCE: Duration = Duration::from_secs(20);
/// What thousands of bad callers may add to a log.
const LOGGED: u64 = 64 << 10;

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// Sends bytes, and gives everything that comes back until the other side hangs up or has nothing more to say.
fn exchange(address: &str, bytes: &[u8], half_close: bool) -> Vec<u8> {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    if half_close {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    // It may end with a reset, since what was sent is not read to the end.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The ecs has judged no server since it started.
fn nobody_went_down(cluster: &Cluster) {
    let status = cluster.status();
    let timeline = status["timeline"].as_array().expect("a list");
    let down = timeline.iter().filter_map(|event| event["what"].as_str()).find(|what| what.starts_with("down"));
    assert_eq!(down, None, "{}", cluster.logs(60));
}

fn serves(cluster: &Cluster) {
    let owner = cluster.keyrange(1).servers("k")[0].to_owned();
    let mut text = harness::real::Text::connect(&owner).expect("the owner takes connections");
    let put = text.ask("put k v").expect("the owner answers");
    assert!(put.starts_with("PUT_"), "{put}\n{}", cluster.logs(40));
}

#[test]
fn other_protocols_and_internal_words_on_the_client_port_end_nothing() {
    let cluster = Cluster::start(NODE, 1, Options::default());
    let address = cluster.address(1);
    // These hang up: a browser, and what begins as a Redis client and is none.
    for (bytes, expected) in [
        (&b"POST / HTTP/1.1\r\nHost: x\r\n\r\nput evil v\r\n"[..], ""),
        (b"Host: x\r\nput evil v\r\n", ""),
        (b"*1\r\n:4\r\nput evil v\r\n", "-ERR Protocol error: expected '$', got ':'"),
    ] {
        let answer = String::from_utf8_lossy(&exchange(&address, bytes, false)).into_owned();
        assert!(answer.starts_with(expected) && !answer.contains("PUT_"), "{answer}");
    }
    // Everything else is answered line by line, and the same connection goes on: it says `get k` in the end.
    let over = [b"put k ".as_slice(), &vec![b'v'; 200_000]].concat();
    let hello = {
        let mut out = BytesMut::new();
        frame::put(&mut out, &Hello { purpose: Purpose::Data, from: Identity::default() });
        out.to_vec()
    };
    let heartbeat = br#"{"heartbeat":{"node":"0000000000000001","store":"01","boot":1,"meta":0,"highest_epoch":9,"disk_stalled":true}}"#;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 ClientHello"[..],
        b"GET / HTTP/1.1",
        b"PUT_FROM_COORDINATOR_1 k v",
        b"sync\r\nput_ack 1 2\r\nbeacon\r\nwalk_end",
        b"shutdown\r\nforce-recover 3\r\nadmin wrong leave\r\nquit\r\nCONFIG SET dir /",
        b"\0\0\0\0",
        b"\xff\xfe\xfd \xc3",
        b"\r\n\r\n\n\n\r\n ",
        b"req ffffffffffffffffffffffffffffffff 18446744073709551615 18446744073709551615 put k v",
        b"req 1 99999999999999999999999 0 put k v\r\nreq 1 1 1 req 1 1 1 put k v\r\nreq",
        b"getb 18446744073709551615\r\nputb 99999999999999999999 1\r\ngetb -1",
        b"scan zz\r\nscan 0 99999999999\r\nscan",
        heartbeat,
        &over,
        &hello,
    ] {
        // Announced bytes that are skipped would swallow what follows: a fresh line end does not help there.
        let skips = bytes.starts_with(b"getb 1844") || bytes.starts_with(b"scan zz");
        let answer = exchange(&address, &[bytes, b"\r\nget k\r\n"].concat(), true);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let last = answer.lines().last().unwrap_or_default();
        assert!(skips || last.starts_with("GET_"), "{}: {answer:.300}", bytes[..bytes.len().min(60)].escape_ascii());
        serves(&cluster);
    }
    assert!(cluster.logged(1) < LOGGED, "{} bytes of log", cluster.logged(1));
}

/// Where each server's peers reach it.
fn peer_ports(cluster: &Cluster) -> Vec<String> {
    let status = cluster.status();
    let servers = status["servers"].as_array().expect("a list").clone();
    servers.iter().map(|server| server["peer_address"].as_str().expect("an address").to_owned()).collect()
}

fn say_hello(address: &str, purpose: Purpose, from: Identity) -> (TcpStream, Option<HelloAck>) {
    let mut stream = connect(address);
    let mut out = BytesMut::new();
    frame::put(&mut out, &Hello { purpose, from });
    stream.write_all(&out).expect("takes bytes");
    let (mut input, mut piece) = (BytesMut::new(), [0; 512]);
    loop {
        if let Ok(Some(ack)) = frame::take(&mut input) {
            return (stream, Some(ack));
        }
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => input.extend_from_slice(&piece[..count]),
            _ => return (stream, None),
        }
    }
}

#[test]
fn strangers_on_the_peer_port_change_nothing() {
    let cluster = Cluster::start(NODE, 3, Options::default());
    let ports = peer_ports(&cluster);
    let logged = || (1..=3).map(|number| cluster.logged(number)).sum::<u64>();
    let before = logged();
    // A crowd that says nothing, more than there are seats; and noise.
    let idle = crowd::idle(&ports[0], 500).expect("connections can be made");
    for number in 0..600_u32 {
        let noise = number.wrapping_mul(2_654_435_761).to_le_bytes().repeat(1 + number as usize % 50);
        drop(exchange(&ports[1], &noise, true));
    }
    // Who it is can be asked; who it is not is refused.
    let (_, ack) = say_hello(&ports[0], Purpose::Probe, Identity::default());
    let real = ack.expect("a probe is answered").from;
    let impostors = [
        Identity { cluster: Some(ClusterId(99)), node: NodeId(7), store: StoreUuid(7), boot: BootId(1) },
        Identity { cluster: None, node: NodeId(7), store: StoreUuid(7), boot: BootId(1) },
        Identity { boot: BootId(99), ..real },
    ];
    for from in impostors {
        let (_, ack) = say_hello(&ports[0], Purpose::Data, from);
        assert!(ack.is_some_and(|ack| ack.refused.is_some()), "{from:?} is let in");
    }
    // Somebody who knows the cluster's name is let in (there is no authentication), and is hung up on at the first nonsense.
    let stranger = Identity { node: NodeId(7), store: StoreUuid(7), boot: BootId(1), ..real };
    let mut nonsense = Vec::new();
    let mut message = BytesMut::new();
    frame::put(
        &mut message,
        &PeerMsg::PutAck { slot: Slot(60_000), epoch: Epoch(u64::MAX), end: common::Seq(u64::MAX) },
    );
    nonsense.push((Purpose::Data, message.to_vec()));
    nonsense.push((Purpose::Data, vec![0xff; 100]));
    nonsense.push((Purpose::Data, [&[0, 0, 0, 4][..], &[0; 60]].concat()));
    let mut pulse = BytesMut::new();
    frame::put(&mut pulse, &Pulse::Beacon { sent: Time(1), lease_ms: 1, slots: Vec::new() });
    nonsense.push((Purpose::Pulse, pulse.to_vec()));
    for (purpose, bytes) in nonsense {
        let (mut stream, ack) = say_hello(&ports[0], purpose, stranger);
        assert_eq!(ack.map(|ack| ack.refused), Some(None));
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "a stranger is told things: {rest:?}");
    }
    drop(idle);
    cluster.settled(3, PATIENCE);
    serves(&cluster);
    nobody_went_down(&cluster);
    let more = logged() - before;
    println!("500 silent and 600 noisy callers at the peer ports: {more} bytes of log");
    assert!(more < LOGGED, "{more} bytes of log\n{}", cluster.logs(20));
}

fn row(status: &Value) -> NodeInfo {
    let server = &status["servers"][0];
    let text = |name: &str| server[name].as_str().expect("a text").to_owned();
    NodeInfo {
        node: text("node").parse().expect("an id"),
        store: text("store").parse().expect("an id"),
        boot: BootId(server["boot"].as_u64().expect("a number")),
        client_addr: text("address"),
        peer_addr: text("peer_address"),
        admin_addr: None,
        state: NodeState::Up,
        weight: common::view::WEIGHT,
    }
}

fn line<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages can be written");
    line.push(b'\n');
    line
}

#[test]
fn strangers_and_ten_thousand_accusations_at_the_ecs_evict_nobody() {
    let cluster = Cluster::start(NODE, 3, Options::default());
    let status = cluster.status();
    let logged = cluster.logged(0);
    let info = row(&status);

    let accuse = |addr: &str| line(&Question::Accuse { addr: addr.to_owned(), why: "timeout \u{1b}[31m".repeat(100) });
    let accusations = accuse(&info.client_addr).repeat(1_000);
    for _ in 0..10 {
        let answer = exchange(cluster.ecs(), &accusations, true);
        assert_eq!(answer.split(|byte| *byte == b'\n').filter(|line| *line == b"{\"ok\":true}").count(), 1_000);
    }
    drop(exchange(cluster.ecs(), &accuse("nobody:1").repeat(1_000), true));

    // Noise, over-long lines, another cluster, addresses that would become part of keyranges.
    for number in 0..300_usize {
        drop(exchange(cluster.ecs(), &[b"put k v {\n", &vec![b'x'; number * 10][..]].concat(), true));
    }
    drop(exchange(cluster.ecs(), &vec![b'['; 70_000], true));
    drop(exchange(cluster.ecs(), &[b"[".repeat(60_000), vec![b'\n']].concat(), true));
    let stranger = NodeInfo { node: NodeId(99), client_addr: "h:9".into(), peer_addr: "h:10".into(), ..info.clone() };
    let evil = NodeInfo { client_addr: format!("x,0,{},evil:1;", "f".repeat(32)), ..stranger.clone() };
    for (info, other) in [(stranger, Some(ClusterId(5))), (evil, None)] {
        let answer = exchange(
            cluster.ecs(),
            &line(&FromServer::Register { info, cluster: other, rejoin: false, seen: Epoch(0) }),
            false,
        );
        assert!(String::from_utf8_lossy(&answer).contains("refused"), "{}", answer.escape_ascii());
    }
    // Heartbeats of processes that are not: ignored.
    let beat = |node: u64| {
        line(&FromServer::Heartbeat(Heartbeat {
            node: NodeId(node),
            store: info.store,
            boot: BootId(u64::MAX),
            meta: u64::MAX,
            highest_epoch: Epoch(u64::MAX),
            disk_stalled: true,
        }))
    };
    let ghost = beat(info.node.0);
    let beats: Vec<u8> = (0..5_000).flat_map(beat).chain(ghost).collect();
    drop(exchange(cluster.ecs(), &beats, true));

    cluster.settled(3, PATIENCE);
    serves(&cluster);
    let status = cluster.status();
    nobody_went_down(&cluster);
    assert!(status["refusing"].is_null(), "{status}");
    assert_eq!(status["servers"].as_array().map(Vec::len), Some(3));
    let more = cluster.logged(0) - logged;
    println!("11,000 accusations and 5,300 other lines: {more} bytes of log");
    assert!(more < LOGGED, "{more} bytes of log\n{}", cluster.logs(20));
}
