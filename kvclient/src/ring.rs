//! What the client knows of the ring: who coordinates a position, and who may answer reads for it.
//!
//! It is a cache of one answer to `keyrange` and one to `keyrange_read`, replaced as a whole. It may be old: the servers
//! check every request, so an old cache costs a round trip and never a wrong answer.

use std::collections::{BTreeMap, BTreeSet};

use common::position::Position;

use crate::address::Address;

/// One `from,to,host:port` of a keyrange: both ends belong to it, and it may wrap once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arc {
    /// The first position.
    pub from: Position,
    /// The last position.
    pub to: Position,
    /// Who.
    pub address: Address,
}

impl Arc {
    /// Whether the position lies on the arc.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        if self.from <= self.to {
            self.from <= position && position <= self.to
        } else {
            self.from <= position || position <= self.to
        }
    }

    /// How much of the circle it is, from 0 to 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // A share for people: 53 bits are more than they read.
    pub fn share(&self) -> f64 {
        let length = self.to.0.wrapping_sub(self.from.0).wrapping_add(1);
        if length == 0 { 1.0 } else { length as f64 / 2f64.powi(128) }
    }
}

/// Reads the triples of a keyrange answer: `from,to,host:port;` one after another.
///
/// # Errors
/// The first piece that is not a triple.
pub fn parse(triples: &str) -> Result<Vec<Arc>, String> {
    triples.split(';').filter(|triple| !triple.trim().is_empty()).map(|triple| parse_one(triple.trim())).collect()
}

fn parse_one(triple: &str) -> Result<Arc, String> {
    let wrong = || format!("{triple:?} is not from,to,host:port");
    let mut parts = triple.splitn(3, ',');
    let mut position = || {
        let digits = parts.next().ok_or_else(wrong)?;
        u128::from_str_radix(digits, 16).map(Position).map_err(|_| wrong())
    };
    let (from, to) = (position()?, position()?);
    let address = parts.next().filter(|address| address.contains(':')).ok_or_else(wrong)?;
    Ok(Arc { from, to, address: Address::from(address) })
}

/// The cached ring, cut at every border so that a lookup is one binary search.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    segments: Vec<Segment>,
    servers: Vec<Address>,
}

#[derive(Clone, Debug)]
struct Segment {
    first: Position,
    coordinator: Option<Address>,
    readers: Vec<Address>,
}

/// More readers than this of one position are not kept: far more than there are copies, and an answer that names them all
/// for every position would fill the memory.
pub const READERS: usize = 32;

/// Who is responsible, while the circle is walked along once from its beginning.
struct Sweep<'a> {
    /// By their place in the list: the first counts.
    coordinators: BTreeMap<usize, &'a Address>,
    /// Each with the number of its arcs.
    readers: BTreeMap<&'a Address, usize>,
}

impl<'a> Sweep<'a> {
    fn coordinator(&mut self, begins: bool, at: usize, arc: &'a Arc) {
        if begins {
            self.coordinators.insert(at, &arc.address);
        } else {
            self.coordinators.remove(&at);
        }
    }

    fn reader(&mut self, begins: bool, arc: &'a Arc) {
        let arcs = self.readers.entry(&arc.address).or_default();
        *arcs = if begins { *arcs + 1 } else { arcs.saturating_sub(1) };
        if *arcs == 0 {
            self.readers.remove(&arc.address);
        }
    }

    fn segment(&self, first: Position) -> Segment {
        Segment {
            first,
            coordinator: self.coordinators.values().next().map(|address| (*address).clone()),
            readers: self.readers.keys().take(READERS).map(|address| (*address).clone()).collect(),
        }
    }
}

/// Where arcs begin and end behind the circle's beginning: position, whether it begins, which. Those that are the whole
/// circle do neither.
fn crossings(arcs: &[Arc]) -> impl Iterator<Item = (Position, bool, usize)> {
    let ends = arcs.iter().enumerate().map(|(at, arc)| (arc.from, Position(arc.to.0.wrapping_add(1)), at));
    let ends = ends.filter(|(from, behind, _)| from != behind);
    ends.flat_map(|(from, behind, at)| [(from, true, at), (behind, false, at)]).filter(|(at, ..)| at.0 != 0)
}

