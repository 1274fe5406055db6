//! What a server tells clients of the ring (KEYRANGE, KEYRANGE_READ), read back the way a client reads it: every position
//! belongs to one coordinator and to one only, and whoever is listed for reads is in sync as far as the server knows.
//!
//! The answers may be old; that they are whole and agree with one another must hold of every one of them.

use common::Slot;
use common::position::Position;
use kvclient::ring;
use kvserver::node::topology::Topology;

/// Checks both texts of a server that knows every slot's view; of another one there is nothing to check yet.
///
/// # Errors
/// What does not hold.
pub fn keyranges(topology: &Topology) -> Result<(), String> {
    if topology.views.iter().any(Option::is_none) {
        return Ok(());
    }
    let slots = u16::try_from(topology.views.len()).unwrap_or(u16::MAX);
    let (own, read) = (ring::parse(&topology.keyrange)?, ring::parse(&topology.keyrange_read)?);
    for view in topology.views.iter().flatten() {
        let address = |node| topology.nodes.get(&node).map(|info| info.client_addr.as_str());
        let coordinator = address(view.coordinator);
        let isr: Vec<_> = view.isr.keys().filter_map(|node| address(*node)).collect();
        for at in [Position::first_of(view.slot, slots), Position::last_of(view.slot, slots)] {
            let listed: Vec<&str> = own.iter().filter(|arc| arc.contains(at)).map(|arc| arc.address.as_str()).collect();
            if listed != coordinator.into_iter().collect::<Vec<_>>() || listed.len() != 1 {
                return Err(wrong("keyrange", view.slot, at, &listed, &format!("{coordinator:?}"), topology));
            }
            let readers: Vec<&str> =
                read.iter().filter(|arc| arc.contains(at)).map(|arc| arc.address.as_str()).collect();
            let known = readers.iter().all(|reader| isr.contains(reader));
            if !known || !readers.contains(&listed[0]) {
                return Err(wrong("keyrange_read", view.slot, at, &readers, &format!("{isr:?}"), topology));
            }
        }
    }
    Ok(())
}

fn wrong(what: &str, slot: Slot, at: Position, listed: &[&str], held: &str, topology: &Topology) -> String {
    let text = if what == "keyrange" { &topology.keyrange } else { &topology.keyrange_read };
    format!("{what}: at {at} of slot {slot} it lists {listed:?}, and by the view it should be {held}: {text}")
}
