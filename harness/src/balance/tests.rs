//! The placements against naive ones, and against what every ring must keep.

use proptest::prelude::*;

use super::*;

fn largest(homes: &[NodeId]) -> usize {
    servers(homes).iter().map(|node| homes.iter().filter(|home| *home == node).count()).max().unwrap_or(0)
}

/// Every list of holders is of distinct servers, the coordinator first and none of its own successors.
fn check_successors(homes: &[NodeId], alive: &BTreeSet<NodeId>) -> Result<(), TestCaseError> {
    for slot in 0..slots_of(homes) {
        let list = ring::preference(homes, Slot(slot), alive, COPIES);
        let distinct: BTreeSet<&NodeId> = list.iter().collect();
        prop_assert_eq!(distinct.len(), list.len(), "slot {}: {:?}", slot, list);
        prop_assert_eq!(list.len(), COPIES.min(alive.len()));
        prop_assert!(list.iter().all(|node| alive.contains(node)));
        let home = homes[usize::from(slot)];
        prop_assert!(!alive.contains(&home) || list[0] == home);
    }
    Ok(())
}

/// The largest share over the mean.
fn unevenness(homes: &[NodeId]) -> f64 {
    spread(homes, &vec![1; homes.len()], &servers(homes))
}

#[test]
fn over_all_sizes_the_planner_is_more_even_than_halving() {
    for slots in [256, 1024] {
        let all = |placing: Placing| (1..=20).map(move |size| unevenness(&placing.grown(slots, size)));
        let worst = |placing| all(placing).fold(0.0, f64::max);
        let (ours, naive) = (worst(Placing::Planner(1)), worst(Placing::Halving));
        assert!(ours < 1.5 && ours < naive, "{slots} slots: {ours} over {naive}");
        assert!(all(Placing::Planner(1)).sum::<f64>() < all(Placing::Halving).sum::<f64>());
    }
}

#[test]
fn the_planner_is_more_even_than_hashed_points() {
    let keys = keys(50_000, 7);
    let weights = per_slot(&keys, 256);
    for size in 3..=20 {
        let homes = Placing::Planner(1).grown(256, size);
        let ours = spread(&homes, &weights, &servers(&homes));
        let mut draws: Vec<f64> = (0..21).map(|seed| Points::draw(size, 1, seed).spread(&keys)).collect();
        draws.sort_by(f64::total_cmp);
        assert!(ours < draws[10], "{size} servers: {ours} over {draws:?}");
    }
}

#[test]
fn weights_are_kept_to() {
    let keys = per_slot(&keys(50_000, 7), 256);
    for size in 3..=20 {
        let heavy: BTreeMap<NodeId, u16> =
            (1..=size).map(|node| (NodeId(node), 100 + 100 * (node % 3) as u16)).collect();
        let weights: Weights = heavy.iter().map(|(node, weight)| (*node, *weight)).collect();
        let homes = Placing::weighed(256, 1, &heavy);
        let joined = pressure(&homes, &keys, &heavy);
        let evened = pressure(&planner::balance(&homes, &weights).homes, &keys, &heavy);
        let blind = pressure(&Placing::Planner(1).grown(256, size), &keys, &heavy);
        // What a slot is worth to the lightest, and how unevenly random keys fall on slots.
        assert!(evened < 1.3 && evened <= joined + 0.05, "{size}: {evened}, {joined} before");
        assert!(joined < 2.0 && joined < blind, "{size}: {joined}, {blind} without weights");
    }
}

proptest! {
    #[test]
    fn no_step_of_the_planner_is_worse_than_the_naive_one_from_the_same_ring(
        steps in prop::collection::vec((any::<bool>(), 0..20u64), 1..60),
    ) {
        let mut homes = vec![NodeId(100); 256];
        for (joins, node) in steps {
            let node = NodeId(node);
            let (planned, naive) = match (joins, homes.contains(&node)) {
                (true, false) => (Placing::Planner(1).join(&homes, node), Placing::Halving.join(&homes, node)),
                (_, true) => (Placing::Planner(1).leave(&homes, node), Placing::Halving.leave(&homes, node)),
                _ => continue,
            };
            prop_assert!(largest(&planned) <= largest(&naive), "{} over {}", largest(&planned), largest(&naive));
            homes = planned;
        }
    }

    #[test]
    fn successors_are_distinct_and_never_the_server_itself(
        steps in prop::collection::vec((any::<bool>(), 0..20u64), 1..30), vnodes in 1..17u16, dead in prop::collection::btree_set(0..20u64, 0..4),
    ) {
        let mut homes = vec![NodeId(100); 256];
        for (joins, node) in steps {
            let here = homes.contains(&NodeId(node));
            match (joins, here) {
                (true, false) => homes = Placing::Planner(vnodes).join(&homes, NodeId(node)),
                (_, true) => homes = Placing::Planner(vnodes).leave(&homes, NodeId(node)),
                _ => {}
            }
            let mut alive = servers(&homes);
            prop_assert_eq!(ring::check(&homes, COPIES), Ok(()));
            check_successors(&homes, &alive)?;
            alive.retain(|node| !dead.contains(&node.0));
            check_successors(&homes, &alive)?;
        }
    }
}
