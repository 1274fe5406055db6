//! The pulse: beacons between servers and heartbeats to the ECS.
//!
//! Lives on an OS thread of its own with a runtime of its own, and so does the peer port: nothing that writes to disk, moves
//! data or serves clients can delay it. It takes a slot's lock like everybody else, for microseconds.
//!
//! Safety: every `now` is read after the frame it belongs to has arrived, and before the frame it is put into is sent.
#![allow(clippy::disallowed_methods)] // shell: reads clocks and spawns tasks

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::BytesMut;
use common::control::{FromServer, Heartbeat};
use common::peer::{Beacon, BeaconAck, Pulse};
use common::{NodeId, Time, clock, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::links::{self, Backoff};
use crate::node::{Node, metrics};

/// How often the ECS hears from us.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Rounds on demand (a view changed) are at least this far apart.
const CLOSEST: Duration = Duration::from_millis(5);
/// The longest frame: a beacon for each slot of the largest ring.
const LONGEST: usize = 4 << 20;
/// An fsync that takes longer than this is told to the ECS, which moves our slots elsewhere.
const STALLED: Duration = Duration::from_secs(2);

/// Sends beacons every L/5, and soon after a view has changed, so that a new coordinator need not wait for the next round.
pub(crate) async fn beacons(node: Arc<Node>) {
    let mut scratch = Scratch::default();
    let serving = node.until_serving().await;
    let mut rounds = aligned(serving.timing.beacon);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = node.beacon_wanted() => sleep(CLOSEST).await,
        }
        round(&node, serving.cluster.lease_ms, &mut scratch);
    }
}

/// Ticks at whole multiples of `every`, as the slots' own ticks do: what is to be done regularly is done in one go, by all
/// servers of a machine at the same moment. An idle processor that is woken six times in 50 ms costs twice what one that is
/// woken three times costs.
fn aligned(every: Duration) -> Interval {
    let now = clock::now();
    let mut ticks = interval_at(Instant::now() + now.next_multiple_of(every).since(now), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Lists that are used again in each round.
#[derive(Default)]
struct Scratch {
    all: Vec<(NodeId, Beacon)>,
    frames: BTreeMap<NodeId, Vec<Beacon>>,
}

fn round(node: &Node, lease_ms: u32, Scratch { all, frames }: &mut Scratch) {
    let sent = clock::now();
    node.each_coordinated(|replica, _| replica.beacons(sent, all));
    if !all.is_empty() {
        metrics::bump(&node.metrics().beacon_rounds);
    }
    for (to, beacon) in all.drain(..) {
        frames.entry(to).or_default().push(beacon);
    }
    // Nothing more for whoever had nothing in this round: it is not a follower any longer.
    frames.retain(|_, slots| !slots.is_empty());
    for (to, beacons) in frames.iter_mut() {
        let mut pulse = Pulse::Beacon { sent, lease_ms, slots: std::mem::take(beacons) };
        say(node, *to, &pulse);
        if let Pulse::Beacon { slots, .. } = &mut pulse {
            slots.clear();
            *beacons = std::mem::take(slots);
        }
    }
}

fn say(node: &Node, to: NodeId, pulse: &Pulse) {
    node.links().with(to, |peer| {
        if peer.pulse.push(pulse) {
            peer.pulse.flush();
        }
    });
}

/// Handles an incoming pulse connection until it ends.
pub(crate) async fn receive(node: &Node, from: NodeId, stream: TcpStream, input: BytesMut, end: &CancellationToken) {
    tokio::select! {
        () = end.cancelled() => {}
        ended = listen_to(node, from, stream, input) => {
            if let Err(error) = ended {
                log::info!("pulse connection from {from} is closed: {error:#}");
            }
        }
    }
}

async fn listen_to(node: &Node, from: NodeId, mut stream: TcpStream, mut input: BytesMut) -> anyhow::Result<()> {
    loop {
        let heard = hear(node, from, &mut input);
        node.flush();
        heard?;
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Handles all that has come whole.
fn hear(node: &Node, from: NodeId, input: &mut BytesMut) -> anyhow::Result<()> {
    while let Some(pulse) = frame::take_up_to::<Pulse>(input, LONGEST)? {
        match pulse {
            Pulse::Beacon { sent, lease_ms, slots } => on_beacon(node, from, sent, lease_ms, &slots)?,
            Pulse::BeaconAck { sent, answered, slots } => on_ack(node, from, sent, answered, &slots),
        }
    }
    Ok(())
}

fn on_beacon(node: &Node, from: NodeId, sent: Time, lease_ms: u32, slots: &[Beacon]) -> anyhow::Result<()> {
    let Some(serving) = node.serving_state() else { return Ok(()) };
    if lease_ms != serving.cluster.lease_ms {
        bail!("its lease is {lease_ms} ms, ours {} ms: two clusters under one id?", serving.cluster.lease_ms);
    }
    metrics::bump(&node.metrics().beacons);
    let answered = clock::now();
    let mut acks = Vec::with_capacity(slots.len());
    for beacon in slots {
        acks.extend(node.with_slot(beacon.slot, |replica, out| replica.beacon(answered, from, beacon, out)).flatten());
    }
    if !acks.is_empty() {
        say(node, from, &Pulse::BeaconAck { sent, answered, slots: acks });
    }
    Ok(())
}

fn on_ack(node: &Node, from: NodeId, sent: Time, answered: Time, slots: &[BeaconAck]) {
    let now = clock::now();
    for ack in slots {
        node.with_slot(ack.slot, |replica, out| replica.beacon_ack(now, from, sent, answered, ack, out));
    }
}

/// Tells the ECS that we are alive, one-way.
pub(crate) async fn heartbeats(node: Arc<Node>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        if let Some(addr) = node.ecs_addr()
            && let Err(error) = beat(&node, &addr, &mut backoff).await
        {
            log::debug!("heartbeats to the ECS at {addr}: {error:#}");
        }
        sleep(backoff.pause()).await;
    }
}

async fn beat(node: &Node, addr: &str, backoff: &mut Backoff) -> anyhow::Result<()> {
    let mut stream = timeout(Duration::from_secs(1), TcpStream::connect(addr)).await??;
    links::tune(&stream);
    backoff.reset();
    let mut beats = aligned(HEARTBEAT);
    loop {
        beats.tick().await;
        if node.ecs_addr().as_deref() != Some(addr) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&FromServer::Heartbeat(heartbeat(node)))?;
        line.push(b'\n');
        timeout(Duration::from_secs(1), stream.write_all(&line)).await??;
    }
}

fn heartbeat(node: &Node) -> Heartbeat {
    let me = node.identity();
    let (meta, highest_epoch) = node.with_topology(|topology| (topology.version, topology.highest_epoch));
    let pending = node.store().pending_fsync();
    let disk_stalled = node.store().is_refusing() || pending.is_some_and(|since| clock::now().since(since) >= STALLED);
    Heartbeat { node: me.node, store: me.store, boot: me.boot, meta, highest_epoch, disk_stalled }
}
