//! The world: everything that exists in a run, and what happens to it event by event.

use common::control::FromEcs;
use common::position::Position;
use common::time::Timing;
use common::update::Becomes;
use common::view::ClusterRecord;
use common::{ClusterId, Epoch, NodeId, Op, Seq, Slot, StoreUuid};
use kvserver::replica::{Action, Event as Happening};

use super::ambush::Step;
use super::client::Client;
use super::conns::Connection;
use super::disk::Mood;
use super::ecs_host::EcsHost;
use super::faults::FaultEvent;
use super::net::{Fate, Net};
use super::operator::{self, Tour};
use super::plan::Plan;
use super::questions::Inquiry;
use super::queue::{Event, Queue};
use super::redis::{self, Speaker};
use super::relays::Lane;
use super::server::Server;
use super::stats::Stats;
use super::trace::Trace;
use super::wire::{Party, Wire};
use super::{Options, converge};
use crate::history::{Action as Did, Counters, End, History};
use crate::invariants::{Checks, Copy};

/// All there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) record: ClusterRecord,
    pub(super) timing: Timing,
    pub(super) now: u64,
    pub(super) queue: Queue,
    pub(super) rng: fastrand::Rng,
    pub(super) net: Net,
    pub(super) servers: Vec<Server>,
    pub(super) ecs: EcsHost,
    pub(super) clients: Vec<Client>,
    pub(super) next_serial: u64,
    pub(super) conns: std::collections::BTreeMap<u32, Connection>,
    pub(super) next_conn: u32,
    next_node: u64,
    /// How far a tour is, if this run is one.
    pub(super) tour: Option<Tour>,
    /// Two machines have had one identity.
    pub(super) twins: bool,
    pub(super) inquiries: std::collections::BTreeMap<u32, Inquiry>,
    pub(super) next_inquiry: u32,
    pub(super) history: History,
    pub(super) checks: Checks,
    pub(super) stats: Stats,
    pub(super) trace: Trace,
    pub(super) healed: bool,
    pub(super) scratch: Vec<Action>,
    next_survey: u64,
    /// How many of the cold keys were written.
    pub(super) cold_written: u32,
    /// No faults before.
    pub(super) calm_until: u64,
    /// No new ones before: a fault waits for a moment at which all is well.
    pub(super) lull_until: u64,
    /// Draws what came to the simulation later, so that the other draws of a seed stay what they were.
    pub(super) extra: fastrand::Rng,
    pub(super) lanes: std::collections::BTreeMap<u32, Lane>,
    pub(super) counters: Counters,
    violation: Option<String>,
}

/// A seed must exercise at least this many faults
pub(super) const LEAST_FAULTS: u64 = 20;
/// and operations;
pub(super) const LEAST_OPERATIONS: u64 = 300;
/// it goes on until it has, but not for ever (simulated microseconds).
const LONGEST_TROUBLE: u64 = 300_000_000;
/// How often all copies of a slot are compared with each other, in microseconds.
const SURVEY: u64 = 10_000;
/// When the first fault may come.
const FORMING: std::ops::Range<u64> = 200_000..2_500_000;

