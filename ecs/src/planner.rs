//! Where a newcomer lands, and who inherits from one that goes. Pure: homes in, homes and a printable reason out.
//!
//! The planner moves as little as it can: a newcomer takes only from the two neighbours it lands between, and what a
//! leaver had goes only to its neighbours. It knows nothing of copies: those follow from the homes by the ring's rule.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::{NodeId, ring};

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
/// is never less even than halving the largest share. Where there is but one server it takes half.
#[must_use]
pub fn join(homes: &[NodeId], newcomer: NodeId, vnodes: u16) -> Plan {
    let mut after = homes.to_vec();
    let servers = loads(homes).len();
    for _ in 0..vnodes.max(1) {
        // With several arcs, the shares of the arcs together make the fair share; with one, being even decides.
        let quota = match usize::from(vnodes) {
            0 | 1 => homes.len(),
            arcs => (homes.len() / (servers + 1)).div_ceil(arcs),
        };
        let Some(border) = border(&after, newcomer, quota) else { break };
        land(&mut after, newcomer, border, quota);
    }
    Plan::between(homes, after)
}

/// The slot before which the newcomer lands.
fn border(homes: &[NodeId], newcomer: NodeId, quota: usize) -> Option<usize> {
    let (runs, loads) = (runs(homes), loads(homes));
    let load = |run: &Run| loads.get(&run.owner).copied().unwrap_or(0);
    let pairs = runs.iter().zip(runs.iter().cycle().skip(1));
    let free =
        pairs.filter(|(left, right)| left.owner != right.owner && ![left.owner, right.owner].contains(&newcomer));
    let largest = |border: usize| {
        let mut after = homes.to_vec();
        land(&mut after, newcomer, border, quota);
        self::loads(&after).into_values().max()
    };
    // Of pairs that carry the same, the more even one ends more even; then the first, so that plans are reproducible.
    let best = free.max_by_key(|(left, right)| {
        let (sum, least) = (load(left) + load(right), load(left).min(load(right)));
        (Reverse(largest(right.first)), sum, least, Reverse(right.first))
    });
    let inside = || {
        let longest = runs.iter().filter(|run| run.owner != newcomer && run.length > 1).max_by_key(|run| run.length)?;
        Some((longest.first + longest.length.div_ceil(2)) % homes.len())
    };
    best.map(|(_, right)| right.first).or_else(inside)
}

