//! One simulated server: a machine with a disk and a clock, and at most one process on it.
//!
//! The process part does what the real shell does around the replicas: performs their actions, group-commits their
//! journal records, drives beacons and heartbeats, and keeps the metadata that the ECS sends. It decides nothing else.

use std::collections::{BTreeMap, BTreeSet};

use common::control::{Ask, Change, FromServer, Report};
use common::peer::{Identity, PeerMsg, Pulse};
use common::view::NodeInfo;
use common::{BootId, ClusterId, NodeId, NodeState, Slot, StoreUuid, Time, Wall};
use kvserver::client_port::session::Session;
use kvserver::node::desk::Desk;
use kvserver::node::topology::Topology;
use kvserver::replica::{Action, Event as Happening, Moved, Replica, Setup, Token, Traffic};

use super::ambush::Moment;
use super::clock::Clock;
use super::disk::{Files, Found, Mood};
use super::questions::Answering;
use super::queue::Event;
use super::relays::Relays;
use super::routed::EPOCH;
use super::syncs::Writes;
use super::wire::{Party, Wire};
use super::world::World;

/// A machine.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) clock: Clock,
    pub(super) node: NodeId,
    pub(super) store: StoreUuid,
    pub(super) boot: BootId,
    pub(super) cluster: Option<ClusterId>,
    pub(super) files: Files,
    pub(super) mood: Mood,
    /// Counts the processes that ever ran here, so that nothing meant for one reaches another.
    pub(super) inc: u32,
    pub(super) process: Option<Process>,
    /// Whether a start is scheduled, so that two faults do not start two processes.
    pub(super) starting: bool,
    /// Whether it was ever started.
    pub(super) used: bool,
    /// Its directory is to be lost before the next start,
    pub(super) wipe: bool,
    /// or damaged.
    pub(super) rot: bool,
    /// The process dies after so many more actions of its replicas, in the middle of a list if need be.
    pub(super) fuse: Option<u32>,
    pub(super) paused: bool,
    pub(super) deferred: Vec<Event>,
    /// It is no part of the cluster any more, and is not started again unless its owner wants it back.
    pub(super) gone: Option<Gone>,
    /// Its next start is told to take part again though it was sent away.
    pub(super) rejoin: bool,
    /// Where it listens: its own number, unless addresses were swapped.
    pub(super) place: usize,
    /// Its directory as it was at some time.
    pub(super) kept: Option<Files>,
    /// Its directory is to be what was kept before the next start.
    pub(super) rolls_back: bool,
    /// Its directory belongs to another cluster.
    pub(super) foreign: bool,
    /// How far its wall clock is from the right time, in microseconds.
    pub(super) wall_off: i64,
    /// What it holds is an older copy, of its own or of another's directory, and the ECS has not let it in yet.
    pub(super) dubious: bool,
}

/// How a server has gone for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// It was told that it has left.
    Left,
    /// It came back and was turned away.
    Removed,
    /// Its directory was a copy, or another runs with a copy of it.
    Copied,
}

/// What runs on a machine.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) replicas: Vec<Replica>,
    /// The world's time of the tick that is scheduled.
    tick: Option<u64>,
    /// How far each copy had journaled when it was last compared with the others.
    pub(super) marks: Vec<u64>,
    /// Ticks in a row that did not move the deadline they were for: a core that asks for those is in a loop.
    hot: u32,
    pub(super) writes: Writes,
    pub(super) topology: Topology,
    pub(super) sessions: BTreeMap<u32, Session>,
    pub(super) conn: Option<u64>,
    pub(super) welcomed: bool,
    /// Its last registration was refused: it waits before the next one.
    pub(super) refused: bool,
    /// Requests that a replica will answer.
    pub(super) waiting: BTreeSet<Token>,
    pub(super) last_report: Report,
    pub(super) reported: u64,
    /// Who waits for the ECS's answer to a wish.
    pub(super) desk: Desk<Token>,
    /// What other servers do for its clients.
    pub(super) relays: Relays,
    /// How its wall clock stood when it looked last.
    wall: Wall,
    /// What is being counted for questions about the whole cluster.
    pub(super) answering: BTreeMap<u32, Answering>,
    /// It has said that it will stop.
    pub(super) stopping: bool,
    /// What waits to be asked of the ECS: asks of a moment travel together.
    asks: Vec<Ask>,
}

