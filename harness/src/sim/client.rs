//! Simulated clients: one operation at a time each, over few keys.
//!
//! Most are programs with the product's router ([`super::routed`]). The others, in here, follow what servers tell of the
//! ring but stray on purpose: to copies, to servers outside a slot, to deposed coordinators. Their writes carry no request
//! id and are given up as unknown at the first doubt, as people's at a terminal must be.

use bytes::{Bytes, BytesMut};
use common::position::Position;
use common::{NodeId, Outcome, Slot};
use kvclient::router::{Answer, Command, Failure, Reply, Request};
use kvclient::wire;

use super::conns::Waiter;
use super::queue::Event;
use super::redis::Speaker;
use super::routed::Routed;
use super::wire::Want;
use super::world::World;
use crate::history::{Action, End};

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    /// Whom it last heard to coordinate each slot.
    route: Vec<Option<usize>>,
    current: Option<Current>,
    /// The product's router, if this client uses it.
    pub(super) routed: Option<Routed>,
    /// What it needs to speak Redis's protocol, if it does.
    pub(super) speaker: Option<Speaker>,
    /// What timer or answer it waits for.
    serial: u64,
    /// Takes no new operations.
    pub(super) resting: bool,
}

/// The operation under way.
#[derive(Clone, Debug)]
struct Current {
    op: u32,
    key: u32,
    what: Want,
    value: Bytes,
    server: usize,
    attempts: u32,
    /// An attempt may have been executed.
    doubt: bool,
    /// Waiting for an answer (or else for the next attempt).
    asked: bool,
}

/// Attempts before an operation is given up.
const ATTEMPTS: u32 = 12;

impl Client {
    pub(super) fn new(slots: u16) -> Client {
        Client {
            route: vec![None; usize::from(slots)],
            current: None,
            routed: None,
            speaker: None,
            serial: 0,
            resting: false,
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.current.is_none()
            && self.routed.as_ref().is_none_or(|routed| routed.current.is_none())
            && self.speaker.as_ref().is_none_or(Speaker::idle)
    }
}

/// A key's bytes.
pub(super) fn key_bytes(key: u32) -> Bytes {
    Bytes::from(format!("k{key}"))
}

/// The value that operation `op` writes.
pub(super) fn value_bytes(op: u32, long: bool) -> Bytes {
    let padding = if long { "x".repeat(600) } else { String::new() };
    Bytes::from(format!("v{op}:{padding}"))
}

/// Which operation wrote this value.
pub(super) fn written_by(value: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?;
    text.strip_prefix('v')?.split(':').next()?.parse().ok()
}

impl World {
    /// A client's timer: think time over, answer overdue, or time for the next attempt.
    pub(super) fn client_wakes(&mut self, c: usize, serial: u64) {
        if self.clients[c].serial != serial {
            return;
        }
        if self.clients[c].speaker.as_ref().is_some_and(|speaker| !speaker.idle()) {
            self.stats.bump("requests timed out");
            return self.unheard(c, serial, None);
        }
        match self.clients[c].current.as_mut() {
            None => self.begin(c),
            Some(current) if current.asked => {
                current.asked = false;
                current.doubt |= current.what != Want::Get;
                self.stats.bump("requests timed out");
                self.again(c, 10_000);
            }
            Some(_) => self.attempt(c),
        }
    }

    fn begin(&mut self, c: usize) {
        if self.clients[c].resting {
            return;
        }
        let speaks = self.clients[c].speaker.is_some();
        if !speaks && self.cold_written < self.plan.cold && self.rng.u8(0..4) == 0 {
            self.cold_written += 1;
            let key = self.plan.keys + self.cold_written - 1;
            return self.operate(c, key, Want::Put, None);
        }
        if self.clients[c].speaker.is_some() {
            return self.speak(c);
        }
        let key = self.rng.u32(0..self.plan.keys);
        let what = match self.rng.u8(0..20) {
            0..8 => Want::Get,
            8..18 => Want::Put,
            _ => Want::Delete,
        };
        if self.clients[c].routed.is_some() {
            self.route_begin(c, key, &what);
        } else {
            self.operate(c, key, what, None);
        }
    }

