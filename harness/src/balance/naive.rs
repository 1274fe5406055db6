//! The placements that one would write first, to compare the planner with.

use std::collections::{BTreeMap, BTreeSet};

use common::NodeId;
use common::position::Position;

/// `newcomer` takes the second half of the longest arc.
#[must_use]
pub fn halve(homes: &[NodeId], newcomer: NodeId) -> Vec<NodeId> {
    let total = homes.len();
    let start = (0..total).find(|at| homes[*at] != homes[(at + total - 1) % total]).unwrap_or(0);
    let mut longest = (start, 0_usize);
    let mut run = (start, 0_usize);
    for at in (start..total).chain(0..start) {
        if homes[at] != homes[run.0] {
            run = (at, 0);
        }
        run.1 += 1;
        if run.1 > longest.1 {
            longest = run;
        }
    }
    let mut after = homes.to_vec();
    for step in longest.1.div_ceil(2)..longest.1 {
        after[(longest.0 + step) % total] = newcomer;
    }
    after
}

/// Each arc of `leaver` goes to the server after it. There must be another one.
#[must_use]
pub fn inherit(homes: &[NodeId], leaver: NodeId) -> Vec<NodeId> {
    let total = homes.len();
    let heir = |at: usize| (at..at + total).map(|at| homes[at % total]).find(|home| *home != leaver);
    (0..total).map(|at| heir(at).unwrap_or(leaver)).collect()
}

/// Slots dealt out to `servers` in turn.
pub(super) fn deal(slots: usize, servers: &BTreeSet<NodeId>) -> Vec<NodeId> {
    servers.iter().copied().cycle().take(slots).collect()
}

/// Points on the circle by hashing: a server owns what lies between the point before and its own.
#[derive(Clone, Debug)]
pub struct Points(BTreeMap<Position, NodeId>);

impl Points {
    /// `servers` servers with `each` points, drawn by `seed` as addresses would draw them.
    #[must_use]
    pub fn draw(servers: u64, each: u16, seed: u64) -> Points {
        let point = |node, nth| (Position::of(format!("{seed}:{node}#{nth}").as_bytes()), NodeId(node));
        Points((1..=servers).flat_map(|node| (0..each).map(move |nth| point(node, nth))).collect())
    }

    /// Largest over mean keys per server.
    #[must_use]
    pub fn spread(&self, keys: &[Position]) -> f64 {
        let mut counts: BTreeMap<NodeId, u64> = self.0.values().map(|node| (*node, 0)).collect();
        for key in keys {
            let owner = self.0.range(key..).next().or_else(|| self.0.first_key_value());
            if let Some(count) = owner.and_then(|(_, node)| counts.get_mut(node)) {
                *count += 1;
            }
        }
        super::ratio(counts.into_values())
    }
}
