//! What this server answers to a question from what it holds.
//!
//! Reads go by the same rules as any client's (R1 to R3), and so does the write of a probe: an entry that changes nothing
//! goes through the slot's log to every in-sync disk, and is neither a record nor ever one.
#![allow(clippy::disallowed_methods)] // shell: reads clocks

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::blob::Blob;
use common::position::Position;
use common::question::{Ask, Extents, Probe, Say, Standing};
use common::view::Part;
use common::{Epoch, Slot, Time, clock};
use tokio::time::{Instant, timeout_at};

use super::asked::words;
use crate::node::Node;
use crate::replica::{Event, Extent, Reply, Write, WriteOp};
use crate::replies::Registered;

/// Tokens of probing writes are those of the reads with this bit.
const WRITES: u64 = 1 << 32;
/// What is left of the asker's patience for the answer's way.
const WAY: Duration = Duration::from_millis(50);

/// Answers a question.
pub(super) async fn answer(node: &Node, ask: Ask, until: Instant) -> Say {
    match ask {
        Ask::Extents(slots) => Say::Extents(extents(node, &slots, until - WAY).await),
        Ask::Standing => Say::Standing(Box::new(standing(node, until - WAY).await)),
        Ask::Holding(key) => {
            let slot = Position::of(&key.0).slot(node.slots().unwrap_or(1));
            let holding = node.with_slot(slot, |replica, _| replica.holding(clock::now(), &key.0));
            holding
                .map_or_else(|| Say::Refused("not registered with the ECS yet".into()), |h| Say::Holding(Box::new(h)))
        }
    }
}

/// What these slots hold.
async fn extents(node: &Node, slots: &[Slot], until: Instant) -> Extents {
    let (me, mut all, mut waiting) = (node.replies().register(), Extents::default(), BTreeMap::new());
    for slot in slots {
        let token = me.token(u64::from(slot.0));
        match node.with_slot(*slot, |replica, out| replica.extent(clock::now(), token, out)) {
            None => all.refused.push((*slot, "there is no such slot".into())),
            Some(None) => drop(waiting.insert(u64::from(slot.0), *slot)),
            Some(Some(Ok(extent))) => add(&mut all, extent),
            Some(Some(Err(refusal))) => all.refused.push((*slot, words(refusal).into())),
        }
    }
    while !waiting.is_empty() {
        let Some(replies) = replies(&me, until).await else { break };
        for (slot, reply) in replies.into_iter().filter_map(|(index, reply)| Some((waiting.remove(&index)?, reply))) {
            match reply {
                Reply::Extent(extent) => add(&mut all, extent),
                other => all.refused.push((slot, why(&other).into())),
            }
        }
    }
    all.refused.extend(waiting.into_values().map(|slot| (slot, "no answer in time".to_owned())));
    all
}

fn add(all: &mut Extents, extent: Extent) {
    all.add(extent.records, extent.first.map(Blob), extent.last.map(Blob));
}

/// How this server stands.
async fn standing(node: &Node, until: Instant) -> Standing {
    let (reads, writes) = probe(node, until).await;
    let (mut epochs, mut coordinating, mut records, mut bytes) = (Vec::new(), 0, 0, 0);
    node.each_slot(|replica, _| {
        epochs.push(replica.view().map_or(Epoch(0), |view| view.epoch));
        coordinating += u64::from(coordinates(node, replica));
        let map = &replica.image().map;
        (records, bytes) = (records + map.len() as u64, bytes + map.bytes());
    });
    let (meta, highest_epoch) = node.with_topology(|topology| (topology.version, topology.highest_epoch));
    let me = node.identity();
    Standing {
        node: me.node,
        boot: me.boot,
        up_ms: node.up_ms(),
        waiting_for: node.ready().err(),
        meta,
        ecs: node.standalone() || node.ecs_connected(),
        highest_epoch,
        epochs,
        coordinating,
        records,
        bytes,
        reads,
        writes,
        alarms: node.alarms(),
    }
}

fn coordinates(node: &Node, replica: &crate::replica::Replica) -> bool {
    let me = node.identity();
    replica.view().is_some_and(|view| view.part_of(me.node, me.store) == Part::Coordinator)
}

/// Reads and writes once in every slot that this server coordinates, all at the same time.
async fn probe(node: &Node, until: Instant) -> (Probe, Probe) {
    let me = node.replies().register();
    let (mut reads, mut writes, mut waiting) = (Probe::default(), Probe::default(), BTreeMap::new());
    node.each_slot(|replica, out| {
        if !coordinates(node, replica) {
            return;
        }
        let (slot, begun) = (replica.slot(), clock::now());
        let index = u64::from(slot.0);
        match replica.extent(begun, me.token(index), out) {
            Some(Ok(_)) => reads.done(since(begun)),
            Some(Err(refusal)) => reads.failed(slot, words(refusal)),
            None => drop(waiting.insert(index, (slot, begun))),
        }
        let write = Write { key: Bytes::new(), op: WriteOp::Probe, request: None, retry: false };
        replica.handle(begun, Event::Write { write, token: me.token(index | WRITES) }, out);
        waiting.insert(index | WRITES, (slot, begun));
    });
    while !waiting.is_empty() {
        let Some(replies) = replies(&me, until).await else { break };
        for (index, reply) in replies {
            let Some((slot, begun)) = waiting.remove(&index) else { continue };
            let probe = if index & WRITES == 0 { &mut reads } else { &mut writes };
            match reply {
                Reply::Extent(_) | Reply::Written(_) => probe.done(since(begun)),
                other => probe.failed(slot, why(&other)),
            }
        }
    }
    for (index, (slot, _)) in waiting {
        let probe = if index & WRITES == 0 { &mut reads } else { &mut writes };
        probe.failed(slot, "no answer in time");
    }
    (reads, writes)
}

fn since(begun: Time) -> u64 {
    u64::try_from(clock::now().since(begun).as_micros()).unwrap_or(u64::MAX)
}

/// What has arrived; None: nothing came in time.
async fn replies(me: &Registered, until: Instant) -> Option<Vec<(u64, Reply)>> {
    let mut arrived = Vec::new();
    let any = std::future::poll_fn(|cx| me.inbox().poll_drain(cx, &mut arrived));
    timeout_at(until, any).await.ok()?;
    Some(arrived)
}

fn why(reply: &Reply) -> &'static str {
    match reply {
        Reply::Refused(refusal) => words(*refusal),
        Reply::Unknown(why) => why,
        _ => "an answer to something else",
    }
}
