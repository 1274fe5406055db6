//! What to do on each answer: the client's protocol as a pure state machine.
//!
//! Inputs go in, actions come out, time is an argument. The same code runs behind real sockets and in the simulation. It
//! deliberately knows nothing of connections (they are made by who performs [`Action::Send`]) and never waits.
//!
//! The rules:
//! - Writes go to the coordinator, reads to any server that may answer them, the next one on an error.
//! - A wrong server (NOT_RESPONSIBLE) or a silent one makes the ring be asked for again. If the new ring names the same
//!   server, and while nobody serves, it pauses: exponential backoff with jitter.
//! - Invariant: once a sending of a write may have been executed, every later sending of it carries the same id and the
//!   retry mark, and the operation never ends as "refused".
//! - Whoever waits longer than usual looks at the ring meanwhile: if another server has taken over, the request goes there at
//!   once. A server that was silent or unreachable lately is the last to be asked.
//! - Every operation ends within `Settings::total`.

mod border;
mod op;
mod refresh;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use border::{Action, Answer, Command, Failure, Input, NoRing, OpId, Reply, Request};
use common::sessions::Sessions;
use common::{RequestId, Time};
use op::{Op, State};
use refresh::Refreshing;
use suspects::Suspects;

use crate::address::Address;
use crate::error::Error;
use crate::ring::Ring;

/// How patient the client is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest that an operation takes, whatever happens.
    pub total: Duration,
    /// How long one server may take to answer before another is asked. Doubles with each timeout of an operation, up to
    /// four times: a slow cluster must not be buried under repetitions.
    pub attempt: Duration,
    /// The first pause; jitter makes it half of that to all of it.
    pub pause: Duration,
    /// After this long without an answer the ring is asked for, and again after as long: a failover is noticed without
    /// waiting for `attempt`.
    pub peek: Duration,
    /// The longest pause. Short against a failover (some 250 ms), so that little is added to it.
    pub longest_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            total: Duration::from_secs(10),
            attempt: Duration::from_secs(1),
            pause: Duration::from_millis(5),
            peek: Duration::from_millis(250),
            longest_pause: Duration::from_millis(160),
        }
    }
}

/// The state of one client.
#[derive(Debug)]
pub struct Router {
    settings: Settings,
    rng: fastrand::Rng,
    seeds: Vec<Address>,
    ring: Ring,
    /// When the ring was learnt.
    ring_at: Time,
    refreshing: Option<Refreshing>,
    sessions: Sessions,
    ops: BTreeMap<OpId, Op>,
    timers: BTreeSet<(Time, OpId)>,
    next: u64,
    suspects: Suspects,
    /// Some server has answered something.
    answered: bool,
}

impl Router {
    /// A client that knows `seeds`, any servers of the cluster. `wall` is the Unix time in milliseconds at `now`.
    #[must_use]
    pub fn new(settings: Settings, seeds: Vec<Address>, seed: u64, now: Time, wall: u64) -> Router {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sessions = Sessions::new(rng.u64(..), now, wall);
        Router {
            settings,
            rng,
            seeds,
            ring: Ring::default(),
            ring_at: Time::ZERO,
            refreshing: None,
            sessions,
            ops: BTreeMap::new(),
            timers: BTreeSet::new(),
            next: 0,
            suspects: Suspects::default(),
            answered: false,
        }
    }

    /// The ring as it was last learnt.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Operations that are not over.
    #[must_use]
    pub fn open(&self) -> usize {
        self.ops.len()
    }

    /// Begins an operation; its end is an [`Action::Done`] with this id.
    pub fn start(&mut self, now: Time, command: Command, out: &mut Vec<Action>) -> OpId {
        self.next += 1;
        let id = OpId(self.next);
        let request = command.is_write().then(|| self.sessions.begin(now));
        let deadline = now + self.settings.total;
        self.ops.insert(id, Op::new(command, now, deadline, request));
        self.timers.insert((deadline, id));
        self.route(now, id, out);
        id
    }

