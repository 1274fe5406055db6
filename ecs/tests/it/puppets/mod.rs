//! A puppet theatre: the real core of the ECS, and servers that behave as the protocol says without storing anything.
//!
//! Time moves in steps of 10 ms; messages take none. A puppet can be killed, frozen, cut off, restarted with the same or a
//! new store, or copied. Durability is played too: every persisted command goes to a second cluster, from which a
//! restarted ECS starts, so a forgotten `Persist` shows.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test binary uses its own part of it

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::control::{Ask, Change, FromEcs, Granted, Heartbeat, Report, SlotReport, Wish};
use common::peer::Identity;
use common::view::{ClusterRecord, Meta, NodeInfo, NodeState, Part, View};
use common::{BootId, ClusterId, Epoch, LogId, NodeId, Seq, Slot, StoreUuid, Time};
use ecs::{Action, Cluster, Config, Conn, Ecs, Event, Probed};

pub const STEP: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub struct Puppet {
    pub id: NodeId,
    pub store: StoreUuid,
    pub boot: BootId,
    pub addr: String,
    pub cluster: Option<ClusterId>,
    pub running: bool,
    pub frozen: bool,
    /// The ECS cannot be reached, nor reach it.
    pub cut: bool,
    /// Peers it cannot reach.
    pub deaf_to: BTreeSet<NodeId>,
    /// Hand-overs are answered by asking for this instead.
    pub stubborn: bool,
    /// Learners at this server never catch up.
    pub lazy: bool,
    pub stalled: bool,
    /// It knows learners from their start before.
    pub dated: bool,
    /// It cannot make a control connection, but heartbeats and probes go through.
    pub mute: bool,
    /// Its operator wants it in again.
    pub rejoin: bool,
    pub conn: Option<Conn>,
    pub views: BTreeMap<Slot, View>,
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    pub meta: u64,
    pub copies: BTreeSet<Slot>,
    active: BTreeMap<Slot, Epoch>,
    orders: BTreeMap<Slot, (Epoch, NodeId)>,
    silent: BTreeMap<NodeId, Time>,
    asked: BTreeMap<Slot, (Epoch, Time)>,
    last_report: Option<(Time, Report)>,
    last_beat: Option<Time>,
    retry: Time,
    pub stopped: Option<String>,
}

pub struct Theatre {
    pub now: Time,
    pub config: Config,
    pub ecs: Option<Ecs>,
    pub durable: Cluster,
    pub puppets: BTreeMap<u64, Puppet>,
    pub log: Vec<String>,
    /// Somebody has accepted the loss of data.
    pub lossy: bool,
    /// Probes that time out later.
    probes: Vec<(Time, NodeId)>,
    next_conn: u64,
    conns: BTreeMap<Conn, u64>,
    /// Messages that the ECS does not get, to play a loss.
    pub quiet: bool,
}

pub fn record(slots: u16) -> ClusterRecord {
    ClusterRecord { cluster: ClusterId(7), slots, replicas: 2, lease_ms: 250, vnodes: 1 }
}

