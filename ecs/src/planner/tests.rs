//! The planner against brute force, and what every plan must keep.

use proptest::prelude::*;

use super::*;

fn ring_of(lengths: &[usize]) -> Vec<NodeId> {
    lengths.iter().enumerate().flat_map(|(at, n)| std::iter::repeat_n(NodeId(at as u64 + 1), *n)).collect()
}

fn shares(homes: &[NodeId]) -> Vec<usize> {
    loads(homes).values().copied().collect()
}

const NEW: NodeId = NodeId(99);

fn even() -> Weights {
    Weights::default()
}

/// Server i + 1 weighs the i-th of these hundreds; the newcomer the last one.
fn weigh(hundreds: &[u16], new: u16) -> Weights {
    let named = hundreds.iter().enumerate().map(|(at, weight)| (NodeId(at as u64 + 1), weight * 100));
    named.chain([(NEW, new * 100)]).collect()
}

/// Slots over weight, of the server that has most of it.
fn pressed(homes: &[NodeId], weights: &Weights) -> u64 {
    loads(homes).iter().map(|(node, slots)| Weights::pressure(*slots, weights.get(*node))).max().unwrap_or(0)
}

#[test]
fn who_weighs_more_gets_more() {
    let plan = join(&[NodeId(1); 256], NEW, 1, &weigh(&[1], 3));
    assert_eq!(shares(&plan.homes), [64, 192]);
    let plan = balance(&ring_of(&[64, 64, 64, 64]), &weigh(&[1, 2, 3, 2], 1));
    assert_eq!(shares(&plan.homes), [32, 64, 96, 64]);
    assert!(balance(&plan.homes, &weigh(&[1, 2, 3, 2], 1)).moves.is_empty());
    let plan = leave(&ring_of(&[30, 30, 30]), NodeId(2), &weigh(&[1, 1, 2], 1)).unwrap();
    assert_eq!(shares(&plan.homes), [30, 60], "both neighbours end with what their weights allow");
    // Several arcs: as near to three quarters as arcs that must not touch can come.
    let plan = join(&[NodeId(1); 256], NEW, 8, &weigh(&[1], 3));
    let [light, heavy] = shares(&plan.homes)[..] else { panic!("two servers") };
    assert!(heavy > 2 * light, "{light} and {heavy}");
}

#[test]
fn nobody_is_too_light_to_keep_one_slot() {
    let weights: Weights = [(NodeId(1), 10_000), (NodeId(2), 1)].into_iter().collect();
    assert_eq!(shares(&balance(&ring_of(&[32, 32]), &weights).homes), [63, 1]);
}

#[test]
fn from_one_to_five_servers() {
    let mut homes = vec![NodeId(1); 256];
    let mut said = Vec::new();
    for node in 2..=5 {
        let plan = join(&homes, NodeId(node), 1, &even());
        plan.check(&homes).unwrap();
        said.push(format!("{:?}", shares(&plan.homes)));
        homes = plan.homes;
    }
    assert_eq!(said, ["[128, 128]", "[85, 86, 85]", "[57, 57, 85, 57]", "[47, 57, 48, 57, 47]"].map(String::from));
    let plan = leave(&homes, NodeId(3), &even()).unwrap();
    plan.check(&homes).unwrap();
    assert_eq!(shares(&plan.homes).iter().sum::<usize>(), 256);
}

#[test]
fn a_plan_explains_itself() {
    let homes = vec![NodeId(1); 4];
    let said = join(&homes, NodeId(2), 1, &even()).to_string();
    assert_eq!(
        said,
        "0000000000000002 takes 2 slots from 0000000000000001 (0000000000000001 then has 2, 0000000000000002 2)"
    );
}

#[test]
fn the_fullest_server_gives_even_if_other_neighbours_carry_as_much() {
    let plan = join(&ring_of(&[13, 2, 10, 5, 2]), NEW, 1, &even());
    assert_eq!(shares(&plan.homes), [7, 2, 10, 5, 2, 6]);
}

#[test]
fn of_equally_loaded_neighbours_the_more_even_ones_are_chosen() {
    // Two are the fullest: wherever the newcomer lands, the largest share stays.
    let plan = join(&ring_of(&[8, 2, 8, 1, 5, 5, 1, 2]), NEW, 1, &even());
    assert_eq!(shares(&plan.homes), [8, 2, 8, 1, 4, 3, 1, 2, 3]);
}

#[test]
fn the_last_server_cannot_leave() {
    assert_eq!(leave(&[NodeId(1); 8], NodeId(1), &even()), None);
}

#[test]
fn more_servers_than_slots_leave_the_newcomer_without() {
    let plan = join(&ring_of(&[1, 1]), NEW, 1, &even());
    assert!(plan.moves.is_empty());
}

