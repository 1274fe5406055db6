//! Where a newcomer lands, and who inherits from one that goes. Pure: homes in, homes and a printable reason out.
//!
//! The planner moves as little as it can: a newcomer takes only from the two neighbours it lands between, and what a
//! leaver had goes only to its neighbours. It knows nothing of copies: those follow from the homes by the ring's rule.
//! What it evens out is *pressure*: a server's slots over its weight.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::view::WEIGHT;
use common::{NodeId, NodeInfo, ring};

/// How large each server's share is to be, against the others'. Who is not named has an ordinary weight.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Weights(BTreeMap<NodeId, u16>);

impl Weights {
    /// As the servers said.
    #[must_use]
    pub fn of(nodes: &BTreeMap<NodeId, NodeInfo>) -> Weights {
        Weights(nodes.values().map(|info| (info.node, info.weight)).collect())
    }

    /// Of one server; never 0.
    fn get(&self, node: NodeId) -> u64 {
        u64::from(self.0.get(&node).copied().unwrap_or(WEIGHT).max(1))
    }

    /// What so many slots are to so much weight. Slots are counted in millionths, so that those of the heaviest differ, too.
    fn pressure(slots: usize, weight: u64) -> u64 {
        slots as u64 * 1_000_000 / weight
    }
}

impl FromIterator<(NodeId, u16)> for Weights {
    fn from_iter<I: IntoIterator<Item = (NodeId, u16)>>(weights: I) -> Weights {
        Weights(weights.into_iter().collect())
    }
}

/// New homes and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Every slot's home from now on.
    pub homes: Vec<NodeId>,
    /// Who gives how many slots to whom.
    pub moves: BTreeMap<(NodeId, NodeId), usize>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.moves.is_empty() {
            return write!(f, "no slot moves");
        }
        let share = |node: &NodeId| self.homes.iter().filter(|home| *home == node).count();
        for (at, ((from, to), slots)) in self.moves.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(
                f,
                "{comma}{to} takes {slots} slots from {from} ({from} then has {}, {to} {})",
                share(from),
                share(to)
            )?;
        }
        Ok(())
    }
}

impl Plan {
    fn between(before: &[NodeId], homes: Vec<NodeId>) -> Plan {
        let mut moves = BTreeMap::new();
        for (from, to) in before.iter().zip(&homes).filter(|(from, to)| from != to) {
            *moves.entry((*from, *to)).or_default() += 1;
        }
        Plan { homes, moves }
    }

    /// What must hold of every plan: the ring stays a ring, no slot is lost, and slots move in one direction only.
    ///
    /// # Errors
    /// A sentence naming what does not.
    pub fn check(&self, before: &[NodeId]) -> Result<(), String> {
        if self.homes.len() != before.len() {
            return Err(format!("{} slots became {}", before.len(), self.homes.len()));
        }
        ring::check(&self.homes, 3)?;
        let givers: BTreeSet<_> = self.moves.keys().map(|(from, _)| from).collect();
        match self.moves.keys().find(|(_, to)| givers.contains(to)) {
            Some((_, both)) => Err(format!("{both} both gives and takes")),
            None => Ok(()),
        }
    }
}

/// A run of slots with one home: its first slot and its length. Runs may wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: usize,
    length: usize,
    owner: NodeId,
}

fn runs(homes: &[NodeId]) -> Vec<Run> {
    let total = homes.len();
    let start = (0..total).find(|at| homes[*at] != homes[(at + total - 1) % total]).unwrap_or(0);
    let mut runs: Vec<Run> = Vec::new();
    for at in (start..total).chain(0..start) {
        match runs.last_mut() {
            Some(run) if run.owner == homes[at] => run.length += 1,
            _ => runs.push(Run { first: at, length: 1, owner: homes[at] }),
        }
    }
    runs
}

fn loads(homes: &[NodeId]) -> BTreeMap<NodeId, usize> {
    homes.iter().fold(BTreeMap::new(), |mut loads, home| {
        *loads.entry(*home).or_default() += 1;
        loads
    })
}