impl Theatre {
    pub fn new(slots: u16) -> Theatre {
        // Rings are small here: evening out is to take several steps.
        let config = Config { moves: 2, ..Config::default() };
        let (durable, now) = (Cluster::new(record(slots)), Time(10_000_000));
        let ecs = Some(Ecs::new(config.clone(), durable.clone(), now));
        Theatre {
            now,
            config,
            ecs,
            durable,
            puppets: BTreeMap::new(),
            log: Vec::new(),
            lossy: false,
            probes: Vec::new(),
            next_conn: 0,
            conns: BTreeMap::new(),
            quiet: false,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        self.ecs.as_ref().map_or(&self.durable, Ecs::cluster)
    }

    /// Starts puppet `name`, a new one if it is not known.
    pub fn start(&mut self, name: u64) {
        let puppet = self.puppets.entry(name).or_insert_with(|| Puppet::new(name));
        puppet.boot = puppet.boot.next();
        puppet.running = true;
        (puppet.frozen, puppet.cut) = (false, false);
        puppet.forget();
    }

    pub fn kill(&mut self, name: u64) {
        let Some(puppet) = self.puppets.get_mut(&name) else { return };
        puppet.running = false;
        let conn = puppet.conn.take();
        puppet.forget();
        self.hang_up(conn);
    }

    /// The connection ends, and both sides know.
    pub fn hang_up(&mut self, conn: Option<Conn>) {
        let Some(conn) = conn else { return };
        if let Some(name) = self.conns.remove(&conn) {
            if let Some(puppet) = self.puppets.get_mut(&name).filter(|puppet| puppet.conn == Some(conn)) {
                puppet.conn = None;
                puppet.retry = self.now + Duration::from_millis(50);
            }
            self.tell(Event::Closed { conn });
        }
    }

    pub fn stop_ecs(&mut self) {
        self.ecs = None;
        self.probes.clear();
        for conn in std::mem::take(&mut self.conns).into_keys() {
            for puppet in self.puppets.values_mut().filter(|puppet| puppet.conn == Some(conn)) {
                puppet.conn = None;
            }
        }
    }

    pub fn start_ecs(&mut self) {
        self.ecs = Some(Ecs::new(self.config.clone(), self.durable.clone(), self.now));
    }

    pub fn tell(&mut self, event: Event) {
        let Some(ecs) = &mut self.ecs else { return };
        let mut out = Vec::new();
        ecs.handle(self.now, event, &mut out);
        for action in out {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Persist(command) => {
                // As the log would have it.
                let line = serde_json::to_string(&command).unwrap();
                let before = self.durable.views().to_vec();
                self.durable.apply(&serde_json::from_str(&line).unwrap());
                let lossy = self.lossy;
                before.iter().zip(self.durable.views()).for_each(|(old, new)| check_step(old, new, lossy));
            }
            Action::Send { conn, msg } => {
                let Some(name) = self.conns.get(&conn).copied() else { return };
                let Some(puppet) = self.puppets.get_mut(&name).filter(|p| p.conn == Some(conn)) else { return };
                if let Some(word) = puppet.hear(msg) {
                    self.say(format!("n{name} hears: {word}"));
                }
            }
            Action::Probe { node, addr } => self.probe(node, &addr),
            Action::Disconnect { conn } => self.hang_up(Some(conn)),
            Action::Log { text, .. } => self.say(text),
        }
    }

    fn probe(&mut self, node: NodeId, addr: &str) {
        let there = self.puppets.values().find(|p| format!("{}p", p.addr) == addr && p.running);
        let seen = match there {
            Some(p) if p.frozen || p.cut => {
                self.probes.push((self.now + self.config.probe, node));
                return;
            }
            Some(p) => Probed::Answered(p.identity()),
            None if self.puppets.values().any(|p| format!("{}p", p.addr) == addr && p.cut) => {
                self.probes.push((self.now + self.config.probe, node));
                return;
            }
            None => Probed::Refused,
        };
        self.tell(Event::Probed { node, seen });
    }

    /// Someone asks for something through puppet `name`.
    pub fn wish(&mut self, name: u64, wish: Wish) {
        self.lossy |= matches!(wish, Wish::GiveUp { .. });
        if let Some(conn) = self.puppets.get(&name).and_then(|puppet| puppet.conn) {
            self.tell(Event::Wish { conn, id: 1, wish });
        }
    }

    fn shorten(&self, mut text: String) -> String {
        for name in (1..=20u64).rev() {
            text = text.replace(&NodeId(name).to_string(), &format!("n{name}"));
        }
        text
    }

    fn say(&mut self, text: String) {
        let text = self.shorten(text);
        if !self.quiet {
            self.log.push(format!("{:?} {text}", Time(self.now.0 - 10_000_000)));
        }
    }

    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until `wanted`; false if that has not come after `longest`.
    pub fn run_until(&mut self, longest: Duration, wanted: impl Fn(&Theatre) -> bool) -> bool {
        let end = self.now + longest;
        while !wanted(self) {
            if self.now >= end {
                return false;
            }
            self.step();
        }
        true
    }

    pub fn step(&mut self) {
        self.now = self.now + STEP;
        let due: Vec<NodeId> = self.probes.iter().filter(|(at, _)| *at <= self.now).map(|(_, node)| *node).collect();
        self.probes.retain(|(at, _)| *at > self.now);
        for node in due {
            self.tell(Event::Probed { node, seen: Probed::Silent });
        }
        for name in self.puppets.keys().copied().collect::<Vec<_>>() {
            self.act(name);
        }
        // Bounded: a core that is never satisfied would hang here.
        for _ in 0..20 {
            if self.ecs.as_ref().is_none_or(|ecs| ecs.deadline() > self.now) {
                return;
            }
            self.tell(Event::Tick);
        }
        panic!("the core always wants another tick");
    }

    fn act(&mut self, name: u64) {
        let (now, up) = (self.now, self.ecs.is_some());
        let all: Vec<(NodeId, bool, StoreUuid, BootId)> =
            self.puppets.values().map(|p| (p.id, p.running && !p.frozen, p.store, p.boot)).collect();
        let Some(puppet) = self.puppets.get_mut(&name) else { return };
        if !puppet.running || puppet.frozen || puppet.stopped.is_some() {
            return;
        }
        if puppet.cut || !up {
            let conn = puppet.conn.take_if(|_| puppet.cut);
            self.hang_up_quietly(conn);
            return;
        }
        if puppet.conn.is_none() && puppet.retry <= now && !puppet.mute {
            let conn = Conn(self.next_conn);
            self.next_conn += 1;
            puppet.conn = Some(conn);
            let (info, cluster) = (puppet.info(), puppet.cluster);
            self.conns.insert(conn, name);
            let rejoin = puppet.rejoin;
            let seen = puppet.views.values().map(|view| view.epoch).max().unwrap_or_default();
            self.tell(Event::Register { conn, info, cluster, rejoin, seen });
        }
        self.beat(name);
        let Some(puppet) = self.puppets.get_mut(&name) else { return };
        let Some(conn) = puppet.conn else { return };
        let asks = puppet.work(now, &all);
        let report = puppet.due_report(now);
        if !asks.is_empty() {
            self.tell(Event::Ask { conn, asks });
        }
        if let Some(report) = report {
            self.tell(Event::Report { conn, report });
        }
    }

    /// The link is gone for both, but the ECS only learns it as from a broken connection.
    fn hang_up_quietly(&mut self, conn: Option<Conn>) {
        if let Some(conn) = conn {
            self.conns.remove(&conn);
            self.tell(Event::Closed { conn });
        }
    }

    fn beat(&mut self, name: u64) {
        let now = self.now;
        let Some(p) = self.puppets.get_mut(&name) else { return };
        if p.last_beat.is_some_and(|at| now.since(at) < Duration::from_millis(100)) {
            return;
        }
        p.last_beat = Some(now);
        let highest_epoch = p.views.values().map(|view| view.epoch).max().unwrap_or_default();
        let beat = Heartbeat {
            node: p.id,
            store: p.store,
            boot: p.boot,
            meta: p.meta,
            highest_epoch,
            disk_stalled: p.stalled,
        };
        self.tell(Event::Heartbeat(beat));
    }

    /// Nothing more is to be expected: no change in progress, every view as it should be, every home at home.
    pub fn settled(&self) -> bool {
        let Some(ecs) = &self.ecs else { return false };
        let placement = ecs.placement(self.now);
        let views = ecs.cluster().views();
        let homes = placement.homes();
        let at_work = |p: &&Puppet| p.running && !p.frozen && !p.cut && p.stopped.is_none();
        let taken_in = |p: &Puppet| p.conn.is_some() && ecs.detector().healthy(p.id);
        ecs.cluster().change().is_none()
            && self.puppets.values().filter(at_work).all(taken_in)
            && ecs.cluster().nodes().values().all(|info| matches!(info.state, NodeState::Up | NodeState::Down))
            && views.iter().all(|view| {
                let desired = placement.desired(view, &view.isr);
                let members: BTreeSet<&NodeId> = view.isr.keys().collect();
                let home_up = ecs.cluster().nodes().get(&homes[usize::from(view.slot.0)]);
                view.targets == desired
                    && members == desired.iter().collect()
                    && (home_up.is_none_or(|info| info.state == NodeState::Down)
                        || Some(&view.coordinator) == desired.first())
                    && ecs.reports().active(view)
            })
    }

    /// The state, for people.
    pub fn show(&self) -> String {
        let mut lines = Vec::new();
        let cluster = self.cluster();
        for info in cluster.nodes().values() {
            let counts =
                |role: fn(&View, NodeId) -> bool| cluster.views().iter().filter(|v| role(v, info.node)).count();
            let homes = cluster.homes().iter().filter(|home| **home == info.node).count();
            lines.push(format!(
                "n{} {:?}: home of {homes}, coordinates {}, in sync for {}, learns {}",
                info.node.0,
                info.state,
                counts(|v, n| v.coordinator == n),
                counts(|v, n| v.isr.contains_key(&n)),
                counts(|v, n| v.targets.contains(&n) && !v.isr.contains_key(&n)),
            ));
        }
        if let Some(change) = cluster.change() {
            match change.joiner() {
                Some(node) => lines.push(format!("joining: n{}", node.0)),
                None => lines.push(self.shorten(change.name())),
            }
        }
        let strays: usize = self.puppets.values().map(|p| p.strays().len()).sum();
        if strays > 0 {
            lines.push(format!("{strays} stray copies"));
        }
        lines.join("\n")
    }

    /// What must hold at every moment.
    pub fn check(&self) -> Result<(), String> {
        let cluster = self.cluster();
        cluster.check()?;
        self.durable.check()?;
        if let Some(ecs) = &self.ecs
            && *ecs.cluster() != self.durable
        {
            return Err("what is durable is not what the core works with".into());
        }
        Ok(())
    }
}

/// What must hold from each view to the next: nobody coordinates or counts as in sync who was not, or did not learn.
fn check_step(old: &View, new: &View, lossy: bool) {
    if old.epoch == new.epoch {
        assert_eq!(old, new, "a view changed without a fresh epoch");
        return;
    }
    assert_eq!(new.previous, old.epoch, "{new:?} does not follow {old:?}");
    // An operator has accepted the loss of data: somebody may serve who was not in sync, but alone then.
    if lossy && new.isr.len() == 1 && !old.isr.contains_key(&new.coordinator) {
        return;
    }
    assert_eq!(new.isr.get(&new.coordinator), old.isr.get(&new.coordinator), "an unclean coordinator: {old:?} {new:?}");
    let joined = new.isr.iter().filter(|(node, store)| old.isr.get(node) != Some(store));
    joined.for_each(|(node, _)| assert!(old.targets.contains(node), "{node} never learned: {old:?} {new:?}"));
    if new.released.is_some() {
        assert_eq!((new.released, &new.isr), (Some(old.epoch), &old.isr), "a hand-over changes nothing else");
    }
}

impl Puppet {
    fn new(name: u64) -> Puppet {
        Puppet {
            id: NodeId(name),
            store: StoreUuid(u128::from(name)),
            boot: BootId(0),
            addr: format!("h:{name}"),
            cluster: None,
            running: false,
            frozen: false,
            cut: false,
            deaf_to: BTreeSet::new(),
            stubborn: false,
            lazy: false,
            stalled: false,
            dated: false,
            mute: false,
            rejoin: false,
            conn: None,
            views: BTreeMap::new(),
            nodes: BTreeMap::new(),
            meta: 0,
            copies: BTreeSet::new(),
            active: BTreeMap::new(),
            orders: BTreeMap::new(),
            silent: BTreeMap::new(),
            asked: BTreeMap::new(),
            last_report: None,
            last_beat: None,
            retry: Time::ZERO,
            stopped: None,
        }
    }

