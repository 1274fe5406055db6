//! Questions about the whole cluster: the asked server gathers, by the product's core, what the coordinators count.
//!
//! What the product's shell around that core does with tasks and connections is done with events and messages here. The
//! answers are checked against what was committed while the question was under way ([`crate::invariants`]).

use std::collections::BTreeMap;

use bytes::BytesMut;
use common::Slot;
use common::blob::Blob;
use common::question::{Extents, Say};
use kvclient::router::{Answer, Reply as Heard};
use kvclient::wire;
use kvserver::questions::asked::{Asked, What, words};
use kvserver::questions::gather::Gather;
use kvserver::questions::{ATTEMPT, PATIENCE, PAUSE};
use kvserver::replica::{Extent, Reply, Token};

use super::conns::Waiter;
use super::queue::Event;
use super::wire::{Party, Wire};
use super::world::World;
use crate::invariants::Count;

/// A question that a server gathers the answer to.
#[derive(Debug)]
pub(super) struct Inquiry {
    server: usize,
    inc: u32,
    token: Token,
    asked: Asked,
    gather: Gather,
    until: u64,
    /// What other servers were asked in this round and have not answered.
    open: BTreeMap<u32, Vec<Slot>>,
    round: u32,
}

/// What a server is counting for another, or for itself.
#[derive(Debug)]
pub(super) struct Answering {
    inquiry: u32,
    to: usize,
    all: Extents,
    waiting: BTreeMap<u64, Slot>,
}

