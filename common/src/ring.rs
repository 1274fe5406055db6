//! The ring: which servers hold which slots, and how that is told to clients.
//!
//! Everything here is a pure function of the slots' owners or views. Nothing is stored: arcs, preference lists and the
//! texts of `keyrange` and `keyrange_read` are derived whenever they are wanted.
//!
//! Invariant: arcs tile what is owned: no position is in two arcs, and at most one arc wraps past the circle's end.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::ids::{NodeId, Slot};
use crate::position::Position;
use crate::view::View;

/// A stretch of the circle that one server owns; both ends inclusive. `from > to` where it wraps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arc {
    /// The first position.
    pub from: Position,
    /// The last position.
    pub to: Position,
    /// Whose it is.
    pub owner: NodeId,
}

impl Arc {
    /// Whether `position` lies on the arc.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        if self.from.0 == self.to.0.wrapping_add(1) {
            return true;
        }
        let offset = position.0.wrapping_sub(self.from.0);
        offset <= self.to.0.wrapping_sub(self.from.0)
    }
}

/// Who should hold copies of `slot`, the coordinator first: the first `copies` distinct eligible servers clockwise from
/// the slot, then, only if the ring does not have that many, eligible servers that own no slot.
#[must_use]
pub fn preference(homes: &[NodeId], slot: Slot, eligible: &BTreeSet<NodeId>, copies: usize) -> Vec<NodeId> {
    let start = usize::from(slot.0);
    // With fewer servers than copies the whole ring would be gone round in vain.
    let copies = copies.min(eligible.len());
    let clockwise = homes.iter().cycle().skip(start).take(homes.len()).filter(|node| eligible.contains(node));
    let mut list = Vec::with_capacity(copies);
    for node in clockwise.chain(eligible) {
        if list.len() == copies {
            break;
        }
        if !list.contains(node) {
            list.push(*node);
        }
    }
    list
}

/// The arcs of the circle in ring order (by their ends), adjacent slots of one owner merged. Slots without an owner are
/// on no arc.
#[must_use]
pub fn arcs(slots: u16, owner_of: impl Fn(Slot) -> Option<NodeId>) -> Vec<Arc> {
    let owners: Vec<Option<NodeId>> = (0..slots).map(|slot| owner_of(Slot(slot))).collect();
    let before = |at: usize| owners[(at + owners.len() - 1) % owners.len()];
    let Some(start) = (0..owners.len()).find(|at| owners[*at] != before(*at)) else {
        let whole = |owner| Arc { from: Position(0), to: Position(u128::MAX), owner };
        return owners.first().copied().flatten().map(whole).into_iter().collect();
    };
    let mut arcs: Vec<Arc> = Vec::new();
    for at in (start..owners.len()).chain(0..start) {
        let Some(owner) = owners[at] else { continue };
        let slot = Slot(u16::try_from(at).unwrap_or(u16::MAX));
        let to = Position::last_of(slot, slots);
        match arcs.last_mut() {
            Some(arc) if owners[at] == before(at) => arc.to = to,
            _ => arcs.push(Arc { from: Position::first_of(slot, slots), to, owner }),
        }
    }
    arcs.sort_by_key(|arc| arc.to);
    arcs
}

/// The arcs that each server coordinates.
#[must_use]
pub fn coordinated<'a>(slots: u16, view_of: impl Fn(Slot) -> Option<&'a View>) -> Vec<Arc> {
    arcs(slots, |slot| view_of(slot).map(|view| view.coordinator))
}

/// The stretches of the circle that each server may answer reads for, which overlap.
///
/// With fewer than three servers they are the coordinated arcs: always safe, and what clients of two servers expect.
#[must_use]
pub fn readable<'a>(slots: u16, view_of: impl Fn(Slot) -> Option<&'a View>) -> Vec<Arc> {
    let own = coordinated(slots, &view_of);
    let in_sync = |slot: u16| view_of(Slot(slot)).into_iter().flat_map(|view| view.isr.keys().copied());
    let servers: BTreeSet<NodeId> = (0..slots).flat_map(in_sync).collect();
    if servers.len() < 3 {
        return own;
    }
    let mut all = Vec::new();
    for server in servers {
        let reads = |slot| view_of(slot).is_some_and(|view| view.isr.contains_key(&server)).then_some(server);
        for mut arc in arcs(slots, reads) {
            // The whole circle is told from the server's own place in the ring, like any other range.
            if arc.from == Position(0) && arc.to == Position(u128::MAX) {
                let end = own.iter().find(|arc| arc.owner == server).map_or(arc.to, |arc| arc.to);
                (arc.from, arc.to) = (Position(end.0.wrapping_add(1)), end);
            }
            all.push(arc);
        }
    }
    all.sort_by_key(|arc| (arc.to, arc.owner));
    all
}