impl Server {
    pub(super) fn new(index: usize, rng: &mut fastrand::Rng, extreme_clock: bool) -> Server {
        Server {
            clock: Clock::random(rng, extreme_clock),
            node: NodeId(index as u64 + 1),
            store: StoreUuid(0x1000 + index as u128),
            boot: BootId(0),
            cluster: None,
            files: Files::default(),
            mood: Mood::Well,
            inc: 0,
            process: None,
            starting: false,
            used: false,
            wipe: false,
            rot: false,
            fuse: None,
            paused: false,
            deferred: Vec::new(),
            gone: None,
            rejoin: false,
            place: index,
            kept: None,
            rolls_back: false,
            foreign: false,
            wall_off: 0,
            dubious: false,
        }
    }

    /// What its wall clock shows, in microseconds since the Unix epoch.
    pub(super) fn wall_micros(&self, now: u64) -> u64 {
        (EPOCH * 1_000 + now).saturating_add_signed(self.wall_off)
    }

    /// The same as its replicas are told it.
    fn wall(&self, now: u64) -> Wall {
        let ahead = i128::from(self.wall_micros(now)) - i128::from(self.clock.local(now).0);
        Wall { ahead: i64::try_from(ahead).ok() }
    }

    pub(super) fn info(&self) -> NodeInfo {
        let index = self.place;
        NodeInfo {
            node: self.node,
            store: self.store,
            boot: self.boot,
            client_addr: format!("s{index}:1"),
            peer_addr: format!("s{index}:2"),
            admin_addr: None,
            state: NodeState::Joining,
            weight: common::view::WEIGHT,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { cluster: self.cluster, node: self.node, store: self.store, boot: self.boot }
    }

    /// Whether it is part of the cluster as far as its owner knows.
    pub(super) fn takes_part(&self) -> bool {
        self.used && self.gone.is_none()
    }

    /// Whether a process runs and is not stopped.
    pub(super) fn awake(&self) -> bool {
        self.process.is_some() && !self.paused
    }
}

impl World {
    /// A process starts: recovers what the disk holds, with the real recovery.
    pub(super) fn start_server(&mut self, s: usize) {
        let record = self.record.clone();
        self.servers[s].starting = false;
        if self.servers[s].process.is_some() || self.servers[s].gone.is_some() {
            return;
        }
        if std::mem::take(&mut self.servers[s].wipe) && self.expendable(s) {
            self.fresh_directory(s);
        }
        if std::mem::take(&mut self.servers[s].rolls_back) && self.forgotten(s) {
            self.put_back(s);
        }
        let rotten = std::mem::take(&mut self.servers[s].rot) && self.expendable(s);
        let Some(found) = self.open_files(s, rotten) else { return };
        let server = &mut self.servers[s];
        server.used = true;
        (server.node, server.store, server.boot, server.cluster) =
            (found.me.node, found.me.store, found.me.boot, found.me.cluster);
        let images = found.images;
        server.inc += 1;
        server.paused = false;
        server.deferred.clear();
        let setup = Setup {
            me: server.identity(),
            timing: record.timing(),
            started: server.clock.local(self.now),
            standalone: false,
            confirm_reads: self.plan.confirm_reads,
            // So few that some have to wait.
            traffic: Traffic::with_walks(0, 2),
            longest_value: 1 << 20,
            switches: self.options.switches,
        };
        let identity = server.identity();
        self.trace.line(self.now, || format!("s{s} starts as node {} boot {}", identity.node, identity.boot));
        let counts = !self.servers[s].dubious && !self.is_replaced(s);
        let views = if counts { self.ecs.views() } else { &[] };
        self.checks.started(s, &identity, &images, views);
        let replicas = (0u16..).map(Slot).zip(images);
        let replicas: Vec<Replica> = replicas.map(|(slot, image)| Replica::new(slot, setup.clone(), image)).collect();
        let (local, wall) = (self.local(s), self.servers[s].wall(self.now));
        let shown = self.servers[s].wall_micros(self.now) / 1_000;
        let relays = Relays::new(identity.node, self.extra.u64(..), local, shown, self.options.switches);
        let server = &mut self.servers[s];
        server.process = Some(Process {
            replicas,
            marks: vec![0; usize::from(record.slots)],
            tick: None,
            hot: 0,
            writes: Writes::default(),
            topology: Topology::new(record.slots),
            sessions: BTreeMap::new(),
            conn: None,
            welcomed: false,
            refused: false,
            waiting: BTreeSet::new(),
            last_report: Report::default(),
            reported: 0,
            desk: Desk::default(),
            relays,
            wall,
            answering: BTreeMap::new(),
            stopping: false,
            asks: Vec::new(),
        });
        let inc = server.inc;
        self.stats.bump("process starts");
        let (now, rng) = (self.now, &mut self.rng);
        let beat = self.timing.beacon.as_micros() as u64;
        self.queue.at(now + rng.u64(self.plan.checkpoints.clone()), Event::Checkpoint { server: s, inc });
        self.queue.at(now + rng.u64(0..beat), Event::Pulse { server: s, inc });
        self.queue.at(now + rng.u64(0..50_000), Event::Heartbeat { server: s, inc });
        if self.plan.audits > 0 {
            self.queue.at(now + self.plan.audits, Event::Audit { server: s, inc, again: true });
        }
        self.queue.at(now + rng.u64(100..5_000), Event::Control { server: s, inc, conn: 0 });
        for peer in 0..self.servers.len() {
            if peer != s && self.servers[peer].process.is_some() {
                let at = now + self.rng.u64(500..60_000);
                self.queue.at(at, Event::LinkUp { server: s, peer });
                self.queue.at(at, Event::LinkUp { server: peer, peer: s });
            }
        }
        for slot in 0..record.slots {
            self.after(s, Slot(slot));
        }
    }

