//! How the cluster stands: for scripts (JSON), for people (text) and for scrapers (metrics).
//!
//! A picture of the core at one moment; nothing is kept in here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use common::view::{ClusterRecord, NodeState};
use common::{BootId, Epoch, NodeId, Slot, StoreUuid, Time};
use serde::Serialize;

use crate::cluster::Change;
use crate::core::Ecs;
pub use crate::progress::Progress;

/// How many of the newest incidents are shown.
const SHOWN: usize = 64;

/// The whole state.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// What is fixed.
    pub cluster: ClusterRecord,
    /// The last epoch given out.
    pub epoch: Epoch,
    /// The version of the metadata.
    pub version: u64,
    /// Why the ECS does nothing, if so.
    pub refusing: Option<String>,
    /// The server that is joining.
    pub joining: Option<NodeId>,
    /// The change in progress: a join, a leave, or slots that move.
    pub change: Option<Progress>,
    /// Slots, and how many of them are not as they should be.
    pub slots: Totals,
    /// Whether everything is as it should be: nothing joins, every slot is served at home and has all its copies.
    pub settled: bool,
    /// The servers.
    pub servers: Vec<Server>,
    /// Every slot's view.
    pub views: Vec<SlotStatus>,
    /// What happened last, newest first.
    pub timeline: Vec<Event>,
}

/// Counts of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Totals {
    /// All; 0 until the first server came.
    pub total: usize,
    /// Served at their current view.
    pub active: usize,
    /// Not served, because nobody of the ISR is alive.
    pub unavailable: usize,
    /// With fewer copies in sync than there could be.
    pub short: usize,
    /// With one copy only, where there could be more.
    pub single: usize,
    /// Coordinated elsewhere than at home.
    pub away: usize,
}

/// One server.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Its identity,
    pub node: NodeId,
    /// its store
    pub store: StoreUuid,
    /// and boot.
    pub boot: BootId,
    /// Where clients reach it.
    pub address: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Its HTTP port.
    pub admin_address: Option<String>,
    /// Where it stands, durably.
    pub state: NodeState,
    /// What is known of it at the moment: `alive`, `suspected`, `detached`, `down`, `awaited`.
    pub liveness: &'static str,
    /// How long ago its last heartbeat came.
    pub heartbeat_ms: Option<u64>,
    /// Whether its disk is stalled.
    pub disk_stalled: bool,
    /// How large its share is to be, against the others'.
    pub weight: u16,
    /// How many slots have their home there.
    pub home: usize,
    /// How many it coordinates.
    pub coordinates: usize,
    /// For how many it is in sync, those it coordinates included.
    pub in_sync: usize,
    /// How many it is catching up with.
    pub learns: usize,
    /// Copies it may drop soon.
    pub strays: usize,
}

/// One slot.
#[derive(Clone, Debug, Serialize)]
pub struct SlotStatus {
    /// Which.
    pub slot: Slot,
    /// Its view's epoch.
    pub epoch: Epoch,
    /// Its coordinator.
    pub coordinator: NodeId,
    /// Who is in sync.
    pub isr: Vec<NodeId>,
    /// Who should hold copies.
    pub targets: Vec<NodeId>,
    /// Who should coordinate it.
    pub home: NodeId,
    /// Whether the coordinator serves at this epoch.
    pub active: bool,
    /// Records, as last reported.
    pub records: u64,
    /// Bytes, as last reported.
    pub bytes: u64,
}

