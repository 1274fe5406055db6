//! The ECS without sockets, files or clocks: events in, actions out.
//!
//! The shell moves lines and bytes; everything that is decided is decided here, so that the simulation sees it too.

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::{Ask, FromEcs, Heartbeat, Report};
use common::peer::Identity;
use common::view::{NodeInfo, NodeState, View};
use common::{BootId, ClusterId, Epoch, NodeId, Slot, Switches, Time};

use crate::cluster::{Cluster, Command, Proposal};
use crate::detector::{Detector, Finding, Incident};
use crate::director::{Placement, Sketch, World};
use crate::reports::Reports;

/// One control connection, numbered by the shell; a number is never used again. Two processes that claim to be the same
/// node have two connections, which is how they are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conn(pub u64);

/// What a probe of a server's peer port met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probed {
    /// A process answered, and this is who it is.
    Answered(Identity),
    /// Nobody listens there: the connection was refused.
    Refused,
    /// No answer in time.
    Silent,
}

/// What happens to the ECS.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The first line of a control connection. Nothing else may come from a connection that was not welcomed.
    Register {
        /// Which connection.
        conn: Conn,
        /// Who calls.
        info: NodeInfo,
        /// The cluster its data directory belongs to.
        cluster: Option<ClusterId>,
    },
    /// A control connection has ended, whoever ended it.
    Closed {
        /// Which.
        conn: Conn,
    },
    /// A server asks for changes.
    Ask {
        /// Over which connection.
        conn: Conn,
        /// What.
        asks: Vec<Ask>,
    },
    /// A server tells how its slots stand.
    Report {
        /// Over which connection.
        conn: Conn,
        /// How.
        report: Report,
    },
    /// A server stops in order.
    Goodbye {
        /// Over which connection.
        conn: Conn,
    },
    /// A heartbeat, from a connection of its own.
    Heartbeat(Heartbeat),
    /// The result of [`Action::Probe`].
    Probed {
        /// Who was meant.
        node: NodeId,
        /// What was met.
        seen: Probed,
    },
    /// A client could not reach the server with this client address: a hint, which leads to a probe at most.
    Accuse {
        /// `host:port`.
        addr: String,
        /// What happened.
        why: String,
    },
    /// [`Ecs::deadline`] has passed. Extra ticks do no harm.
    Tick,
}

/// What the ECS wants done, strictly in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Write to the log and fsync; already applied to [`Ecs::cluster`]. What follows relies on its being durable.
    Persist(Command),
    /// Send a line. May get lost with its connection: everything important is told again.
    Send {
        /// Over which connection.
        conn: Conn,
        /// What.
        msg: FromEcs,
    },
    /// Say hello to a server's peer port and report who answered within [`Config::probe`].
    Probe {
        /// Who is meant.
        node: NodeId,
        /// Where.
        addr: String,
    },
    /// End a connection once what was sent over it before is out.
    Disconnect {
        /// Which.
        conn: Conn,
    },
    /// Something for the operator's log.
    Log {
        /// How serious.
        level: log::Level,
        /// What.
        text: String,
    },
}

/// The ECS's durations. The defaults are the product's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A server not heard for this long is suspected.
    pub suspect: Duration,
    /// How long a suspected server has to answer a probe.
    pub probe: Duration,
    /// After a start, or after hearing nobody at all, how long servers have to be heard before they are judged.
    pub grace: Duration,
    /// How long a slot with two copies left waits for the third to come back before another server gets a copy.
    pub replace_after: Duration,
    /// How long a server must have been back before it gets the slots handed back that have their home there.
    pub settle: Duration,
    /// How long a server is down before its slots get other homes.
    pub rehome_after: Duration,
    /// How long a process that answers probes may stay without a control connection before it counts as down.
    pub detached: Duration,
    /// The most slots that may be on the way from one coordinator to another at a time.
    pub handovers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            suspect: Duration::from_secs(1),
            probe: Duration::from_millis(300),
            grace: Duration::from_secs(2),
            replace_after: Duration::from_secs(5),
            settle: Duration::from_secs(5),
            rehome_after: Duration::from_secs(600),
            detached: Duration::from_secs(5),
            handovers: 64,
        }
    }
}