    /// Opens the directory as the product does; None if that is the end of this start.
    fn open_files(&mut self, s: usize, rotten: bool) -> Option<Found> {
        let safe = self.healed || self.now < self.calm_until || rotten;
        let stop = (!safe && self.rng.u8(0..24) == 0).then(|| self.rng.u64(0..12));
        let (slots, server) = (self.record.slots, &mut self.servers[s]);
        if rotten {
            server.files.rot(&mut self.rng);
        }
        // Where the product draws at random (a fresh store's id) a seed must draw the same again.
        fastrand::seed(self.rng.u64(..));
        server.files.switches = self.options.switches;
        match server.files.open(slots, (server.node, server.store), stop) {
            Ok(found) => {
                if found.anew {
                    self.stats.bump("damaged stores begun anew");
                    self.checks.wiped(s);
                }
                Some(found)
            }
            Err(_) if stop.is_some() => {
                self.stats.bump("deaths in a start");
                server.files.close();
                if self.rng.bool() {
                    server.files.power_cut(&mut self.rng);
                }
                self.start_later(s, 20_000..600_000);
                None
            }
            Err(why) if rotten => {
                // It may hold an only copy, or does not know whose it is: an operator decides, and knows the others are well.
                self.trace.line(self.now, || format!("s{s} does not start: {why}"));
                self.stats.bump("damaged stores refused");
                self.fresh_directory(s);
                self.start_later(s, 20_000..600_000);
                None
            }
            Err(why) => {
                self.fail(format!("s{s} cannot open its directory: {why}"));
                None
            }
        }
    }

    /// The process dies. `written`: bytes on their way to the disk may still get there (a kill, not a power cut).
    pub(super) fn stop_server(&mut self, s: usize, power: bool) {
        let server = &mut self.servers[s];
        let Some(process) = server.process.take() else { return };
        if power {
            server.files.power_cut(&mut self.rng);
            server.clock.reboot(self.now, &mut self.rng);
        } else if !process.writes.queue.is_empty() && server.mood != Mood::Full && self.rng.bool() {
            let torn = self.rng.usize(..=process.writes.queue.len());
            server.files.write_group(&process.writes.queue, Some(torn));
        }
        server.files.close();
        server.paused = false;
        (server.fuse, server.rejoin) = (None, false);
        let unread = std::mem::take(&mut server.deferred);
        let inc = server.inc;
        // What a stopped process had not read dies with it, and with it the connection.
        for event in unread {
            match event {
                Event::Deliver { wire: Wire::Bytes { conn, .. }, .. } => self.drop_conn(conn),
                Event::Deliver { wire: Wire::Job { lane, .. }, .. } => self.lane_refused(lane),
                _ => {}
            }
        }
        if !power {
            self.hang_up(s, inc);
            self.lanes_hang_up(s, inc);
        }
        self.checks.stopped(s);
        if let Some(conn) = process.conn {
            // A kill closes the connection at once; after a power cut nobody says anything.
            self.break_conn(conn, if power { None } else { Some(2_000) });
        }
    }