/// `newcomer` lands at `vnodes` borders and takes from both neighbours until the three are even: each time where the
/// largest share of all then is smallest, and of such borders between the two neighbours that together carry most. So it
/// is never less even than halving the largest share. Where there is but one server it takes half. Shares are against
/// weights, throughout.
#[must_use]
pub fn join(homes: &[NodeId], newcomer: NodeId, vnodes: u16, weights: &Weights) -> Plan {
    let mut after = homes.to_vec();
    let others: u64 = loads(homes).keys().filter(|node| **node != newcomer).map(|node| weights.get(*node)).sum();
    let (mine, total) = (weights.get(newcomer), homes.len() as u64);
    let fair = usize::try_from(total * mine / (others + mine)).unwrap_or(usize::MAX);
    for _ in 0..vnodes.max(1) {
        // With several arcs, the shares of the arcs together make the fair share; with one, being even decides.
        let quota = match usize::from(vnodes) {
            0 | 1 => homes.len(),
            arcs => fair.div_ceil(arcs),
        };
        let Some(border) = border(&after, newcomer, quota, weights) else { break };
        land(&mut after, newcomer, border, quota, weights);
    }
    Plan::between(homes, after)
}

/// The slot before which the newcomer lands.
fn border(homes: &[NodeId], newcomer: NodeId, quota: usize, weights: &Weights) -> Option<usize> {
    let (runs, loads) = (runs(homes), loads(homes));
    let load = |run: &Run| (loads.get(&run.owner).copied().unwrap_or(0), weights.get(run.owner));
    let pressure = |(slots, weight)| Weights::pressure(slots, weight);
    let pairs = runs.iter().zip(runs.iter().cycle().skip(1));
    let free =
        pairs.filter(|(left, right)| left.owner != right.owner && ![left.owner, right.owner].contains(&newcomer));
    let largest = |border: usize| {
        let mut after = homes.to_vec();
        land(&mut after, newcomer, border, quota, weights);
        self::loads(&after).into_iter().map(|(node, slots)| pressure((slots, weights.get(node)))).max()
    };
    // Of pairs that carry the same, the more even one ends more even; then the first, so that plans are reproducible.
    let best = free.max_by_key(|(left, right)| {
        let (a, b) = (load(left), load(right));
        let (together, least) = (pressure((a.0 + b.0, a.1 + b.1)), pressure(a).min(pressure(b)));
        (Reverse(largest(right.first)), together, least, Reverse(right.first))
    });
    let inside = || {
        let longest = runs.iter().filter(|run| run.owner != newcomer && run.length > 1).max_by_key(|run| run.length)?;
        Some((longest.first + longest.length.div_ceil(2)) % homes.len())
    };
    best.map(|(_, right)| right.first).or_else(inside)
}

/// Takes slots on both sides of `border`, each time from the neighbour that has more, while that makes things more even.
fn land(homes: &mut [NodeId], newcomer: NodeId, border: usize, quota: usize, weights: &Weights) {
    let total = homes.len();
    let mut loads = loads(homes);
    let (mut left, mut right, mut taken) = ((border + total - 1) % total, border, 0);
    let (left_owner, right_owner) = (homes[left], homes[right]);
    // The only server gives from the border on; the halves of a cut arc stay apart.
    let alone = left_owner == right_owner;
    while taken < quota {
        let load = |node: NodeId, more: usize| {
            Weights::pressure(loads.get(&node).copied().unwrap_or(0) + more, weights.get(node))
        };
        // Nobody gives its last slot, however light it is.
        let has_more = |owner: NodeId| loads.get(&owner).is_some_and(|slots| *slots > 1);
        let gives =
            |at: usize, owner: NodeId| homes[at] == owner && has_more(owner) && load(owner, 0) > load(newcomer, 1);
        let from_right = gives(right, right_owner) && (alone || load(right_owner, 0) >= load(left_owner, 0));
        let from_left = gives(left, left_owner) && !alone;
        let (at, owner) = match (from_left, from_right) {
            (_, true) => (right, right_owner),
            (true, false) => (left, left_owner),
            (false, false) if gives(right, right_owner) => (right, right_owner),
            _ => break,
        };
        homes[at] = newcomer;
        *loads.entry(owner).or_default() -= 1;
        *loads.entry(newcomer).or_default() += 1;
        taken += 1;
        if at == right {
            right = (right + 1) % total;
        } else {
            left = (left + total - 1) % total;
        }
    }
}

/// The homes without `leaver`: each of its arcs goes to its two neighbours, from both ends, to the one with less first.
/// None if nobody else has a slot.
#[must_use]
pub fn leave(homes: &[NodeId], leaver: NodeId, weights: &Weights) -> Option<Plan> {
    let mut after = homes.to_vec();
    let total = homes.len();
    let others = || homes.iter().any(|home| *home != leaver);
    while let Some(run) = runs(&after).into_iter().find(|run| run.owner == leaver && others()) {
        let loads = loads(&after);
        let load = |node: NodeId| (loads.get(&node).copied().unwrap_or(0), weights.get(node));
        let (before, next) = ((run.first + total - 1) % total, (run.first + run.length) % total);
        let (left, right) = (after[before], after[next]);
        let to_left = share(load(left), load(right), run.length);
        for step in 0..run.length {
            after[(run.first + step) % total] = if step < to_left { left } else { right };
        }
    }
    others().then(|| Plan::between(homes, after))
}

