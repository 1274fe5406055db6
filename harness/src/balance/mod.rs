//! How evenly keys fall on servers: placements alone, without servers, time or faults.
//!
//! It plays the ECS's planner on a ring of slots, and beside it the placements that one would write first: halving the
//! largest arc, points on the circle by hashing, groups dealt out in turn. Keys are random and go through MD5 like any
//! other. What it does not look at: how much is asked of each key, and how long anything takes.

mod naive;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use common::position::Position;
use common::{NodeId, Slot, ring};
use ecs::planner::{self, Weights};
pub use naive::{Points, halve, inherit};
pub use table::print;

/// Copies of a record, as a cluster has by default.
pub const COPIES: usize = 3;

/// How servers get their shares of a ring of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placing {
    /// The product's planner, with this many arcs per server.
    Planner(u16),
    /// A newcomer takes half of the largest arc; who goes leaves its arc to its successor.
    Halving,
    /// Slot i belongs to server i modulo the number of servers.
    RoundRobin,
}

impl Placing {
    /// The homes once `servers` have joined one after another.
    #[must_use]
    pub fn grown(self, slots: u16, servers: u64) -> Vec<NodeId> {
        let first = vec![NodeId(1); usize::from(slots)];
        (2..=servers).fold(first, |homes, node| self.join(&homes, NodeId(node)))
    }

    /// The same by the planner, with the weights of its servers.
    #[must_use]
    pub fn weighed(slots: u16, vnodes: u16, heavy: &BTreeMap<NodeId, u16>) -> Vec<NodeId> {
        let weights: Weights = heavy.iter().map(|(node, weight)| (*node, *weight)).collect();
        let mut homes = Vec::new();
        for node in heavy.keys() {
            homes = match homes.is_empty() {
                true => vec![*node; usize::from(slots)],
                false => planner::join(&homes, *node, vnodes, &weights).homes,
            };
        }
        homes
    }

    /// The homes with one server more.
    #[must_use]
    pub fn join(self, homes: &[NodeId], node: NodeId) -> Vec<NodeId> {
        match self {
            Placing::Planner(vnodes) => planner::join(homes, node, vnodes, &Weights::default()).homes,
            Placing::Halving => halve(homes, node),
            Placing::RoundRobin => {
                let mut all: BTreeSet<NodeId> = homes.iter().copied().collect();
                all.insert(node);
                naive::deal(homes.len(), &all)
            }
        }
    }

    /// The homes without `node`; as they are if it is the only one.
    #[must_use]
    pub fn leave(self, homes: &[NodeId], node: NodeId) -> Vec<NodeId> {
        let mut others: BTreeSet<NodeId> = homes.iter().copied().collect();
        others.remove(&node);
        if others.is_empty() {
            return homes.to_vec();
        }
        match self {
            Placing::Planner(_) => {
                planner::leave(homes, node, &Weights::default()).map_or(homes.to_vec(), |plan| plan.homes)
            }
            Placing::Halving => inherit(homes, node),
            Placing::RoundRobin => naive::deal(homes.len(), &others),
        }
    }
}

/// Who coordinates each slot while only `alive` are: the homes, and for the dead the next one clockwise (C4).
#[must_use]
pub fn coordinators(homes: &[NodeId], alive: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let heir = |slot| ring::preference(homes, Slot(slot), alive, 1).first().copied().unwrap_or_default();
    (0..slots_of(homes)).map(heir).collect()
}

/// How many of `weights` (one for each slot) each of `alive` carries: the largest over the mean.
#[must_use]
pub fn spread(owners: &[NodeId], weights: &[u64], alive: &BTreeSet<NodeId>) -> f64 {
    let of = |node: &NodeId| -> u64 {
        owners.iter().zip(weights).filter(|(owner, _)| *owner == node).map(|(_, weight)| weight).sum()
    };
    ratio(alive.iter().map(of))
}

/// The same against what each server weighs: its keys over its weight, the largest over what all together have.
#[must_use]
#[allow(clippy::cast_precision_loss)] // figures for people
pub fn pressure(owners: &[NodeId], keys: &[u64], heavy: &BTreeMap<NodeId, u16>) -> f64 {
    let of = |node: &NodeId| -> u64 {
        owners.iter().zip(keys).filter(|(owner, _)| *owner == node).map(|(_, keys)| keys).sum()
    };
    let all: u64 = heavy.values().map(|weight| u64::from(*weight)).sum();
    let mean = keys.iter().sum::<u64>() as f64 / all as f64;
    heavy.iter().map(|(node, weight)| of(node) as f64 / f64::from(*weight) / mean).fold(0.0, f64::max)
}

/// The same for the copies that servers hold, whatever their role.
#[must_use]
pub fn copies(homes: &[NodeId], weights: &[u64], alive: &BTreeSet<NodeId>) -> f64 {
    let holders: Vec<Vec<NodeId>> =
        (0..slots_of(homes)).map(|slot| ring::preference(homes, Slot(slot), alive, COPIES)).collect();
    let of = |node: &NodeId| -> u64 {
        holders.iter().zip(weights).filter(|(holders, _)| holders.contains(node)).map(|(_, weight)| weight).sum()
    };
    ratio(alive.iter().map(of))
}

/// The largest over the mean.
#[allow(clippy::cast_precision_loss)] // figures for people
fn ratio(loads: impl Iterator<Item = u64>) -> f64 {
    let loads: Vec<u64> = loads.collect();
    let (largest, sum) = (loads.iter().max().copied().unwrap_or(0), loads.iter().sum::<u64>());
    if sum == 0 { 1.0 } else { largest as f64 * loads.len() as f64 / sum as f64 }
}

/// Random keys, as positions.
#[must_use]
pub fn keys(count: usize, seed: u64) -> Vec<Position> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| Position::of(&rng.u128(..).to_le_bytes())).collect()
}

/// How many of `keys` fall into each slot.
#[must_use]
pub fn per_slot(keys: &[Position], slots: u16) -> Vec<u64> {
    let mut counts = vec![0; usize::from(slots)];
    for key in keys {
        counts[usize::from(key.slot(slots).0)] += 1;
    }
    counts
}

/// The servers of a ring.
#[must_use]
pub fn servers(homes: &[NodeId]) -> BTreeSet<NodeId> {
    homes.iter().copied().collect()
}

fn slots_of(homes: &[NodeId]) -> u16 {
    u16::try_from(homes.len()).unwrap_or(u16::MAX)
}