    /// Gives a replica one event.
    pub(super) fn handle(&mut self, s: usize, slot: Slot, event: Happening) {
        let now = self.local(s);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let Some(replica) = process.replicas.get_mut(usize::from(slot.0)) else { return };
        replica.set_wall(process.wall);
        let mut out = std::mem::take(&mut self.scratch);
        replica.handle(now, event, &mut out);
        self.perform(s, slot, &mut out);
        self.scratch = out;
        self.after(s, slot);
    }

    /// Performs a replica's actions in order.
    pub(super) fn perform(&mut self, s: usize, slot: Slot, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            if self.servers[s].fuse.is_some() && self.burns_down(s, slot) {
                break;
            }
            match action {
                Action::Journal(record) => self.append(s, record),
                Action::Send { to, msg } => self.send_peer(s, to, msg),
                Action::Reply { token, reply } => self.reply(s, token, reply),
                Action::Ask(ask) => {
                    self.stats.bump("asks");
                    self.ask(s, ask);
                }
                Action::Audited(what) => self.stats.audited(what),
                Action::Moved(Moved::Walked(_)) => self.stats.bump("walks finished"),
                Action::Moved(_) => {}
                Action::Alarm(text) if self.checks.is_forgetful(s) && text.contains("the disk has lost entries") => {
                    self.stats.bump("lost entries noticed");
                }
                Action::Alarm(text) => self.fail(format!("s{s} slot {slot} raises an alarm: {text}")),
            }
        }
    }

    /// Asks wait a moment for others to go with.
    fn ask(&mut self, s: usize, ask: Ask) {
        let (coordinator, slot) = (self.servers[s].node, ask.slot);
        let moment = match ask.change {
            Change::Expand { node, .. } => Some((Moment::AsksExpand, node)),
            Change::HandOver { to } => Some((Moment::AsksHandOver, to)),
            _ => None,
        };
        let (inc, at) = (self.servers[s].inc, self.now + self.rng.u64(0..self.plan.gather));
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if process.asks.is_empty() {
            self.queue.at(at, Event::Asks { server: s, inc });
        }
        process.asks.push(ask);
        if let Some((moment, the_one)) = moment {
            self.queue.at(at + 1, Event::Moment { moment, slot, coordinator, the_one });
        }
    }

    pub(super) fn send_asks(&mut self, s: usize) {
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let asks = std::mem::take(&mut process.asks);
        self.to_ecs(s, FromServer::Ask(asks));
    }