#[test]
fn several_arcs_are_several_borders() {
    let mut homes = vec![NodeId(1); 64];
    for node in 2..=4 {
        let plan = join(&homes, NodeId(node), 4, &even());
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
    let plan = balance(&homes, &even());
    let after = shares(&plan.homes);
    assert!(after.iter().all(|share| (51..=52).contains(share)), "{after:?}");
    assert_eq!(runs(&plan.homes).len(), 5);
    // At least the surplus must move.
    let surplus = 57 - 52 + 57 - 51;
    let moved: usize = plan.moves.values().sum();
    assert!((surplus..=surplus + 4).contains(&moved), "{moved} moved for {surplus}: {plan}");
    assert!(balance(&plan.homes, &even()).moves.is_empty(), "what is even stays");
    assert!(balance(&[NodeId(1); 8], &even()).moves.is_empty());
}

#[test]
fn a_plan_is_followed_in_steps_without_more_arcs() {
    let homes = ring_of(&[64, 32, 16, 16]);
    let plan = balance(&homes, &even());
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

/// The smallest largest pressure that a newcomer can bring about at any border, by trying all amounts.
fn brute_pressure(lengths: &[usize], weights: &Weights) -> u64 {
    let (total, node) = (lengths.len(), |at: usize| NodeId((at % lengths.len()) as u64 + 1));
    let press = |slots, node| Weights::pressure(slots, weights.get(node));
    let landed = (0..total).flat_map(|at| {
        let (a, b) = (lengths[at], lengths[(at + 1) % total]);
        let others = (0..total).filter(move |other| *other != at && *other != (at + 1) % total);
        let others = others.map(|other| press(lengths[other], node(other))).max().unwrap_or(0);
        let options = (0..a).flat_map(move |x| (0..b).map(move |y| (x, y)));
        options.map(move |(x, y)| {
            press(a - x, node(at)).max(press(b - y, node(at + 1))).max(press(x + y, NEW)).max(others)
        })
    });
    landed.min().unwrap()
}

/// Filled up to a power of two, as rings are.
fn filled(mut lengths: Vec<usize>) -> Vec<usize> {
    let sum: usize = lengths.iter().sum();
    lengths[0] += sum.next_power_of_two() - sum;
    lengths
}

/// All ways to cut `total` slots into shares of at least one.
fn compositions(total: usize, parts: usize) -> Vec<Vec<usize>> {
    if parts == 1 {
        return vec![vec![total]];
    }
    let first = 1..=total - (parts - 1);
    first
        .flat_map(|n| compositions(total - n, parts - 1).into_iter().map(move |rest| [vec![n], rest].concat()))
        .collect()
}

proptest! {
    #[test]
    fn weighed_joins_press_nobody_more_than_brute_force_can_avoid(
        lengths in prop::collection::vec(1..9usize, 2..6), heavy in prop::collection::vec(1..5u16, 6),
    ) {
        let lengths = filled(lengths);
        let (homes, weights) = (ring_of(&lengths), weigh(&heavy[..5], heavy[5]));
        let plan = join(&homes, NEW, 1, &weights);
        prop_assert_eq!(plan.check(&homes), Ok(()));
        prop_assert_eq!(pressed(&plan.homes, &weights), brute_pressure(&lengths, &weights), "{}", plan);
    }

    #[test]
    fn weighed_shares_press_nobody_more_than_brute_force_can_avoid(
        lengths in prop::collection::vec(1..6usize, 2..5), heavy in prop::collection::vec(1..6u16, 5),
    ) {
        let lengths = filled(lengths);
        let (homes, weights) = (ring_of(&lengths), weigh(&heavy, 1));
        let after = balance(&homes, &weights).homes;
        prop_assert_eq!(ring::check(&after, 3), Ok(()));
        let total = homes.len();
        let best = compositions(total, lengths.len()).into_iter().map(|shares| pressed(&ring_of(&shares), &weights)).min();
        prop_assert_eq!(Some(pressed(&after, &weights)), best);
    }

    #[test]
    fn what_a_leaver_had_presses_its_neighbours_as_little_as_it_can(
        lengths in prop::collection::vec(1..9usize, 3..6), heavy in prop::collection::vec(1..5u16, 5),
    ) {
        let lengths = filled(lengths);
        let (homes, weights) = (ring_of(&lengths), weigh(&heavy, 1));
        let after = leave(&homes, NodeId(2), &weights).unwrap().homes;
        let best = (0..=lengths[1]).map(|given| {
            let mut shares = lengths.clone();
            (shares[0], shares[1], shares[2]) = (lengths[0] + given, 0, lengths[2] + lengths[1] - given);
            let press = |at: usize| Weights::pressure(shares[at], weights.get(NodeId(at as u64 + 1)));
            press(0).max(press(2))
        });
        let loads = loads(&after);
        let press = |node| Weights::pressure(loads[&NodeId(node)], weights.get(NodeId(node)));
        prop_assert_eq!(press(1).max(press(3)), best.min().unwrap());
    }

    #[test]
    fn a_newcomer_is_as_even_with_its_neighbours_as_brute_force_can_make_it(
        lengths in prop::collection::vec(1..12usize, 2..6)
    ) {
        // Filled up to a power of two, as rings are.
        let mut lengths = lengths;
        let sum: usize = lengths.iter().sum();
        lengths[0] += sum.next_power_of_two() - sum;
        let homes = ring_of(&lengths);
        let plan = join(&homes, NEW, 1, &even());
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
        let plan = balance(&homes, &even());
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
                (true, _) => join(&homes, NodeId(node), vnodes, &even()),
                (_, true) => match leave(&homes, NodeId(node), &even()) { Some(plan) => plan, None => continue },
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
