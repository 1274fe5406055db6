//! Jobs of clients who ask any server: where each goes, and what is done when no answer comes. Pure.
//!
//! Reads go to a server that may answer them, the next one on an error or after a moment; writes to the coordinator. What
//! was refused is tried again after a pause, what may have been executed is sent again with its request id and the retry
//! mark, so it is never executed twice. A newer view sends what is out to whoever it names. Every job ends within
//! [`TOTAL`]: with its answer, with *refused* if it was certainly not executed, or with *unknown*.
//!
//! Invariant: writes of one connection to one key are executed in their order, or the earlier one is not executed and its
//! client is told so. A write is sent behind an earlier one only to the same server, and waits if that one waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::forward::{Forward, Job};
use common::retry::FORGOTTEN;
use common::{Epoch, NodeId, RequestId, Rule, Slot, Switches, Time, View};

use crate::node::topology::Topology;
use crate::replica::{Refusal, Reply, Token};

/// The longest that a job takes. A failover takes a tenth of it; clients wait about as long before they give up.
const TOTAL: Duration = Duration::from_secs(5);
/// How long a server may take over a read before another is asked too.
const READ: Duration = Duration::from_millis(150);
/// How long one may take over a write before it is sent again: a commit waits for disks.
const WRITE: Duration = Duration::from_millis(1500);
/// The first pause after a refusal; it doubles.
const PAUSE: Duration = Duration::from_millis(4);
/// The longest: little is added to a failover.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);
/// How long a server that failed is asked last.
const SUSPECT: Duration = Duration::from_secs(1);
/// Jobs at a time; further ones are refused. They lie in the accounts of their clients' connections.
const MOST: usize = 64 * 1024;

const BUSY: Refusal = Refusal::Unavailable("this server already forwards as many requests as it may");
const NO_VIEW: &str = "this server has not heard from the ECS about this key's slot yet";
const OVERTAKEN: &str = "a later write of the same connection to the same key was executed first";
const NO_ANSWER: &str = "no server that may do it has answered in time";

/// A job, and whom to answer.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whom to answer.
    pub token: Token,
    /// What to do.
    pub job: Job,
    /// Makes a write exactly-once.
    pub request: Option<RequestId>,
    /// Whether it may have been executed already.
    pub doubt: bool,
    /// Whether this server has just refused it.
    pub tried_here: bool,
}

/// What is to be done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Do this job here.
    Here(Forward),
    /// Send it.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        forward: Forward,
    },
    /// A job is over.
    Reply {
        /// Whom to answer.
        token: Token,
        /// What.
        reply: Reply,
    },
}

/// All jobs under way.
#[derive(Debug)]
pub struct Core {
    me: NodeId,
    ops: BTreeMap<u64, Op>,
    /// What each sending was for.
    sendings: BTreeMap<u64, u64>,
    timers: BTreeSet<(Time, u64)>,
    /// The writes of one connection to one key, oldest first.
    chains: BTreeMap<Chain, Vec<u64>>,
    suspects: BTreeMap<NodeId, Time>,
    next: u64,
    seen: Epoch,
    switches: Switches,
}

type Chain = (u32, bytes::Bytes);

#[derive(Debug)]
struct Op {
    order: Order,
    slot: Slot,
    deadline: Time,
    state: State,
    wake: Time,
    pauses: u32,
    /// Who has failed since the last pause.
    skip: Vec<NodeId>,
    numbers: Vec<u64>,
    why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Out, with this number.
    Sent { to: NodeId, number: u64 },
    /// Until its time or a newer view.
    Pause,
    /// An earlier write of its chain comes first.
    Behind,
}

impl Op {
    fn chain(&self) -> Option<Chain> {
        match &self.order.job {
            Job::Write { key, .. } => Some((self.order.token.conn, key.0.clone())),
            Job::Read(_) | Job::Lasts(_) | Job::Keys { .. } => None,
        }
    }

    fn is_write(&self) -> bool {
        self.order.job.is_write()
    }
}

