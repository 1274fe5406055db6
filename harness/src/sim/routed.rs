//! Clients as programs have them: the product's own router decides whom to ask, when to try again and when to give up.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use common::Time;
use kvclient::router::{Action, Answer, Command, Input, OpId, Router};
use kvclient::{Address, Error, Settings, wire};

use super::client::{key_bytes, value_bytes, written, written_by};
use super::conns::Waiter;
use super::queue::Event;
use super::wire::Want;
use super::world::World;
use crate::history::Action as Did;

/// One such client.
#[derive(Debug)]
pub(super) struct Routed {
    router: Router,
    /// The operation under way, in the router's words and in the history's.
    pub(super) current: Option<(OpId, u32)>,
    /// The connection that requests to a server go over.
    links: BTreeMap<usize, u32>,
    /// The world's time of the tick that is scheduled.
    armed: Option<u64>,
}

/// The Unix time at which every run begins, in milliseconds.
pub(super) const EPOCH: u64 = 1_700_000_000_000;
/// How far a wall clock may be off, in milliseconds: an hour.
pub(super) const WRONG: u64 = 3_600_000;

impl World {
    /// A client program starts. Its wall clock may be wrong, and another start's may be wrong otherwise.
    pub(super) fn new_routed(&mut self) -> Routed {
        let seeds = (0..self.plan.servers).map(|s| self.address(s)).collect();
        let patience = self.rng.u64(self.plan.patience.clone());
        let settings = Settings {
            total: Duration::from_secs(8),
            attempt: Duration::from_micros(patience.min(1_500_000)),
            ..Settings::default()
        };
        let off = if self.rng.u8(0..3) == 0 { self.rng.u64(0..2 * WRONG) } else { WRONG };
        let wall = EPOCH + self.now / 1_000 + off - WRONG;
        let router = Router::new(settings, seeds, self.rng.u64(..), Time(self.now), wall);
        self.stats.bump("client starts");
        Routed { router, current: None, links: BTreeMap::new(), armed: None }
    }

    /// A server's address, as clients know it.
    pub(super) fn address(&self, s: usize) -> Address {
        Address::from(self.servers[s].info().client_addr)
    }

    fn server_at(&self, address: &Address) -> Option<usize> {
        self.at(address.as_str())
    }

    /// Begins an operation.
    pub(super) fn route_begin(&mut self, c: usize, key: u32, what: &Want) {
        if self.rng.u8(0..40) == 0 {
            self.orphan(c);
            self.clients[c].routed = Some(self.new_routed());
        }
        let long = self.rng.u8(0..40) == 0;
        self.stats.operations += 1;
        let op = self.history.call(u32::try_from(c).unwrap_or(0), key, self.now, |value| match what {
            Want::Get => Did::Get { seen: None },
            Want::Put => Did::Put { value, created: None },
            Want::Delete => Did::Delete { existed: None },
        });
        let key = key_bytes(key);
        let command = match what {
            Want::Get => Command::Get { key },
            Want::Put => Command::Put { key, value: value_bytes(op, long) },
            Want::Delete => Command::Delete { key },
        };
        let (now, mut out) = (Time(self.now), Vec::new());
        let Some(routed) = self.clients[c].routed.as_mut() else { return };
        let id = routed.router.start(now, command, &mut out);
        routed.current = Some((id, op));
        self.route_perform(c, out);
    }

    /// Something happens to a client's router.
    pub(super) fn route(&mut self, c: usize, input: Input) {
        let (now, mut out) = (Time(self.now), Vec::new());
        let Some(routed) = self.clients[c].routed.as_mut() else { return };
        routed.router.handle(now, input, &mut out);
        self.route_perform(c, out);
    }

    pub(super) fn route_tick(&mut self, c: usize) {
        let now = self.now;
        let Some(routed) = self.clients[c].routed.as_mut() else { return };
        if routed.armed == Some(now) {
            routed.armed = None;
            self.route(c, Input::Tick);
        }
    }

    fn route_perform(&mut self, c: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { op, attempt, to, request } => {
                    let mut bytes = BytesMut::new();
                    let expect = wire::encode(&mut bytes, &request);
                    if request.retry {
                        self.stats.bump("retries");
                    }
                    self.route_say(c, &to, &[Waiter::Op(op, attempt, expect)], bytes);
                }
                Action::Refresh { from } => {
                    let mut bytes = BytesMut::new();
                    wire::ask(&mut bytes, "keyrange");
                    wire::ask(&mut bytes, "keyrange_read");
                    self.stats.bump("keyrange questions");
                    self.route_say(c, &from, &[Waiter::Keyrange, Waiter::KeyrangeRead], bytes);
                }
                Action::Retire { server } => {
                    if let (Some(s), Some(routed)) = (self.server_at(&server), self.clients[c].routed.as_mut()) {
                        routed.links.remove(&s);
                    }
                }
                Action::Report { server, .. } => {
                    if let Some(server) = self.server_at(&server) {
                        let at = self.now + self.rng.u64(100..5_000);
                        self.queue.at(at, Event::Accuse { server });
                    }
                }
                Action::Done { op, result } => self.route_done(c, op, result),
            }
        }
        let now = self.now;
        let Some(routed) = self.clients[c].routed.as_mut() else { return };
        if let Some(due) = routed.router.deadline() {
            let at = due.0.max(now + 1);
            if routed.armed.is_none_or(|armed| at < armed) {
                routed.armed = Some(at);
                self.queue.at(at, Event::Router { client: c });
            }
        }
    }

    fn route_say(&mut self, c: usize, to: &Address, waiters: &[Waiter], bytes: BytesMut) {
        let Some(s) = self.server_at(to) else { return self.fail(format!("c{c} asks {to}, which is nobody")) };
        let known = self.clients[c].routed.as_ref().and_then(|routed| routed.links.get(&s)).copied();
        let conn = match known.filter(|conn| self.is_open(*conn)) {
            Some(conn) => conn,
            None => self.dial(c, s),
        };
        if let Some(routed) = self.clients[c].routed.as_mut() {
            routed.links.insert(s, conn);
        }
        self.say(conn, waiters, bytes);
    }

    fn route_done(&mut self, c: usize, id: OpId, result: Result<Answer, Error>) {
        let Some(routed) = self.clients[c].routed.as_mut() else { return };
        let Some((_, op)) = routed.current.take_if(|(current, _)| *current == id) else { return };
        self.trace.line(self.now, || format!("c{c} op {op} done: {result:?}"));
        let read = matches!(self.history.ops()[op as usize].action, Did::Get { .. });
        let did = match result {
            Ok(Answer::Written(outcome)) => Some(written(op, outcome)),
            Ok(Answer::Value(None)) => Some(Did::Get { seen: None }),
            Ok(Answer::Value(Some(value))) => match written_by(&value) {
                Some(seen) => Some(Did::Get { seen: Some(seen) }),
                None => return self.fail(format!("c{c} op {op} reads {value:?}, which nobody wrote")),
            },
            Ok(other) => return self.fail(format!("c{c} op {op} is answered with {other:?}")),
            Err(Error::Unknown(_)) => {
                self.stats.bump("outcomes unknown");
                None
            }
            Err(Error::Refused(_) | Error::Unreachable(_)) => {
                self.stats.bump(if read { "reads given up" } else { "writes refused" });
                if !read {
                    self.history.refused(op, self.now, None);
                }
                None
            }
            Err(error) => return self.fail(format!("c{c} op {op}: {error}")),
        };
        if let Some(did) = did {
            self.stats.bump("operations answered");
            self.history.answered(op, self.now, None, did);
        }
        self.rest(c);
    }
}
