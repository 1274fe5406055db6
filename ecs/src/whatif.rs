//! What would happen: the moves of a plan, and a cluster without one of its servers. One line of JSON each.
//!
//! Only looks. Records and bytes are as the coordinators last reported them, so they are estimates.

use std::collections::BTreeMap;

use common::position::Position;
use common::{NodeId, Slot};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::planner::{self, Plan, Weights};
use crate::reports::Reports;

/// The moves of a plan, with what they weigh and why.
pub(crate) fn moves(cluster: &Cluster, reports: &Reports, plan: &Plan) -> String {
    let mut sums: BTreeMap<(NodeId, NodeId), (u64, u64, u64)> = BTreeMap::new();
    for (view, (from, to)) in cluster.views().iter().zip(cluster.homes().into_iter().zip(&plan.homes)) {
        if from != *to {
            let (slots, records, bytes) = sums.entry((from, *to)).or_default();
            let report = reports.slot(view.slot);
            *slots += 1;
            *records += report.map_or(0, |report| report.records);
            *bytes += report.map_or(0, |report| report.bytes);
        }
    }
    let total = |of: fn(&(u64, u64, u64)) -> u64| sums.values().map(of).sum::<u64>();
    let rows: Vec<Value> = sums
        .iter()
        .map(|((from, to), (slots, records, bytes))| {
            let (from, to) = (address(cluster, *from), address(cluster, *to));
            json!({ "from": from, "to": to, "slots": slots, "records": records, "bytes": bytes })
        })
        .collect();
    let share = |node: &NodeId, homes: &[NodeId]| homes.iter().filter(|home| *home == node).count();
    let shares: Vec<Value> = cluster
        .nodes()
        .values()
        .map(|info| {
            let (before, after) = (share(&info.node, &cluster.homes()), share(&info.node, &plan.homes));
            json!({ "server": info.client_addr, "weight": info.weight, "slots": before, "then": after })
        })
        .collect();
    let (slots, bytes) = (total(|sum| sum.0), total(|sum| sum.2));
    json!({ "slots": slots, "bytes": bytes, "moves": rows, "servers": shares, "why": plan.to_string() }).to_string()
}

/// What a server's death would leave: how many copies of which part of the ring and of how many records, and whose its
/// share would be.
pub(crate) fn without(cluster: &Cluster, reports: &Reports, node: NodeId) -> String {
    let mut left: BTreeMap<usize, (Vec<Slot>, u64)> = BTreeMap::new();
    let (mut coordinates, mut to_copy) = (0, 0);
    for view in cluster.views() {
        let copies = view.isr.keys().filter(|member| **member != node).count();
        let (records, bytes) = reports.slot(view.slot).map_or((0, 0), |report| (report.records, report.bytes));
        let (slots, sum) = left.entry(copies).or_default();
        slots.push(view.slot);
        *sum += records;
        coordinates += usize::from(view.coordinator == node);
        to_copy += if view.isr.contains_key(&node) { bytes } else { 0 };
    }
    let copies: Vec<Value> = left
        .iter()
        .map(|(copies, (slots, records))| {
            let ranges = ranges(slots, cluster.record().slots);
            json!({ "copies": copies, "slots": slots.len(), "records": records, "ranges": ranges })
        })
        .collect();
    let plan =
        planner::leave(&cluster.homes(), node, &Weights::of(cluster.nodes())).filter(|plan| !plan.moves.is_empty());
    let why = plan.map_or_else(|| "nobody else has a share".to_string(), |plan| plan.to_string());
    json!({
        "without": address(cluster, node), "fails_over": coordinates, "bytes_to_copy": to_copy, "left": copies, "why": why,
    })
    .to_string()
}

/// Which positions these slots are, both ends inclusive, neighbours in one; a key's position is the MD5 of its bytes.
fn ranges(slots: &[Slot], of: u16) -> Vec<String> {
    let runs = slots.chunk_by(|one, next| one.0 + 1 == next.0);
    let range = |run: &[Slot]| {
        let (first, last) = (run.first()?, run.last()?);
        Some(format!("{}..{}", Position::first_of(*first, of), Position::last_of(*last, of)))
    };
    runs.filter_map(range).collect()
}

fn address(cluster: &Cluster, node: NodeId) -> String {
    cluster.nodes().get(&node).map_or_else(|| node.to_string(), |info| info.client_addr.clone())
}
