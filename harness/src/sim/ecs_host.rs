//! The ECS's process: the real core, the real store on a simulated disk, control connections and probes.

use std::collections::{BTreeMap, VecDeque};

use common::control::{FromEcs, FromServer};
use common::mem_disk::{MemDisk, SharedDisk};
use common::view::ClusterRecord;
use common::{NodeId, View};
use ecs::core::{Action, Config, Conn, Ecs, Event as Happening, Probed};
use ecs::store::Store;
use ecs::{Cluster, Command};

use super::ambush::{Moment, Step};
use super::clock::Clock;
use super::faults::FaultEvent;
use super::queue::Event;
use super::wire::{Party, Wire};
use super::world::World;

/// The log is folded into a snapshot so early that it happens in most runs.
const LOG_LIMIT: u64 = 24 << 10;

/// The machine that the ECS runs on.
#[derive(Debug)]
pub(super) struct EcsHost {
    pub(super) clock: Clock,
    disk: SharedDisk,
    record: ClusterRecord,
    /// What every command whose fsync has returned amounts to.
    durable: Cluster,
    /// The disk as it was some time ago, and what was durable then.
    kept: Option<(MemDisk, Cluster)>,
    /// The command whose fsync was under way when the process died: it may have got there.
    flight: Option<Command>,
    /// The newest disk and state, and what was being written there, while an older one is in use.
    pub(super) newest: Option<(MemDisk, Cluster, Option<Command>)>,
    pub(super) inc: u32,
    pub(super) process: Option<EcsProcess>,
    pub(super) paused: bool,
    pub(super) deferred: Vec<Event>,
    conns: BTreeMap<u64, Link>,
    next_conn: u64,
    probes: BTreeMap<u32, (NodeId, Probed)>,
    next_probe: u32,
}

/// What runs on it.
#[derive(Debug)]
pub(super) struct EcsProcess {
    core: Ecs,
    store: Store,
    /// Actions that wait for the fsync before them.
    backlog: VecDeque<Action>,
    /// The command whose fsync is under way.
    syncing: Option<Command>,
    tick: Option<u64>,
    hot: u32,
}

/// A control connection.
#[derive(Debug)]
struct Link {
    server: usize,
    server_inc: u32,
    ecs_inc: u32,
    broken: bool,
}

impl EcsHost {
    pub(super) fn new(record: ClusterRecord, rng: &mut fastrand::Rng) -> EcsHost {
        EcsHost {
            clock: Clock::random(rng, false),
            disk: SharedDisk::default(),
            durable: Cluster::new(record.clone()),
            record,
            kept: None,
            flight: None,
            newest: None,
            inc: 0,
            process: None,
            paused: false,
            deferred: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            probes: BTreeMap::new(),
            next_probe: 0,
        }
    }

    /// The state as the core has it, or as it is on disk.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.process.as_ref().map(|process| process.core.cluster())
    }

    /// The views that are durable and may have been told: what invariants are about.
    pub(super) fn views(&self) -> &[View] {
        self.durable().views()
    }

    /// The state that is durable; while an old one is in use, the newest.
    pub(super) fn durable(&self) -> &Cluster {
        self.newest.as_ref().map_or(&self.durable, |(_, cluster, _)| cluster)
    }

    /// Whether `found` is the durable state with one more command.
    fn may_be(&self, command: &Command, found: &Cluster) -> bool {
        let mut with = self.durable.clone();
        with.apply(command);
        with == *found
    }

    pub(super) fn awake(&self) -> bool {
        self.process.is_some() && !self.paused
    }
}

/// Whether the command makes or changes a view.
fn touches_views(command: &Command) -> bool {
    match command {
        Command::All(commands) => commands.iter().any(touches_views),
        Command::Views(_) | Command::Found { .. } | Command::Empty { .. } => true,
        _ => false,
    }
}

