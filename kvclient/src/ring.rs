//! What the client knows of the ring: who coordinates a position, and who may answer reads for it.
//!
//! It is a cache of one answer to `keyrange` and one to `keyrange_read`, replaced as a whole. It may be old: the servers
//! check every request, so an old cache costs a round trip and never a wrong answer.

use std::collections::BTreeSet;

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

impl Ring {
    /// A ring from both keyranges.
    #[must_use]
    pub fn new(coordinators: &[Arc], readers: &[Arc]) -> Ring {
        let both = || coordinators.iter().chain(readers);
        let mut borders: BTreeSet<Position> =
            both().flat_map(|arc| [arc.from, Position(arc.to.0.wrapping_add(1))]).collect();
        borders.insert(Position(0));
        let segments = borders.into_iter().map(|first| Segment {
            first,
            coordinator: coordinators.iter().find(|arc| arc.contains(first)).map(|arc| arc.address.clone()),
            readers: {
                let of: BTreeSet<&Address> =
                    readers.iter().filter(|arc| arc.contains(first)).map(|arc| &arc.address).collect();
                of.into_iter().cloned().collect()
            },
        });
        let servers: BTreeSet<&Address> = both().map(|arc| &arc.address).collect();
        Ring { segments: segments.collect(), servers: servers.into_iter().cloned().collect() }
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