/// The triples `from,to,host:port;` of a keyrange answer. Arcs of servers without a known address are left out.
#[must_use]
pub fn triples<A: std::fmt::Display>(arcs: &[Arc], addr_of: impl Fn(NodeId) -> Option<A>) -> String {
    let mut text = String::with_capacity(arcs.len() * 96);
    for arc in arcs {
        if let Some(addr) = addr_of(arc.owner) {
            let written = write!(text, "{},{},{addr};", arc.from, arc.to);
            debug_assert!(written.is_ok(), "a String takes everything");
        }
    }
    text
}

/// What must hold of a ring: a power of two of slots, arcs that tile the circle in order, every owner once or more on it,
/// and for every slot a preference list of distinct servers that begins with its owner and is as long as it can be, so
/// that no server is its own successor.
///
/// # Errors
/// A sentence naming what does not.
pub fn check(homes: &[NodeId], copies: usize) -> Result<(), String> {
    let slots = u16::try_from(homes.len()).map_err(|_| format!("{} slots are too many", homes.len()))?;
    if !slots.is_power_of_two() {
        return Err(format!("{slots} slots: not a power of two"));
    }
    check_arcs(homes, slots)?;
    let owners: BTreeSet<NodeId> = homes.iter().copied().collect();
    for slot in 0..slots {
        let list = preference(homes, Slot(slot), &owners, copies);
        let distinct: BTreeSet<&NodeId> = list.iter().collect();
        if list.first() != homes.get(usize::from(slot)) {
            return Err(format!("slot {slot}: its owner does not come first in {list:?}"));
        }
        if distinct.len() != list.len() || list.len() != copies.min(owners.len()) {
            return Err(format!("slot {slot}: not {copies} distinct successors: {list:?}"));
        }
    }
    Ok(())
}

