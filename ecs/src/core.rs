//! The ECS without sockets, files or clocks: events in, actions out.
//!
//! The shell moves lines and bytes; everything that is decided is decided here, so that the simulation sees it too.

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::{FromEcs, Heartbeat, Report};
use common::view::NodeState;
use common::{BootId, Epoch, NodeId, Rule, Slot, Switches, Time};

pub use crate::border::{Action, Config, Conn, Event, Probed};
use crate::cluster::{Cluster, Command};
use crate::detector::{Detector, Finding, Incident};
use crate::director::{Placement, World};
use crate::handover::Order;
use crate::pace::{Deferred, Pace};
use crate::register::Caller;
use crate::reports::Reports;
use crate::twins::Twin;

/// A server whose metadata is older than this for longer than this gets all of it.
const META_PATIENCE: Duration = Duration::from_millis(300);

/// A welcomed server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    /// When it last got all metadata.
    pushed: Time,
}

/// The ECS.
#[derive(Debug)]
pub struct Ecs {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) detector: Detector,
    pub(crate) reports: Reports,
    pub(crate) conns: BTreeMap<Conn, Peer>,
    pub(crate) switches: Switches,
    /// Hand-overs that were ordered of late.
    pub(crate) orders: BTreeMap<Slot, Order>,
    /// When each slot was last ordered to move.
    pub(crate) waits: BTreeMap<Slot, Time>,
    /// Whom each coordinator lately called silent.
    pub(crate) accusations: BTreeMap<NodeId, BTreeMap<NodeId, Time>>,
    /// How the change in progress gets on.
    pub(crate) pace: Option<Pace>,
    /// How the last change ended.
    pub(crate) last: Option<String>,
    /// Joiners whose join was undone.
    pub(crate) deferred: BTreeMap<NodeId, Deferred>,
    /// Later starts of known servers at other addresses.
    pub(crate) twins: BTreeMap<NodeId, Twin>,
    /// Why this ECS must not act: its state is older than what servers have seen.
    pub(crate) refusing: Option<String>,
    /// When metadata last changed.
    pub(crate) changed: Time,
    /// When the director is to be asked next.
    pub(crate) review: Time,
}

impl Ecs {
    /// The ECS as it starts, from what was durable.
    #[must_use]
    pub fn new(config: Config, cluster: Cluster, now: Time) -> Ecs {
        let known = cluster.nodes().values().map(|info| (info.node, info.boot, info.state == NodeState::Down));
        Ecs {
            detector: Detector::new(config.clone(), known, now),
            config,
            cluster,
            reports: Reports::default(),
            conns: BTreeMap::new(),
            switches: Switches::default(),
            orders: BTreeMap::new(),
            waits: BTreeMap::new(),
            accusations: BTreeMap::new(),
            pace: None,
            last: None,
            deferred: BTreeMap::new(),
            twins: BTreeMap::new(),
            refusing: None,
            changed: now,
            review: now,
        }
    }

    /// Turns one rule off, for the simulation.
    pub fn set_switches(&mut self, switches: Switches) {
        self.switches = switches;
    }

