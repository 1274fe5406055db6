//! What a server cannot do for a Redis client itself another one does: the product's relay core, on the world's network.
//!
//! A *lane* is the connection over which one process asks another server: jobs in their order one way, what came of them
//! the other. What is lost on it ends it, and its asker hears of that sooner or later.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use common::forward::{Forward, Forwarded, Job};
use common::sessions::Sessions;
use common::{NodeId, Switches, Time};
use kvserver::node::topology::Topology;
use kvserver::relay::core::{Action, Core, Order};
use kvserver::relay::{came, replied, told};
use kvserver::replica::{Event as Happening, Refusal, Reply, Token, Write};

use super::net::Fate;
use super::queue::Event;
use super::wire::{Party, Wire};
use super::world::World;

/// How often it is looked whether views have changed, while jobs are under way, in microseconds.
const LOOK: u64 = 5_000;
/// The connection of a server's answers to its own jobs; clients' have higher numbers.
const HERE: u32 = 0;
/// Until somebody notices that a connection is dead, whose other end says nothing.
const SILENT: Range<u64> = 100_000..2_000_000;
/// The same if the other end refuses what comes.
const REFUSED: Range<u64> = 50..5_000;
const NO_LISTS: Refusal = Refusal::Unavailable("the simulation lists no keys");

/// A process's relay.
#[derive(Debug)]
pub(super) struct Relays {
    core: Core,
    pub(super) ids: Arc<Mutex<Sessions>>,
    lanes: BTreeMap<NodeId, u32>,
    /// The world's time of the tick that is scheduled.
    armed: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    asker: usize,
    inc: u32,
    server: usize,
    node: NodeId,
    /// The process that has accepted it.
    accepted: Option<u32>,
    dead: bool,
    /// When the last message arrives at the server, and at the asker.
    arrivals: [u64; 2],
}

impl Relays {
    pub(super) fn new(me: NodeId, seed: u64, now: Time, wall: u64, switches: Switches) -> Relays {
        let ids = Arc::new(Mutex::new(Sessions::new(seed, now, wall)));
        Relays { core: Core::new(me, switches), ids, lanes: BTreeMap::new(), armed: None }
    }
}

impl World {
    /// Takes a job of a client.
    pub(super) fn relay(&mut self, s: usize, order: Order) {
        self.wait_for(s, order.token);
        self.stats.bump("Redis: jobs relayed");
        self.relay_step(s, |core, now, ring, out| core.start(now, order, ring, out));
    }

    fn relay_step(&mut self, s: usize, step: impl FnOnce(&mut Core, Time, &Topology, &mut Vec<Action>)) {
        let now = self.local(s);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let mut out = Vec::new();
        step(&mut process.relays.core, now, &process.topology, &mut out);
        while !out.is_empty() {
            let unsent = self.relay_perform(s, std::mem::take(&mut out));
            let Some(process) = self.servers[s].process.as_mut() else { return };
            let (core, ring) = (&mut process.relays.core, &process.topology);
            unsent.into_iter().for_each(|number| core.unsent(now, number, ring, &mut out));
        }
        self.arm_relay(s);
    }

    /// Returns the sendings that have not left.
    fn relay_perform(&mut self, s: usize, actions: Vec<Action>) -> Vec<u64> {
        let mut unsent = Vec::new();
        for action in actions {
            match action {
                Action::Reply { token, reply } => self.reply(s, token, reply),
                Action::Here(forward) => {
                    let token = Token { conn: HERE, index: forward.number };
                    self.do_job(s, forward, token);
                }
                Action::Send { to, forward } => {
                    let number = forward.number;
                    if !self.ask_lane(s, to, forward) {
                        unsent.push(number);
                    }
                }
            }
        }
        unsent
    }

    fn arm_relay(&mut self, s: usize) {
        let (now, inc, clock) = (self.now, self.servers[s].inc, self.servers[s].clock);
        let Some(relays) = self.servers[s].process.as_mut().map(|process| &mut process.relays) else { return };
        if relays.core.open() == 0 {
            return;
        }
        let due = relays.core.deadline().map_or(now + LOOK, |at| clock.real(at).clamp(now + 1, now + LOOK));
        if relays.armed.is_none_or(|armed| due < armed) {
            relays.armed = Some(due);
            self.queue.at(due, Event::Relay { server: s, inc });
        }
    }

    pub(super) fn relay_tick(&mut self, s: usize) {
        let now = self.now;
        let Some(relays) = self.servers[s].process.as_mut().map(|process| &mut process.relays) else { return };
        if relays.armed.is_some_and(|armed| armed <= now) {
            relays.armed = None;
            self.relay_step(s, |core, now, ring, out| {
                core.look(now, ring, out);
                core.tick(now, ring, out);
            });
        }
    }

    /// Does a job here; its answer comes for the token.
    fn do_job(&mut self, s: usize, forward: Forward, token: Token) {
        self.wait_for(s, token);
        let Forward { job, request, retry, .. } = forward;
        let (now, slot) = (self.local(s), job.slot(self.record.slots));
        let answer = match job {
            Job::Write { key, what } => {
                let write = Write { key: key.0, op: what.into(), request, retry };
                return self.handle(s, slot, Happening::Write { write, token });
            }
            Job::Keys { .. } => Some(Reply::Refused(NO_LISTS)),
            Job::Read(key) | Job::Lasts(key) => {
                let mut out = std::mem::take(&mut self.scratch);
                let read = |replica: &mut kvserver::replica::Replica| replica.read(now, &key.0, token, &mut out, told);
                let answer = self.replica_mut(s, slot).map_or(Some(Reply::Value(None)), read);
                self.perform(s, slot, &mut out);
                self.scratch = out;
                self.after(s, slot);
                answer
            }
        };
        if let Some(reply) = answer {
            self.reply(s, token, reply);
        }
    }