fn check_arcs(homes: &[NodeId], slots: u16) -> Result<(), String> {
    let ring = arcs(slots, |slot| homes.get(usize::from(slot.0)).copied());
    let mut previous = ring.last().ok_or("a ring without arcs")?;
    for arc in &ring {
        if arc.from.0 != previous.to.0.wrapping_add(1) {
            return Err(format!("the arc of {} does not begin where that of {} ends", arc.owner, previous.owner));
        }
        if ring.len() > 1 && arc.owner == previous.owner {
            return Err(format!("{} is its own successor", arc.owner));
        }
        previous = arc;
    }
    let wrapping = ring.iter().filter(|arc| arc.from > arc.to).count();
    if wrapping > 1 { Err(format!("{wrapping} arcs wrap")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{BootId, Epoch, StoreUuid};

    fn views(rows: &[(u64, &[u64])]) -> Vec<View> {
        let view = |(at, (coordinator, isr)): (usize, &(u64, &[u64]))| View {
            slot: Slot(u16::try_from(at).unwrap()),
            epoch: Epoch(1),
            previous: Epoch(0),
            coordinator: NodeId(*coordinator),
            coordinator_boot: BootId(1),
            isr: isr.iter().map(|n| (NodeId(*n), StoreUuid(u128::from(*n)))).collect(),
            targets: Vec::new(),
            home: NodeId(*coordinator),
            released: None,
        };
        rows.iter().enumerate().map(view).collect()
    }

    fn told(arcs: &[Arc]) -> String {
        let short = triples(arcs, |node| Some(format!("n{}", node.0)));
        short.replace(&"0".repeat(31), "").replace(&"f".repeat(31), "")
    }

    fn both(views: &[View]) -> (String, String) {
        let slots = u16::try_from(views.len()).unwrap();
        let of = |slot: Slot| views.get(usize::from(slot.0));
        (told(&coordinated(slots, of)), told(&readable(slots, of)))
    }

    #[test]
    fn one_server_is_the_whole_circle() {
        let one = views(&[(1, &[1]), (1, &[1])]);
        assert_eq!(both(&one), ("0,f,n1;".into(), "0,f,n1;".into()));
    }

    #[test]
    fn with_two_servers_reads_are_the_coordinators() {
        let two = views(&[(1, &[1, 2]), (1, &[1, 2]), (2, &[1, 2]), (1, &[1, 2])]);
        assert_eq!(both(&two), ("c,7,n1;8,b,n2;".into(), "c,7,n1;8,b,n2;".into()));
    }

    #[test]
    fn reads_reach_back_over_two_predecessors() {
        // Four servers with one arc each: 1 has the slots of 1, 4 and 3.
        let four = views(&[(1, &[1, 2, 3]), (2, &[2, 3, 4]), (3, &[3, 4, 1]), (4, &[4, 1, 2])]);
        assert_eq!(both(&four).0, "0,3,n1;4,7,n2;8,b,n3;c,f,n4;");
        assert_eq!(both(&four).1, "8,3,n1;c,7,n2;0,b,n3;4,f,n4;");
        // Three servers: each has everything, told from its own place.
        let three = views(&[(1, &[1, 2, 3]), (2, &[1, 2, 3]), (3, &[1, 2, 3]), (3, &[1, 2, 3])]);
        assert_eq!(both(&three).1, "4,3,n1;8,7,n2;0,f,n3;");
    }

    #[test]
    fn reads_follow_the_isr() {
        let behind = views(&[(1, &[1, 2, 3]), (2, &[2]), (3, &[3, 1]), (3, &[1, 2, 3])]);
        assert_eq!(both(&behind).1, "8,3,n1;8,3,n3;c,7,n2;");
    }

    #[test]
    fn a_server_without_slots_is_a_target_only_if_needed() {
        let homes = [NodeId(1), NodeId(2)];
        let eligible = BTreeSet::from([NodeId(0), NodeId(1), NodeId(2)]);
        assert_eq!(preference(&homes, Slot(1), &eligible, 2), [NodeId(2), NodeId(1)]);
        assert_eq!(preference(&homes, Slot(1), &eligible, 3), [NodeId(2), NodeId(1), NodeId(0)]);
    }

    /// The preference list by its definition: walk, skip, stop.
    fn naive_preference(homes: &[NodeId], slot: Slot, eligible: &BTreeSet<NodeId>, copies: usize) -> Vec<NodeId> {
        let mut list = Vec::new();
        for step in 0..homes.len() {
            let node = homes[(usize::from(slot.0) + step) % homes.len()];
            if eligible.contains(&node) && !list.contains(&node) && list.len() < copies {
                list.push(node);
            }
        }
        for node in eligible {
            if !list.contains(node) && list.len() < copies {
                list.push(*node);
            }
        }
        list
    }

    fn owners() -> impl Strategy<Value = Vec<u64>> {
        (0u32..6).prop_flat_map(|bits| prop::collection::vec(0..5u64, 1usize << bits))
    }

    proptest! {
        #[test]
        fn preference_is_the_naive_walk(
            homes in owners(), start in 0..64usize, among in prop::collection::btree_set(0..7u64, 0..7), copies in 0..5usize,
        ) {
            let homes: Vec<NodeId> = homes.into_iter().map(NodeId).collect();
            let eligible: BTreeSet<NodeId> = among.into_iter().map(NodeId).collect();
            let slot = Slot(u16::try_from(start % homes.len()).unwrap());
            let list = preference(&homes, slot, &eligible, copies);
            prop_assert_eq!(&list, &naive_preference(&homes, slot, &eligible, copies));
            prop_assert_eq!(list.len(), copies.min(eligible.len()));
        }

        #[test]
        fn every_position_is_on_the_one_arc_of_its_slots_owner(owners in owners(), gap in 0..6u64, anywhere in any::<u128>()) {
            let slots = u16::try_from(owners.len()).unwrap();
            // Owner `gap` stands for "nobody".
            let owner_of = |slot: Slot| Some(NodeId(owners[usize::from(slot.0)])).filter(|node| node.0 != gap);
            let ring = arcs(slots, owner_of);
            let edges = (0..slots).flat_map(|s| [Position::first_of(Slot(s), slots), Position::last_of(Slot(s), slots)]);
            for position in edges.chain([Position(anywhere)]) {
                let on: Vec<NodeId> = ring.iter().filter(|arc| arc.contains(position)).map(|arc| arc.owner).collect();
                prop_assert_eq!(on, owner_of(position.slot(slots)).into_iter().collect::<Vec<_>>());
            }
            prop_assert!(ring.iter().filter(|arc| arc.from > arc.to).count() <= 1);
            prop_assert!(ring.windows(2).all(|pair| pair[0].to < pair[1].to));
            let touching = |a: &Arc, b: &Arc| a.owner == b.owner && b.from.0 == a.to.0.wrapping_add(1);
            let merged = (0..ring.len()).all(|at| ring.len() == 1 || !touching(&ring[at], &ring[(at + 1) % ring.len()]));
            prop_assert!(merged, "{:?}", ring);
        }

        #[test]
        fn every_ring_with_owners_checks(owners in owners(), copies in 1..4usize) {
            let homes: Vec<NodeId> = owners.into_iter().map(NodeId).collect();
            prop_assert_eq!(check(&homes, copies), Ok(()));
        }
    }

    #[test]
    fn check_refuses_what_is_no_ring() {
        assert!(check(&[], 3).is_err());
        assert!(check(&[NodeId(1); 3], 3).is_err());
    }
}