/// One line of the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// How long ago.
    pub ago_ms: u64,
    /// About whom.
    pub node: NodeId,
    /// What.
    pub what: String,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Status {
    /// The picture at `now`.
    #[must_use]
    pub fn of(ecs: &Ecs, now: Time) -> Status {
        let (cluster, placement) = (ecs.cluster(), ecs.placement(now));
        let views: Vec<SlotStatus> = cluster.views().iter().map(|view| slot(ecs, view)).collect();
        let totals = totals(ecs, &views, placement.copies(), placement.homes());
        let joining = cluster.change().and_then(Change::joiner);
        let waiting = cluster.nodes().values().any(|info| info.state == NodeState::Joining);
        let at_rest = cluster.views().iter().all(|view| {
            let desired = placement.desired(view, &view.isr);
            view.targets == desired && view.isr.len() == desired.len()
        });
        let served = totals.total > 0 && totals.active == totals.total;
        Status {
            cluster: cluster.record().clone(),
            epoch: cluster.epoch(),
            version: cluster.version(),
            refusing: ecs.refusing().map(str::to_string),
            joining,
            change: Progress::of(ecs, now),
            slots: totals,
            settled: served
                && totals.short == 0
                && totals.away == 0
                && at_rest
                && !waiting
                && cluster.change().is_none(),
            servers: servers(ecs, now),
            views,
            timeline: timeline(ecs, now),
        }
    }

    /// As one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let s = self.slots;
        writeln!(out, "cluster {} at epoch {}", self.cluster.cluster, self.epoch)?;
        if let Some(reason) = &self.refusing {
            writeln!(out, "NOTHING IS CHANGED: {reason}")?;
        }
        writeln!(
            out,
            "{} slots: {} served, {} unavailable, {} short of copies, {} away from home",
            s.total, s.active, s.unavailable, s.short, s.away
        )?;
        if let Some(change) = &self.change {
            writeln!(out, "in progress: {change}")?;
        } else {
            writeln!(out, "idle: no change of membership is in progress")?;
        }
        for server in &self.servers {
            let age = server.heartbeat_ms.map_or_else(|| "never heard".into(), |ms| format!("heard {ms} ms ago"));
            writeln!(
                out,
                "{} {}: {:?}, {}, {age}; weight {}, coordinates {} (home of {}), in sync for {}, learns {}",
                server.node,
                server.address,
                server.state,
                server.liveness,
                server.weight,
                server.coordinates,
                server.home,
                server.in_sync,
                server.learns
            )?;
        }
        for event in &self.timeline {
            writeln!(out, "{:>8} ms ago  {} {}", event.ago_ms, event.node, event.what)?;
        }
        Ok(())
    }

    /// In the text format that Prometheus scrapes.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let s = self.slots;
        let gauges = [
            ("annulus_ecs_epoch", "The last epoch given out.", self.epoch.0),
            ("annulus_ecs_slots", "Slots of the ring.", s.total as u64),
            ("annulus_ecs_slots_active", "Slots that are served.", s.active as u64),
            ("annulus_ecs_slots_unavailable", "Slots of which no copy in sync is alive.", s.unavailable as u64),
            ("annulus_ecs_slots_short", "Slots with fewer copies than there could be.", s.short as u64),
            ("annulus_ecs_slots_away", "Slots coordinated away from home.", s.away as u64),
            (
                "annulus_ecs_refusing",
                "1 if this ECS's state is older than the cluster's.",
                u64::from(self.refusing.is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        let mut states: BTreeMap<String, u64> = BTreeMap::new();
        for server in &self.servers {
            *states.entry(format!("{:?}", server.state).to_lowercase()).or_default() += 1;
        }
        let _ = writeln!(text, "# HELP annulus_ecs_servers Servers by state.\n# TYPE annulus_ecs_servers gauge");
        for (state, count) in states {
            let _ = writeln!(text, "annulus_ecs_servers{{state=\"{state}\"}} {count}");
        }
        text
    }
}

fn slot(ecs: &Ecs, view: &common::View) -> SlotStatus {
    let report = ecs.reports().slot(view.slot);
    SlotStatus {
        slot: view.slot,
        epoch: view.epoch,
        coordinator: view.coordinator,
        isr: view.isr.keys().copied().collect(),
        targets: view.targets.clone(),
        home: view.home,
        active: ecs.reports().active(view),
        records: report.map_or(0, |report| report.records),
        bytes: report.map_or(0, |report| report.bytes),
    }
}

fn totals(ecs: &Ecs, views: &[SlotStatus], copies: usize, homes: &[NodeId]) -> Totals {
    let count = |which: &dyn Fn(&&SlotStatus) -> bool| views.iter().filter(|view| which(view)).count();
    let away = |view: &&SlotStatus| homes.get(usize::from(view.slot.0)) != Some(&view.coordinator);
    Totals {
        total: views.len(),
        active: count(&|view| view.active),
        unavailable: count(&|view| !view.active && !view.isr.iter().any(|node| ecs.detector().healthy(*node))),
        short: count(&|view| view.isr.len() < copies),
        single: count(&|view| view.isr.len() == 1 && copies > 1),
        away: count(&away),
    }
}

fn servers(ecs: &Ecs, now: Time) -> Vec<Server> {
    let (cluster, homes) = (ecs.cluster(), ecs.cluster().homes());
    let server = |info: &common::NodeInfo| {
        let (liveness, age) = ecs.detector().describe(info.node, now);
        let count =
            |which: fn(&common::View, NodeId) -> bool| cluster.views().iter().filter(|v| which(v, info.node)).count();
        Server {
            node: info.node,
            store: info.store,
            boot: info.boot,
            address: info.client_addr.clone(),
            peer_address: info.peer_addr.clone(),
            admin_address: info.admin_addr.clone(),
            state: info.state,
            liveness,
            heartbeat_ms: age.map(millis),
            disk_stalled: ecs.detector().stalled(info.node),
            weight: info.weight,
            home: homes.iter().filter(|home| **home == info.node).count(),
            coordinates: count(|view, node| view.coordinator == node),
            in_sync: count(|view, node| view.isr.contains_key(&node)),
            learns: count(|view, node| view.targets.contains(&node) && !view.isr.contains_key(&node)),
            strays: ecs.reports().strays(info.node).len(),
        }
    };
    cluster.nodes().values().map(server).collect()
}

fn timeline(ecs: &Ecs, now: Time) -> Vec<Event> {
    let newest = ecs.detector().timeline().rev().take(SHOWN);
    newest
        .map(|incident| Event {
            ago_ms: millis(now.since(incident.at)),
            node: incident.node,
            what: incident.what.clone(),
        })
        .collect()
}