/// Tokens of counting reads have connection numbers that no client has.
const COUNTING: u32 = 1 << 31;

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl World {
    /// Somebody wonders how many keys there are, or which is the first.
    pub(super) fn wonder(&mut self) {
        let up: Vec<usize> = (0..self.servers.len()).filter(|s| self.servers[*s].awake()).collect();
        if let Some(s) = self.rng.choice(&up).copied() {
            let count = [Count::Number, Count::First, Count::Last][self.rng.usize(0..3)];
            self.ask_count(s, count);
        }
        if !self.healed {
            let at = self.now + self.rng.u64(100_000..1_500_000);
            self.queue.at(at, Event::Wonder);
        }
    }

    /// Asks `s`; the answer is checked when it comes.
    pub(super) fn ask_count(&mut self, s: usize, count: Count) {
        let watch = self.checks.watch();
        let word = match count {
            Count::Number => "num_keys",
            Count::First => "first_keyb",
            Count::Last => "last_keyb",
        };
        self.stats.bump("questions for all");
        let conn = self.dial(self.operator(), s);
        let mut bytes = BytesMut::new();
        let expect = wire::ask(&mut bytes, word);
        self.say(conn, &[Waiter::Count(watch, count, expect)], bytes);
    }

    /// A question was answered, or will not be.
    pub(super) fn counted(&mut self, watch: u32, count: Count, reply: Option<Heard>) {
        let checked = match reply {
            Some(Heard::Done(Answer::Text(number))) if count == Count::Number => {
                number.trim().parse().map_err(|_| format!("num_keys is {number:?}")).and_then(|n| {
                    self.stats.bump("questions for all answered");
                    self.checks.counted(watch, n)
                })
            }
            Some(Heard::Done(Answer::Value(key))) if count != Count::Number => {
                self.stats.bump("questions for all answered");
                self.checks.outermost(watch, count, key.as_ref())
            }
            None | Some(Heard::Stopped(_) | Heard::Failed(_)) => Ok(()),
            Some(other) => Err(format!("a question for all is answered with {other:?}")),
        };
        self.checks.unwatch(watch);
        // A copy that was damaged behind the protocol's back counts what it has.
        let damaged = self.stats.count("fault: damaged copy") > 0;
        if let Err(why) = checked.or_else(|why| if damaged { Ok(()) } else { Err(why) }) {
            self.fail(why);
        }
    }

    // ---- the server that is asked ----

    pub(super) fn inquire(&mut self, s: usize, asked: Asked, token: Token) {
        self.wait_for(s, token);
        if !matches!(asked.what, What::Count | What::First(_) | What::Last(_)) {
            let reply = asked.failed("the simulation only counts".to_string());
            return self.reply(s, token, reply);
        }
        let (until, inc) = (self.now + micros(PATIENCE), self.servers[s].inc);
        let gather = Gather::new(self.record.slots);
        let inquiry = Inquiry { server: s, inc, token, asked, gather, until, open: BTreeMap::new(), round: 0 };
        self.next_inquiry += 1;
        self.inquiries.insert(self.next_inquiry, inquiry);
        self.queue.at(self.now, Event::Inquiry { id: self.next_inquiry, round: 0 });
    }

    /// A pause between rounds is over, or a round has lasted long enough.
    pub(super) fn inquiry_tick(&mut self, id: u32, round: u32) {
        let Some(inquiry) = self.inquiries.get_mut(&id).filter(|inquiry| inquiry.round == round) else { return };
        let (s, inc) = (inquiry.server, inquiry.inc);
        let server = &self.servers[s];
        if server.inc != inc || server.process.is_none() {
            self.inquiries.remove(&id);
            return;
        }
        if server.paused {
            return self.queue.at(self.now + 50_000, Event::Inquiry { id, round });
        }
        if !inquiry.open.is_empty() {
            for slots in std::mem::take(&mut inquiry.open).into_values() {
                inquiry.gather.take(&slots, Err("no answer in time".to_string()));
            }
            return self.round_ends(id);
        }
        self.begin_round(id);
    }

    fn begin_round(&mut self, id: u32) {
        let Some(inquiry) = self.inquiries.get_mut(&id) else { return };
        let s = inquiry.server;
        let Some(process) = self.servers[s].process.as_ref() else { return };
        let coordinator = |slot| process.topology.view(slot).map(|view| view.coordinator);
        let rounds = inquiry.gather.round(coordinator);
        inquiry.round += 1;
        let (round, until) = (inquiry.round, inquiry.until);
        let mut questions = Vec::new();
        for (who, slots) in rounds {
            self.next_inquiry += 1;
            inquiry.open.insert(self.next_inquiry, slots.clone());
            questions.push((self.next_inquiry, who, slots));
        }
        let at = until.min(self.now + micros(ATTEMPT));
        self.queue.at(at, Event::Inquiry { id, round });
        if questions.is_empty() {
            return self.round_ends(id);
        }
        for (ask, node, slots) in questions {
            match self.peer(s, node) {
                Some(to) if to == s => self.count(s, s, id, ask, &slots),
                Some(to) => {
                    let wire = Wire::Question { inquiry: id, ask, node, slots };
                    self.send(Party::Server(s), Party::Server(to), wire);
                }
                None => {}
            }
        }
    }

    /// A server says what it counted.
    pub(super) fn said(&mut self, id: u32, ask: u32, extents: Extents) {
        let Some(inquiry) = self.inquiries.get_mut(&id) else { return };
        let Some(slots) = inquiry.open.remove(&ask) else { return };
        inquiry.gather.take(&slots, Ok(Say::Extents(extents)));
        if inquiry.open.is_empty() {
            self.round_ends(id);
        }
    }

    fn round_ends(&mut self, id: u32) {
        let Some(inquiry) = self.inquiries.get_mut(&id) else { return };
        let pause = micros(PAUSE);
        if !inquiry.gather.is_done() && self.now + pause < inquiry.until {
            inquiry.round += 1;
            let round = inquiry.round;
            return self.queue.at(self.now + pause, Event::Inquiry { id, round });
        }
        let Some(Inquiry { server, inc, token, asked, gather, .. }) = self.inquiries.remove(&id) else { return };
        let reply = match gather.end() {
            Ok(all) => asked.counted(all),
            Err((slot, why)) => asked.failed(format!("slot {slot} is not served: {why}")),
        };
        if self.servers[server].inc == inc {
            self.reply(server, token, reply);
        }
    }

    // ---- the servers that count ----

    /// `s` counts what these slots hold, for `to`.
    pub(super) fn count(&mut self, s: usize, to: usize, inquiry: u32, ask: u32, slots: &[Slot]) {
        let now = self.local(s);
        let mut answering = Answering { inquiry, to, all: Extents::default(), waiting: BTreeMap::new() };
        for slot in slots {
            let token = Token { conn: COUNTING | ask, index: u64::from(slot.0) };
            let mut out = std::mem::take(&mut self.scratch);
            let extent = self.replica_mut(s, *slot).map(|replica| replica.extent(now, token, &mut out));
            match extent {
                None => answering.all.refused.push((*slot, "there is no such slot".to_string())),
                Some(Some(Ok(extent))) => add(&mut answering.all, extent),
                Some(Some(Err(refusal))) => answering.all.refused.push((*slot, words(refusal).to_string())),
                Some(None) => {
                    answering.waiting.insert(token.index, *slot);
                    self.wait_for(s, token);
                }
            }
            self.perform(s, *slot, &mut out);
            self.scratch = out;
            self.after(s, *slot);
        }
        if let Some(process) = self.servers[s].process.as_mut() {
            process.answering.insert(ask, answering);
        }
        self.count_ends(s, ask);
    }

    /// A replica has answered one of those reads; false if the token is a client's.
    pub(super) fn count_goes_on(&mut self, s: usize, token: Token, reply: &Reply) -> bool {
        let ask = token.conn & !COUNTING;
        if token.conn & COUNTING == 0 {
            return false;
        }
        let Some(process) = self.servers[s].process.as_mut() else { return true };
        let Some(answering) = process.answering.get_mut(&ask) else { return true };
        if let Some(slot) = answering.waiting.remove(&token.index) {
            match reply {
                Reply::Extent(extent) => add(&mut answering.all, extent.clone()),
                Reply::Refused(refusal) => answering.all.refused.push((slot, words(*refusal).to_string())),
                other => answering.all.refused.push((slot, format!("{other:?}"))),
            }
        }
        self.count_ends(s, ask);
        true
    }

    fn count_ends(&mut self, s: usize, ask: u32) {
        let Some(process) = self.servers[s].process.as_mut() else { return };
        if process.answering.get(&ask).is_none_or(|answering| !answering.waiting.is_empty()) {
            return;
        }
        let Some(Answering { inquiry, to, all, .. }) = process.answering.remove(&ask) else { return };
        if s == to {
            return self.said(inquiry, ask, all);
        }
        self.send(Party::Server(s), Party::Server(to), Wire::Answer { inquiry, ask, extents: all });
    }
}

fn add(all: &mut Extents, extent: Extent) {
    all.add(extent.records, extent.first.map(Blob), extent.last.map(Blob));
}