/// How often a state that is not yet as it should be is looked at again; it is also looked at on every change.
const REVIEW: Duration = Duration::from_millis(250);
/// How long a changed state rests before it is looked at again.
const REST: Duration = Duration::from_millis(1);
/// A server whose metadata is older than this for longer than this gets all of it.
const META_PATIENCE: Duration = Duration::from_millis(300);
/// An order to hand a slot over is repeated after this long.
const ORDER_PAUSE: Duration = Duration::from_secs(1);
/// The most steps of membership that are taken at once.
const STEPS: usize = 16;

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
    switches: Switches,
    /// Hand-overs that were ordered of late.
    orders: BTreeMap<Slot, Order>,
    /// When each slot was last ordered to move.
    waits: BTreeMap<Slot, Time>,
    /// Whom each coordinator lately called silent.
    pub(crate) accusations: BTreeMap<NodeId, BTreeMap<NodeId, Time>>,
    /// Why this ECS must not act: its state is older than what servers have seen.
    refusing: Option<String>,
    /// When metadata last changed.
    changed: Time,
    /// When the director is to be asked next.
    review: Time,
}

/// A hand-over that was ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Order {
    from: NodeId,
    to: NodeId,
    epoch: Epoch,
    at: Time,
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
            Event::Register { conn, info, cluster } => self.register(now, conn, info, cluster, out),
            Event::Closed { conn } => self.closed(now, conn, &mut found),
            Event::Ask { conn, asks } => self.ask(now, conn, &asks, out),
            Event::Report { conn, report } => self.report(now, conn, report, out),
            Event::Goodbye { conn } => {
                if let Some(peer) = self.conns.get(&conn) {
                    self.detector.gone(peer.node, "it said goodbye", now, &mut found);
                }
            }
            Event::Heartbeat(beat) => self.heartbeat(now, &beat, out),
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
    fn tell_news(&mut self, out: &mut Vec<Action>) {
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
        if self.refusing.is_some() {
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

    /// Makes what is to be done durable, in one command, and tells everybody: `first` as given, then whatever steps of
    /// membership follow, then all views that should change, beginning with the sketches that were asked for.
    pub(crate) fn settle(
        &mut self,
        now: Time,
        first: Vec<Command>,
        mut asked: BTreeMap<Slot, Sketch>,
        out: &mut Vec<Action>,
    ) {
        self.review = now + REVIEW;
        self.tell_news(out);
        if self.refusing.is_some() {
            return;
        }
        let mut draft = Draft::new(&self.cluster);
        draft.take(first);
        let mut reasons = Vec::new();
        for _ in 0..STEPS {
            let world = World { cluster: &draft.cluster, ..self.world(now) };
            let Some((commands, why)) = world.membership(&Placement::of(&world)) else { break };
            draft.take(commands);
            reasons.push(why);
        }
        let world = World { cluster: &draft.cluster, ..self.world(now) };
        let placement = Placement::of(&world);
        let proposals: Vec<Proposal> = draft
            .cluster
            .views()
            .iter()
            .filter_map(|view| {
                let mut sketch = asked.remove(&view.slot).unwrap_or_else(|| Sketch::of(view));
                world.improve(&placement, view, &mut sketch);
                sketch.proposal(view)
            })
            .collect();
        if !proposals.is_empty() {
            draft.take(vec![Command::Views(proposals)]);
        }
        let Some(command) = draft.finish() else { return };
        self.review = now + REST;
        self.commit(now, command, reasons, out);
    }

    fn commit(&mut self, now: Time, command: Command, reasons: Vec<String>, out: &mut Vec<Action>) {
        let before = self.cluster.views().to_vec();
        let effects = self.cluster.apply(&command);
        for text in reasons.into_iter().chain(summary(&before, &self.cluster, &effects.slots)) {
            out.push(Action::Log { level: log::Level::Info, text });
        }
        out.push(Action::Persist(command));
        if effects.is_empty() {
            return;
        }
        self.changed = now;
        effects.gone.iter().for_each(|node| self.detector.forget(*node));
        let delta = self.cluster.delta(&effects);
        let tell = |conn: &Conn| Action::Send { conn: *conn, msg: FromEcs::Update(delta.clone()) };
        out.extend(self.conns.keys().map(tell));
    }

    fn order_handovers(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.refusing.is_some() {
            return;
        }
        self.orders.retain(|_, order| now.since(order.at) < ORDER_PAUSE);
        let world = self.world(now);
        let placement = Placement::of(&world);
        // None is ordered twice in a while, even if its view has changed since: the answer may have been a refusal.
        let (mut flying, mut due) = (0, Vec::new());
        for (view, to) in world.handovers(&placement) {
            let order = Order { from: view.coordinator, to, epoch: view.epoch, at: now };
            match self.orders.get(&view.slot) {
                Some(last) if (last.from, last.to) == (order.from, to) => {
                    flying += usize::from(last.epoch == order.epoch);
                }
                _ => due.push((self.waits.get(&view.slot).copied().unwrap_or(Time::ZERO), view.slot, order)),
            }
        }
        // Those that were never ordered come first, so that slots that cannot move do not hold up the others.
        due.sort_unstable_by_key(|(last, slot, _)| (*last, *slot));
        due.truncate(self.config.handovers.saturating_sub(flying));
        let mut orders: BTreeMap<NodeId, Vec<(Slot, Epoch, NodeId)>> = BTreeMap::new();
        for (_, slot, order) in due {
            self.orders.insert(slot, order);
            self.waits.insert(slot, now);
            orders.entry(order.from).or_default().push((slot, order.epoch, order.to));
        }
        for (from, slots) in orders {
            if let Some(conn) = self.detector.conn(from) {
                out.push(Action::Send { conn, msg: FromEcs::HandOver { slots } });
            }
        }
    }

    pub(crate) fn welcome(&mut self, now: Time, conn: Conn, node: NodeId, boot: BootId, out: &mut Vec<Action>) {
        self.conns.insert(conn, Peer { node, boot, pushed: now });
        let (cluster, meta) = (self.cluster.record().clone(), self.cluster.meta());
        out.push(Action::Send { conn, msg: FromEcs::Welcome { cluster, meta } });
    }
}

/// A copy of the durable state on which steps are tried, and the commands that lead there.
struct Draft {
    cluster: Cluster,
    commands: Vec<Command>,
}

impl Draft {
    fn new(cluster: &Cluster) -> Draft {
        Draft { cluster: cluster.clone(), commands: Vec::new() }
    }

    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            self.cluster.apply(&command);
            self.commands.push(command);
        }
    }

    fn finish(mut self) -> Option<Command> {
        match self.commands.len() {
            0 | 1 => self.commands.pop(),
            _ => Some(Command::All(self.commands)),
        }
    }
}