    /// Begins an operation, at `server` if one is given.
    pub(super) fn operate(&mut self, c: usize, key: u32, what: Want, server: Option<usize>) {
        self.stats.operations += 1;
        let op = self.history.call(u32::try_from(c).unwrap_or(0), key, self.now, |value| match what {
            Want::Get => Action::Get { seen: None },
            Want::Put => Action::Put { value, created: None },
            Want::Delete => Action::Delete { existed: None },
        });
        let value = value_bytes(op, self.rng.u8(0..40) == 0);
        let server = server.unwrap_or_else(|| self.choose(c, key, what == Want::Get));
        let current = Current { op, key, what, value, server, attempts: 0, doubt: false, asked: false };
        self.clients[c].current = Some(current);
        self.attempt(c);
    }

    /// Whom to ask: as a rule the coordinator as far as the client knows; for reads often another copy; sometimes anyone.
    fn choose(&mut self, c: usize, key: u32, read: bool) -> usize {
        let there: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].takes_part()).collect();
        let anyone = if there.is_empty() { 0 } else { there[self.rng.usize(..there.len())] };
        let slot = self.slot_of(key);
        let known = self.clients[c].route[usize::from(slot.0)].filter(|s| self.servers[*s].takes_part());
        let Some(known) = known else { return anyone };
        let stray = !self.clients[c].resting
            && self.rng.u32(0..100) < if read { self.plan.stray + 40 } else { self.plan.stray };
        if stray { anyone } else { known }
    }

    pub(super) fn slot_of(&self, key: u32) -> Slot {
        Position::of(&key_bytes(key)).slot(self.record.slots)
    }

    fn attempt(&mut self, c: usize) {
        self.next_serial += 1;
        let serial = self.next_serial;
        let client = &mut self.clients[c];
        client.serial = serial;
        let Some(current) = client.current.as_mut() else { return };
        current.attempts += 1;
        current.asked = true;
        let key = key_bytes(current.key);
        let command = match current.what {
            Want::Get => Command::Get { key },
            Want::Put => Command::Put { key, value: current.value.clone() },
            Want::Delete => Command::Delete { key },
        };
        let (server, mut bytes) = (current.server, BytesMut::new());
        let expect = wire::encode(&mut bytes, &Request { command, id: None, retry: false });
        // Every attempt has a connection of its own: what an earlier one still brings is not waited for.
        let conn = self.dial(c, server);
        self.say(conn, &[Waiter::Attempt(serial, expect)], bytes);
        let patience = self.rng.u64(self.plan.patience.clone());
        self.queue.at(self.now + patience, Event::Client { client: c, serial });
    }

    /// Tries once more after a pause, or gives up.
    fn again(&mut self, c: usize, pause: u64) {
        let Some(current) = self.clients[c].current.clone() else { return };
        if current.attempts >= ATTEMPTS || current.doubt {
            return self.give_up(c, &current);
        }
        let server = self.choose(c, current.key, current.what == Want::Get);
        if let Some(current) = self.clients[c].current.as_mut() {
            current.server = server;
        }
        let serial = self.serial(c);
        let at = self.now + self.rng.u64(pause / 2..pause * 2);
        self.queue.at(at, Event::Client { client: c, serial });
    }

    fn give_up(&mut self, c: usize, current: &Current) {
        let read = current.what == Want::Get;
        if current.doubt {
            self.stats.bump("outcomes unknown");
        } else if read {
            self.stats.bump("reads given up");
        } else {
            self.stats.bump("writes refused");
            self.history.refused(current.op, self.now, Some(u32::try_from(current.server).unwrap_or(0)));
        }
        self.trace.line(self.now, || format!("c{c} gives op {} up", current.op));
        self.rest(c);
    }

    pub(super) fn rest(&mut self, c: usize) {
        self.clients[c].current = None;
        let serial = self.serial(c);
        let think = self.rng.u64(1_000..self.plan.think);
        self.queue.at(self.now + think, Event::Client { client: c, serial });
    }

    /// A new number for what the client waits for.
    pub(super) fn serial(&mut self, c: usize) -> u64 {
        self.next_serial += 1;
        self.clients[c].serial = self.next_serial;
        self.next_serial
    }

    /// Whether that is what the client waits for.
    pub(super) fn awaits(&self, c: usize, serial: u64) -> bool {
        self.clients[c].serial == serial
    }

    /// An answer arrives. Answers to earlier attempts are not waited for any more: their connection is closed.
    pub(super) fn response(&mut self, c: usize, serial: u64, reply: &Reply) {
        let client = &mut self.clients[c];
        if client.serial != serial {
            return;
        }
        let Some(current) = client.current.as_mut().filter(|current| current.asked) else { return };
        current.asked = false;
        let (op, server) = (current.op, current.server);
        match reply {
            Reply::Done(Answer::Written(outcome)) => self.done(c, op, server, written(op, *outcome)),
            Reply::Done(Answer::Value(None)) => self.done(c, op, server, Action::Get { seen: None }),
            Reply::Done(Answer::Value(Some(value))) => match written_by(value) {
                Some(seen) => self.done(c, op, server, Action::Get { seen: Some(seen) }),
                None => self.fail(format!("c{c} op {op} reads {value:?} from s{server}, which nobody wrote")),
            },
            Reply::Done(_) | Reply::Failed(_) => {
                self.fail(format!("c{c} op {op} is answered with {reply:?}, which nobody asked for"));
            }
            Reply::NotResponsible => {
                self.stats.bump("refused: not responsible");
                self.learn(c, server);
                self.again(c, 8_000);
            }
            Reply::WriteLocked => {
                self.stats.bump("refused: write lock");
                self.again(c, 30_000);
            }
            Reply::Stopped(_) => {
                self.stats.bump("refused: unavailable");
                self.learn(c, server);
                self.again(c, 50_000);
            }
            Reply::Unknown { .. } => {
                self.stats.bump("answered: unknown");
                current.doubt = true;
                self.again(c, 20_000);
            }
        }
    }

    /// No answer will come to attempt `serial`.
    pub(super) fn attempt_failed(&mut self, c: usize, serial: u64, how: Failure) {
        let client = &mut self.clients[c];
        let current = client.current.as_mut().filter(|current| client.serial == serial && current.asked);
        if let Some(current) = current {
            current.asked = false;
            current.doubt |= how.maybe_executed() && current.what != Want::Get;
            let key = current.key;
            let slot = usize::from(self.slot_of(key).0);
            self.clients[c].route[slot] = None;
            self.again(c, 20_000);
        }
    }

    fn done(&mut self, c: usize, op: u32, server: usize, action: Action) {
        self.stats.bump("operations answered");
        let server = Some(u32::try_from(server).unwrap_or(0));
        self.history.answered(op, self.now, server, action);
        self.trace.line(self.now, || format!("c{c} op {op} done: {action:?}"));
        self.rest(c);
    }

    /// Takes over what a server knows of the ring, as `keyrange` would tell it.
    fn learn(&mut self, c: usize, server: usize) {
        let Some(process) = self.servers[server].process.as_ref() else { return };
        let known: Vec<(Slot, NodeId)> =
            process.topology.views.iter().flatten().map(|view| (view.slot, view.coordinator)).collect();
        for (slot, node) in known {
            let at = self.servers.iter().position(|server| server.node == node);
            self.clients[c].route[usize::from(slot.0)] = at;
        }
    }

    /// Whether a write of this history is known to have been answered: for the last look at every key.
    pub(super) fn answered(&self, op: u32) -> bool {
        matches!(self.history.ops()[op as usize].end, End::Answered(_))
    }
}

pub(super) fn written(op: u32, outcome: Outcome) -> Action {
    match outcome {
        Outcome::Created => Action::Put { value: op, created: Some(true) },
        Outcome::Updated | Outcome::Came(_) => Action::Put { value: op, created: Some(false) },
        Outcome::Deleted => Action::Delete { existed: Some(true) },
        Outcome::Missing => Action::Delete { existed: Some(false) },
    }
}
