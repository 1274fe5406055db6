//! Clients' connections: bytes of the text protocol in order, or not at all.
//!
//! What the product's connection task does around its sockets: requests go out as they come, answers are matched to them
//! in order, and when the connection ends everybody who still waits is told.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use common::text::{ReplyParser, Response};
use kvclient::ring::Arc;
use kvclient::router::{Failure, Input, NoRing, OpId, Reply};
use kvclient::wire::{self, Expect};

use super::net::Fate;
use super::queue::Event;
use super::wire::{Party, Wire};
use super::world::World;
use crate::invariants::Count;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A straying client's attempt.
    Attempt(u64, Expect),
    /// A sending of a router.
    Op(OpId, u32, Expect),
    /// A client that speaks Redis's protocol.
    Spoken(u64),
    /// An operator.
    Order(Expect),
    /// Somebody who asked about the cluster as a whole, and what is watched meanwhile.
    Count(u32, Count, Expect),
    /// Half of what a router asks about the ring,
    Keyrange,
    /// and the other half.
    KeyrangeRead,
}

/// One connection, seen from its client.
#[derive(Debug)]
pub(super) struct Connection {
    client: usize,
    server: usize,
    /// The process that has accepted it.
    accepted: Option<u32>,
    /// Nothing arrives any more; neither side need know.
    dead: bool,
    /// The program that made it has ended: nobody hears the answers.
    orphan: bool,
    waiters: VecDeque<Waiter>,
    parser: ReplyParser,
    input: BytesMut,
    coordinators: Option<Result<Vec<Arc>, NoRing>>,
    /// When the last bytes arrive at the server, and at the client.
    arrivals: [u64; 2],
}

impl World {
    /// A new connection; it is made with the first bytes.
    pub(super) fn dial(&mut self, client: usize, server: usize) -> u32 {
        self.next_conn += 1;
        let connection = Connection {
            client,
            server,
            accepted: None,
            dead: false,
            orphan: false,
            waiters: VecDeque::new(),
            parser: ReplyParser::new(),
            input: BytesMut::new(),
            coordinators: None,
            arrivals: [0, 0],
        };
        self.conns.insert(self.next_conn, connection);
        self.next_conn
    }

    /// Whether more can be sent over it, as far as its client knows.
    pub(super) fn is_open(&self, conn: u32) -> bool {
        self.conns.contains_key(&conn)
    }

    /// A client program ends. What it has sent is still on its way.
    pub(super) fn orphan(&mut self, client: usize) {
        let of = |connection: &&mut Connection| connection.client == client;
        self.conns.values_mut().filter(of).for_each(|connection| connection.orphan = true);
    }

    /// Whether it is made on the server's own machine, by somebody who may ask for changes.
    pub(super) fn is_trusted(&self, conn: u32) -> bool {
        self.conns.get(&conn).is_some_and(|connection| connection.client == self.operator())
    }

