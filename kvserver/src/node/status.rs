//! What the node tells about itself.

use std::collections::BTreeMap;

use common::view::Part;
use common::{NodeState, clock};
use serde_json::{Value, json};

use super::{Node, metrics};

/// A count of slots by what this server does in them.
#[derive(Debug, Default)]
struct Census {
    coordinating: u64,
    active: u64,
    member: u64,
    learner: u64,
    stray: u64,
    short: u64,
    records: u64,
    dated: u64,
    bytes: u64,
}

impl Node {
    /// Whether everything is in place: registered, and every slot in its role.
    ///
    /// # Errors
    /// What it still waits for.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(reason) = self.failure_reason() {
            return Err(reason);
        }
        if !self.serving() {
            return Err("waiting for the ECS's welcome".into());
        }
        let me = self.me.node;
        let (state, learning) = self.with_topology(|topology| {
            // A slot whose home this is comes back to it sooner or later, whether or not it is a target already.
            let part = |view: &&common::View| match view.part_of(me, self.me.store) {
                Part::Coordinator | Part::Member => false,
                Part::Learner => true,
                Part::None => view.home == me,
            };
            (topology.nodes.get(&me).map(|info| info.state), topology.views.iter().flatten().filter(part).count())
        });
        if let Some(reason) = self.left() {
            return Err(reason);
        }
        match state {
            Some(NodeState::Up | NodeState::Leaving) => {}
            Some(state) => {
                let notice = self.last_notice().map_or_else(String::new, |notice| format!("; {notice}"));
                return Err(format!("waiting to be in the ring: the ECS has this server as {state:?}{notice}"));
            }
            None => return Err("waiting for the ECS to list this server".into()),
        }
        if learning > 0 {
            return Err(format!("catching up on {learning} slots"));
        }
        let waiting = self.unserved();
        if waiting > 0 { Err(format!("waiting for {waiting} slots to be served")) } else { Ok(()) }
    }

    /// Slots whose latest view names this server and in which it does not serve yet.
    fn unserved(&self) -> usize {
        let views = self.with_topology(|topology| topology.views.clone());
        let (mut waiting, now) = (0, clock::now());
        self.each_slot(|replica, _| {
            let Some(told) = views.get(usize::from(replica.slot().0)).and_then(Option::as_ref) else {
                waiting += 1;
                return;
            };
            let adopted = replica.view().is_some_and(|view| view.epoch >= told.epoch);
            let serves = match told.part_of(self.me.node, self.me.store) {
                Part::Coordinator => adopted && replica.is_active(),
                // One that is no target any more has no lease of its own, and asks for each read until it is taken out.
                Part::Member => adopted && (replica.may_read(now) || !told.targets.contains(&self.me.node)),
                Part::Learner | Part::None => true,
            };
            waiting += usize::from(!serves);
        });
        waiting
    }

    /// How long this process runs, in milliseconds.
    pub(crate) fn up_ms(&self) -> u64 {
        u64::try_from(clock::now().since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the control connection to the ECS stands.
    pub(crate) fn ecs_connected(&self) -> bool {
        self.lock_ecs().connected
    }

    /// How everything stands, for scripts and people.
    #[must_use]
    pub fn status_json(&self) -> Value {
        let me = self.identity();
        let (mut census, slots) = self.survey();
        if !self.serving() {
            (census.records, census.bytes) = self.store.found();
        }
        let ready = self.ready();
        let (version, nodes) = self.with_topology(|topology| (topology.version, topology.nodes.clone()));
        let (ecs, connected) = {
            let ecs = self.lock_ecs();
            (ecs.addr.clone(), ecs.connected)
        };
        json!({
            "node": me.node, "store": me.store, "boot": me.boot, "cluster": me.cluster,
            "version": env!("CARGO_PKG_VERSION"),
            "client_addr": self.options.client_addr, "peer_addr": self.peer_addr, "admin_addr": self.options.admin_addr,
            "mode": if self.standalone() { "standalone" } else { "clustered" },
            "up_ms": self.up_ms(),
            "ready": ready.is_ok(), "waiting_for": ready.err(),
            "ecs": { "addr": ecs, "connected": connected, "meta": version },
            "counts": {
                "coordinating": census.coordinating, "active": census.active, "member": census.member,
                "learner": census.learner, "stray": census.stray, "copies_short": census.short,
                "records": census.records, "with_deadline": census.dated, "bytes": census.bytes,
            },
            "slots": slots,
            "nodes": nodes.into_values().collect::<Vec<_>>(),
            "peers": self.peers_json(),
            "journal": self.store.status_json(),
            "audit": self.audits.status_json(&self.coordinated()),
            "moves": self.moves.status_json(),
            "alarms": self.alarms(),
        })
    }

    /// Counts the slots, and describes those in which this server has a part.
    fn survey(&self) -> (Census, Vec<Value>) {
        let (mut census, mut slots) = (Census::default(), Vec::new());
        let copies = self.serving.get().map_or(1, |serving| usize::from(serving.cluster.replicas) + 1);
        let now = clock::now();
        self.each_slot(|replica, _| {
            let image = replica.image();
            let Some(view) = replica.view() else { return };
            let part = view.part_of(self.me.node, self.me.store);
            match part {
                Part::Coordinator => {
                    census.coordinating += 1;
                    census.active += u64::from(replica.is_active());
                    census.short += copies.saturating_sub(view.isr.len()) as u64;
                }
                Part::Member => census.member += 1,
                Part::Learner => census.learner += 1,
                Part::None if replica.stray().is_some() => census.stray += 1,
                Part::None => return,
            }
            census.records += image.map.len() as u64;
            census.dated += image.map.dated() as u64;
            census.bytes += image.map.bytes();
            slots.push(json!({
                "slot": replica.slot(), "epoch": view.epoch, "role": replica.role_name(), "coordinator": view.coordinator,
                "isr": view.isr.keys().collect::<Vec<_>>(), "targets": view.targets, "home": view.home,
                "active": replica.is_active(), "reads": replica.may_read(now), "records": image.map.len(),
                "commit": replica.commit(), "end": replica.end(),
                "followers": replica.followers().into_iter()
                    .map(|(node, state, at)| json!({ "node": node, "state": state, "at": at })).collect::<Vec<_>>(),
            }));
        });
        (census, slots)
    }

    fn peers_json(&self) -> Value {
        let mut peers = BTreeMap::new();
        self.links.each(|peer| {
            let word = |up| if up { "up" } else { "down" };
            let state = json!({
                "addr": peer.addr(), "data": word(peer.data.is_open()), "pulse": word(peer.pulse.is_open()),
                "queued": peer.data.len(),
            });
            peers.insert(peer.node.to_string(), state);
        });
        json!(peers)
    }

    /// Prometheus text.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let mut out = String::new();
        self.metrics.render(&mut out);
        self.store.metrics(&mut out);
        self.audits.metrics(&self.coordinated(), &mut out);
        self.moves.metrics(&mut out);
        let (census, _) = self.survey();
        for (name, help, value) in [
            ("annulus_slots_coordinating", "Slots this server coordinates.", census.coordinating),
            ("annulus_slots_active", "Slots this server coordinates and serves.", census.active),
            ("annulus_slots_member", "Slots of which this server is an in-sync replica.", census.member),
            ("annulus_slots_learner", "Slots of which this server is catching up a copy.", census.learner),
            ("annulus_copies_short", "Copies missing in the slots this server coordinates.", census.short),
            ("annulus_records", "Records held, all roles.", census.records),
            ("annulus_records_with_deadline", "Records held that have a deadline, all roles.", census.dated),
            ("annulus_bytes", "Bytes of keys and values held, all roles.", census.bytes),
            ("annulus_ready", "Whether this server is ready.", u64::from(self.ready().is_ok())),
        ] {
            metrics::gauge(&mut out, name, help, value);
        }
        out
    }
}