/// How many of `slots` go to the left neighbour so that the two, slots and weight each, end as even as they can.
fn share(left: (usize, u64), right: (usize, u64), slots: usize) -> usize {
    let largest = |given: &usize| {
        let (left, right) = ((left.0 + given, left.1), (right.0 + slots - given, right.1));
        Weights::pressure(left.0, left.1).max(Weights::pressure(right.0, right.1))
    };
    (0..=slots).min_by_key(largest).unwrap_or(0)
}

/// Evens out: the order of the arcs stays, and their borders move until every server has its fair share. Of all such rings
/// the one is taken for which fewest slots move.
#[must_use]
pub fn balance(homes: &[NodeId], weights: &Weights) -> Plan {
    let (runs, total) = (runs(homes), homes.len());
    let lengths = fair_lengths(&runs, total, weights);
    let ring = |first: usize| {
        let mut after = homes.to_vec();
        let mut at = first;
        for (run, length) in runs.iter().zip(&lengths) {
            (0..*length).for_each(|step| after[(at + step) % total] = run.owner);
            at += length;
        }
        after
    };
    // A best ring leaves the beginning of some arc where it is: otherwise it could be turned without losing anything.
    let starts = runs.iter().scan(0, |before, run| {
        let offset = std::mem::replace(before, *before + lengths[runs_index(&runs, run)]);
        Some((run.first + total * 2 - offset) % total)
    });
    let moved = |after: &Vec<NodeId>| homes.iter().zip(after).filter(|(from, to)| from != to).count();
    let best = starts.map(ring).min_by_key(moved).unwrap_or_else(|| homes.to_vec());
    Plan::between(homes, best)
}

fn runs_index(runs: &[Run], run: &Run) -> usize {
    runs.iter().position(|other| other == run).unwrap_or(0)
}

/// How long each run is to be: every server's fair share, cut over its runs as they are now.
fn fair_lengths(runs: &[Run], total: usize, weights: &Weights) -> Vec<usize> {
    let mut lengths = vec![0; runs.len()];
    for (owner, share) in fair_shares(runs, total, weights) {
        let mine: Vec<usize> = (0..runs.len()).filter(|at| runs[*at].owner == owner).collect();
        let held: usize = mine.iter().map(|at| runs[*at].length).sum();
        let (mut given, mut seen) = (0, 0);
        for at in mine {
            seen += runs[at].length;
            let up_to = seen * share / held.max(1);
            lengths[at] = up_to - given;
            given = up_to;
        }
    }
    lengths
}

/// Every server's share: one slot each, so that nobody loses everything, and each further one to whom it presses least. No
/// other shares have a smaller largest pressure.
fn fair_shares(runs: &[Run], total: usize, weights: &Weights) -> BTreeMap<NodeId, usize> {
    let mut shares: BTreeMap<NodeId, usize> = runs.iter().map(|run| (run.owner, 1)).collect();
    for _ in shares.len()..total {
        let next = |(node, slots): &(&NodeId, &mut usize)| Weights::pressure(**slots + 1, weights.get(**node));
        if let Some((_, slots)) = shares.iter_mut().min_by_key(next) {
            *slots += 1;
        }
    }
    shares
}

/// At most `most` of the moves that lead from `homes` to `after`, those at the borders of arcs first, so that the ring has
/// no more arcs on the way than at its ends.
#[must_use]
pub fn advance(homes: &[NodeId], after: &[NodeId], most: usize) -> Vec<NodeId> {
    let (mut now, total) = (homes.to_vec(), homes.len());
    for _ in 0..most {
        let open = || (0..total).filter(|at| now[*at] != after[*at]);
        let beside = |at: &usize| {
            let neighbours = [now[(at + total - 1) % total], now[(at + 1) % total]];
            neighbours.contains(&after[*at])
        };
        let Some(at) = open().find(beside).or_else(|| open().next()) else { break };
        now[at] = after[at];
    }
    now
}

/// `heir` takes over everything of `old`: the same place with an empty disk.
#[must_use]
pub fn replace(homes: &[NodeId], old: NodeId, heir: NodeId) -> Vec<NodeId> {
    homes.iter().map(|home| if *home == old { heir } else { *home }).collect()
}

#[cfg(test)]
mod tests;