    /// Sends a request.
    pub(super) fn say(&mut self, conn: u32, waiters: &[Waiter], bytes: BytesMut) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.waiters.extend(waiters);
        self.transmit(conn, true, bytes.freeze());
    }

    /// Puts bytes on their way, behind those before them. What is lost is lost with all that follows: the connection is dead.
    pub(super) fn transmit(&mut self, conn: u32, up: bool, bytes: Bytes) {
        let Some(connection) = self.conns.get(&conn).filter(|connection| !connection.dead) else { return };
        let (client, server) = (Party::Client(connection.client), Party::Server(connection.server));
        let (from, to) = if up { (client, server) } else { (server, client) };
        let wire = Wire::Bytes { conn, bytes };
        let fate = self.net.fate(self.now, from, to, &wire, &mut self.rng);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        match fate {
            Fate::Arrives(at) => {
                let last = &mut connection.arrivals[usize::from(up)];
                *last = at.max(*last + 1);
                self.queue.at(*last, Event::Deliver { from, to, wire });
            }
            Fate::Lost | Fate::Held => connection.dead = true,
        }
    }

    /// Bytes arrive at the server.
    pub(super) fn bytes_up(&mut self, s: usize, conn: u32, bytes: &[u8]) {
        let running = self.servers[s].process.is_some().then_some(self.servers[s].inc);
        // What was sent behind refused bytes is refused too, whoever listens by now.
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| !connection.dead) else { return };
        match (running, connection.accepted) {
            (Some(inc), None) => connection.accepted = Some(inc),
            (Some(inc), Some(accepted)) if inc == accepted => {}
            // A machine without the process refuses connections; one without power says nothing at all.
            (None, None) if self.rng.bool() => return self.refuse(conn, Failure::Refused),
            (None, _) => return connection.dead = true,
            (Some(_), Some(_)) => return self.refuse(conn, Failure::ClosedAfterSend),
        }
        self.trace.line(self.now, || format!("s{s} <- conn {conn} {}", String::from_utf8_lossy(bytes).trim_end()));
        self.received(s, conn, bytes);
    }

    /// The client will hear that the connection has ended.
    fn refuse(&mut self, conn: u32, how: Failure) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.dead = true;
        }
        let at = self.now + self.rng.u64(50..5_000);
        self.queue.at(at, Event::ConnEnds { conn, how });
    }

    /// Bytes of this connection were lost with the process that had them: nothing behind them arrives either.
    pub(super) fn drop_conn(&mut self, conn: u32) {
        self.refuse(conn, Failure::ClosedAfterSend);
    }

    /// A process has died: its machine says so to all who were connected.
    pub(super) fn hang_up(&mut self, s: usize, inc: u32) {
        let of = |(_, connection): &(&u32, &Connection)| connection.server == s && connection.accepted == Some(inc);
        let ended: Vec<u32> = self.conns.iter().filter(of).map(|(conn, _)| *conn).collect();
        ended.into_iter().for_each(|conn| self.refuse(conn, Failure::ClosedAfterSend));
    }

    /// The client hears that no more answers come.
    pub(super) fn conn_ends(&mut self, conn: u32, how: Failure) {
        let Some(connection) = self.conns.remove(&conn).filter(|connection| !connection.orphan) else { return };
        let from = self.address(connection.server);
        for waiter in connection.waiters {
            match waiter {
                Waiter::Attempt(serial, _) => self.attempt_failed(connection.client, serial, how),
                Waiter::Op(op, attempt, _) => {
                    let input = Input::Failure { op, attempt, kind: how, detail: String::new() };
                    self.route(connection.client, input);
                }
                Waiter::Spoken(serial) => self.unheard(connection.client, serial, Some(how)),
                Waiter::Order(_) => self.stats.bump("orders without an answer"),
                Waiter::Count(watch, count, _) => self.counted(watch, count, None),
                Waiter::Keyrange => {}
                Waiter::KeyrangeRead => {
                    let result = Err(NoRing::Unreachable(how.text().to_string()));
                    self.route(connection.client, Input::Keyrange { from: from.clone(), result });
                }
            }
        }
    }

    /// Bytes arrive at the client.
    pub(super) fn bytes_down(&mut self, conn: u32, bytes: &[u8]) {
        if self.conns.get(&conn).is_none_or(|connection| connection.orphan) {
            return;
        }
        let Some(mut connection) = self.conns.remove(&conn) else { return };
        connection.input.extend_from_slice(bytes);
        if matches!(connection.waiters.front(), Some(Waiter::Spoken(_))) {
            return self.hear_out(conn, connection);
        }
        let (mut answers, input) = (Vec::new(), std::mem::take(&mut connection.input));
        let mut rest = &input[..];
        loop {
            match connection.parser.next(rest) {
                Ok((used, response)) => {
                    rest = &rest[used..];
                    let Some(response) = response else { break };
                    let Some(waiter) = connection.waiters.pop_front() else {
                        return self.fail(format!("conn {conn}: s{} answers nobody", connection.server));
                    };
                    answers.extend(connection.understand(waiter, &response, self.address(connection.server)));
                }
                Err(error) => return self.fail(format!("conn {conn}: s{} is garbled: {error}", connection.server)),
            }
        }
        let used = input.len() - rest.len();
        connection.input = input;
        connection.input.advance(used);
        let (client, server) = (connection.client, connection.server);
        self.conns.insert(conn, connection);
        for answer in answers {
            match answer {
                Heard::Attempt(serial, reply) => {
                    self.trace.line(self.now, || format!("c{client} <- s{server} {reply:?}"));
                    self.response(client, serial, &reply);
                }
                Heard::Router(input) => {
                    self.trace.line(self.now, || format!("c{client} <- s{server} {input:?}"));
                    self.route(client, input);
                }
                Heard::Order(reply) => self.ordered(&reply),
                Heard::Count(watch, count, reply) => self.counted(watch, count, Some(reply)),
                Heard::Nonsense => return self.fail(format!("conn {conn}: s{server}'s answer makes no sense")),
            }
        }
    }

    /// The same, of a connection that speaks Redis's protocol.
    fn hear_out(&mut self, conn: u32, mut connection: Connection) {
        let heard = World::hear(&mut connection.input);
        let waiter = if matches!(heard, Ok(Some(_))) { connection.waiters.pop_front() } else { None };
        let (client, server) = (connection.client, connection.server);
        self.conns.insert(conn, connection);
        match (heard, waiter) {
            (Ok(Some(spoken)), Some(Waiter::Spoken(serial))) => self.spoken(client, serial, spoken),
            (Err(why), _) => self.fail(format!("conn {conn}: s{server} is garbled: {why}")),
            _ => {}
        }
    }

    /// Its client makes another one instead.
    pub(super) fn leave_conn(&mut self, conn: u32) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.orphan = true;
        }
    }
}

/// An answer, for whom it is.
enum Heard {
    Attempt(u64, Reply),
    Router(Input),
    Order(Reply),
    Count(u32, Count, Reply),
    Nonsense,
}

impl Connection {
    fn understand(&mut self, waiter: Waiter, response: &Response<'_>, from: kvclient::Address) -> Option<Heard> {
        match waiter {
            Waiter::Attempt(serial, expect) => {
                Some(wire::decode(expect, response).map_or(Heard::Nonsense, |reply| Heard::Attempt(serial, reply)))
            }
            Waiter::Op(op, attempt, expect) => Some(
                wire::decode(expect, response)
                    .map_or(Heard::Nonsense, |reply| Heard::Router(Input::Answer { op, attempt, reply })),
            ),
            // Heard by hear_out.
            Waiter::Spoken(_) => Some(Heard::Nonsense),
            Waiter::Order(expect) => Some(wire::decode(expect, response).map_or(Heard::Nonsense, Heard::Order)),
            Waiter::Count(watch, count, expect) => {
                let heard = |reply| Heard::Count(watch, count, reply);
                Some(wire::decode(expect, response).map_or(Heard::Nonsense, heard))
            }
            Waiter::Keyrange => {
                self.coordinators = Some(wire::arcs(response));
                None
            }
            Waiter::KeyrangeRead => {
                let readers = wire::arcs(response);
                let coordinators = self.coordinators.take().unwrap_or_else(|| Ok(Vec::new()));
                let result = coordinators.and_then(|coordinators| readers.map(|readers| (coordinators, readers)));
                Some(Heard::Router(Input::Keyrange { from, result }))
            }
        }
    }
}
