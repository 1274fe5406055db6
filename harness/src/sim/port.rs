//! A server's client port: the product's own sessions, from bytes to bytes, with the world's replicas behind them.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use common::control::Wish;
use common::position::Position;
use common::text::{Dialect, Limits, Whole};
use common::{Slot, Time};
use kvserver::client_port::session::Session;
use kvserver::client_port::{Bounds, Facts, Serves, Settings};
use kvserver::questions::asked::Asked;
use kvserver::relay::Once;
use kvserver::relay::core::Order;
use kvserver::replica::{Event as Happening, Read, Refusal, Reply, Scan, Token, Write};

use super::queue::Event;
use super::world::World;

const NOT_ASKED: Refusal = Refusal::Unavailable("nobody in the simulation asks how long a key lasts");

/// Every connection begins like this.
fn settings() -> Settings {
    Settings {
        dialect: Dialect::Uoft,
        greeting: None,
        limits: Limits::default(),
        bounds: Bounds { pending: 64, bytes: 1 << 20 },
        max_connections: 1000,
        max_memory: 1 << 30,
        admin_token: None,
    }
}

/// One server of the world, as its sessions see it.
struct Port<'a> {
    world: RefCell<&'a mut World>,
    server: usize,
}

impl Port<'_> {
    fn slot(&self, at: Position) -> Slot {
        at.slot(self.world.borrow().record.slots)
    }
}

impl Serves for Port<'_> {
    fn read<R>(&self, now: Time, key: &[u8], at: Option<Position>, token: Token, f: impl FnOnce(Read<'_>) -> R) -> R {
        let (slot, s) = (self.slot(at.unwrap_or_else(|| Position::of(key))), self.server);
        let mut world = self.world.borrow_mut();
        let mut out = std::mem::take(&mut world.scratch);
        let (answer, later) = match world.replica_mut(s, slot) {
            Some(replica) => {
                let mut later = false;
                let answer = replica.read(now, key, token, &mut out, |read| {
                    later = matches!(read, Read::Later);
                    f(read)
                });
                (answer, later)
            }
            None => (f(Read::Missing), false),
        };
        if later {
            world.stats.bump("reads answered later");
            world.wait_for(s, token);
        }
        world.perform(s, slot, &mut out);
        world.scratch = out;
        world.after(s, slot);
        answer
    }

    fn lasting(&self, _now: Time, _key: &[u8], _token: Token) -> Read<'static> {
        Read::Refused(NOT_ASKED)
    }

    fn relay(&self, _now: Time, order: Order) {
        self.world.borrow_mut().relay(self.server, order);
    }

    fn coordinates(&self, key: &[u8]) -> bool {
        let (slot, world) = (self.slot(Position::of(key)), self.world.borrow());
        let server = &world.servers[self.server];
        let view = server.process.as_ref().and_then(|process| process.topology.view(slot));
        view.is_some_and(|view| view.coordinator == server.node)
    }

    fn once(&self, now: Time) -> Option<Once> {
        let world = self.world.borrow();
        world.servers[self.server].process.as_ref().map(|process| Once::of(&process.relays.ids, now))
    }

    fn slots(&self) -> u16 {
        self.world.borrow().record.slots
    }

    fn in_sync(&self) -> usize {
        0
    }

    fn wall_micros(&self) -> u64 {
        let world = self.world.borrow();
        world.servers[self.server].wall_micros(world.now)
    }

    fn facts(&self) -> Facts {
        Facts::default()
    }

    fn scan(&self, now: Time, at: Position, after: Option<&[u8]>, token: Token) -> Scan {
        let (slot, s) = (self.slot(at), self.server);
        let mut world = self.world.borrow_mut();
        let last = Position::last_of(slot, world.record.slots);
        let mut out = std::mem::take(&mut world.scratch);
        let scan = match world.replica_mut(s, slot) {
            Some(replica) => replica.scan(now, last, after, token, &mut out),
            None => Scan::Later,
        };
        if matches!(scan, Scan::Later) {
            world.wait_for(s, token);
        }
        world.perform(s, slot, &mut out);
        world.scratch = out;
        scan
    }

    fn write(&self, _now: Time, write: Write, token: Token) {
        let slot = self.slot(Position::of(&write.key));
        let mut world = self.world.borrow_mut();
        world.wait_for(self.server, token);
        world.handle(self.server, slot, Happening::Write { write, token });
    }

    fn question(&self, whole: &Whole<'_>, token: Token) {
        self.world.borrow_mut().inquire(self.server, Asked::of(whole), token);
    }

    fn wish(&self, wish: Wish, token: Token) {
        self.world.borrow_mut().wish(self.server, wish, token);
    }

    fn serving(&self) -> bool {
        self.world.borrow().servers[self.server].process.as_ref().is_some_and(|process| process.welcomed)
    }

    fn keyrange(&self) -> Arc<str> {
        let world = self.world.borrow();
        world.servers[self.server].process.as_ref().map_or_else(Default::default, |p| p.topology.keyrange.clone())
    }

    fn keyrange_read(&self) -> Arc<str> {
        let world = self.world.borrow();
        world.servers[self.server].process.as_ref().map_or_else(Default::default, |p| p.topology.keyrange_read.clone())
    }

    fn status(&self) -> String {
        "{}".to_string()
    }

    fn ecs(&self) -> Result<String, &'static str> {
        Err("the simulation asks nobody for the ECS")
    }
}

impl World {
    /// Bytes of a client have come; the first ones open the connection.
    pub(super) fn received(&mut self, s: usize, conn: u32, bytes: &[u8]) {
        let trusted = self.is_trusted(conn);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        process.sessions.entry(conn).or_insert_with(|| Session::new(&settings(), trusted)).received(bytes);
        self.serve(s, conn);
    }

    /// Lets a session do what it can, and sends what it has to say.
    pub(super) fn serve(&mut self, s: usize, conn: u32) {
        let now = self.local(s);
        let Some(process) = self.servers[s].process.as_mut() else { return };
        let Some(mut session) = process.sessions.remove(&conn) else { return };
        session.process(now, &Port { world: RefCell::new(self), server: s }, conn);
        let out = Bytes::copy_from_slice(session.output());
        session.sent(out.len());
        if let Some(process) = self.servers[s].process.as_mut() {
            process.sessions.insert(conn, session);
        }
        if !out.is_empty() {
            self.transmit(conn, false, out);
        }
    }

    pub(super) fn wait_for(&mut self, s: usize, token: Token) {
        if let Some(process) = self.servers[s].process.as_mut() {
            process.waiting.insert(token);
        }
    }

    /// A replica answers. The session hears of it in a moment: it may be in the middle of something.
    pub(super) fn reply(&mut self, s: usize, token: Token, reply: Reply) {
        let inc = self.servers[s].inc;
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if !process.waiting.remove(&token) {
            return self.fail(format!("s{s} answers request {token:?} twice: {reply:?}"));
        }
        self.queue.at(self.now, Event::Reply { server: s, inc, token, reply });
    }

    pub(super) fn replied(&mut self, s: usize, token: Token, reply: Reply) {
        if self.job_done(s, token, &reply) || self.count_goes_on(s, token, &reply) {
            return;
        }
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if let Some(session) = process.sessions.get_mut(&token.conn) {
            session.settle(token.index, reply);
            self.serve(s, token.conn);
        }
    }
}
