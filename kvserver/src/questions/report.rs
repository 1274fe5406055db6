//! Answers about the whole cluster as texts: from what servers and the ECS said, to one line.
//!
//! Only tells; what is in here was asked for elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use common::blob::Blob;
use common::position::Position;
use common::question::{Holding, Probe, Say, Standing};
use common::{NodeId, NodeInfo, NodeState, Slot};
use serde_json::{Value, json};

use crate::node::{Node, Topology};

/// What a server said, or why it said nothing.
type Said = (NodeInfo, Result<Say, String>);
/// Slots that are told one by one in a list of what is wrong; the rest is counted.
const TOLD: usize = 16;

/// `host:port,node,state;` for each server, in the order of the node ids.
pub(super) fn nodes(topology: &Topology) -> String {
    let mut text = String::new();
    for info in topology.nodes.values() {
        // A String takes everything.
        let _ = write!(text, "{},{},{};", info.client_addr, info.node, state(info.state));
    }
    text
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Leaving => "leaving",
        NodeState::Down => "down",
    }
}

/// Why a slot could not be counted.
pub(super) fn unserved(topology: &Topology, slot: Slot, why: &str) -> String {
    let slots = u16::try_from(topology.views.len()).unwrap_or(u16::MAX);
    let (from, to) = (Position::first_of(slot, slots), Position::last_of(slot, slots));
    let stands = match topology.view(slot) {
        None => "nobody is known to coordinate it".to_owned(),
        Some(view) => {
            let name =
                |node: &NodeId| topology.nodes.get(node).map_or(node.to_string(), |info| info.client_addr.clone());
            let isr: Vec<String> = view.isr.keys().map(name).collect();
            format!("epoch {}, coordinator {}, in sync {}", view.epoch, name(&view.coordinator), isr.join(" "))
        }
    };
    format!("slot {slot} ({from}..{to}; {stands}) is not served: {why}; try again, and see `status cluster`")
}

/// Where a key lies, who holds it, and who would answer for it.
pub(super) fn explain(node: &Node, key: &Blob, holders: &[Said]) -> Value {
    let (slots, me) = (node.slots().unwrap_or(1), node.identity().node);
    let position = Position::of(&key.0);
    let slot = position.slot(slots);
    let view = node.with_topology(|topology| topology.view(slot).cloned());
    let parts: BTreeSet<NodeId> = view.iter().flat_map(|view| view.isr.keys().chain(&view.targets)).copied().collect();
    let mut copies = Vec::new();
    let mut why_here = None;
    for (info, said) in holders {
        let holding = match said {
            Ok(Say::Holding(holding)) => Ok(holding),
            Ok(_) => Err("an answer to something else".to_owned()),
            Err(why) => Err(why.clone()),
        };
        if info.node == me {
            why_here = holding.as_ref().ok().map(|holding| (holding.reads, holding.why.clone()));
        }
        let holds = holding.as_ref().is_ok_and(|holding| holding.role != "none");
        if parts.contains(&info.node) || holds {
            let in_sync = view.as_ref().is_some_and(|view| view.isr.get(&info.node) == Some(&info.store));
            copies.push(copy(info, in_sync, holding.as_ref().map(|holding| &***holding).map_err(String::as_str)));
        }
    }
    json!({
        "key": key, "hash": position.to_string(), "position": position.to_string(), "slot": slot, "slots": slots,
        "range": { "from": Position::first_of(slot, slots).to_string(), "to": Position::last_of(slot, slots).to_string() },
        "view": view.map(|view| json!({
            "epoch": view.epoch, "previous": view.previous, "coordinator": view.coordinator,
            "in_sync": view.isr.keys().collect::<Vec<_>>(), "preference": view.targets, "home": view.home,
        })),
        "copies": copies,
        "asked": { "node": me, "answers": why_here.as_ref().map(|(reads, _)| *reads), "why": why_here.map(|(_, why)| why) },
    })
}

fn copy(info: &NodeInfo, in_sync: bool, holding: Result<&Holding, &str>) -> Value {
    let mut copy =
        json!({ "node": info.node, "address": info.client_addr, "state": state(info.state), "in_sync": in_sync });
    let told = match holding {
        Err(why) => json!({ "error": why }),
        Ok(h) => json!({
            "role": h.role, "epoch": h.epoch, "version": h.commit.map(|id| json!([id.epoch, id.seq])),
            "end": [h.end.epoch, h.end.seq], "value_bytes": h.value_bytes,
            "newest_committed": h.uncommitted.is_none(), "uncommitted": h.uncommitted.map(|id| json!([id.epoch, id.seq])),
            "answers": h.reads, "why": h.why,
        }),
    };
    if let (Value::Object(copy), Value::Object(told)) = (&mut copy, told) {
        copy.extend(told);
    }
    copy
}