    /// Takes one input; what must be done about it is appended to `out`.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Answer { op, attempt, reply } => self.answer(now, op, attempt, reply, out),
            Input::Failure { op, attempt, kind, detail } => self.failure(now, op, attempt, kind, &detail, out),
            Input::Keyrange { from, result } => self.keyrange(now, &from, result, out),
            Input::Cancel { op } => self.forget(op),
            Input::Tick => self.tick(now, out),
        }
    }

    /// When [`Input::Tick`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let refresh = self.refreshing.as_ref().map(|refreshing| refreshing.until);
        timer.into_iter().chain(refresh).min()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Action>) {
        self.refresh_tick(now, out);
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            self.wake(now, id, out);
        }
    }

    fn wake(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get(&id) else { return };
        if now >= op.deadline {
            return self.expire(now, id, out);
        }
        match &op.state {
            State::Sent { until, .. } if now >= *until => self.timeout(now, id, out),
            State::Sent { to, .. } => {
                let to = to.clone();
                self.peek(now, id, &to, out);
            }
            State::Ring { .. } => self.set_timer(id, op.deadline),
            State::Pause => self.route(now, id, out),
        }
    }

    fn set_timer(&mut self, id: OpId, at: Time) {
        if let Some(op) = self.ops.get_mut(&id) {
            self.timers.remove(&(op.wake, id));
            op.wake = at.min(op.deadline);
            self.timers.insert((op.wake, id));
        }
    }

    /// Sends the operation to whom it belongs, or finds out who that is.
    fn route(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get(&id) else { return };
        if matches!(op.command, Command::Connect) && !self.ring.is_empty() {
            return self.done(id, Ok(Answer::Connected), out);
        }
        match self.target(now, id) {
            Some(to) => self.send(now, id, to, out),
            None => self.await_ring(now, id, None, out),
        }
    }

    /// Whom to ask next; nobody: the ring must be learnt first.
    fn target(&mut self, now: Time, id: OpId) -> Option<Address> {
        let op = self.ops.get(&id)?;
        let unskipped = |list: &[Address]| -> Vec<Address> {
            list.iter().filter(|address| !op.skip.contains(address)).cloned().collect()
        };
        let candidates = match (op.command.position(), &op.command) {
            (_, Command::Connect) => return None,
            (None, _) => unskipped(&self.everyone()),
            (Some(position), command) if command.is_write() => return self.ring.coordinator(position).cloned(),
            (Some(position), _) => unskipped(self.ring.readers(position)),
        };
        let trusted = candidates.iter().filter(|server| !self.suspects.contains(now, server));
        self.rng.choice(trusted.collect::<Vec<_>>()).cloned().or_else(|| self.rng.choice(candidates))
    }

    /// Every address worth asking: the ring's servers and the seeds.
    fn everyone(&self) -> Vec<Address> {
        let mut all: Vec<Address> = self.ring.servers().to_vec();
        all.extend(self.seeds.iter().filter(|seed| !self.ring.servers().contains(seed)).cloned());
        all
    }

    fn send(&mut self, now: Time, id: OpId, to: Address, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.attempt += 1;
        let until = now + self.settings.attempt * (1 << op.timeouts.min(2));
        op.state = State::Sent { to: to.clone(), at: now, until };
        let sessions = &self.sessions;
        let request = Request {
            command: op.command.clone(),
            id: op.id.map(|(client, seq)| RequestId { client, seq, lowest_unacked: sessions.lowest_open(client) }),
            retry: op.maybe_executed,
        };
        out.push(Action::Send { op: id, attempt: op.attempt, to, request });
        self.set_timer(id, until.min(now + self.settings.peek));
    }

    fn answer(&mut self, now: Time, id: OpId, attempt: u32, reply: Reply, out: &mut Vec<Action>) {
        self.answered = true;
        let Some(op) = self.ops.get_mut(&id) else { return };
        if let Some((server, _)) = op.sent(attempt) {
            self.suspects.clear(&server);
        }
        // An answer is an answer, even to a sending that was given up; anything else only counts for the newest one.
        let reply = match reply {
            Reply::Done(answer) => return self.done(id, Ok(answer), out),
            other => other,
        };
        let Some((server, at)) = op.sent(attempt) else { return };
        match reply {
            Reply::Done(_) => {}
            Reply::NotResponsible => {
                op.trouble.note(&server, "is not responsible for the key");
                self.next_or_ring(now, id, &server, at, out);
            }
            Reply::Stopped(why) => {
                op.trouble.note(&server, if why.is_empty() { "does not serve the key at the moment" } else { &why });
                self.next_or_ring(now, id, &server, at, out);
            }
            Reply::WriteLocked => {
                op.trouble.note(&server, "hands the key over to another server");
                self.pause(now, id);
            }
            Reply::Unknown { why, forgotten } => {
                op.maybe_executed |= op.command.is_write();
                op.trouble.note(&server, why);
                if forgotten { self.expire(now, id, out) } else { self.next_or_ring(now, id, &server, at, out) }
            }
            Reply::Failed(reason) => {
                op.trouble.note(&server, reason.clone());
                let error = if op.maybe_executed { op.give_up(now) } else { Error::Rejected { server, reason } };
                self.done(id, Err(error), out);
            }
        }
    }

    fn failure(&mut self, now: Time, id: OpId, attempt: u32, kind: Failure, detail: &str, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        // A sending that was given up was counted as in doubt then; its failure is no news.
        let Some((server, at)) = op.sent(attempt) else { return };
        op.doubt(kind);
        let why = if detail.is_empty() { kind.text().to_owned() } else { format!("{}: {detail}", kind.text()) };
        op.trouble.note(&server, why);
        self.suspects.add(now, &server);
        if kind == Failure::Refused {
            self.report(now, &server, "refused", out);
        }
        self.next_or_ring(now, id, &server, at, out);
    }

    fn timeout(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Some((server, at)) = op.sent(op.attempt) else { return };
        op.timeouts += 1;
        op.give_up_on(now, &server, at);
        self.silent(now, &server, out);
        self.next_or_ring(now, id, &server, at, out);
    }

    /// The server takes its time: has another taken over?
    fn peek(&mut self, now: Time, id: OpId, to: &Address, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get(&id) else { return };
        let State::Sent { until, .. } = op.state else { return };
        self.set_timer(id, until.min(now + self.settings.peek));
        self.want_ring(now, Some(to), out);
    }

    /// A new ring is here while the request is out: if its server no longer has the key, the next one is asked.
    fn redirect(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let (State::Sent { to, at, .. }, Some(position)) = (&op.state, op.command.position()) else { return };
        let (to, at) = (to.clone(), *at);
        let stays = if op.command.is_write() {
            self.ring.coordinator(position).is_none_or(|coordinator| *coordinator == to)
        } else {
            self.ring.readers(position).is_empty() || self.ring.readers(position).contains(&to)
        };
        // An answer that is only on its way is worth more than a ring that may be behind it.
        if stays || now.since(at) < self.settings.peek {
            return;
        }
        op.give_up_on(now, &to, at);
        op.skip.push(to);
        self.after_ring(now, id, out);
    }

    /// A server did not answer in time.
    fn silent(&mut self, now: Time, server: &Address, out: &mut Vec<Action>) {
        self.suspects.add(now, server);
        out.push(Action::Retire { server: server.clone() });
        self.report(now, server, "timeout", out);
    }

    /// After `server` failed: a read goes to the next one at once; all else needs a newer ring.
    fn next_or_ring(&mut self, now: Time, id: OpId, server: &Address, sent: Time, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.skip.push(server.clone());
        if !op.command.is_write()
            && let Some(next) = self.target(now, id)
        {
            if self.ring_at <= sent {
                self.want_ring(now, Some(server), out);
            }
            return self.send(now, id, next, out);
        }
        // The ring was replaced while the request was under way: look at it before asking for another.
        if self.ring_at > sent {
            self.after_ring(now, id, out);
        } else {
            self.await_ring(now, id, Some(server), out);
        }
    }

    /// A newer ring than the one that led to the last server is here.
    fn after_ring(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        // Who has failed stays skipped until a pause: servers that disagree about the ring must not be asked round and round.
        let next = self.target(now, id);
        let next = next.filter(|next| self.ops.get(&id).is_some_and(|op| !op.skip.contains(next)));
        match next {
            Some(next) => self.send(now, id, next, out),
            None => self.pause(now, id),
        }
    }

    fn pause(&mut self, now: Time, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let longest = (self.settings.pause * (1 << op.pauses.min(16))).min(self.settings.longest_pause);
        let pause = longest / 2 + (longest / 2).mul_f64(self.rng.f64());
        op.pauses += 1;
        op.skip.clear();
        op.state = State::Pause;
        self.set_timer(id, now + pause);
    }

    /// The caller's patience has ended.
    fn expire(&mut self, now: Time, id: OpId, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        // Before the deadline it is a server's own answer that ends it, and nothing is out.
        if let State::Sent { to, at, .. } = &op.state
            && now >= op.deadline
        {
            let (to, at) = (to.clone(), *at);
            op.give_up_on(now, &to, at);
        }
        let error = match op.give_up(now) {
            Error::Refused(trouble) if !self.answered => Error::Unreachable(trouble),
            error => error,
        };
        self.done(id, Err(error), out);
    }

    fn done(&mut self, id: OpId, result: Result<Answer, Error>, out: &mut Vec<Action>) {
        self.forget(id);
        out.push(Action::Done { op: id, result });
    }

    fn forget(&mut self, id: OpId) {
        let Some(op) = self.ops.remove(&id) else { return };
        self.timers.remove(&(op.wake, id));
        if let Some((client, seq)) = op.id {
            self.sessions.end(client, seq);
        }
    }

    fn report(&mut self, now: Time, server: &Address, why: &'static str, out: &mut Vec<Action>) {
        if self.suspects.report(now, server) {
            out.push(Action::Report { server: server.clone(), why });
        }
    }
}