    /// What a restart forgets. Views are durable.
    fn forget(&mut self) {
        self.conn = None;
        self.active.clear();
        self.orders.clear();
        self.silent.clear();
        self.asked.clear();
        self.last_report = None;
        self.last_beat = None;
        self.retry = Time::ZERO;
        self.stopped = None;
        self.meta = 0;
    }

    /// An empty directory at the same address.
    pub fn wipe(&mut self, id: u64) {
        self.id = NodeId(id);
        self.store = StoreUuid(u128::from(id));
        self.boot = BootId(0);
        self.cluster = None;
        self.views.clear();
        self.nodes.clear();
        self.copies.clear();
    }

    fn identity(&self) -> Identity {
        Identity { cluster: self.cluster, node: self.id, store: self.store, boot: self.boot }
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            node: self.id,
            store: self.store,
            boot: self.boot,
            client_addr: self.addr.clone(),
            peer_addr: format!("{}p", self.addr),
            admin_addr: None,
            state: NodeState::Joining,
            weight: common::view::WEIGHT,
        }
    }

    fn hear(&mut self, msg: FromEcs) -> Option<String> {
        match msg {
            FromEcs::Welcome { cluster, meta } => {
                self.cluster = Some(cluster.cluster);
                self.learn(meta);
            }
            FromEcs::Update(meta) => self.learn(meta),
            FromEcs::Refused { reason, fatal } => {
                self.stopped = fatal.then(|| reason.clone());
                return Some(format!("refused{}: {reason}", if fatal { " for good" } else { "" }));
            }
            FromEcs::Fenced { reason } => {
                self.stopped = Some(reason.clone());
                return Some(format!("fenced: {reason}"));
            }
            FromEcs::Left { reason } => {
                self.stopped = Some(reason.clone());
                return Some(format!("you have left: {reason}"));
            }
            FromEcs::Relieved => return Some("nobody can take more: stop".into()),
            FromEcs::Notice { text } => return Some(format!("notice: {text}")),
            FromEcs::Granted { granted, .. } => {
                return Some(match granted {
                    Granted::Yes(text) => format!("yes: {text}"),
                    Granted::Busy(text) => format!("busy: {text}"),
                    Granted::No(text) => format!("no: {text}"),
                });
            }
            FromEcs::HandOver { slots } => {
                for (slot, epoch, to) in slots {
                    if self.active.get(&slot) == Some(&epoch) {
                        self.orders.insert(slot, (epoch, to));
                    }
                }
            }
            FromEcs::Drop { slots } => {
                for (slot, epoch) in slots {
                    let stray = |view: &View| view.epoch == epoch && view.part_of(self.id, self.store) == Part::None;
                    if self.views.get(&slot).is_some_and(stray) {
                        self.copies.remove(&slot);
                    }
                }
            }
        }
        None
    }