impl World {
    pub(super) fn new(seed: u64, options: Options) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut extra = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let mut plan = Plan::draw(&mut rng, options.aim, options.tour);
        if !options.plain {
            plan.more(&mut extra, options.aim);
        }
        let record = ClusterRecord {
            cluster: ClusterId(0xc1),
            slots: plan.slots,
            replicas: 2,
            lease_ms: plan.lease_ms,
            vnodes: plan.vnodes,
        };
        let servers = (0..plan.servers).map(|index| Server::new(index, &mut rng, plan.extreme_clocks)).collect();
        let trace = Trace::new(options.trace, options.slot);
        trace.line(0, || format!("seed {seed}: {plan:#?}"));
        World {
            options,
            timing: record.timing(),
            now: 0,
            queue: Queue::default(),
            net: Net::new(plan.net, plan.servers),
            servers,
            ecs: EcsHost::new(record.clone(), &mut rng),
            clients: (0..plan.clients).map(|_| Client::new(plan.slots)).collect(),
            next_serial: 1,
            conns: std::collections::BTreeMap::new(),
            next_conn: 0,
            next_node: 100,
            tour: plan.tour.then_some(Tour::Growing),
            twins: false,
            inquiries: std::collections::BTreeMap::new(),
            next_inquiry: 0,
            history: History::default(),
            checks: Checks::new(plan.slots),
            stats: Stats::default(),
            trace,
            healed: false,
            scratch: Vec::new(),
            next_survey: 0,
            cold_written: 0,
            calm_until: 0,
            lull_until: 0,
            extra,
            lanes: std::collections::BTreeMap::new(),
            counters: Counters::default(),
            violation: None,
            record,
            plan,
            rng,
        }
    }

    /// Runs to the end or the first violation.
    pub(super) fn run(&mut self) {
        self.begin_run();
        let trouble = self.plan.trouble;
        self.run_while(|w| w.now < trouble || (!w.exercised() && w.now < LONGEST_TROUBLE));
        if self.violation.is_none() && !self.exercised() {
            let (faults, operations) = (self.stats.faults, self.stats.operations);
            self.fail(format!("the run exercises too little: {faults} faults, {operations} operations"));
        }
        if self.violation.is_none() {
            self.queue.at(self.now + 1, Event::Fault(FaultEvent::Heal));
            self.run_while(|w| !w.healed);
            self.finish_tour();
            converge::run(self);
        }
        if self.violation.is_none() {
            self.check_history();
        }
    }

    /// What is left of a tour once everything is mended, under load.
    fn finish_tour(&mut self) {
        let until = self.now + operator::REST;
        self.run_while(|w| w.now < until && w.tour.is_some_and(|tour| tour != Tour::Done));
        if self.tour.is_some_and(|tour| tour != Tour::Done) {
            let state = super::converge::whole(self);
            self.fail(format!("stuck: the tour does not go on: {:?}, {state:?}", self.tour));
        }
    }

    fn begin_run(&mut self) {
        self.queue.at(0, Event::EcsStart);
        for server in 0..self.plan.starters {
            self.servers[server].starting = true;
            let at = self.rng.u64(1_000..300_000);
            self.queue.at(at, Event::Start { server });
        }
        // The first client strays always; it is the one that takes the last look.
        for client in 1..self.clients.len() {
            if self.rng.u32(0..100) >= self.plan.strays {
                self.clients[client].routed = Some(self.new_routed());
            }
            if self.plan.redis > 0 && self.extra.u32(0..100) < self.plan.redis {
                self.clients[client].routed = None;
                self.clients[client].speaker = Some(Speaker::default());
            }
        }
        self.wrong_walls();
        for client in 0..self.clients.len() {
            let at = self.rng.u64(100_000..500_000);
            self.queue.at(at, Event::Client { client, serial: 0 });
        }
        if self.plan.tour {
            self.queue.at(500_000, Event::Tour { said: 0 });
        }
        if self.plan.curious {
            self.queue.at(1_000_000, Event::Wonder);
        }
        let first = self.rng.u64(FORMING);
        self.queue.at(first, Event::Fault(FaultEvent::Next));
    }

    pub(super) fn exercised(&self) -> bool {
        self.stats.faults >= LEAST_FAULTS && self.stats.operations >= LEAST_OPERATIONS
    }

    /// Lets time pass while `more` says so and nothing is wrong.
    pub(super) fn run_while(&mut self, more: impl Fn(&World) -> bool) {
        while self.violation.is_none() && more(self) {
            let Some((at, event)) = self.queue.pop() else { return };
            self.now = at.max(self.now);
            self.step(event);
            if self.now >= self.next_survey {
                self.next_survey = self.now + SURVEY;
                self.survey();
            }
        }
    }

    /// Looks at all copies of all slots at once.
    fn survey(&mut self) {
        let slots = (0..self.record.slots).map(Slot);
        let found = slots.map(|slot| self.checks.survey(slot, &self.copies(slot))).find_map(Result::err);
        if let Some(text) = found {
            self.fail(text);
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, wire } => self.deliver(from, to, wire),
            Event::Start { server } => self.start_server(server),
            Event::EcsStart => self.start_ecs(),
            Event::Resume { party } => self.resume(party),
            Event::Client { client, serial } => self.client_wakes(client, serial),
            Event::Router { client } => self.route_tick(client),
            Event::ConnEnds { conn, how } => self.conn_ends(conn, how),
            Event::Fault(fault) => self.fault(fault),
            Event::Accuse { server } if self.ecs.awake() => {
                let addr = self.servers[server].info().client_addr;
                self.ecs_handle(ecs::Event::Accuse { addr, why: "timeout".to_string() });
            }
            Event::Accuse { .. } => {}
            Event::Moment { moment, slot, coordinator, the_one } => {
                self.moment(Step { moment, slot, coordinator, the_one, before: None });
            }
            Event::Wall => self.set_a_wall(),
            Event::Foreign => self.foreign_directory(),
            Event::Return { server } => self.come_back(server),
            Event::Tour { said } => self.tour(said),
            Event::Wonder => self.wonder(),
            Event::Inquiry { id, round } => self.inquiry_tick(id, round),
            Event::LinkUp { server, .. } if self.servers[server].process.is_none() => {}
            Event::LinkUp { server, .. } if self.servers[server].paused => self.servers[server].deferred.push(event),
            Event::LinkUp { server, peer } => self.link_up(server, peer),
            Event::Tick { server, inc }
            | Event::Pulse { server, inc }
            | Event::Heartbeat { server, inc }
            | Event::Control { server, inc, .. }
            | Event::Checkpoint { server, inc }
            | Event::Asks { server, inc }
            | Event::Reply { server, inc, .. }
            | Event::Relay { server, inc }
            | Event::LaneEnds { server, inc, .. }
            | Event::Audit { server, inc, .. }
            | Event::Stop { server, inc }
            | Event::Covered { server, inc, .. }
            | Event::Synced { server, inc, .. } => {
                if self.servers[server].inc != inc || self.servers[server].process.is_none() {
                } else if self.servers[server].paused {
                    self.servers[server].deferred.push(event);
                } else {
                    self.server_event(event);
                }
            }
            Event::EcsTick { inc }
            | Event::EcsSynced { inc }
            | Event::EcsClosed { inc, .. }
            | Event::EcsProbed { inc, .. } => {
                if self.ecs.inc != inc || self.ecs.process.is_none() {
                } else if self.ecs.paused {
                    self.ecs.deferred.push(event);
                } else {
                    self.ecs_event(&event);
                }
            }
        }
    }

    fn server_event(&mut self, event: Event) {
        match event {
            Event::Tick { server, .. } => self.tick(server),
            Event::Pulse { server, .. } => self.pulse(server),
            Event::Heartbeat { server, .. } => self.heartbeat(server),
            Event::Control { server, conn, .. } => self.control(server, conn),
            Event::Synced { server, number, .. } => self.synced(server, number),
            Event::Covered { server, slot, mark, .. } => self.handle(server, slot, Happening::Durable { mark }),
            Event::Checkpoint { server, .. } => self.checkpoint(server),
            Event::Asks { server, .. } => self.send_asks(server),
            Event::Reply { server, token, reply, .. } => self.replied(server, token, reply),
            Event::Relay { server, .. } => self.relay_tick(server),
            Event::LaneEnds { server, lane, .. } => self.lane_ends(server, lane),
            Event::Audit { server, again, .. } => self.audit(server, again),
            Event::Stop { server, .. } => self.stop_in_order(server),
            _ => {}
        }
    }

    fn ecs_event(&mut self, event: &Event) {
        match *event {
            Event::EcsTick { .. } => self.ecs_tick(),
            Event::EcsSynced { .. } => self.ecs_synced(),
            Event::EcsClosed { conn, .. } => self.ecs_closed(conn),
            Event::EcsProbed { probe, .. } => self.ecs_probed(probe),
            _ => {}
        }
    }

    fn link_up(&mut self, server: usize, peer: usize) {
        let node = self.servers[peer].node;
        for slot in 0..self.record.slots {
            self.handle(server, Slot(slot), Happening::LinkUp { peer: node });
        }
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, from: Party, to: Party, wire: Wire) {
        match self.net.fate(self.now, from, to, &wire, &mut self.rng) {
            Fate::Arrives(at) => {
                if self.net.repeats(&wire, &mut self.rng) {
                    let again = at + self.net.delay(&mut self.rng);
                    self.queue.at(again, Event::Deliver { from, to, wire: wire.clone() });
                }
                self.queue.at(at, Event::Deliver { from, to, wire });
            }
            Fate::Held => self.net.hold(from, to, wire),
            Fate::Lost => {
                self.stats.bump("messages lost");
                if let Wire::ToEcs { conn, .. } | Wire::FromEcs { conn, .. } = wire {
                    self.break_conn(conn, Some(1_500_000));
                }
            }
        }
    }

    /// Messages that waited for a cut to be mended go out.
    pub(super) fn release_held(&mut self) {
        for (from, to, wire) in self.net.released() {
            let at = self.now + self.rng.u64(100..50_000);
            self.queue.at(at, Event::Deliver { from, to, wire });
        }
    }

    fn deliver(&mut self, from: Party, to: Party, wire: Wire) {
        match to {
            Party::Server(s) if self.servers[s].process.is_none() => {
                match wire {
                    Wire::Bytes { conn, bytes } => self.bytes_up(s, conn, &bytes),
                    Wire::Job { lane, .. } => self.lane_refused(lane),
                    _ => {}
                }
                return;
            }
            Party::Server(s) if self.servers[s].paused => {
                return self.servers[s].deferred.push(Event::Deliver { from, to, wire });
            }
            Party::Ecs if self.ecs.process.is_none() => {
                if let Wire::ToEcs { conn, .. } = wire {
                    self.break_conn(conn, Some(2_000));
                }
                return;
            }
            Party::Ecs if self.ecs.paused => return self.ecs.deferred.push(Event::Deliver { from, to, wire }),
            _ => {}
        }
        match (to, wire) {
            (Party::Server(s), Wire::Peer { from: node, to, msg }) if self.servers[s].node == to => {
                if self.twins && !self.hears(s, from, node) {
                    return;
                }
                let from = node;
                self.trace.slot(self.now, msg.slot(), || format!("s{s} <- node {from} {msg:?}"));
                self.handle(s, msg.slot(), Happening::Peer { from, msg });
            }
            (Party::Server(s), Wire::Pulse { from: node, to, pulse }) if self.servers[s].node == to => {
                if self.twins && !self.hears(s, from, node) {
                    return;
                }
                let from = node;
                self.pulse_arrives(s, from, pulse);
            }
            (Party::Server(s), Wire::Question { inquiry, ask, node, slots }) if self.servers[s].node == node => {
                let Party::Server(asker) = from else { return };
                self.count(s, asker, inquiry, ask, &slots);
            }
            (Party::Server(_), Wire::Answer { inquiry, ask, extents }) => self.said(inquiry, ask, extents),
            (Party::Server(s), Wire::Job { lane, forward }) => self.job_arrives(s, lane, forward),
            (Party::Server(s), Wire::Came { lane, came }) => self.answer_arrives(s, lane, came),
            (Party::Server(s), Wire::FromEcs { conn, msg }) => self.from_ecs(s, conn, msg),
            (Party::Server(s), Wire::Bytes { conn, bytes }) => self.bytes_up(s, conn, &bytes),
            (Party::Ecs, Wire::Heartbeat(heartbeat)) => self.ecs_handle(ecs::Event::Heartbeat(heartbeat)),
            (Party::Ecs, Wire::ToEcs { conn, msg }) => self.to_ecs_arrives(conn, msg),
            (Party::Client(_), Wire::Bytes { conn, bytes }) => self.bytes_down(conn, &bytes),
            _ => {}
        }
    }

    /// A stopped process goes on: everything that came meanwhile is there at once.
    pub(super) fn resume(&mut self, party: Party) {
        let deferred = match party {
            Party::Server(s) if self.servers[s].paused => {
                self.servers[s].paused = false;
                std::mem::take(&mut self.servers[s].deferred)
            }
            Party::Ecs if self.ecs.paused => {
                self.ecs.paused = false;
                std::mem::take(&mut self.ecs.deferred)
            }
            _ => return,
        };
        self.trace.line(self.now, || format!("-------- {party} goes on"));
        for event in deferred {
            self.queue.at(self.now, event);
        }
    }

    /// Runs the cheap invariants on what `s` has of `slot`.
    pub(super) fn check_slot(&mut self, s: usize, slot: Slot) {
        let Some(process) = self.servers[s].process.as_ref() else { return };
        let Some(replica) = process.replicas.get(usize::from(slot.0)) else { return };
        let (me, before) = (self.servers[s].identity(), self.checks.committed(slot));
        let found = self.checks.touched(s, &me, replica);
        let leads = self.checks.leads(s, replica, self.local(s));
        let found = found.and_then(|()| self.check_others(s, slot, leads, before));
        // What all copies have to do with each other changes with what one of them journals, or commits.
        let committed = self.checks.committed(slot) > before;
        let found = found.and_then(|()| match self.journals_more(s, slot) || committed {
            true => self.checks.survey(slot, &self.copies(slot)),
            false => Ok(()),
        });
        if let Err(text) = found {
            self.fail(text);
        }
    }

    /// Whether the copy has journaled something since this was last asked.
    fn journals_more(&mut self, s: usize, slot: Slot) -> bool {
        let Some(process) = self.servers[s].process.as_mut() else { return false };
        let (at, mark) = (usize::from(slot.0), process.replicas[usize::from(slot.0)].image().mark);
        std::mem::replace(&mut process.marks[at], mark) != mark
    }

    /// What `s` leading its slot, or having committed something, must not coincide with elsewhere.
    fn check_others(&self, s: usize, slot: Slot, leads: Option<Epoch>, before: Seq) -> Result<(), String> {
        let committed = self.checks.committed(slot) > before;
        for (o, server) in self.servers.iter().enumerate() {
            let Some(process) = server.process.as_ref().filter(|_| leads.is_some() || committed) else { continue };
            let other = &process.replicas[usize::from(slot.0)];
            if committed {
                self.checks.reads(o, other, self.local(o))?;
            }
            if let (Some(mine), Some(theirs)) = (leads, self.checks.leads(o, other, self.local(o)).filter(|_| o != s)) {
                return Err(format!("I7: slot {slot}: s{s} at epoch {mine} and s{o} at epoch {theirs} both lead"));
            }
        }
        Ok(())
    }

    /// Every copy that runs, for the checks that look at all of them.
    pub(super) fn copies(&self, slot: Slot) -> Vec<Copy<'_>> {
        let counts = |server: &Server| !self.twins || self.is_the_one(server);
        let running = self.servers.iter().enumerate().filter(|(_, server)| counts(server));
        let running = running.filter_map(|(s, server)| Some((s, server, server.process.as_ref()?)));
        running
            .map(|(index, server, process)| Copy {
                server: index,
                me: server.identity(),
                replica: &process.replicas[usize::from(slot.0)],
            })
            .collect()
    }

    /// Whether the ring can do without this stopped server's disk. Losing the last in-sync copy is losing data by
    /// definition, and the ECS cannot know which copy is the last one that is left before it has judged both. So either
    /// it has taken the server out of every ISR, or everything else is well and stays so until it has.
    pub(super) fn expendable(&mut self, s: usize) -> bool {
        let node = self.servers[s].node;
        let Some(cluster) = self.ecs.cluster().filter(|cluster| self.ecs.awake() && !cluster.views().is_empty()) else {
            return false;
        };
        if cluster.views().iter().all(|view| !view.isr.contains_key(&node)) {
            return true;
        }
        let alone = cluster.views().iter().any(|view| view.isr.len() == 1 && view.isr.contains_key(&node));
        let well =
            |(o, server): (usize, &Server)| o == s || !server.used || (server.awake() && server.mood == Mood::Well);
        if alone || !self.net.is_whole() || !self.servers.iter().enumerate().all(well) {
            return false;
        }
        self.calm_until = self.now + 5_000_000;
        true
    }

    /// The machine has lost its directory and gets a new identity with a new one.
    pub(super) fn fresh_directory(&mut self, s: usize) {
        self.next_node += 1;
        let server = &mut self.servers[s];
        server.files.wipe();
        server.node = NodeId(self.next_node);
        server.store = StoreUuid(0x1000 + u128::from(self.next_node));
        server.boot = common::BootId(0);
        server.cluster = None;
        (server.fuse, server.kept, server.dubious, server.foreign) = (None, None, false, false);
        self.checks.wiped(s);
    }

    fn check_history(&mut self) {
        let findings = crate::history::check(&self.history);
        self.stats.add("keys undecided", findings.undecided.len() as u64);
        if let Some(text) = findings.violations.first() {
            return self.fail(text.clone());
        }
        if let Err(text) = self.check_once().and_then(|()| self.check_counters()) {
            self.fail(text);
        }
    }

    /// What is counted is counted once.
    fn check_counters(&self) -> Result<(), String> {
        for counter in 0..redis::COUNTERS {
            let key = redis::counter_bytes(counter);
            let (map, _) = self.checks.expected(Position::of(&key).slot(self.record.slots));
            let held = map.get(&key).and_then(|held| std::str::from_utf8(held).ok()?.parse().ok());
            self.counters.check(counter, held.unwrap_or(0))?;
        }
        Ok(())
    }

    /// Every acknowledged put is in the log once, none twice, and no refused one at all.
    fn check_once(&self) -> Result<(), String> {
        let mut times: std::collections::BTreeMap<u32, u32> = std::collections::BTreeMap::new();
        for entry in (0..self.record.slots).map(Slot).flat_map(|slot| self.checks.log(slot)) {
            let value = match &entry.op {
                Op::Put { value, .. }
                | Op::Swap { value, .. }
                | Op::Update { becomes: Becomes::Value { value, .. }, .. } => value,
                _ => continue,
            };
            if let Some(op) = super::client::written_by(value) {
                *times.entry(op).or_default() += 1;
            }
        }
        for op in self.history.ops() {
            let (Some(_), times) = (op.action.writes(), times.get(&op.id).copied().unwrap_or(0)) else { continue };
            let (least, most) = match op.end {
                // Its deadline may have passed before it came to whoever coordinates.
                End::Answered(_) if matches!(op.action, Did::PutFor { .. }) => (0, 1),
                End::Answered(_) => (1, 1),
                End::Refused(_) => (0, 0),
                End::Unknown => (0, 1),
            };
            if times < least || times > most {
                return Err(format!("exactly once: {op:?} is {times} times in the committed log"));
            }
        }
        Ok(())
    }

    // ---- the outcome ----

    pub(super) fn fail(&mut self, text: String) {
        self.trace.line(self.now, || format!("!!!!!!!! {text}"));
        let at = self.time();
        self.violation.get_or_insert_with(|| format!("at {at}: {text}"));
    }

    pub(super) fn failed(&self) -> bool {
        self.violation.is_some()
    }

    pub(super) fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    pub(super) fn time(&self) -> String {
        format!("{}.{:06} s", self.now / 1_000_000, self.now % 1_000_000)
    }

    pub(super) fn into_stats(mut self) -> Stats {
        self.stats.simulated = self.now;
        self.stats.events = self.queue.made();
        self.stats
    }
}

/// A line of the ECS, without the bulk of its metadata.
pub(super) fn brief(msg: &FromEcs) -> String {
    let views = |meta: &common::Meta| {
        let each = meta.views.iter().map(|v| {
            let isr: Vec<String> = v.isr.keys().map(ToString::to_string).collect();
            let targets: Vec<String> = v.targets.iter().map(ToString::to_string).collect();
            format!(
                "[slot {} e{} <- e{} coord {} isr {} targets {}{}]",
                v.slot,
                v.epoch,
                v.previous,
                v.coordinator,
                isr.join(","),
                targets.join(","),
                if v.released.is_some() { " released" } else { "" }
            )
        });
        each.collect::<Vec<_>>().join(" ")
    };
    match msg {
        FromEcs::Welcome { meta, .. } => format!("Welcome version {} {}", meta.version, views(meta)),
        FromEcs::Update(meta) => format!("Update version {} {}", meta.version, views(meta)),
        other => format!("{other:?}"),
    }
}