/// Takes slots on both sides of `border`, each time from the neighbour that has more, while that makes things more even.
fn land(homes: &mut [NodeId], newcomer: NodeId, border: usize, quota: usize) {
    let total = homes.len();
    let mut loads = loads(homes);
    let (mut left, mut right, mut taken) = ((border + total - 1) % total, border, 0);
    let (left_owner, right_owner) = (homes[left], homes[right]);
    // The only server gives from the border on; the halves of a cut arc stay apart.
    let alone = left_owner == right_owner;
    while taken < quota {
        let load = |node: NodeId| loads.get(&node).copied().unwrap_or(0);
        let gives = |at: usize, owner: NodeId| homes[at] == owner && load(owner) >= load(newcomer) + 2;
        let from_right = gives(right, right_owner) && (alone || load(right_owner) >= load(left_owner));
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
pub fn leave(homes: &[NodeId], leaver: NodeId) -> Option<Plan> {
    let mut after = homes.to_vec();
    let total = homes.len();
    let others = || homes.iter().any(|home| *home != leaver);
    while let Some(run) = runs(&after).into_iter().find(|run| run.owner == leaver && others()) {
        let loads = loads(&after);
        let load = |node: NodeId| loads.get(&node).copied().unwrap_or(0);
        let (before, next) = ((run.first + total - 1) % total, (run.first + run.length) % total);
        let (left, right) = (after[before], after[next]);
        let to_left = share(load(left), load(right), run.length);
        for step in 0..run.length {
            after[(run.first + step) % total] = if step < to_left { left } else { right };
        }
    }
    others().then(|| Plan::between(homes, after))
}

/// How many of `slots` go to the left neighbour so that the two end as even as they can.
fn share(left: usize, right: usize, slots: usize) -> usize {
    ((right + slots).saturating_sub(left) / 2).min(slots)
}

/// Evens out: the order of the arcs stays, and their borders move until every server has its fair share. Of all such rings
/// the one is taken for which fewest slots move.
#[must_use]
pub fn balance(homes: &[NodeId]) -> Plan {
    let (runs, total) = (runs(homes), homes.len());
    let lengths = fair_lengths(&runs, total);
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
fn fair_lengths(runs: &[Run], total: usize) -> Vec<usize> {
    let owners: BTreeSet<NodeId> = runs.iter().map(|run| run.owner).collect();
    let mut lengths = vec![0; runs.len()];
    for (place, owner) in owners.iter().enumerate() {
        // The shares differ by one slot at most, and add up to the ring.
        let share = (place + 1) * total / owners.len() - place * total / owners.len();
        let mine: Vec<usize> = (0..runs.len()).filter(|at| runs[*at].owner == *owner).collect();
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring_of(lengths: &[usize]) -> Vec<NodeId> {
        lengths.iter().enumerate().flat_map(|(at, n)| std::iter::repeat_n(NodeId(at as u64 + 1), *n)).collect()
    }

    fn shares(homes: &[NodeId]) -> Vec<usize> {
        loads(homes).values().copied().collect()
    }

    const NEW: NodeId = NodeId(99);

    #[test]
    fn from_one_to_five_servers() {
        let mut homes = vec![NodeId(1); 256];
        let mut said = Vec::new();
        for node in 2..=5 {
            let plan = join(&homes, NodeId(node), 1);
            plan.check(&homes).unwrap();
            said.push(format!("{:?}", shares(&plan.homes)));
            homes = plan.homes;
        }
        assert_eq!(said, ["[128, 128]", "[85, 86, 85]", "[57, 57, 85, 57]", "[47, 57, 48, 57, 47]"].map(String::from));
        let plan = leave(&homes, NodeId(3)).unwrap();
        plan.check(&homes).unwrap();
        assert_eq!(shares(&plan.homes).iter().sum::<usize>(), 256);
    }

    #[test]
    fn a_plan_explains_itself() {
        let homes = vec![NodeId(1); 4];
        let said = join(&homes, NodeId(2), 1).to_string();
        assert_eq!(
            said,
            "0000000000000002 takes 2 slots from 0000000000000001 (0000000000000001 then has 2, 0000000000000002 2)"
        );
    }

    #[test]
    fn the_fullest_server_gives_even_if_other_neighbours_carry_as_much() {
        let plan = join(&ring_of(&[13, 2, 10, 5, 2]), NEW, 1);
        assert_eq!(shares(&plan.homes), [7, 2, 10, 5, 2, 6]);
    }

    #[test]
    fn of_equally_loaded_neighbours_the_more_even_ones_are_chosen() {
        // Two are the fullest: wherever the newcomer lands, the largest share stays.
        let plan = join(&ring_of(&[8, 2, 8, 1, 5, 5, 1, 2]), NEW, 1);
        assert_eq!(shares(&plan.homes), [8, 2, 8, 1, 4, 3, 1, 2, 3]);
    }

    #[test]
    fn the_last_server_cannot_leave() {
        assert_eq!(leave(&[NodeId(1); 8], NodeId(1)), None);
    }

    #[test]
    fn more_servers_than_slots_leave_the_newcomer_without() {
        let plan = join(&ring_of(&[1, 1]), NEW, 1);
        assert!(plan.moves.is_empty());
    }

    #[test]
    fn several_arcs_are_several_borders() {
        let mut homes = vec![NodeId(1); 64];
        for node in 2..=4 {
            let plan = join(&homes, NodeId(node), 4);
            plan.check(&homes).unwrap();
            let arcs = runs(&plan.homes).iter().filter(|run| run.owner == NodeId(node)).count();
            assert_eq!(arcs, 4, "{:?}", runs(&plan.homes));
            homes = plan.homes;
        }
        assert!(shares(&homes).iter().all(|share| (12..=20).contains(share)), "{:?}", shares(&homes));
    }

    #[test]
    fn evening_out_moves_borders_and_nothing_else() {
        let homes = ring_of(&[47, 57, 48, 57, 47]);
        let plan = balance(&homes);
        let after = shares(&plan.homes);
        assert!(after.iter().all(|share| (51..=52).contains(share)), "{after:?}");
        assert_eq!(runs(&plan.homes).len(), 5);
        // At least the surplus must move.
        let surplus = 57 - 52 + 57 - 51;
        let moved: usize = plan.moves.values().sum();
        assert!((surplus..=surplus + 4).contains(&moved), "{moved} moved for {surplus}: {plan}");
        assert!(balance(&plan.homes).moves.is_empty(), "what is even stays");
        assert!(balance(&[NodeId(1); 8]).moves.is_empty());
    }

    #[test]
    fn a_plan_is_followed_in_steps_without_more_arcs() {
        let homes = ring_of(&[64, 32, 16, 16]);
        let plan = balance(&homes);
        let (mut now, mut steps) = (homes.clone(), 0);
        while now != plan.homes {
            let next = advance(&now, &plan.homes, 5);
            let moved = now.iter().zip(&next).filter(|(a, b)| a != b).count();
            assert!((1..=5).contains(&moved) && runs(&next).len() <= 4, "{:?}", runs(&next));
            (now, steps) = (next, steps + 1);
        }
        assert_eq!(steps, plan.moves.values().sum::<usize>().div_ceil(5));
    }

    /// The best reachable result by trying every border and every pair of amounts: the smallest largest share, then the
    /// neighbours that carry most, then the smallest spread among the three.
    fn brute_force(lengths: &[usize]) -> (usize, usize, usize) {
        let total = lengths.len();
        let landed = (0..total).flat_map(|at| {
            let (a, b) = (lengths[at], lengths[(at + 1) % total]);
            let others = (0..total).filter(move |other| *other != at && *other != (at + 1) % total);
            let others = others.map(|other| lengths[other]).max().unwrap_or(0);
            let options = (0..a).flat_map(move |x| (0..b).map(move |y| [a - x, b - y, x + y]));
            options.map(move |three| {
                let (most, least) = (three.into_iter().max().unwrap(), three.into_iter().min().unwrap());
                (most.max(others), std::cmp::Reverse(a + b), most - least)
            })
        });
        let (largest, std::cmp::Reverse(sum), spread) = landed.min().unwrap();
        (largest, sum, spread)
    }

    proptest! {
        #[test]
        fn a_newcomer_is_as_even_with_its_neighbours_as_brute_force_can_make_it(
            lengths in prop::collection::vec(1..12usize, 2..6)
        ) {
            // Filled up to a power of two, as rings are.
            let mut lengths = lengths;
            let sum: usize = lengths.iter().sum();
            lengths[0] += sum.next_power_of_two() - sum;
            let homes = ring_of(&lengths);
            let plan = join(&homes, NEW, 1);
            prop_assert_eq!(plan.check(&homes), Ok(()));
            let mine = plan.homes.iter().filter(|home| **home == NEW).count();
            let (largest, sum, spread) = brute_force(&lengths);
            if mine > 0 {
                let around = runs(&plan.homes);
                let at = around.iter().position(|run| run.owner == NEW).unwrap();
                let (left, right) = (around[(at + around.len() - 1) % around.len()], around[(at + 1) % around.len()]);
                let three = [left.length, mine, right.length];
                let left_before = homes.iter().filter(|home| **home == left.owner).count();
                let right_before = homes.iter().filter(|home| **home == right.owner).count();
                prop_assert_eq!(shares(&plan.homes).into_iter().max(), Some(largest));
                prop_assert_eq!(left_before + right_before, sum);
                prop_assert_eq!(three.iter().max().unwrap() - three.iter().min().unwrap(), spread, "{:?}", three);
                prop_assert_eq!(around.iter().filter(|run| run.owner == NEW).count(), 1, "one arc");
            }
        }

        #[test]
        fn evening_out_is_as_even_as_can_be(lengths in prop::collection::vec(1..40usize, 1..9)) {
            let mut lengths = lengths;
            let sum: usize = lengths.iter().sum();
            lengths[0] += sum.next_power_of_two() - sum;
            let homes = ring_of(&lengths);
            let plan = balance(&homes);
            prop_assert_eq!(ring::check(&plan.homes, 3), Ok(()));
            let after = shares(&plan.homes);
            prop_assert_eq!(after.len(), lengths.len(), "nobody loses everything");
            prop_assert!(after.iter().max().unwrap() - after.iter().min().unwrap() <= 1, "{:?}", after);
        }

        #[test]
        fn joins_and_leaves_keep_a_ring_and_touch_neighbours_only(
            steps in prop::collection::vec((any::<bool>(), 0..8u64), 1..20), vnodes in 1..4u16,
        ) {
            let mut homes = vec![NodeId(100); 64];
            for (joins, node) in steps {
                let plan = match (joins && !homes.contains(&NodeId(node)), homes.contains(&NodeId(node))) {
                    (true, _) => join(&homes, NodeId(node), vnodes),
                    (_, true) => match leave(&homes, NodeId(node)) { Some(plan) => plan, None => continue },
                    _ => continue,
                };
                prop_assert_eq!(plan.check(&homes), Ok(()));
                let moved: usize = plan.moves.values().sum();
                prop_assert_eq!(moved, homes.iter().zip(&plan.homes).filter(|(a, b)| a != b).count());
                prop_assert!(plan.moves.keys().all(|(from, to)| (*to == NodeId(node)) || (*from == NodeId(node))));
                homes = plan.homes;
            }
        }
    }
}