    /// Takes one event; what must be done about it is appended to `out`.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        let mut found = Vec::new();
        match event {
            Event::Register { conn, info, cluster, rejoin, seen } => {
                self.register(now, conn, Caller { info, cluster, rejoin, seen }, out);
            }
            Event::Closed { conn } => self.closed(now, conn, &mut found),
            Event::Ask { conn, asks } => self.ask(now, conn, &asks, out),
            Event::Report { conn, report } => self.report(now, conn, report, out),
            Event::Stopping { conn } => {
                if let Some(node) = self.conns.get(&conn).map(|peer| peer.node) {
                    self.detector.drain(node, now);
                    self.wake(now);
                }
            }
            Event::Wish { conn, id, wish } => self.wish(now, conn, id, &wish, out),
            Event::Goodbye { conn } => {
                if let Some(peer) = self.conns.get(&conn) {
                    self.detector.gone(peer.node, "it said goodbye", now, &mut found);
                }
            }
            Event::Heartbeat(beat) => self.heartbeat(now, &beat, out),
            Event::ProbeSaid { node, said } => self.detector.said(node, &said, now),
            Event::Probed { node, seen } => self.detector.probed(node, seen, now, &mut found),
            Event::Accuse { addr, why } => self.accuse(now, &addr, &why, &mut found),
            // Silence is judged here only: a caller hands over everything that has come before it ticks.
            Event::Tick => self.detector.tick(now, &mut found),
        }
        let verdicts = self.act_on(now, found, out);
        if !verdicts.is_empty() || self.review <= now {
            self.settle(now, verdicts, BTreeMap::new(), out);
            self.order_handovers(now, out);
        }
        self.tell_news(out);
    }

    /// What the detector noted goes to the log before what follows from it.
    pub(crate) fn tell_news(&mut self, out: &mut Vec<Action>) {
        let log = |incident: &Incident| Action::Log {
            level: log::Level::Info,
            text: format!("{}: {}", incident.node, incident.what),
        };
        out.extend(self.detector.news().map(log));
    }

    /// When [`Event::Tick`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.detector.deadline().min(self.review)
    }

    /// The durable state.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Who is alive, and what happened.
    #[must_use]
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// What coordinators report.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Why nothing is done, if so: the state on this disk is older than what servers have seen.
    #[must_use]
    pub fn refusing(&self) -> Option<&str> {
        self.refusing.as_deref()
    }

    /// What every slot should come to.
    #[must_use]
    pub fn placement(&self, now: Time) -> Placement {
        Placement::of(&self.world(now))
    }

    pub(crate) fn world(&self, now: Time) -> World<'_> {
        World {
            cluster: &self.cluster,
            detector: &self.detector,
            reports: &self.reports,
            config: &self.config,
            deferred: &self.deferred,
            switches: self.switches,
            now,
        }
    }

    /// Something changed that the director should look at with this very event.
    pub(crate) fn wake(&mut self, now: Time) {
        self.review = self.review.min(now);
    }

    fn closed(&mut self, now: Time, conn: Conn, found: &mut Vec<Finding>) {
        if let Some(peer) = self.conns.remove(&conn) {
            // A node that was forgotten and came back may have a newer connection than the one that ends.
            if self.detector.conn(peer.node) == Some(conn) {
                self.detector.closed(peer.node, now, found);
            }
        }
    }

    fn report(&mut self, now: Time, conn: Conn, report: Report, out: &mut Vec<Action>) {
        let Some(peer) = self.conns.get(&conn) else { return };
        let node = peer.node;
        self.detector.heard(node, now);
        self.beware(now, node, Reports::highest(&report), out);
        if self.reports.put(node, report) {
            self.wake(now);
        }
        if self.refusing.is_some() || self.reports.strays(node).is_empty() {
            return;
        }
        let world = self.world(now);
        let placement = Placement::of(&world);
        let slots = self.cluster.nodes().get(&node).map_or(Vec::new(), |info| world.droppable(&placement, info));
        if !slots.is_empty() {
            out.push(Action::Send { conn, msg: FromEcs::Drop { slots } });
        }
    }

    fn heartbeat(&mut self, now: Time, beat: &Heartbeat, out: &mut Vec<Action>) {
        if self.cluster.nodes().get(&beat.node).is_none_or(|info| info.boot != beat.boot) {
            return;
        }
        self.beware(now, beat.node, beat.highest_epoch, out);
        let fit = self.detector.fit(beat.node);
        self.detector.heartbeat(beat, now);
        if fit != self.detector.fit(beat.node) {
            self.wake(now);
        }
        if beat.meta > self.cluster.version() {
            self.refuse(now, beat.node, &format!("metadata version {}", beat.meta), out);
        }
        if beat.meta < self.cluster.version() {
            self.catch_up(now, beat.node, out);
        }
    }

    /// The server seems to have missed something: tell it everything, unless that was just done.
    pub(crate) fn catch_up(&mut self, now: Time, node: NodeId, out: &mut Vec<Action>) {
        let Some(conn) = self.detector.conn(node) else { return };
        let Some(peer) = self.conns.get_mut(&conn) else { return };
        if now.since(peer.pushed.max(self.changed)) > META_PATIENCE {
            peer.pushed = now;
            out.push(Action::Send { conn, msg: FromEcs::Update(self.cluster.meta()) });
        }
    }

    /// A server has seen an epoch that this ECS never gave out: somebody restored an old directory.
    pub(crate) fn beware(&mut self, now: Time, node: NodeId, seen: Epoch, out: &mut Vec<Action>) {
        if seen > self.cluster.epoch() {
            self.refuse(now, node, &format!("epoch {seen}"), out);
        }
    }

    fn refuse(&mut self, now: Time, node: NodeId, seen: &str, out: &mut Vec<Action>) {
        if self.refusing.is_some() || self.switches.off(Rule::OldState) {
            return;
        }
        let (epoch, version) = (self.cluster.epoch(), self.cluster.version());
        let text = format!(
            "server {node} has seen {seen}, but this ECS's own state ends at epoch {epoch}, version {version}: its directory \
             is older than the cluster. Nothing will be changed. Put the newest copy of the directory back and start again."
        );
        self.detector.note(now, node, text.clone());
        out.push(Action::Log { level: log::Level::Error, text: text.clone() });
        self.refusing = Some(text);
    }

    fn accuse(&mut self, now: Time, addr: &str, why: &str, found: &mut Vec<Finding>) {
        let accused = self.cluster.nodes().values().find(|info| info.client_addr == addr);
        if let Some(node) = accused.map(|info| info.node) {
            self.detector.accused(node, &format!("a client says {}", shorten(why)), now, found);
        }
    }

    /// Turns what the detector found into actions, and verdicts into commands.
    pub(crate) fn act_on(&mut self, now: Time, found: Vec<Finding>, out: &mut Vec<Action>) -> Vec<Command> {
        self.tell_news(out);
        let mut commands = Vec::new();
        for finding in found {
            match finding {
                Finding::Probe(node) => {
                    let addr = self.cluster.nodes().get(&node).map(|info| info.peer_addr.clone());
                    out.extend(addr.map(|addr| Action::Probe { node, addr }));
                }
                Finding::Down(node) => {
                    self.reports.forget(node);
                    // Should it live after all it must register again, and learn what became of its slots.
                    out.extend(self.detector.conn(node).map(|conn| Action::Disconnect { conn }));
                    commands.push(Command::State { node, state: NodeState::Down });
                }
            }
        }
        if !commands.is_empty() {
            self.wake(now);
        }
        commands
    }

    pub(crate) fn welcome(&mut self, now: Time, conn: Conn, node: NodeId, boot: BootId, out: &mut Vec<Action>) {
        self.conns.insert(conn, Peer { node, boot, pushed: now });
        let (cluster, meta) = (self.cluster.record().clone(), self.cluster.meta());
        out.push(Action::Send { conn, msg: FromEcs::Welcome { cluster, meta } });
    }
}

/// What others say goes to the log and the timeline: a little of it, and nothing that steers a terminal.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}
