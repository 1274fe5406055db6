//! How even the ring is: the largest share over the mean, for 3 to 20 servers, with one arc each and with eight, after
//! joins, after deaths, and evened out; beside servers that land at random places, as plain consistent hashing has it.
#![allow(clippy::print_stdout)] // `cargo test -p ecs --test it balance -- --nocapture` prints the table

use std::collections::{BTreeMap, BTreeSet};

use common::{NodeId, Slot, ring};
use ecs::planner::{self, Weights};

const SLOTS: usize = 256;

fn grown(servers: u64, vnodes: u16) -> Vec<NodeId> {
    (2..=servers).fold(vec![NodeId(1); SLOTS], |homes, node| {
        planner::join(&homes, NodeId(node), vnodes, &Weights::default()).homes
    })
}

/// Largest share over mean share.
fn spread(homes: &[NodeId]) -> f64 {
    let mut shares: BTreeMap<NodeId, usize> = BTreeMap::new();
    homes.iter().for_each(|home| *shares.entry(*home).or_default() += 1);
    let largest = shares.values().copied().max().unwrap_or(0);
    largest as f64 * shares.len() as f64 / homes.len() as f64
}

/// Each server takes `vnodes` random places, and every slot belongs to the next place clockwise. The mean of 50 rings.
fn at_random(servers: u64, vnodes: u64) -> f64 {
    let rings = (1..=50_u64).map(|seed| {
        let mut places: BTreeMap<u64, NodeId> = BTreeMap::new();
        for (node, vnode) in (1..=servers).flat_map(|node| (0..vnodes).map(move |vnode| (node, vnode))) {
            places.insert(scatter(seed << 32 | node << 8 | vnode), NodeId(node));
        }
        let owner = |at: u64| places.range(at..).next().or_else(|| places.iter().next()).map(|(_, node)| *node);
        let homes: Vec<NodeId> = (0..SLOTS as u64).filter_map(|slot| owner(slot << 56)).collect();
        // Who got nothing makes the mean no better.
        let nobody = servers as usize - homes.iter().collect::<BTreeSet<_>>().len();
        spread(&homes) * servers as f64 / (servers as usize - nobody) as f64
    });
    rings.sum::<f64>() / 50.0
}

/// Spreads numbers over the whole range (the finalizer of splitmix64).
fn scatter(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[test]
fn no_ring_is_less_even_than_one_at_random() {
    println!("servers  vnodes  joined  at random  one died  evened out");
    for servers in 3..=20_u64 {
        for vnodes in [1, 8] {
            let homes = grown(servers, vnodes);
            let died =
                planner::leave(&homes, NodeId(2), &Weights::default()).map_or_else(|| homes.clone(), |plan| plan.homes);
            let evened = planner::balance(&homes, &Weights::default()).homes;
            let (joined, random) = (spread(&homes), at_random(servers, u64::from(vnodes)));
            let (after, even) = (spread(&died), spread(&evened));
            println!("{servers:7}  {vnodes:6}  {joined:6.2}  {random:9.2}  {after:8.2}  {even:10.2}");
            assert!(joined <= random, "{servers} servers, {vnodes} arcs: {joined} against {random}");
            assert!(even <= joined && even <= 1.0 + servers as f64 / SLOTS as f64, "{servers}, {vnodes}: {even}");
            check(&homes);
            check(&died);
            check(&evened);
        }
    }
}

/// Successors are distinct, and nobody is its own.
fn check(homes: &[NodeId]) {
    assert_eq!(ring::check(homes, 3), Ok(()));
    let all: BTreeSet<NodeId> = homes.iter().copied().collect();
    for slot in 0..SLOTS {
        let list = ring::preference(homes, Slot(u16::try_from(slot).unwrap_or(u16::MAX)), &all, 3);
        let distinct: BTreeSet<&NodeId> = list.iter().collect();
        assert_eq!(distinct.len(), 3.min(all.len()), "slot {slot}: {list:?}");
    }
}