impl Ring {
    /// A ring from both keyranges. Takes time in proportion to their length, whatever they say.
    #[must_use]
    pub fn new(coordinators: &[Arc], readers: &[Arc]) -> Ring {
        let mut sweep = Sweep { coordinators: BTreeMap::new(), readers: BTreeMap::new() };
        let at_zero = |arc: &&Arc| arc.contains(Position(0));
        let first = coordinators.iter().enumerate().filter(|(_, arc)| at_zero(arc));
        first.for_each(|(at, arc)| sweep.coordinator(true, at, arc));
        readers.iter().filter(at_zero).for_each(|arc| sweep.reader(true, arc));
        let mut borders: Vec<(Position, bool, bool, usize)> = crossings(coordinators)
            .map(|(position, begins, at)| (position, begins, true, at))
            .chain(crossings(readers).map(|(position, begins, at)| (position, begins, false, at)))
            .collect();
        borders.sort_unstable();
        let mut segments = vec![sweep.segment(Position(0))];
        for here in borders.chunk_by(|a, b| a.0 == b.0) {
            for (_, begins, coordinates, at) in here {
                if *coordinates {
                    sweep.coordinator(*begins, *at, &coordinators[*at]);
                } else {
                    sweep.reader(*begins, &readers[*at]);
                }
            }
            segments.push(sweep.segment(here[0].0));
        }
        let servers: BTreeSet<&Address> = coordinators.iter().chain(readers).map(|arc| &arc.address).collect();
        Ring { segments, servers: servers.into_iter().cloned().collect() }
    }

    fn at(&self, position: Position) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.first <= position);
        self.segments.get(after.checked_sub(1)?)
    }

    /// Who takes writes there; none while nobody does.
    #[must_use]
    pub fn coordinator(&self, position: Position) -> Option<&Address> {
        self.at(position)?.coordinator.as_ref()
    }

    /// Who may answer reads there.
    #[must_use]
    pub fn readers(&self, position: Position) -> &[Address] {
        self.at(position).map_or(&[], |segment| &segment.readers)
    }

    /// Every server named, each once, in order.
    #[must_use]
    pub fn servers(&self) -> &[Address] {
        &self.servers
    }

    /// Whether nothing is known yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arc(from: u128, to: u128, name: &str) -> Arc {
        Arc { from: Position(from), to: Position(to), address: name.into() }
    }

    #[test]
    fn triples_are_read_and_nonsense_is_named() {
        let text = "80000000000000000000000000000000,7fffffffffffffffffffffffffffffff,127.0.0.1:5001;";
        let arcs = parse(text).unwrap();
        assert_eq!(arcs[0].address.as_str(), "127.0.0.1:5001");
        assert!((arcs[0].share() - 1.0).abs() < 1e-9);
        assert_eq!(parse(""), Ok(Vec::new()));
        assert!(parse("1,2;").unwrap_err().contains("1,2"));
        assert!(parse("x,2,h:1;").is_err());
    }

    #[test]
    fn an_empty_ring_knows_nobody() {
        assert_eq!(Ring::default().coordinator(Position(7)), None);
        assert!(Ring::default().readers(Position(7)).is_empty());
    }

    /// Trying every arc at every border would take hours here.
    #[test]
    fn an_endless_keyrange_is_taken_in_all_the_same() {
        let arcs: Vec<Arc> = (0..100_000).map(|at| arc(at, u128::MAX - at, &format!("h:{}", at % 50_000))).collect();
        let ring = Ring::new(&arcs, &arcs);
        assert_eq!(ring.coordinator(Position(70_000)).unwrap().as_str(), "h:0");
        assert_eq!((ring.readers(Position(70_000)).len(), ring.servers().len()), (READERS, 50_000));
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_trying_every_arc(
            arcs in proptest::collection::vec((any::<u128>(), any::<u128>(), 0..4u8), 0..8),
            reads in proptest::collection::vec((any::<u128>(), any::<u128>(), 0..4u8), 0..8),
            at: u128,
        ) {
            let build = |list: Vec<(u128, u128, u8)>| -> Vec<Arc> {
                list.into_iter().map(|(from, to, n)| arc(from, to, &format!("n{n}:1"))).collect()
            };
            let (arcs, reads) = (build(arcs), build(reads));
            let ring = Ring::new(&arcs, &reads);
            let borders = arcs.iter().chain(&reads).flat_map(|a| [a.from, a.to]).chain([Position(at)]);
            for position in borders {
                prop_assert_eq!(
                    ring.coordinator(position),
                    arcs.iter().find(|a| a.contains(position)).map(|a| &a.address)
                );
                let mut naive: Vec<_> = reads.iter().filter(|a| a.contains(position)).map(|a| a.address.clone()).collect();
                naive.sort();
                naive.dedup();
                prop_assert_eq!(ring.readers(position), &naive[..]);
            }
        }
    }
}
