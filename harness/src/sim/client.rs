//! Simulated clients: one operation at a time each, over few keys, asked of whoever might answer.
//!
//! A client follows what servers tell it of the ring, but strays on purpose: to copies, to servers outside a slot, to
//! deposed coordinators. Half of the writes carry a request id and are retried under it; the others are given up as
//! unknown at the first doubt, as plain text clients must.

use bytes::Bytes;
use common::position::Position;
use common::{ClientId, NodeId, Outcome, RequestId, Slot};
use kvserver::replica::{Refusal, Reply};

use super::queue::Event;
use super::wire::{Party, Request, Want, Wire};
use super::world::World;
use crate::history::{Action, End};

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    id: ClientId,
    /// Its number for the next write.
    next: u64,
    /// Whom it last heard to coordinate each slot.
    route: Vec<Option<usize>>,
    current: Option<Current>,
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
    request: Option<RequestId>,
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
    pub(super) fn new(index: usize, slots: u16) -> Client {
        Client {
            id: ClientId(((index as u128 + 1) << 64) | 7),
            next: 1,
            route: vec![None; usize::from(slots)],
            current: None,
            serial: 0,
            resting: false,
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.current.is_none()
    }
}

/// A key's bytes.
pub(super) fn key_bytes(key: u32) -> Bytes {
    Bytes::from(format!("k{key}"))
}

/// The value that operation `op` writes.
fn value_bytes(op: u32, long: bool) -> Bytes {
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
        match self.clients[c].current.as_mut() {
            None => self.begin(c),
            Some(current) if current.asked => {
                current.asked = false;
                current.doubt |= !matches!(current.what, Want::Get);
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
        if self.cold_written < self.plan.cold && self.rng.u8(0..4) == 0 {
            self.cold_written += 1;
            let key = self.plan.keys + self.cold_written - 1;
            return self.operate(c, key, Want::Put(Bytes::new()), true, None);
        }
        let key = self.rng.u32(0..self.plan.keys);
        let what = match self.rng.u8(0..20) {
            0..8 => Want::Get,
            8..18 => Want::Put(Bytes::new()),
            _ => Want::Delete,
        };
        let safe = self.rng.bool();
        self.operate(c, key, what, safe, None);
    }

    /// Begins an operation, at `server` if one is given.
    pub(super) fn operate(&mut self, c: usize, key: u32, what: Want, safe: bool, server: Option<usize>) {
        self.stats.operations += 1;
        let op = self.history.call(u32::try_from(c).unwrap_or(0), key, self.now, |value| match what {
            Want::Get => Action::Get { seen: None },
            Want::Put(_) => Action::Put { value, created: None },
            Want::Delete => Action::Delete { existed: None },
        });
        let what = match what {
            Want::Put(_) => Want::Put(value_bytes(op, self.rng.u8(0..40) == 0)),
            other => other,
        };
        let client = &mut self.clients[c];
        let mut request = None;
        if safe && !matches!(what, Want::Get) {
            // One operation at a time: every earlier one is answered or given up.
            request = Some(RequestId { client: client.id, seq: client.next, lowest_unacked: client.next });
            client.next += 1;
        }
        let server = server.unwrap_or_else(|| self.choose(c, key, matches!(what, Want::Get)));
        let current = Current { op, key, what, request, server, attempts: 0, doubt: false, asked: false };
        self.clients[c].current = Some(current);
        self.attempt(c);
    }

    /// Whom to ask: as a rule the coordinator as far as the client knows; for reads often another copy; sometimes anyone.
    fn choose(&mut self, c: usize, key: u32, read: bool) -> usize {
        let there: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].used).collect();
        let anyone = if there.is_empty() { 0 } else { there[self.rng.usize(..there.len())] };
        let slot = self.slot_of(key);
        let Some(known) = self.clients[c].route[usize::from(slot.0)] else { return anyone };
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
        let request = Request {
            serial,
            key: key_bytes(current.key),
            what: current.what.clone(),
            request: current.request,
            retry: current.doubt,
        };
        let server = current.server;
        self.send(Party::Client(c), Party::Server(server), Wire::Request(request));
        let patience = self.rng.u64(self.plan.patience.clone());
        self.queue.at(self.now + patience, Event::Client { client: c, serial });
    }

    /// Tries once more after a pause, or gives up.
    fn again(&mut self, c: usize, pause: u64) {
        let Some(current) = self.clients[c].current.clone() else { return };
        let plain = current.request.is_none() && !matches!(current.what, Want::Get);
        if current.attempts >= ATTEMPTS || (plain && current.doubt) {
            return self.give_up(c, &current);
        }
        let server = self.choose(c, current.key, matches!(current.what, Want::Get));
        if let Some(current) = self.clients[c].current.as_mut() {
            current.server = server;
        }
        self.next_serial += 1;
        self.clients[c].serial = self.next_serial;
        let at = self.now + self.rng.u64(pause / 2..pause * 2);
        self.queue.at(at, Event::Client { client: c, serial: self.next_serial });
    }

    fn give_up(&mut self, c: usize, current: &Current) {
        let read = matches!(current.what, Want::Get);
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

    fn rest(&mut self, c: usize) {
        self.next_serial += 1;
        let client = &mut self.clients[c];
        client.current = None;
        client.serial = self.next_serial;
        let think = self.rng.u64(1_000..self.plan.think);
        self.queue.at(self.now + think, Event::Client { client: c, serial: self.next_serial });
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
            Reply::Written(outcome) => self.done(c, op, server, written(op, *outcome)),
            Reply::Value(None) => self.done(c, op, server, Action::Get { seen: None }),
            Reply::Value(Some(value)) => match written_by(value) {
                Some(seen) => self.done(c, op, server, Action::Get { seen: Some(seen) }),
                None => self.fail(format!("c{c} op {op} reads {value:?} from s{server}, which nobody wrote")),
            },
            Reply::Page(_) => self.fail(format!("c{c} op {op} is answered with a page, which nobody asked for")),
            Reply::Refused(Refusal::NotResponsible) => {
                self.stats.bump("refused: not responsible");
                self.learn(c, server);
                self.again(c, 8_000);
            }
            Reply::Refused(Refusal::WriteLocked) => {
                self.stats.bump("refused: write lock");
                self.again(c, 30_000);
            }
            Reply::Refused(Refusal::Unavailable(_)) => {
                self.stats.bump("refused: unavailable");
                self.learn(c, server);
                self.again(c, 50_000);
            }
            Reply::Unknown(_) => {
                self.stats.bump("answered: unknown");
                current.doubt = true;
                self.again(c, 20_000);
            }
        }
    }

    /// Nobody listens where attempt `serial` was sent: it was certainly not executed.
    pub(super) fn unreachable(&mut self, c: usize, serial: u64) {
        let client = &mut self.clients[c];
        let current = client.current.as_mut().filter(|current| client.serial == serial && current.asked);
        if let Some(current) = current {
            current.asked = false;
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
        let known: Vec<(Slot, NodeId)> = process.views.values().map(|view| (view.slot, view.coordinator)).collect();
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

fn written(op: u32, outcome: Outcome) -> Action {
    match outcome {
        Outcome::Created => Action::Put { value: op, created: Some(true) },
        Outcome::Updated => Action::Put { value: op, created: Some(false) },
        Outcome::Deleted => Action::Delete { existed: Some(true) },
        Outcome::Missing => Action::Delete { existed: Some(false) },
    }
}
