//! What the ECS tells: the first welcome makes the slots, every later word changes the topology and goes to the slots.
#![allow(clippy::disallowed_methods)] // shell: reads clocks

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use anyhow::bail;
use common::peer::Identity;
use common::{ClusterRecord, Meta, NodeId, NodeInfo, Slot, Switches, clock};

use super::metrics::bump;
use super::slots::Slots;
use super::{Fatal, Node, Serving};
use crate::replica::{Event, Replica, Setup};

impl Node {
    /// A registration was accepted.
    pub(crate) fn welcome(self: &Arc<Self>, cluster: ClusterRecord, meta: Meta) -> anyhow::Result<()> {
        match self.serving.get() {
            Some(serving) if serving.cluster != cluster => {
                let reason = format!("the ECS now tells of another cluster: {cluster:?}, not {:?}", serving.cluster);
                self.fail(Fatal { reason: reason.clone(), code: Fatal::REFUSED });
                bail!(reason);
            }
            Some(_) => {}
            None => self.begin(cluster)?,
        }
        self.update(meta);
        Ok(())
    }

    /// The cluster is known: binds the data directory to it and brings the slots to life.
    fn begin(&self, cluster: ClusterRecord) -> anyhow::Result<()> {
        let images = match self.store.bind(&cluster) {
            Ok(images) => images,
            Err(error) => {
                self.fail(Fatal { reason: format!("{error:#}"), code: Fatal::REFUSED });
                return Err(error);
            }
        };
        let timing = cluster.timing();
        let setup = Setup {
            me: Identity { cluster: Some(cluster.cluster), ..self.me },
            timing: timing.clone(),
            started: self.started,
            confirm_reads: self.options.confirm_reads,
            standalone: self.standalone(),
            traffic: self.traffic.clone(),
            longest_value: self.options.longest_value,
            switches: Switches::default(),
        };
        let replica = |(slot, image)| Replica::new(Slot(slot), setup.clone(), image);
        let slots = Slots::new((0..cluster.slots).zip(images).map(replica), common::clock::wall());
        *self.topology.write().unwrap_or_else(PoisonError::into_inner) = super::Topology::new(cluster.slots);
        // Only ever called from the one place that talks to the ECS: nobody can have been faster.
        let _first = self.serving.set(Serving { cluster, timing, slots });
        self.begun.send_replace(true);
        Ok(())
    }

    /// The ECS tells what has changed.
    pub(crate) fn update(self: &Arc<Self>, meta: Meta) {
        let me = self.me.node;
        let (fresh, peers) = {
            let mut topology = self.topology.write().unwrap_or_else(PoisonError::into_inner);
            let fresh = topology.merge(meta);
            let wanted = topology.peers_of(me);
            let rows = topology.nodes.iter().filter(|(id, _)| wanted.contains(id));
            (fresh, rows.map(|(id, info)| (*id, info.clone())).collect::<BTreeMap<NodeId, NodeInfo>>())
        };
        self.links.update(self, &peers.iter().map(|(id, info)| (*id, info)).collect());
        let mut coordinated = false;
        for view in fresh {
            bump(&self.metrics.views);
            coordinated |= view.coordinator == me;
            self.event(clock::now(), view.slot, Event::View(view));
        }
        if coordinated {
            self.want_beacon();
        }
    }

    /// Registered at this address.
    pub(crate) fn ecs_found(&self, addr: &str) {
        log::info!("registered with the ECS at {addr}");
        let mut ecs = self.lock_ecs();
        (ecs.addr, ecs.connected) = (Some(addr.to_owned()), true);
    }

    /// The control connection has ended.
    pub(crate) fn ecs_lost(&self) {
        self.lock_ecs().connected = false;
        self.wishes_lost();
    }
}
