//! What servers and the ECS say to each other: binary frames, and lines of JSON.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use common::blob::Blob;
use common::control::{Ask, Change, FromEcs, FromServer, Granted, Heartbeat, Question, Report, SlotReport, Wish};
use common::forward::{Came, Forward, Forwarded, Job, Keys, What, Why};
use common::frame::{self, FrameError};
use common::peer::{Beacon, BeaconAck, Grant, Hello, HelloAck, Identity, Leaf, PeerMsg, Pulse, Purpose};
use common::question::{Extents, Holding, Probe, Query, Say, Standing};
use common::retry::RetryTable;
use common::update::{Becomes, Expiry, Only, Update, Updated};
use common::view::{ClusterRecord, Meta, NodeInfo, NodeState, View};
use common::{
    BootId, ClientId, ClusterId, Entry, Epoch, Lineage, LogId, NodeId, Op, Outcome, RequestId, Seq, Slot, StoreUuid,
    Time,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::choice;

/// What a buffer may hold beyond the bytes that have come: room for the next read, never what a length announces.
const SLACK: usize = 256 << 10;
/// The longest question that a server reads from another.
const QUESTION: usize = 1 << 20;

pub(super) fn frames(data: &[u8]) {
    let Some((bits, rest)) = choice(data) else { return };
    let framed;
    let stream = if bits & 4 == 0 {
        rest
    } else {
        framed = frame_of(rest);
        &framed
    };
    match bits & 0b1011 {
        0 => streams::<PeerMsg>(stream),
        1 => streams::<Pulse>(stream),
        2 => streams::<Hello>(stream),
        3 => streams::<HelloAck>(stream),
        8 => streams::<Forward>(stream),
        9 => streams::<Forwarded>(stream),
        10 => {
            streams::<Query>(stream);
            bounded::<Query>(stream, QUESTION);
        }
        _ => streams::<Say>(stream),
    }
}

/// As a server reads a question: nothing over the limit is waited for, and what is within it reads as without one.
fn bounded<T: DeserializeOwned + PartialEq + Debug>(stream: &[u8], limit: usize) {
    let (mut input, mut free) = (BytesMut::from(stream), BytesMut::from(stream));
    let (within, whole) = (frame::take_up_to::<T>(&mut input, limit), frame::take::<T>(&mut free));
    let announced = stream.first_chunk().map(|length| u32::from_le_bytes(*length) as usize);
    if stream.len() >= 8 && announced.is_some_and(|length| length > limit) {
        assert_eq!(within, Err(FrameError::TooLong(announced.unwrap_or_default(), limit)));
    } else {
        assert_eq!(within, whole);
    }
}

/// The payload with a right head: a sender that means it.
fn frame_of(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short inputs");
    [&length.to_le_bytes()[..], &crc32(payload).to_le_bytes(), payload].concat()
}

/// Bit by bit: of its own, so that the product's is not what the product is tested with.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn streams<T: Serialize + DeserializeOwned + PartialEq + Debug>(stream: &[u8]) {
    let whole = take_all::<T>(stream, stream.len().max(1));
    if stream.len() <= 1024 {
        assert_eq!(whole, take_all::<T>(stream, 1), "byte by byte");
    }
    assert_eq!(whole, take_all::<T>(stream, 11), "in elevens");
    for message in &whole.0 {
        let mut again = BytesMut::new();
        frame::put(&mut again, message);
        assert_eq!(frame::take::<T>(&mut again).as_ref(), Ok(&Some(message).map(|m| clone(m))), "written again");
        assert!(again.is_empty());
    }
}

/// A copy by way of the codec: messages need not be `Clone`.
fn clone<T: Serialize + DeserializeOwned>(message: &T) -> T {
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, message);
    frame::take(&mut bytes).ok().flatten().expect("what was just written")
}