/// What a client says goes to the log and the timeline: a little of it, and nothing that steers a terminal.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// What became of the slots, in as few lines as possible.
fn summary(before: &[View], cluster: &Cluster, slots: &[Slot]) -> Vec<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for new in slots.iter().filter_map(|slot| cluster.view(*slot)) {
        let Some(old) = before.get(usize::from(new.slot.0)) else {
            *kinds.entry(format!("founded by {}", new.coordinator)).or_default() += 1;
            continue;
        };
        let mut words = Vec::new();
        if old.coordinator != new.coordinator {
            let how = if new.released.is_some() { "handed over" } else { "failed over" };
            words.push(format!("{how} from {} to {}", old.coordinator, new.coordinator));
        }
        let out = old.isr.keys().filter(|node| !new.isr.contains_key(node)).map(|node| format!("{node} out of sync"));
        let into = new.isr.keys().filter(|node| !old.isr.contains_key(node)).map(|node| format!("{node} in sync"));
        words.extend(out.chain(into));
        if old.targets != new.targets {
            words.push(format!("copies at {:?}", new.targets));
        }
        if words.is_empty() {
            words.push(format!("a fresh view for {}", new.coordinator));
        }
        *kinds.entry(words.join(", ")).or_default() += 1;
    }
    kinds.into_iter().map(|(what, slots)| format!("{slots} slots: {what}")).collect()
}