    fn learn(&mut self, meta: Meta) {
        if meta.full {
            self.nodes.clear();
        }
        if meta.full || meta.version == self.meta + 1 {
            self.meta = meta.version;
        }
        for info in meta.nodes {
            self.nodes.insert(info.node, info);
        }
        for node in meta.gone {
            self.nodes.remove(&node);
        }
        for view in meta.views {
            if self.views.get(&view.slot).is_none_or(|mine| mine.epoch < view.epoch) {
                let stays = self.active.get(&view.slot) == Some(&view.previous)
                    && self.views.get(&view.slot).is_some_and(|mine| mine.coordinator == view.coordinator);
                if view.part_of(self.id, self.store) != Part::None {
                    self.copies.insert(view.slot);
                }
                self.active.remove(&view.slot);
                if stays {
                    self.active.insert(view.slot, view.epoch);
                }
                self.views.insert(view.slot, view);
            }
        }
    }

    pub fn strays(&self) -> Vec<(Slot, Epoch)> {
        let views = self.copies.iter().filter_map(|slot| self.views.get(slot));
        views.filter(|v| v.part_of(self.id, self.store) == Part::None).map(|v| (v.slot, v.epoch)).collect()
    }

    /// Copies that it kept without being in sync: old ones, that a recovery may fall back to.
    fn held(&self) -> Vec<(Slot, LogId)> {
        let views = self.copies.iter().filter_map(|slot| self.views.get(slot));
        let outside = views.filter(|v| matches!(v.part_of(self.id, self.store), Part::None | Part::Learner));
        outside.map(|v| (v.slot, LogId { epoch: Epoch(1), seq: Seq(1) })).collect()
    }