fn take_all<T: DeserializeOwned>(stream: &[u8], step: usize) -> (Vec<T>, Option<FrameError>) {
    let (mut input, mut seen) = (BytesMut::new(), Vec::new());
    for chunk in stream.chunks(step) {
        input.extend_from_slice(chunk);
        loop {
            match frame::take(&mut input) {
                Ok(Some(message)) => seen.push(message),
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(input.capacity() <= 2 * stream.len() + SLACK, "{} bytes for {}", input.capacity(), stream.len());
    }
    (seen, None)
}

fn framed<T: Serialize>(kind: u8, message: &T) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put(&mut out, message);
    [&[kind], &out[..]].concat()
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = messages().iter().map(|message| framed(0, message)).collect();
    seeds.extend(pulses().iter().map(|pulse| framed(1, pulse)));
    seeds.extend(
        [Purpose::Data, Purpose::Pulse, Purpose::Probe, Purpose::Question, Purpose::Forward]
            .map(|purpose| framed(2, &Hello { purpose, from: identity() })),
    );
    seeds.extend(
        [None, Some("no".to_owned())]
            .map(|refused| framed(3, &HelloAck { from: identity(), refused, waiting_for: None })),
    );
    seeds.extend(jobs().into_iter().map(|job| {
        let request = Some(RequestId { client: ClientId(5), seq: 6, lowest_unacked: 4 });
        framed(8, &Forward { number: 7, job, request, retry: true })
    }));
    seeds.extend(answers().into_iter().map(|came| framed(9, &Forwarded { number: 7, came })));
    seeds.extend(questions().iter().map(|query| framed(10, query)));
    seeds.extend(sayings().iter().map(|say| framed(11, say)));
    // The same with the head left to the target: what is damaged then is the message, not its checksum.
    let bare: Vec<Vec<u8>> = seeds.iter().map(|seed| [&[seed[0] | 4], &seed[9..]].concat()).collect();
    seeds.extend(bare);
    // Lengths that announce much and bring nothing.
    seeds
        .extend([u32::MAX, 64 << 20, (64 << 20) + 1].map(|length| [&[0], &length.to_le_bytes()[..], &[0; 6]].concat()));
    seeds.extend([1_u32 << 20, (1 << 20) + 1].map(|length| [&[10], &length.to_le_bytes()[..], &[0; 6]].concat()));
    seeds
}

fn identity() -> Identity {
    Identity { cluster: Some(ClusterId(7)), node: NodeId(1), store: StoreUuid(11), boot: BootId(3) }
}

fn entry(seq: u64) -> Entry {
    let op = match seq % 5 {
        4 => Op::Update {
            key: Bytes::from_static(b"key"),
            becomes: Becomes::Value { value: Bytes::from_static(b"value"), until: Some(1_795_258_800_000) },
            told: Some(Blob(Bytes::from_static(b"old"))),
        },
        0 => Op::Put { key: Bytes::from_static(b"key"), value: Bytes::from_static(b"\xffvalue") },
        1 => Op::Delete { key: Bytes::from_static(b"key") },
        2 => {
            let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
            Op::Swap { key, value, old: Some(common::blob::Blob(Bytes::from_static(b"old"))) }
        }
        _ => Op::Noop,
    };
    let request = (seq == 3).then_some(RequestId { client: ClientId(9), seq, lowest_unacked: 2 });
    Entry { id: LogId { epoch: Epoch(4), seq: Seq(seq) }, op, outcome: Outcome::Created, request }
}

fn retries() -> RetryTable {
    let mut table = RetryTable::default();
    table.record(&RequestId { client: ClientId(9), seq: 3, lowest_unacked: 2 }, Outcome::Updated);
    table
}

fn lineage() -> Lineage {
    let mut lineage = Lineage::default();
    lineage.note(LogId { epoch: Epoch(4), seq: Seq(1) });
    lineage
}

/// A view that every seed may use.
pub(super) fn view(slot: u16, epoch: u64, coordinator: u64) -> View {
    View {
        slot: Slot(slot),
        epoch: Epoch(epoch),
        previous: Epoch(epoch - 1),
        coordinator: NodeId(coordinator),
        coordinator_boot: BootId(3),
        isr: [1, 2].map(|node| (NodeId(node), StoreUuid(u128::from(node) + 10))).into(),
        targets: vec![NodeId(1), NodeId(2), NodeId(3)],
        home: NodeId(1),
        released: epoch.is_multiple_of(2).then_some(Epoch(epoch - 1)),
    }
}

fn messages() -> Vec<PeerMsg> {
    let (slot, epoch, walk) = (Slot(3), Epoch(4), 5);
    let mut leaf = Leaf::new(7, true);
    let blob = |text: &'static str| Blob(Bytes::from_static(text.as_bytes()));
    leaf.push(blob("k"), blob("v"), None);
    leaf.push(blob("l"), blob("w"), Some(1_795_258_800_000));
    vec![
        PeerMsg::Sync { view: Box::new(view(3, 4, 1)), lineage: lineage(), end: Seq(9), commit: Seq(8) },
        PeerMsg::SyncAck {
            slot,
            epoch,
            at: Some(Seq(7)),
            commit: Seq(6),
            further: true,
            store: StoreUuid(12),
            boot: BootId(3),
        },
        PeerMsg::PutFromCoordinator {
            slot,
            epoch,
            rank: 1,
            prev: LogId::default(),
            entries: (1..6).map(entry).collect(),
            commit: Seq(0),
        },
        PeerMsg::PutAck { slot, epoch, end: Seq(9) },
        PeerMsg::PutGap { slot, epoch, have: Seq(2) },
        PeerMsg::ReadIndex { slot, epoch, read: 8, key: Some(blob("k")) },
        PeerMsg::ReadIndexAck { slot, epoch, read: 8, commit: Seq(9) },
        PeerMsg::Confirm { slot, epoch, round: 2 },
        PeerMsg::ConfirmAck { slot, epoch, round: 2 },
        PeerMsg::WalkBegin { slot, epoch, walk },
        PeerMsg::WalkDigests { slot, epoch, walk, digests: (0..40).collect() },
        PeerMsg::WalkFill { slot, epoch, walk, frame: 0, leaves: vec![leaf] },
        PeerMsg::WalkFillAck { slot, epoch, walk, frame: 0 },
        PeerMsg::WalkEnd {
            slot,
            epoch,
            walk,
            entries: vec![entry(3)],
            at: LogId { epoch, seq: Seq(3) },
            root: 77,
            lineage: lineage(),
            retries: retries(),
        },
        PeerMsg::WalkDone { slot, epoch, walk, ok: true },
    ]
}

fn blob(text: &'static str) -> Blob {
    Blob(Bytes::from_static(text.as_bytes()))
}

fn jobs() -> Vec<Job> {
    let key = || blob("k");
    let write = |what| Job::Write { key: key(), what };
    let set = Update::Set { value: Bytes::from_static(b"v"), only: Only::Missing, expiry: Expiry::At(9) };
    vec![
        Job::Read(key()),
        Job::Lasts(key()),
        Job::Keys { slot: Slot(3), from: 1 << 40, count: 10 },
        write(What::Put(blob("v"))),
        write(What::Delete),
        write(What::Update(set)),
        write(What::Update(Update::Add(-1))),
        write(What::Update(Update::Persist)),
    ]
}

fn answers() -> Vec<Came> {
    vec![
        Came::Value(Some(blob("v"))),
        Came::Lasts { exists: true, until: Some(9) },
        Came::Keys(Keys { keys: vec![blob("a"), blob("b")], next: Some(4) }),
        Came::Written(Outcome::Updated),
        Came::Updated(Updated::Done { old: Some(Bytes::from_static(b"old")) }),
        Came::Refused(Why::WriteLocked),
        Came::Unknown { forgotten: true },
    ]
}

fn questions() -> Vec<Query> {
    use common::question::Ask;
    let asks = [Ask::Extents((0..9).map(Slot).collect()), Ask::Standing, Ask::Holding(blob("k"))];
    asks.into_iter().map(|ask| Query { ask, patience_ms: 2_000 }).collect()
}

fn sayings() -> Vec<Say> {
    let refused = vec![(Slot(3), "no lease".to_owned())];
    let probe = Probe { done: 5, slowest_us: 900, failed: 1, why: refused.clone() };
    let standing = Standing {
        node: NodeId(1),
        boot: BootId(3),
        up_ms: 60_000,
        waiting_for: Some("the slot 3".to_owned()),
        meta: 7,
        ecs: true,
        highest_epoch: Epoch(9),
        epochs: (0..9).map(Epoch).collect(),
        coordinating: 4,
        records: 100,
        bytes: 10_000,
        reads: probe.clone(),
        writes: probe,
        alarms: vec!["slot 3: none is outvoted".to_owned()],
    };
    let holding = Holding {
        role: "replica 1".to_owned(),
        epoch: Some(Epoch(4)),
        commit: Some(LogId { epoch: Epoch(4), seq: Seq(8) }),
        end: LogId { epoch: Epoch(4), seq: Seq(9) },
        value_bytes: Some(5),
        uncommitted: Some(LogId { epoch: Epoch(4), seq: Seq(9) }),
        reads: false,
        why: "its newest entry is not known to be committed".to_owned(),
    };
    vec![
        Say::Extents(Extents { records: 3, first: Some(blob("a")), last: Some(blob("z")), refused }),
        Say::Standing(Box::new(standing)),
        Say::Holding(Box::new(holding)),
        Say::Refused("it answers too many questions at the moment".to_owned()),
    ]
}

fn pulses() -> Vec<Pulse> {
    let grant = Some(Grant { answered: Time(5), micros: 250_000 });
    let beacon = |slot| Beacon { slot: Slot(slot), epoch: Epoch(4), commit: Seq(9), grant };
    let ack = |slot| BeaconAck { slot: Slot(slot), epoch: Epoch(4), end: Some(Seq(9)) };
    vec![
        Pulse::Beacon { sent: Time(1), lease_ms: 250, slots: (0..5).map(beacon).collect() },
        Pulse::BeaconAck { sent: Time(1), answered: Time(2), slots: (0..5).map(ack).collect() },
    ]
}

pub(super) fn control(data: &[u8]) {
    let Some((kind, line)) = choice(data) else { return };
    match kind % 3 {
        0 => reads_again::<FromServer>(line),
        1 => reads_again::<FromEcs>(line),
        _ => reads_again::<Question>(line),
    }
}

fn reads_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(line: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(line) else { return };
    let again = serde_json::to_vec(&message).expect("what was read can be written");
    assert!(!again.contains(&b'\n'), "a message is one line");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what was just written"), message);
}

/// A server's row.
pub(super) fn info(node: u64, boot: u64) -> NodeInfo {
    NodeInfo {
        node: NodeId(node),
        store: StoreUuid(u128::from(node) + 10),
        boot: BootId(boot),
        client_addr: format!("127.0.0.1:{}", 5000 + node),
        peer_addr: format!("127.0.0.1:{}", 6000 + node),
        admin_addr: None,
        state: NodeState::Joining,
        weight: common::view::WEIGHT,
    }
}

/// What a server may say, by node and start.
pub(super) fn from_server(node: u64, boot: u64) -> Vec<FromServer> {
    let (slot, epoch) = (Slot(1), Epoch(2));
    let report = SlotReport { slot, epoch, active: true, records: 3, bytes: 99, commit: Seq(5) };
    let beat = Heartbeat {
        node: NodeId(node),
        store: StoreUuid(u128::from(node) + 10),
        boot: BootId(boot),
        meta: 0,
        highest_epoch: Epoch(0),
        disk_stalled: node == 3,
    };
    let expand = Change::Expand { node: NodeId(2), store: StoreUuid(12), boot: BootId(1) };
    let changes = [Change::Shrink { node: NodeId(2) }, expand, Change::HandOver { to: NodeId(2) }, Change::StepDown];
    vec![
        FromServer::Register { info: info(node, boot), cluster: None, rejoin: false, seen: Epoch(0) },
        FromServer::Register { info: info(node, boot), cluster: Some(ClusterId(7)), rejoin: true, seen: Epoch(9) },
        FromServer::Ask(changes.into_iter().map(|change| Ask { slot, epoch, change }).collect()),
        FromServer::Report(Report {
            slots: vec![report],
            strays: vec![(Slot(2), Epoch(1))],
            held: vec![(Slot(3), LogId { epoch: Epoch(1), seq: Seq(4) })],
        }),
        FromServer::Heartbeat(beat),
        FromServer::Goodbye,
        FromServer::Stopping,
        FromServer::Wish { id: 1, wish: Wish::Leave { force: false } },
        FromServer::Wish { id: 2, wish: Wish::Remove { node: "127.0.0.1:5002".to_owned(), force: true } },
        FromServer::Wish { id: 3, wish: Wish::Rebalance },
        FromServer::Wish { id: 4, wish: Wish::GiveUp { node: "127.0.0.1:5003".to_owned() } },
    ]
}

pub(super) fn control_seeds() -> Vec<Vec<u8>> {
    let record = ClusterRecord { cluster: ClusterId(7), slots: 4, replicas: 2, lease_ms: 250, vnodes: 1 };
    let meta =
        Meta { version: 3, full: true, nodes: vec![info(1, 1)], gone: vec![NodeId(2)], views: vec![view(0, 4, 1)] };
    let to_server = [
        FromEcs::Welcome { cluster: record, meta: meta.clone() },
        FromEcs::Refused { reason: "no".to_owned(), fatal: true },
        FromEcs::Update(meta),
        FromEcs::HandOver { slots: vec![(Slot(1), Epoch(2), NodeId(3))] },
        FromEcs::Drop { slots: vec![(Slot(1), Epoch(2))] },
        FromEcs::Fenced { reason: "newer".to_owned() },
        FromEcs::Granted { id: 1, granted: Granted::No("why".to_owned()) },
    ];
    let questions =
        [Question::Status, Question::Accuse { addr: "127.0.0.1:5001".to_owned(), why: "timeout".to_owned() }];
    let mut seeds: Vec<Vec<u8>> = from_server(1, 1).iter().map(|message| line(0, message)).collect();
    seeds.extend(to_server.iter().map(|message| line(1, message)));
    seeds.extend(questions.iter().map(|message| line(2, message)));
    seeds
}

/// A message as a line behind one byte.
pub(super) fn line<T: Serialize>(first: u8, message: &T) -> Vec<u8> {
    let mut line = vec![first];
    serde_json::to_writer(&mut line, message).expect("messages can be written");
    line
}
