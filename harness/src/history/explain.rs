//! Cuts a violated history down to what the violation needs, and prints it for people.
//!
//! Only steps that can turn a bad history good are taken while it stays bad (forgetting a get, forgetting how a write
//! ended, ending the history early), so what remains is still a proof.

use std::fmt::Write as _;

use super::checker::{Verdict, check_key};
use super::{Action, End, Op};

/// A readable account of why no register explains `ops`, the operations of `key`.
#[must_use]
pub fn explain(key: u32, ops: &[Op]) -> String {
    let (shown, hidden) = reduce(ops);
    let mut text = format!("key k{key} is not linearizable: no order of these operations explains every answer\n");
    for op in &shown {
        let _ = writeln!(text, "  {}", line(op));
    }
    if hidden > 0 {
        let _ = writeln!(text, "  ({hidden} other operations on the key do not matter)");
    }
    text
}

/// The operations the violation needs, by call, and how many others there were.
fn reduce(ops: &[Op]) -> (Vec<Op>, usize) {
    let bad = |ops: &[Op]| check_key(ops) == Verdict::Violated;
    let mut kept = shortest_bad_prefix(ops, &bad);
    for i in (0..kept.len()).rev() {
        let weaker = forget(&kept[i]);
        let old = std::mem::replace(&mut kept[i], weaker);
        if !bad(&kept) {
            kept[i] = old;
        }
    }
    let needed: Vec<u32> = kept.iter().filter_map(|op| op.action.saw().flatten()).collect();
    let shown: Vec<Op> = kept.into_iter().filter(|op| matters(op, &needed)).collect();
    let hidden = ops.len() - shown.len();
    (shown, hidden)
}

fn matters(op: &Op, seen: &[u32]) -> bool {
    match (op.end, op.action) {
        (End::Answered(_), _) => true,
        (_, action) => action.writes().is_some_and(|value| seen.contains(&value)),
    }
}

/// What could be said of the operation if its answer had been lost.
fn forget(op: &Op) -> Op {
    let action = match op.action {
        Action::Put { value, .. } => Action::Put { value, created: None },
        Action::PutFor { value } => Action::PutFor { value },
        Action::Swap { value, .. } => Action::Swap { value, old: None },
        Action::Take { .. } => Action::Take { old: None },
        Action::Delete { .. } => Action::Delete { existed: None },
        // A get without an answer is no evidence; keeping its answer out keeps `seen` honest.
        Action::Get { .. } => Action::Get { seen: None },
    };
    let end = if matches!(op.end, End::Refused(_)) { op.end } else { End::Unknown };
    Op { end, action, ..op.clone() }
}

/// The history as it stood just after the answer that made it bad.
fn shortest_bad_prefix(ops: &[Op], bad: &impl Fn(&[Op]) -> bool) -> Vec<Op> {
    let mut ends: Vec<u64> =
        ops.iter().filter_map(|op| if let End::Answered(at) = op.end { Some(at) } else { None }).collect();
    ends.sort_unstable();
    let upto = |limit: u64| -> Vec<Op> {
        let called = ops.iter().filter(|op| op.call <= limit);
        called
            .map(|op| match op.end {
                End::Answered(at) if at > limit => forget(op),
                _ => op.clone(),
            })
            .collect()
    };
    let at = ends.partition_point(|end| !bad(&upto(*end)));
    ends.get(at).map_or_else(|| ops.to_vec(), |end| upto(*end))
}

fn line(op: &Op) -> String {
    let what = match op.action {
        Action::Put { value, created } => format!("put v{value}{}", note(created, " (new)", " (overwrote)")),
        Action::PutFor { value } => format!("put v{value} for a while"),
        Action::Swap { value, old } => format!("put v{value}{}", old.map_or(String::new(), before)),
        Action::Take { old } => format!("take{}", old.map_or(String::new(), before)),
        Action::Delete { existed } => format!("delete{}", note(existed, " (was there)", " (was not there)")),
        Action::Get { seen: Some(value) } => format!("get = v{value}"),
        Action::Get { seen: None } => "get = nothing".to_string(),
    };
    let end = match op.end {
        End::Answered(at) => format!("{} .. {}", seconds(op.call), seconds(at)),
        End::Refused(at) => format!("{} .. {} REFUSED", seconds(op.call), seconds(at)),
        End::Unknown => format!("{} .. unknown", seconds(op.call)),
    };
    let server = op.server.map_or(String::new(), |s| format!(" by s{s}"));
    format!("op {:<5} c{:<3} {what:<28} {end}{server}", op.id, op.client)
}

fn before(old: Option<u32>) -> String {
    old.map_or_else(|| " (of nothing)".to_string(), |old| format!(" (of v{old})"))
}

fn note(known: Option<bool>, yes: &'static str, no: &'static str) -> &'static str {
    known.map_or("", |k| if k { yes } else { no })
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