/// How every server stands, what is short, and what is going on.
pub(super) fn cluster(node: &Node, servers: &[Said], ecs: &Result<Value, String>) -> Value {
    let (views, version) = node.with_topology(|topology| (topology.views.clone(), topology.version));
    let copies = node.serving_state().map_or(1, |serving| usize::from(serving.cluster.replicas) + 1);
    let up = servers.iter().filter(|(info, _)| info.state != NodeState::Down).count();
    let wanted = copies.min(up.max(1));
    let short: Vec<(Slot, usize)> =
        views.iter().flatten().filter(|view| view.isr.len() < copies).map(|view| (view.slot, view.isr.len())).collect();
    let epochs: Vec<_> = views.iter().map(|view| view.as_ref().map(|view| view.epoch).unwrap_or_default()).collect();
    let mut troubles = Vec::new();
    let mut served = 0;
    let told: Vec<Value> = servers
        .iter()
        .map(|(info, said)| {
            let standing = match said {
                Ok(Say::Standing(standing)) => Ok(&**standing),
                Ok(_) => Err("an answer to something else"),
                Err(why) => Err(why.as_str()),
            };
            complain(info, standing, &mut troubles);
            served += standing.map_or(0, |standing| standing.reads.done.min(standing.writes.done) as usize);
            let behind = standing.map(|s| s.epochs.iter().zip(&epochs).filter(|(its, known)| its < known).count());
            server(info, standing, behind.ok())
        })
        .collect();
    if served < views.len() {
        troubles.push(format!(
            "{} of {} slots did not pass the read and write probe",
            views.len() - served,
            views.len()
        ));
    }
    if short.iter().any(|(_, have)| *have < wanted) {
        troubles.push(format!("{} slots have fewer copies than they could", short.len()));
    }
    if let (false, Err(why)) = (node.standalone(), ecs) {
        troubles.push(why.clone());
    }
    let health = match () {
        () if served < views.len() => "unavailable",
        () if troubles.is_empty() => "ok",
        () => "degraded",
    };
    let field = |name: &str| ecs.as_ref().ok().and_then(|ecs| ecs.get(name)).cloned();
    json!({
        "health": health, "troubles": troubles, "asked": node.identity().node,
        "mode": if node.standalone() { "standalone" } else { "clustered" },
        "slots": { "total": views.len(), "served": served, "short": short.len(), "copies_wanted": copies,
            "short_list": short.iter().take(TOLD).map(|(slot, have)| json!({ "slot": slot, "copies": have })).collect::<Vec<_>>() },
        "epoch": epochs.iter().max(), "meta": version,
        "ecs": { "address": node.ecs_addr(), "answers": ecs.is_ok(), "refusing": field("refusing") },
        "change": field("change").or_else(|| field("joining")),
        "servers": told,
    })
}

fn complain(info: &NodeInfo, standing: Result<&Standing, &str>, troubles: &mut Vec<String>) {
    let addr = &info.client_addr;
    match standing {
        Err(_) if info.state == NodeState::Down => troubles.push(format!("{addr} is down")),
        Err(why) => troubles.push(why.to_owned()),
        Ok(standing) => {
            let failed = [("read", &standing.reads), ("write", &standing.writes)];
            for (what, probe) in failed.into_iter().filter(|(_, probe)| probe.failed > 0) {
                let why = probe.why.first().map_or("", |(_, why)| why);
                troubles.push(format!("{addr}: {what} probe failed in {} slots: {why}", probe.failed));
            }
            troubles.extend(standing.waiting_for.iter().map(|what| format!("{addr}: {what}")));
            troubles.extend(standing.alarms.iter().map(|alarm| format!("{addr}: ALARM {alarm}")));
        }
    }
}

fn server(info: &NodeInfo, standing: Result<&Standing, &str>, behind: Option<usize>) -> Value {
    let probe = |probe: &Probe| {
        json!({
            "ok": probe.done, "failed": probe.failed, "slowest_ms": ms(probe.slowest_us),
            "why": probe.why.iter().map(|(slot, why)| json!({ "slot": slot, "why": why })).collect::<Vec<_>>(),
        })
    };
    let mut row = json!({
        "node": info.node, "address": info.client_addr, "admin_address": info.admin_addr, "state": state(info.state),
    });
    let told = match standing {
        Err(why) => json!({ "answers": false, "error": why }),
        Ok(s) => json!({
            "answers": true, "boot": s.boot, "up_ms": s.up_ms, "ready": s.waiting_for.is_none(),
            "waiting_for": s.waiting_for, "epoch": s.highest_epoch, "views_behind": behind, "meta": s.meta, "ecs": s.ecs,
            "coordinating": s.coordinating, "records": s.records, "bytes": s.bytes,
            "read_probe": probe(&s.reads), "write_probe": probe(&s.writes), "alarms": s.alarms,
        }),
    };
    if let (Value::Object(row), Value::Object(told)) = (&mut row, told) {
        row.extend(told);
    }
    row
}

/// Microseconds as milliseconds, for people.
#[allow(clippy::cast_precision_loss)] // figures for people
fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}