    /// One action less to live; true if the process is dead now, the rest of its actions undone.
    fn burns_down(&mut self, s: usize, slot: Slot) -> bool {
        let Some(left) = self.servers[s].fuse.as_mut() else { return false };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return false;
        }
        let coordinates = |process: &Process| process.replicas[usize::from(slot.0)].required().is_some();
        if self.servers[s].process.as_ref().is_some_and(coordinates) {
            // It may have told others already what it has committed in this very step.
            self.check_slot(s, slot);
        }
        let power = self.rng.bool();
        self.crash(s, power);
        true
    }

    fn send_peer(&mut self, s: usize, to: NodeId, msg: PeerMsg) {
        let from = self.servers[s].node;
        let moment = match &msg {
            PeerMsg::WalkBegin { .. } => Some(Moment::WalkBegins),
            PeerMsg::WalkEnd { .. } => Some(Moment::WalkEnds),
            _ => None,
        };
        if let Some(moment) = moment {
            let at = self.now + self.rng.u64(1..20_000);
            self.queue.at(at, Event::Moment { moment, slot: msg.slot(), coordinator: from, the_one: to });
        }
        self.checks.said(s, &self.servers[s].identity(), &msg);
        self.stats.saw(&msg);
        if let Some(peer) = self.peer(s, to) {
            self.send(Party::Server(s), Party::Server(peer), Wire::Peer { from, to, msg });
        }
    }

    /// Checks what must hold and schedules the next tick after a replica was touched.
    pub(super) fn after(&mut self, s: usize, slot: Slot) {
        self.check_slot(s, slot);
        self.schedule_tick(s, slot);
    }

    pub(super) fn tick(&mut self, s: usize) {
        let (now, local) = (self.now, self.local(s));
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if process.tick.is_none_or(|tick| tick > now) {
            return;
        }
        process.tick = None;
        self.look_at_wall(s);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let due: Vec<Slot> = process
            .replicas
            .iter()
            .filter(|replica| replica.deadline().is_some_and(|deadline| deadline <= local))
            .map(Replica::slot)
            .collect();
        for slot in &due {
            self.handle(s, *slot, Happening::Tick);
        }
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let stuck = |slot: &Slot| process.replicas[usize::from(slot.0)].deadline().is_some_and(|at| at <= local);
        let still = due.iter().find(|slot| stuck(slot));
        process.hot = if still.is_some() { process.hot + 1 } else { 0 };
        if let Some(slot) = still.filter(|_| process.hot > 1_000) {
            let text = format!("s{s} slot {slot}: a tick does not move the deadline it was for");
            self.fail(text);
        }
        for slot in 0..self.record.slots {
            self.schedule_tick(s, Slot(slot));
        }
    }

    /// The product's ticker looks at least every 50 ms, and tells all replicas before anything else.
    fn look_at_wall(&mut self, s: usize) {
        let wall = self.servers[s].wall(self.now);
        if let Some(process) = self.servers[s].process.as_mut() {
            process.wall = wall;
        }
    }

    fn schedule_tick(&mut self, s: usize, slot: Slot) {
        let now = self.now;
        let server = &mut self.servers[s];
        let (clock, inc) = (server.clock, server.inc);
        let Some(process) = server.process.as_mut() else { return };
        let Some(due) = process.replicas[usize::from(slot.0)].deadline() else { return };
        let at = clock.real(due).max(now + 1);
        if process.tick.is_none_or(|tick| at < tick) {
            process.tick = Some(at);
            self.queue.at(at, Event::Tick { server: s, inc });
        }
    }

    // ---- beacons ----

    pub(super) fn pulse(&mut self, s: usize) {
        self.look_at_wall(s);
        let local = self.local(s);
        let server = &mut self.servers[s];
        let Some(process) = server.process.as_mut() else { return };
        let mut beacons = Vec::new();
        for replica in &mut process.replicas {
            replica.beacons(local, &mut beacons);
        }
        let mut frames: BTreeMap<NodeId, Vec<common::peer::Beacon>> = BTreeMap::new();
        for (to, beacon) in beacons {
            frames.entry(to).or_default().push(beacon);
        }
        for (to, slots) in frames {
            self.send_pulse(s, to, Pulse::Beacon { sent: local, lease_ms: self.record.lease_ms, slots });
        }
        let clock = self.servers[s].clock;
        let next = clock.real(local + self.timing.beacon);
        self.queue.at(next, Event::Pulse { server: s, inc: self.servers[s].inc });
        for slot in 0..self.record.slots {
            self.after(s, Slot(slot));
        }
    }

    fn send_pulse(&mut self, s: usize, to: NodeId, pulse: Pulse) {
        let from = self.servers[s].node;
        if let Some(peer) = self.peer(s, to) {
            self.send(Party::Server(s), Party::Server(peer), Wire::Pulse { from, to, pulse });
        }
    }

    pub(super) fn pulse_arrives(&mut self, s: usize, from: NodeId, pulse: Pulse) {
        let local = self.local(s);
        let mut out = std::mem::take(&mut self.scratch);
        match pulse {
            Pulse::Beacon { sent, slots, .. } => {
                let mut acks = Vec::new();
                for beacon in slots {
                    let Some(replica) = self.replica_mut(s, beacon.slot) else { continue };
                    acks.extend(replica.beacon(local, from, &beacon, &mut out));
                    self.perform(s, beacon.slot, &mut out);
                    self.after(s, beacon.slot);
                }
                if !acks.is_empty() {
                    self.send_pulse(s, from, Pulse::BeaconAck { sent, answered: local, slots: acks });
                }
            }
            Pulse::BeaconAck { sent, answered, slots } => {
                for ack in slots {
                    let Some(replica) = self.replica_mut(s, ack.slot) else { continue };
                    replica.beacon_ack(local, from, sent, answered, &ack, &mut out);
                    self.perform(s, ack.slot, &mut out);
                    self.after(s, ack.slot);
                }
            }
        }
        self.scratch = out;
    }

    pub(super) fn replica_mut(&mut self, s: usize, slot: Slot) -> Option<&mut Replica> {
        let process = self.servers[s].process.as_mut()?;
        let replica = process.replicas.get_mut(usize::from(slot.0))?;
        replica.set_wall(process.wall);
        Some(replica)
    }

    /// The server's clock.
    pub(super) fn local(&self, s: usize) -> Time {
        self.servers[s].clock.local(self.now)
    }
}
