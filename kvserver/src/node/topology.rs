//! What this server knows of the cluster: the node table, every slot's view, and the keyrange texts made from them.
//!
//! A plain value, replaced as a whole when the ECS sends something new. Views only ever give way to newer epochs, so what
//! arrives late, twice or out of order does no harm; `version` only advances without gaps, so the ECS learns from the
//! heartbeats that something is missing and sends everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{Epoch, Meta, NodeId, NodeInfo, Slot, View, ring};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// The last [`Meta::version`] up to which nothing is missing.
    pub version: u64,
    /// The node table.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// Every slot's view, by slot.
    pub views: Vec<Option<View>>,
    /// The highest epoch ever seen.
    pub highest_epoch: Epoch,
    /// KEYRANGE's triples.
    pub keyrange: Arc<str>,
    /// KEYRANGE_READ's triples.
    pub keyrange_read: Arc<str>,
}

impl Topology {
    /// Nothing known of a ring of `slots` slots.
    #[must_use]
    pub fn new(slots: u16) -> Topology {
        Topology { views: vec![None; usize::from(slots)], ..Topology::default() }
    }

    /// Takes news in; the views that are new are returned.
    pub fn merge(&mut self, meta: Meta) -> Vec<View> {
        if meta.full {
            (self.version, self.nodes) = (meta.version, BTreeMap::new());
        } else if meta.version == self.version + 1 {
            self.version = meta.version;
        }
        self.nodes.extend(meta.nodes.into_iter().map(|info| (info.node, info)));
        self.nodes.retain(|node, _| !meta.gone.contains(node));
        let fresh: Vec<View> = meta.views.into_iter().filter(|view| self.adopt(view)).collect();
        self.retell();
        fresh
    }

    /// Keeps `view` if it is newer than what is known of its slot.
    pub fn adopt(&mut self, view: &View) -> bool {
        let Some(known) = self.views.get_mut(usize::from(view.slot.0)) else { return false };
        if known.as_ref().is_some_and(|known| known.epoch >= view.epoch) {
            return false;
        }
        self.highest_epoch = self.highest_epoch.max(view.epoch);
        *known = Some(view.clone());
        true
    }

    /// Makes the keyrange texts anew.
    pub fn retell(&mut self) {
        let slots = u16::try_from(self.views.len()).unwrap_or(u16::MAX);
        let view_of = |slot: Slot| self.view(slot);
        let addr_of = |node| self.nodes.get(&node).map(|info| &info.client_addr);
        let (own, all) = (ring::coordinated(slots, view_of), ring::readable(slots, view_of));
        let (keyrange, keyrange_read) = (ring::triples(&own, addr_of), ring::triples(&all, addr_of));
        (self.keyrange, self.keyrange_read) = (keyrange.into(), keyrange_read.into());
    }

    /// The view of `slot`, if any is known.
    #[must_use]
    pub fn view(&self, slot: Slot) -> Option<&View> {
        self.views.get(usize::from(slot.0))?.as_ref()
    }

    /// The servers that `me` shares a slot with.
    #[must_use]
    pub fn peers_of(&self, me: NodeId) -> BTreeSet<NodeId> {
        let mine = |view: &&View| view.isr.contains_key(&me) || view.targets.contains(&me);
        let everyone = |view: &View| view.isr.keys().chain(&view.targets).copied().collect::<Vec<_>>();
        let mut peers: BTreeSet<NodeId> = self.views.iter().flatten().filter(mine).flat_map(everyone).collect();
        peers.remove(&me);
        peers
    }
}

#[cfg(test)]
mod tests {
    use common::{BootId, NodeState, StoreUuid};

    use super::*;

    fn node(id: u64) -> NodeInfo {
        NodeInfo {
            node: NodeId(id),
            store: StoreUuid(1),
            boot: BootId(1),
            client_addr: format!("127.0.0.1:{id}"),
            peer_addr: format!("127.0.0.1:1{id}"),
            admin_addr: None,
            state: NodeState::Up,
            weight: common::view::WEIGHT,
        }
    }

    fn view(slot: u16, epoch: u64, isr: &[u64], targets: &[u64]) -> View {
        View {
            slot: Slot(slot),
            epoch: Epoch(epoch),
            previous: Epoch(0),
            coordinator: NodeId(isr[0]),
            coordinator_boot: BootId(1),
            isr: isr.iter().map(|id| (NodeId(*id), StoreUuid(1))).collect(),
            targets: targets.iter().map(|id| NodeId(*id)).collect(),
            home: NodeId(isr[0]),
            released: None,
        }
    }

    fn full(version: u64, views: Vec<View>) -> Meta {
        Meta { version, full: true, nodes: vec![node(1), node(2), node(3)], gone: vec![], views }
    }

    #[test]
    fn views_only_give_way_to_newer_ones() {
        let mut topology = Topology::new(2);
        assert_eq!(topology.merge(full(5, vec![view(0, 9, &[1], &[1]), view(1, 8, &[2], &[2])])).len(), 2);
        let late = Meta { version: 6, views: vec![view(0, 7, &[3], &[3]), view(1, 10, &[1], &[1])], ..Meta::default() };
        assert_eq!(topology.merge(late), [view(1, 10, &[1], &[1])]);
        assert_eq!((topology.version, topology.highest_epoch), (6, Epoch(10)));
        assert_eq!(topology.view(Slot(0)).map(|view| view.epoch), Some(Epoch(9)));
    }

    #[test]
    fn a_gap_is_merged_but_not_claimed() {
        let mut topology = Topology::new(2);
        topology.merge(full(5, vec![view(0, 9, &[1], &[1])]));
        let skipped = Meta { version: 7, views: vec![view(1, 10, &[2], &[2])], ..Meta::default() };
        assert_eq!(topology.merge(skipped).len(), 1);
        assert_eq!(topology.version, 5);
        assert!(topology.keyrange.contains("127.0.0.1:2"));
    }

    #[test]
    fn a_view_of_a_slot_that_does_not_exist_is_ignored() {
        let mut topology = Topology::new(2);
        assert!(topology.merge(full(1, vec![view(2, 9, &[1], &[1])])).is_empty());
    }

    #[test]
    fn peers_are_those_with_a_common_slot() {
        let mut topology = Topology::new(2);
        topology.merge(full(1, vec![view(0, 1, &[1], &[1, 2]), view(1, 2, &[3], &[3, 2])]));
        assert_eq!(topology.peers_of(NodeId(1)), BTreeSet::from([NodeId(2)]));
        assert_eq!(topology.peers_of(NodeId(2)), BTreeSet::from([NodeId(1), NodeId(3)]));
    }

    #[test]
    fn a_node_that_is_gone_leaves_the_table() {
        let mut topology = Topology::new(2);
        topology.merge(full(1, vec![view(0, 1, &[1], &[1])]));
        topology.merge(Meta { version: 2, gone: vec![NodeId(1)], ..Meta::default() });
        assert!(!topology.nodes.contains_key(&NodeId(1)));
        assert_eq!(&*topology.keyrange, "");
    }
}