impl World {
    pub(super) fn start_ecs(&mut self) {
        let now = self.now;
        let host = &mut self.ecs;
        if host.process.is_some() {
            return;
        }
        host.inc += 1;
        host.paused = false;
        host.deferred.clear();
        let record = host.record.clone();
        let opened = match Store::on(Box::new(host.disk.clone()), LOG_LIMIT, || record) {
            Ok(opened) => opened,
            Err(why) => return self.fail(format!("the ECS does not start: {why}")),
        };
        if host.durable != opened.cluster && !host.flight.take().is_some_and(|c| host.may_be(&c, &opened.cluster)) {
            let (found, known) = (opened.cluster.version(), host.durable.version());
            return self.fail(format!("the ECS's store comes back with version {found}, durable was {known}"));
        }
        host.durable = opened.cluster.clone();
        let mut core = Ecs::new(Config::default(), opened.cluster, host.clock.local(now));
        core.set_switches(self.options.switches);
        let (store, backlog) = (opened.store, VecDeque::new());
        host.process = Some(EcsProcess { core, store, backlog, syncing: None, tick: None, hot: 0 });
        self.stats.bump("ECS starts");
        self.decided();
        self.trace.line(now, || "ecs starts".to_string());
        self.ecs_wake();
    }

    /// The ECS comes back with a directory that is older than the cluster; false if there is none, or the moment is bad.
    pub(super) fn old_state(&mut self) -> bool {
        let older = self.ecs.kept.as_ref().is_some_and(|(_, kept)| kept.epoch() < self.ecs.durable.epoch());
        if !older || self.ecs.newest.is_some() || !self.all_are_there() || !self.newer_is_known() {
            return false;
        }
        self.stop_ecs(false);
        let host = &mut self.ecs;
        let Some((disk, cluster)) = host.kept.take() else { return false };
        let newest = std::mem::replace(&mut *host.disk.lock(), disk);
        host.newest = Some((newest, std::mem::replace(&mut host.durable, cluster), host.flight.take()));
        // Nothing else goes wrong meanwhile: what an ECS that has forgotten all about it would do is not to be known.
        self.calm_until = self.now + 6_000_000;
        self.queue.at(self.now + self.rng.u64(10_000..500_000), Event::EcsStart);
        self.later(1_000_000..5_000_000, FaultEvent::NewestState);
        true
    }

    /// Whether every server has heard of something newer than the copy that is kept: an ECS knows only by them that its own is older.
    /// What nobody was told of is lost with a directory without a trace.
    fn newer_is_known(&self) -> bool {
        let Some((_, kept)) = &self.ecs.kept else { return false };
        self.servers.iter().filter(|server| server.takes_part()).all(|server| {
            let views =
                server.process.iter().flat_map(|process| &process.replicas).filter_map(|replica| replica.view());
            views.map(|view| view.epoch).max() > Some(kept.epoch())
        })
    }

    /// The newest directory is put back.
    pub(super) fn newest_state(&mut self) {
        if self.ecs.newest.is_none() {
            return;
        }
        self.stop_ecs(false);
        let host = &mut self.ecs;
        if let Some((disk, cluster, flight)) = host.newest.take() {
            *host.disk.lock() = disk;
            (host.durable, host.flight) = (cluster, flight);
        }
        let at = self.now + self.rng.u64(10_000..300_000);
        self.queue.at(at, Event::EcsStart);
    }

    pub(super) fn stop_ecs(&mut self, power: bool) {
        let host = &mut self.ecs;
        let Some(mut process) = host.process.take() else { return };
        host.flight = process.syncing.take();
        if let Some(command) = &host.flight {
            // It dies before the write, between the write and the fsync, or before it hears of the fsync.
            host.disk.lock().operations_left = Some(self.rng.u64(0..3));
            let _died = process.store.append(command);
        }
        drop(process);
        host.disk.lock().operations_left = None;
        if power {
            host.disk.lock().lose_power(|unsynced| self.rng.usize(..=unsynced));
        }
        host.paused = false;
        host.deferred.clear();
        let conns: Vec<u64> = host.conns.iter().filter(|(_, link)| !link.broken).map(|(conn, _)| *conn).collect();
        for conn in conns {
            self.break_conn(conn, Some(3_000));
        }
    }

    pub(super) fn ecs_handle(&mut self, event: Happening) {
        let now = self.ecs.clock.local(self.now);
        let Some(process) = self.ecs.process.as_mut() else { return };
        let mut out = Vec::new();
        process.core.handle(now, event, &mut out);
        process.backlog.extend(out);
        self.ecs_perform();
        self.ecs_wake();
    }