    /// A coordinator's work: activates, reports the silent, takes in learners, hands over.
    fn work(&mut self, now: Time, all: &[(NodeId, bool, StoreUuid, BootId)]) -> Vec<Ask> {
        let reachable = |node: &NodeId| {
            let there = all.iter().find(|(id, up, ..)| id == node && *up);
            there.filter(|_| !self.deaf_to.contains(node)).map(|(_, _, store, boot)| (*store, *boot))
        };
        for (node, ..) in all {
            match reachable(node) {
                Some(_) => self.silent.remove(node),
                None => Some(*self.silent.entry(*node).or_insert(now)),
            };
        }
        let mine = |view: &&View| view.coordinator == self.id && view.coordinator_boot == self.boot;
        let mut asks = Vec::new();
        for view in self.views.values().filter(mine) {
            let recently = self
                .asked
                .get(&view.slot)
                .is_some_and(|(epoch, at)| *epoch == view.epoch && now.since(*at) < Duration::from_millis(200));
            if recently {
                continue;
            }
            let active = self.active.get(&view.slot) == Some(&view.epoch);
            let silent = |node: &&NodeId| {
                self.silent.get(node).is_some_and(|since| now.since(*since) > Duration::from_millis(750))
            };
            let order = self.orders.get(&view.slot).filter(|(epoch, _)| *epoch == view.epoch && active);
            let learner = view.targets.iter().filter(|node| !view.isr.contains_key(node) && !self.lazy);
            let caught_up = learner.filter_map(|node| reachable(node).map(|(store, boot)| (*node, store, boot))).next();
            let change = if let Some(node) = view.isr.keys().filter(|node| **node != self.id).find(silent) {
                Change::Shrink { node: *node }
            } else if let Some((_, to)) = order {
                Change::HandOver { to: if self.stubborn { NodeId(999) } else { *to } }
            } else if let Some((node, store, boot)) = caught_up.filter(|_| active) {
                Change::Expand { node, store, boot: if self.dated { BootId(boot.0 - 1) } else { boot } }
            } else {
                continue;
            };
            self.asked.insert(view.slot, (view.epoch, now));
            asks.push(Ask { slot: view.slot, epoch: view.epoch, change });
        }
        let mut awake = Vec::new();
        for view in self.views.values().filter(|v| v.coordinator == self.id && v.coordinator_boot == self.boot) {
            let together = view.isr.keys().all(|node| *node == self.id || reachable(node).is_some());
            let there = view.isr.get(&self.id) == Some(&self.store);
            if together && there && !self.active.contains_key(&view.slot) {
                awake.push((view.slot, view.epoch));
            }
        }
        self.active.extend(awake);
        asks
    }

    fn due_report(&mut self, now: Time) -> Option<Report> {
        let slots = self.views.values().filter(|v| v.coordinator == self.id && v.coordinator_boot == self.boot);
        let one = |v: &View| SlotReport {
            slot: v.slot,
            epoch: v.epoch,
            active: self.active.get(&v.slot) == Some(&v.epoch),
            records: 1,
            bytes: 100,
            commit: Seq(1),
        };
        let report = Report { slots: slots.map(one).collect(), strays: self.strays(), held: self.held() };
        let due = |(at, last): &(Time, Report)| *last != report || now.since(*at) >= Duration::from_secs(1);
        if self.last_report.as_ref().is_none_or(due) {
            self.last_report = Some((now, report.clone()));
            return Some(report);
        }
        None
    }
}
