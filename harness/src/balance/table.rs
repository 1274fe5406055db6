//! The tables of `docs/balance.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use common::NodeId;
use common::position::Position;
use common::view::WEIGHT;
use ecs::planner::{self, Weights};

use super::{Placing, Points, coordinators, copies, keys, per_slot, pressure, servers, spread};

/// Draws of points per row, of which the median is shown: one draw says little.
const DRAWS: u64 = 51;
/// The smallest and the largest cluster shown.
const SIZES: std::ops::RangeInclusive<u64> = 3..=20;

/// All tables, for a ring of `slots` slots and `count` random keys.
#[must_use]
pub fn print(slots: u16, count: usize, seed: u64) -> String {
    let keys = keys(count, seed);
    let weights = per_slot(&keys, slots);
    let mut out = format!("{count} random keys through MD5, {slots} slots, seed {seed}\n");
    even(&mut out, slots, &weights, &keys);
    failures(&mut out, slots, &weights);
    growth(&mut out, slots, &weights);
    weighed(&mut out, slots, &weights);
    out
}

fn row(out: &mut String, cells: &[String]) {
    // A String takes everything.
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn head(out: &mut String, title: &str, columns: &[&str]) {
    let _ = writeln!(out, "\n{title}\n");
    row(out, &columns.iter().map(ToString::to_string).collect::<Vec<_>>());
    let _ = writeln!(out, "|{}", "---|".repeat(columns.len()));
}

fn figure(ratio: f64) -> String {
    format!("{ratio:.2}")
}

fn even(out: &mut String, slots: u16, weights: &[u64], keys: &[Position]) {
    let columns =
        ["servers", "planner", "evened out", "4 vnodes", "16 vnodes", "halving", "1 point", "16 points", "in turn"];
    head(out, "Keys per coordinator, largest over mean, all servers up:", &columns);
    // A part is enough for the points, whose own unevenness is far above that of the sample.
    let sample = &keys[..keys.len().min(50_000)];
    for size in SIZES {
        let of = |placing: Placing| {
            let homes = placing.grown(slots, size);
            figure(spread(&homes, weights, &servers(&homes)))
        };
        let points = |each| {
            let mut draws: Vec<f64> = (0..DRAWS).map(|seed| Points::draw(size, each, seed).spread(sample)).collect();
            draws.sort_by(f64::total_cmp);
            figure(draws[draws.len() / 2])
        };
        let (one, four, many) = (Placing::Planner(1), Placing::Planner(4), Placing::Planner(16));
        let placed = [four, many, Placing::Halving].map(of);
        let evened = planner::balance(&one.grown(slots, size), &Weights::default()).homes;
        let mut cells = vec![size.to_string(), of(one), figure(spread(&evened, weights, &servers(&evened)))];
        cells.extend(placed.into_iter().chain([points(1), points(16), of(Placing::RoundRobin)]));
        row(out, &cells);
    }
}

fn failures(out: &mut String, slots: u16, weights: &[u64]) {
    let columns =
        ["servers", "1 down", "4 vnodes", "16 vnodes", "2 down", "16 vnodes", "1 gone, re-planned", "16 vnodes"];
    head(out, "The same after the failures that hurt most, over the mean of the servers left:", &columns);
    for size in SIZES {
        let grown = [1, 4, 16].map(|vnodes| Placing::Planner(vnodes).grown(slots, size));
        let down = |homes: &Vec<NodeId>, dead: usize| figure(worst(homes, weights, dead));
        let gone = |vnodes, homes: &Vec<NodeId>| {
            let without = |node| Placing::Planner(vnodes).leave(homes, node);
            let ratio = |homes: Vec<NodeId>| spread(&homes, weights, &servers(&homes));
            figure(servers(homes).into_iter().map(|node| ratio(without(node))).fold(0.0, f64::max))
        };
        let [one, four, many] = &grown;
        let cells = [down(one, 1), down(four, 1), down(many, 1), down(one, 2), down(many, 2)];
        let cells = [size.to_string()].into_iter().chain(cells).chain([gone(1, one), gone(16, many)]);
        row(out, &cells.collect::<Vec<_>>());
    }
}

/// The largest over the mean, for the worst choice of one or two servers that are down.
fn worst(homes: &[NodeId], weights: &[u64], dead: usize) -> f64 {
    let all = servers(homes);
    let mut worst = 0.0_f64;
    for first in &all {
        for second in &all {
            if (first == second) == (dead == 1) {
                let alive: BTreeSet<NodeId> =
                    all.iter().filter(|node| ![first, second].contains(node)).copied().collect();
                worst = worst.max(spread(&coordinators(homes, &alive), weights, &alive));
            }
        }
    }
    worst
}

/// Every third server weighs three times as much as the others.
fn weighed(out: &mut String, slots: u16, keys: &[u64]) {
    let columns = ["servers", "planner", "evened out", "4 vnodes", "16 vnodes", "weights ignored"];
    let title = "Every third server weighs 300, the others 100. Keys over weight, largest over mean:";
    head(out, title, &columns);
    for size in SIZES {
        let heavy: BTreeMap<NodeId, u16> =
            (1..=size).map(|node| (NodeId(node), if node % 3 == 0 { 3 * WEIGHT } else { WEIGHT })).collect();
        let weights: Weights = heavy.iter().map(|(node, weight)| (*node, *weight)).collect();
        let one = Placing::weighed(slots, 1, &heavy);
        let evened = planner::balance(&one, &weights).homes;
        let [four, many] = [4, 16].map(|vnodes| Placing::weighed(slots, vnodes, &heavy));
        let ignored = planner::balance(&Placing::Planner(1).grown(slots, size), &Weights::default()).homes;
        let figures = [one, evened, four, many, ignored].map(|homes| figure(pressure(&homes, keys, &heavy)));
        row(out, &[size.to_string()].into_iter().chain(figures).collect::<Vec<_>>());
    }
}

fn growth(out: &mut String, slots: u16, weights: &[u64]) {
    let columns = ["servers", "copies", "16 vnodes", "in turn", "coordinators moved", "16 vnodes", "in turn"];
    head(out, "Copies held, largest over mean; and the share of the ring that the last server's join moved:", &columns);
    let placings = [Placing::Planner(1), Placing::Planner(16), Placing::RoundRobin];
    for size in SIZES {
        let held = placings.map(|placing| {
            let homes = placing.grown(slots, size);
            figure(copies(&homes, weights, &servers(&homes)))
        });
        let moved = placings.map(|placing| {
            let before = placing.grown(slots, size - 1);
            let after = placing.join(&before, NodeId(size));
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            format!("{} %", (moved * 100 + before.len() / 2) / before.len())
        });
        row(out, &[size.to_string()].into_iter().chain(held).chain(moved).collect::<Vec<_>>());
    }
}