impl Core {
    /// No jobs yet.
    #[must_use]
    pub fn new(me: NodeId, switches: Switches) -> Core {
        Core {
            switches,
            me,
            ops: BTreeMap::new(),
            sendings: BTreeMap::new(),
            timers: BTreeSet::new(),
            chains: BTreeMap::new(),
            suspects: BTreeMap::new(),
            next: 0,
            seen: Epoch(0),
        }
    }

    /// Jobs under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.ops.len()
    }

    /// When [`Core::tick`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes a job.
    pub fn start(&mut self, now: Time, order: Order, ring: &Topology, out: &mut Vec<Action>) {
        if self.ops.len() >= MOST {
            let reply = if order.doubt { Reply::Unknown(NO_ANSWER) } else { Reply::Refused(BUSY) };
            out.push(Action::Reply { token: order.token, reply });
            return;
        }
        let id = self.number();
        let slots = u16::try_from(ring.views.len()).unwrap_or(u16::MAX).max(1);
        let deadline = now + TOTAL;
        let op = Op {
            slot: order.job.slot(slots),
            deadline,
            state: State::Behind,
            wake: deadline,
            pauses: 0,
            skip: if order.tried_here { vec![self.me] } else { Vec::new() },
            numbers: Vec::new(),
            why: NO_ANSWER,
            order,
        };
        if let Some(chain) = op.chain() {
            self.chains.entry(chain).or_default().push(id);
        }
        self.ops.insert(id, op);
        self.timers.insert((deadline, id));
        self.route(now, id, ring, out);
    }

    /// Takes the answer to a sending.
    pub fn answer(&mut self, now: Time, number: u64, reply: Reply, ring: &Topology, out: &mut Vec<Action>) {
        let Some(id) = self.sendings.get(&number).copied() else { return };
        let Some(op) = self.ops.get_mut(&id) else { return };
        let current = matches!(op.state, State::Sent { number: latest, .. } if latest == number);
        match reply {
            Reply::Refused(refusal) => {
                if current {
                    op.why = why(refusal);
                    self.failed(now, id, ring, out);
                }
            }
            Reply::Unknown(FORGOTTEN) => self.finish(now, id, Reply::Unknown(FORGOTTEN), ring, out),
            Reply::Unknown(why) => {
                (op.order.doubt, op.why) = (op.is_write(), why);
                if current {
                    self.failed(now, id, ring, out);
                }
            }
            // An answer is an answer, even to a sending that was given up.
            reply => {
                if let State::Sent { to, .. } = op.state {
                    self.suspects.remove(&to);
                }
                self.finish(now, id, reply, ring, out);
            }
        }
    }

    /// A sending has not left this server.
    pub fn unsent(&mut self, now: Time, number: u64, ring: &Topology, out: &mut Vec<Action>) {
        let Some(id) = self.sendings.get(&number).copied() else { return };
        if self
            .ops
            .get(&id)
            .is_some_and(|op| matches!(op.state, State::Sent { number: latest, .. } if latest == number))
        {
            self.failed(now, id, ring, out);
        }
    }

    /// The connection to `server` is gone, or was never made; `sent`: what was to go over it may have arrived.
    pub fn lost(&mut self, now: Time, server: NodeId, sent: bool, ring: &Topology, out: &mut Vec<Action>) {
        self.suspects.insert(server, now + SUSPECT);
        for id in self.sent_to(|to, _| to == server) {
            if let Some(op) = self.ops.get_mut(&id) {
                op.order.doubt |= sent && op.is_write();
                self.failed(now, id, ring, out);
            }
        }
    }

    /// Views may be newer than when this was last called: whatever is out with the wrong server goes to the right one.
    pub fn look(&mut self, now: Time, ring: &Topology, out: &mut Vec<Action>) {
        if self.seen == ring.highest_epoch {
            return;
        }
        self.seen = ring.highest_epoch;
        let wrong = self.sent_to(|to, op| {
            ring.view(op.slot)
                .is_some_and(|view| if op.is_write() { view.coordinator != to } else { !view.isr.contains_key(&to) })
        });
        for id in &wrong {
            if let Some(op) = self.ops.get_mut(id) {
                (op.order.doubt, op.state) = (op.order.doubt || op.is_write(), State::Behind);
            }
        }
        let paused = self.ops.iter().filter(|(_, op)| op.state == State::Pause).map(|(id, _)| *id);
        let again: BTreeSet<u64> = paused.chain(wrong).collect();
        for id in again {
            if let Some(op) = self.ops.get_mut(&id) {
                op.skip.clear();
                self.route(now, id, ring, out);
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Time, ring: &Topology, out: &mut Vec<Action>) {
        self.suspects.retain(|_, until| *until > now);
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(op) = self.ops.get_mut(&id) else { continue };
            if now >= op.deadline {
                let sent = matches!(op.state, State::Sent { .. });
                let doubt = op.is_write() && (op.order.doubt || sent);
                let reply = failure(doubt, op.why);
                self.finish(now, id, reply, ring, out);
                continue;
            }
            match op.state {
                State::Sent { to, .. } => {
                    op.order.doubt |= op.is_write();
                    self.suspects.insert(to, now + SUSPECT);
                    self.failed(now, id, ring, out);
                }
                State::Pause => self.route(now, id, ring, out),
                State::Behind => self.set_timer(id, Time::MAX),
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn sent_to(&self, wanted: impl Fn(NodeId, &Op) -> bool) -> Vec<u64> {
        let of = |op: &Op| matches!(op.state, State::Sent { to, .. } if wanted(to, op));
        self.ops.iter().filter(|(_, op)| of(op)).map(|(id, _)| *id).collect()
    }

    fn set_timer(&mut self, id: u64, at: Time) {
        if let Some(op) = self.ops.get_mut(&id) {
            self.timers.remove(&(op.wake, id));
            op.wake = at.min(op.deadline);
            self.timers.insert((op.wake, id));
        }
    }

    /// The last sending came to nothing: a read goes to the next server, all else waits a moment.
    fn failed(&mut self, now: Time, id: u64, ring: &Topology, out: &mut Vec<Action>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        if let State::Sent { to, .. } = op.state {
            op.skip.push(to);
        }
        op.state = State::Pause;
        if !op.is_write() && self.target(id, ring).is_some() {
            return self.route(now, id, ring, out);
        }
        self.pause(now, id);
    }

    fn pause(&mut self, now: Time, id: u64) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let pause = (PAUSE * (1 << op.pauses.min(8))).min(LONGEST_PAUSE);
        op.pauses += 1;
        op.skip.clear();
        op.state = State::Pause;
        self.set_timer(id, now + pause);
    }

    /// Who is to do it: none of those that have just failed.
    fn target(&self, id: u64, ring: &Topology) -> Option<NodeId> {
        let op = self.ops.get(&id)?;
        let view = ring.view(op.slot)?;
        if op.is_write() {
            return Some(view.coordinator).filter(|node| !op.skip.contains(node));
        }
        let able = |node: &NodeId| view.isr.contains_key(node) && !op.skip.contains(node);
        let mut able: Vec<NodeId> = preferred(self.me, view).filter(able).collect();
        able.sort_by_key(|node| self.suspects.contains_key(node));
        able.first().copied()
    }

    fn route(&mut self, now: Time, id: u64, ring: &Topology, out: &mut Vec<Action>) {
        if self.send(now, id, ring, out)
            && let Some(chain) = self.ops.get(&id).and_then(Op::chain)
        {
            self.follow(now, &chain, ring, out);
        }
    }

    /// Sends a job if it can go now; otherwise it waits.
    fn send(&mut self, now: Time, id: u64, ring: &Topology, out: &mut Vec<Action>) -> bool {
        let Some(op) = self.ops.get_mut(&id) else { return false };
        if ring.view(op.slot).is_none() {
            op.why = NO_VIEW;
        }
        let Some(to) = self.target(id, ring) else {
            self.pause(now, id);
            return false;
        };
        if !self.may_go(id, to) {
            if let Some(op) = self.ops.get_mut(&id) {
                op.state = State::Behind;
            }
            self.set_timer(id, Time::MAX);
            return false;
        }
        let number = self.number();
        let Some(op) = self.ops.get_mut(&id) else { return false };
        let Order { job, request, doubt, .. } = &op.order;
        let request = request.filter(|_| !self.switches.off(Rule::RelayNoId));
        let forward = Forward { number, job: job.clone(), request, retry: *doubt };
        op.state = State::Sent { to, number };
        op.numbers.push(number);
        self.sendings.insert(number, id);
        let patience = if op.is_write() { WRITE } else { READ };
        self.set_timer(id, now + patience);
        out.push(if to == self.me { Action::Here(forward) } else { Action::Send { to, forward } });
        true
    }

    /// Whether every earlier write of the chain is out with `to` already.
    fn may_go(&self, id: u64, to: NodeId) -> bool {
        let Some(chain) = self.ops.get(&id).and_then(Op::chain) else { return true };
        let earlier = self.chains.get(&chain).into_iter().flatten().take_while(|other| **other != id);
        earlier
            .filter_map(|other| self.ops.get(other))
            .all(|op| matches!(op.state, State::Sent { to: with, .. } if with == to))
    }

    /// Those of the chain that waited for what has just gone, or ended, may go.
    fn follow(&mut self, now: Time, chain: &Chain, ring: &Topology, out: &mut Vec<Action>) {
        let behind = |core: &Core| {
            let ids = core.chains.get(chain)?;
            ids.iter().find(|id| core.ops.get(id).is_some_and(|op| op.state == State::Behind)).copied()
        };
        while let Some(next) = behind(self) {
            // What waits for one that waits itself is looked at again when that one goes.
            let ready = self.target(next, ring).is_none_or(|to| self.may_go(next, to));
            if !ready || !self.send(now, next, ring, out) {
                return;
            }
        }
    }

    fn finish(&mut self, now: Time, id: u64, reply: Reply, ring: &Topology, out: &mut Vec<Action>) {
        let Some(op) = self.ops.remove(&id) else { return };
        self.timers.remove(&(op.wake, id));
        for number in &op.numbers {
            self.sendings.remove(number);
        }
        let executed = !matches!(reply, Reply::Refused(_) | Reply::Unknown(_));
        if let Some(chain) = op.chain() {
            let mut overtaken = Vec::new();
            if let Some(ids) = self.chains.get_mut(&chain) {
                let at = ids.iter().position(|other| *other == id).unwrap_or(0);
                if executed {
                    overtaken = ids[..at].to_vec();
                }
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.chains.remove(&chain);
                }
            }
            // Those that are out are answered for themselves; those that would be sent again would come too late.
            for earlier in overtaken {
                let Some(op) = self.ops.get(&earlier).filter(|op| !matches!(op.state, State::Sent { .. })) else {
                    continue;
                };
                let reply = failure(op.order.doubt, OVERTAKEN);
                self.finish(now, earlier, reply, ring, out);
            }
            out.push(Action::Reply { token: op.order.token, reply });
            return self.follow(now, &chain, ring, out);
        }
        out.push(Action::Reply { token: op.order.token, reply });
    }
}

/// Those who may have a copy: this server, the coordinator, the others as the ring has them.
fn preferred(me: NodeId, view: &View) -> impl Iterator<Item = NodeId> {
    let others = view.targets.iter().chain(view.isr.keys()).copied();
    [me, view.coordinator].into_iter().chain(others)
}

fn failure(doubt: bool, why: &'static str) -> Reply {
    if doubt { Reply::Unknown(why) } else { Reply::Refused(Refusal::Unavailable(why)) }
}

fn why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotResponsible => "no server is responsible for the key at the moment",
        Refusal::WriteLocked => "the key is being handed over to another server",
        Refusal::Unavailable(why) => why,
    }
}

#[cfg(test)]
mod tests;
