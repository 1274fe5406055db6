//! Several sides of one contest, measured in turn, round by round; who begins changes from round to round.

use super::core_to_core::round_trip;
use super::load::{Latency, Load};
use super::report::{Bound, Cell, Latencies};

/// One side: a system, and the load it is put under.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// For tables.
    pub(crate) name: String,
    /// The same work for every side.
    pub(crate) load: Load,
}

/// What the sides came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    names: Vec<String>,
    rates: Vec<Vec<f64>>,
    latencies: Vec<Vec<Latency>>,
    core_to_core_ns: Vec<Option<f64>>,
}

/// Runs all sides, `rounds` times.
pub(crate) fn play(sides: &[Side], rounds: usize) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome {
        names: sides.iter().map(|side| side.name.clone()).collect(),
        rates: vec![Vec::new(); sides.len()],
        latencies: vec![Vec::new(); sides.len()],
        core_to_core_ns: Vec::new(),
    };
    for round in 0..rounds {
        outcome.core_to_core_ns.push(round_trip());
        for turn in order(sides.len(), round) {
            let measured = sides[turn].load.run().map_err(|error| error.context(sides[turn].name.clone()))?;
            outcome.rates[turn].push(measured.rate());
            outcome.latencies[turn].push(measured.percentiles());
        }
    }
    Ok(outcome)
}

/// Every side comes once; odd rounds go backwards, so that each follows each of its neighbours as often.
fn order(sides: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sides).collect();
    order.rotate_left((round / 2) % sides.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

impl Outcome {
    /// One side against another, if both took part.
    pub(crate) fn cell(
        &self,
        work: &str,
        ours: &str,
        peer: &str,
        wanted: Option<f64>,
        p99: Option<f64>,
    ) -> Option<Cell> {
        let find = |name: &str| self.names.iter().position(|known| known == name);
        let (mine, theirs) = (find(ours)?, find(peer)?);
        Some(Cell {
            name: work.to_owned(),
            unit: "/s",
            less_is_better: false,
            ours: self.rates[mine].clone(),
            peer: peer.to_owned(),
            theirs: self.rates[theirs].clone(),
            wanted: wanted.map(Bound::AtLeast),
            latency: Some(Latencies {
                ours: self.latencies[mine].clone(),
                theirs: self.latencies[theirs].clone(),
                wanted: p99.map(Bound::AtMost),
            }),
            core_to_core_ns: self.core_to_core_ns.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_and_the_first_changes() {
        let mut first = Vec::new();
        for round in 0..8 {
            let mut order = order(4, round);
            first.push(order[0]);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
        first.sort_unstable();
        first.dedup();
        assert_eq!(first, [0, 1, 2, 3], "everybody begins a round now and then");
    }

    #[test]
    fn a_side_that_did_not_take_part_makes_no_cell() {
        let outcome = Outcome {
            names: vec!["text".into(), "redis".into()],
            rates: vec![vec![2.0], vec![1.0]],
            latencies: vec![vec![Latency::default()]; 2],
            core_to_core_ns: vec![None],
        };
        assert_eq!(outcome.cell("get", "text", "redis", None, None).unwrap().ratios(), [2.0]);
        assert!(outcome.cell("get", "text", "etcd", None, None).is_none());
    }
}