    /// Performs actions in order, up to the next fsync.
    fn ecs_perform(&mut self) {
        loop {
            let Some(process) = self.ecs.process.as_mut().filter(|process| process.syncing.is_none()) else { return };
            let Some(action) = process.backlog.pop_front() else { return self.ecs_folds() };
            match action {
                Action::Persist(command) => {
                    self.trace.line(self.now, || format!("ecs persists {command:?}"));
                    process.syncing = Some(command);
                    let takes = if self.rng.u8(0..20) == 0 { 15_000 } else { self.rng.u64(100..1_500) };
                    self.queue.at(self.now + takes, Event::EcsSynced { inc: self.ecs.inc });
                    if let Some((slot, node)) = self.ecs.views().first().map(|view| (view.slot, view.coordinator)) {
                        let moment = Moment::EcsWrites;
                        self.moment(Step { moment, slot, coordinator: node, the_one: node, before: None });
                    }
                }
                Action::Send { conn, msg } => self.ecs_send(conn.0, msg),
                Action::Probe { node, addr } => self.probe(node, &addr),
                Action::Disconnect { conn } => self.break_conn(conn.0, Some(5_000)),
                Action::Log { text, .. } => self.trace.line(self.now, || format!("ecs says: {text}")),
            }
        }
    }

    pub(super) fn ecs_synced(&mut self) {
        let Some(process) = self.ecs.process.as_mut() else { return };
        let Some(command) = process.syncing.take() else { return };
        if let Err(why) = process.store.append(&command) {
            return self.fail(format!("the ECS cannot write: {why}"));
        }
        self.ecs.durable.apply(&command);
        if self.ecs.newest.is_some() && touches_views(&command) {
            return self.fail(format!("the ECS acts on a state older than the cluster: {command:?}"));
        }
        self.decided();
        self.change_moments(&command);
        if self.ecs.newest.is_none() && self.rng.u8(0..12) == 0 {
            self.ecs.kept = Some((self.ecs.disk.lock().clone(), self.ecs.durable.clone()));
        }
        self.ecs_perform();
    }

    /// Everything has been said: a log that has become long is folded into a snapshot. It may die of it.
    fn ecs_folds(&mut self) {
        let Some(process) = self.ecs.process.as_mut().filter(|process| process.store.is_long()) else { return };
        let stop = (!self.healed && self.rng.u8(0..12) == 0).then(|| self.rng.u64(0..7));
        self.ecs.disk.lock().operations_left = stop;
        let state = process.core.cluster().clone();
        let folded = process.store.fold(&state);
        self.ecs.disk.lock().operations_left = None;
        self.stats.bump("ECS snapshots");
        if folded.is_err() {
            self.stats.bump("ECS deaths in a snapshot");
            let power = self.rng.bool();
            self.ecs_crash(power);
        }
    }

    /// Tells the checks and the counters of new views.
    fn decided(&mut self) {
        let mut changed = Vec::new();
        for view in self.ecs.views() {
            if let Some(old) = self.checks.view(view.slot).filter(|old| old.epoch != view.epoch) {
                self.stats.changed(old, view);
                changed.push((old.clone(), view.clone()));
            }
        }
        self.checks.decided(self.ecs.views());
        for (old, new) in changed {
            self.view_moments(&old, &new);
        }
    }

    fn ecs_wake(&mut self) {
        let (now, clock, inc) = (self.now, self.ecs.clock, self.ecs.inc);
        let Some(process) = self.ecs.process.as_mut() else { return };
        let due = process.core.deadline();
        if due == common::Time::MAX {
            return;
        }
        let at = clock.real(due).max(now + 1);
        if process.tick.is_none_or(|tick| at < tick) {
            process.tick = Some(at);
            self.queue.at(at, Event::EcsTick { inc });
        }
    }

    pub(super) fn ecs_tick(&mut self) {
        let (now, local) = (self.now, self.ecs.clock.local(self.now));
        let Some(process) = self.ecs.process.as_mut() else { return };
        if process.tick.is_none_or(|tick| tick > now) {
            return;
        }
        process.tick = None;
        process.hot = if process.core.deadline() <= local { process.hot } else { 0 };
        self.ecs_handle(Happening::Tick);
        let Some(process) = self.ecs.process.as_mut() else { return };
        process.hot = if process.core.deadline() <= local { process.hot + 1 } else { 0 };
        if process.hot > 1_000 {
            self.fail("ecs: a tick does not move the deadline it was for".to_string());
        }
    }