    /// What came of a job that another server, or this one, does for a client. False: the token is none of the relay's.
    pub(super) fn job_done(&mut self, s: usize, token: Token, reply: &Reply) -> bool {
        if token.conn == HERE {
            self.relay_step(s, |core, now, ring, out| core.answer(now, token.index, reply.clone(), ring, out));
            return true;
        }
        if !self.lanes.contains_key(&token.conn) {
            return false;
        }
        match came(reply.clone()) {
            Some(came) => {
                let came = Forwarded { number: token.index, came };
                self.lane_carries(token.conn, false, Wire::Came { lane: token.conn, came });
            }
            None => self.fail(format!("s{s} does a job and comes to {reply:?}")),
        }
        true
    }

    // ---- lanes ----

    /// False: there is nobody to send it to.
    fn ask_lane(&mut self, s: usize, to: NodeId, forward: Forward) -> bool {
        let Some(server) = self.peer(s, to).filter(|server| *server != s) else { return false };
        let inc = self.servers[s].inc;
        let Some(relays) = self.servers[s].process.as_mut().map(|process| &mut process.relays) else { return false };
        let known = relays.lanes.get(&to).copied().filter(|lane| self.lanes.contains_key(lane));
        let lane = known.unwrap_or_else(|| {
            self.next_conn += 1;
            relays.lanes.insert(to, self.next_conn);
            let lane = Lane { asker: s, inc, server, node: to, accepted: None, dead: false, arrivals: [0, 0] };
            self.lanes.insert(self.next_conn, lane);
            self.next_conn
        });
        self.lane_carries(lane, true, Wire::Job { lane, forward });
        true
    }

    fn lane_carries(&mut self, number: u32, up: bool, wire: Wire) {
        let Some(lane) = self.lanes.get(&number).filter(|lane| !lane.dead) else { return };
        let (asker, server) = (Party::Server(lane.asker), Party::Server(lane.server));
        let (from, to) = if up { (asker, server) } else { (server, asker) };
        match self.net.fate(self.now, from, to, &wire, &mut self.rng) {
            Fate::Arrives(at) => {
                let Some(lane) = self.lanes.get_mut(&number) else { return };
                let last = &mut lane.arrivals[usize::from(up)];
                *last = at.max(*last + 1);
                self.queue.at(*last, Event::Deliver { from, to, wire });
            }
            Fate::Lost | Fate::Held => self.lane_breaks(number, SILENT),
        }
    }

    /// Nothing passes any more, and the asker will hear of it.
    fn lane_breaks(&mut self, number: u32, notice: Range<u64>) {
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| !lane.dead) else { return };
        lane.dead = true;
        let (server, inc) = (lane.asker, lane.inc);
        let at = self.now + self.rng.u64(notice);
        self.queue.at(at, Event::LaneEnds { server, inc, lane: number });
    }

    /// A job comes to a machine without the process that it was for.
    pub(super) fn lane_refused(&mut self, number: u32) {
        self.lane_breaks(number, REFUSED);
    }

    /// A process has died, and its machine says so.
    pub(super) fn lanes_hang_up(&mut self, s: usize, inc: u32) {
        let of = |(_, lane): &(&u32, &Lane)| lane.server == s && lane.accepted == Some(inc);
        let ended: Vec<u32> = self.lanes.iter().filter(of).map(|(number, _)| *number).collect();
        ended.into_iter().for_each(|number| self.lane_breaks(number, REFUSED));
    }

    pub(super) fn lane_ends(&mut self, s: usize, number: u32) {
        let Some(lane) = self.lanes.remove(&number) else { return };
        let Some(relays) = self.servers[s].process.as_mut().map(|process| &mut process.relays) else { return };
        if relays.lanes.get(&lane.node) == Some(&number) {
            relays.lanes.remove(&lane.node);
            self.relay_step(s, |core, now, ring, out| core.lost(now, lane.node, true, ring, out));
        }
    }

    pub(super) fn job_arrives(&mut self, s: usize, number: u32, forward: Forward) {
        let (node, inc) = (self.servers[s].node, self.servers[s].inc);
        let Some(lane) = self.lanes.get_mut(&number).filter(|lane| !lane.dead) else { return };
        match lane.accepted {
            None if lane.node == node => lane.accepted = Some(inc),
            Some(accepted) if accepted == inc => {}
            _ => return self.lane_refused(number),
        }
        self.trace.line(self.now, || format!("s{s} <- lane {number} {forward:?}"));
        let token = Token { conn: number, index: forward.number };
        self.do_job(s, forward, token);
    }

    pub(super) fn answer_arrives(&mut self, s: usize, number: u32, came: Forwarded) {
        let inc = self.servers[s].inc;
        if self.lanes.get(&number).is_some_and(|lane| (lane.asker, lane.inc) == (s, inc)) {
            self.trace.line(self.now, || format!("s{s} <- lane {number} {came:?}"));
            let reply = replied(came.came);
            self.relay_step(s, |core, now, ring, out| core.answer(now, came.number, reply, ring, out));
        }
    }
}