    // ---- control connections ----

    pub(super) fn new_conn(&mut self, server: usize) -> u64 {
        let conn = self.ecs.next_conn;
        self.ecs.next_conn += 1;
        let server_inc = self.servers[server].inc;
        self.ecs.conns.insert(conn, Link { server, server_inc, ecs_inc: self.ecs.inc, broken: false });
        conn
    }

    pub(super) fn conn_broken(&self, conn: u64) -> bool {
        self.ecs.conns.get(&conn).is_none_or(|link| link.broken)
    }

    /// Ends a connection; both ends notice within `within` microseconds, if given, or only by what they miss.
    pub(super) fn break_conn(&mut self, conn: u64, within: Option<u64>) {
        let Some(link) = self.ecs.conns.get_mut(&conn).filter(|link| !link.broken) else { return };
        link.broken = true;
        let (server, server_inc, ecs_inc) = (link.server, link.server_inc, link.ecs_inc);
        self.trace.line(self.now, || format!("control connection {conn} of s{server} breaks"));
        let spread = within.unwrap_or(1_500_000);
        let at = self.now + self.rng.u64(100..100 + spread);
        self.queue.at(at, Event::Control { server, inc: server_inc, conn });
        if within.is_some() {
            let at = self.now + self.rng.u64(100..100 + spread);
            self.queue.at(at, Event::EcsClosed { inc: ecs_inc, conn });
        }
    }

    pub(super) fn ecs_closed(&mut self, conn: u64) {
        self.ecs_handle(Happening::Closed { conn: Conn(conn) });
    }

    fn ecs_send(&mut self, conn: u64, msg: FromEcs) {
        let Some(server) = self.ecs.conns.get(&conn).filter(|link| !link.broken).map(|link| link.server) else {
            return;
        };
        self.send(Party::Ecs, Party::Server(server), Wire::FromEcs { conn, msg });
    }

    /// A line arrives over a control connection.
    pub(super) fn to_ecs_arrives(&mut self, conn: u64, msg: FromServer) {
        if self.ecs.conns.get(&conn).is_none_or(|link| link.ecs_inc != self.ecs.inc) {
            return;
        }
        self.trace.line(self.now, || format!("ecs <- {conn} {msg:?}"));
        let conn = Conn(conn);
        self.ecs_handle(match msg {
            FromServer::Register { info, cluster, rejoin, seen } => {
                Happening::Register { conn, info, cluster, rejoin, seen }
            }
            FromServer::Stopping => Happening::Stopping { conn },
            FromServer::Wish { id, wish } => Happening::Wish { conn, id, wish },
            FromServer::Ask(asks) => Happening::Ask { conn, asks },
            FromServer::Report(report) => Happening::Report { conn, report },
            FromServer::Goodbye => Happening::Goodbye { conn },
            FromServer::Heartbeat(heartbeat) => Happening::Heartbeat(heartbeat),
        });
    }

    // ---- probes ----

    /// Finds out at once what a probe will meet, and tells it after a round trip or the probe's patience.
    fn probe(&mut self, node: NodeId, addr: &str) {
        let Some(s) = self.at(addr) else {
            return self.fail(format!("the ECS probes {addr}, which nobody registered"));
        };
        self.stats.bump("probes");
        let (to, back) = (Party::Server(s), Party::Ecs);
        let cut = self.net.is_cut(Party::Ecs, to) || self.net.is_cut(to, back);
        let seen = match &self.servers[s].process {
            _ if cut || self.servers[s].paused => Probed::Silent,
            None => Probed::Refused,
            Some(_) => Probed::Answered(self.servers[s].identity()),
        };
        let takes = if seen == Probed::Silent { 300_000 } else { self.rng.u64(200..8_000) };
        self.ecs.next_probe += 1;
        self.ecs.probes.insert(self.ecs.next_probe, (node, seen));
        self.queue.at(self.now + takes, Event::EcsProbed { inc: self.ecs.inc, probe: self.ecs.next_probe });
    }

    pub(super) fn ecs_probed(&mut self, probe: u32) {
        if let Some((node, seen)) = self.ecs.probes.remove(&probe) {
            self.trace.line(self.now, || format!("ecs probed {node}: {seen:?}"));
            self.ecs_handle(Happening::Probed { node, seen });
        }
    }
}
