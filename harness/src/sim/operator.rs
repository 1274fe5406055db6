//! Operators at work while everything else goes on: servers are told to leave, are sent away, come back; slots are evened
//! out, and changes called off. All of it by the words of the text protocol, sent to a server as people and scripts do.
//!
//! A *tour* is a run that grows from one server to all there are and shrinks back to one: faults and load accompany its
//! first part, the rest follows once everything is mended and must come to its end.

use bytes::BytesMut;
use common::{NodeState, Slot};
use ecs::Command;
use ecs::change::Change;
use kvclient::router::{Answer, Reply};
use kvclient::wire;

use super::ambush::{Moment, Step};
use super::conns::Waiter;
use super::queue::Event;
use super::server::Gone;
use super::world::World;

/// How often the operator of a tour looks how far it is.
const LOOK: u64 = 100_000;
/// How long it waits before it says something again.
const AGAIN: u64 = 1_500_000;
/// How long the rest of a tour may take when nothing goes wrong any more.
pub(super) const REST: u64 = 120_000_000;

/// Where a tour is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tour {
    Growing,
    Shrinking,
    Done,
}

impl World {
    /// Says something to `s` as somebody on its own machine.
    pub(super) fn order(&mut self, s: usize, line: &str) {
        self.trace.line(self.now, || format!("operator -> s{s}: {line}"));
        self.stats.bump("orders");
        let conn = self.dial(self.operator(), s);
        let mut bytes = BytesMut::new();
        let expect = wire::ask(&mut bytes, line);
        self.say(conn, &[Waiter::Order(expect)], bytes);
    }

    /// The operator's number among the clients.
    pub(super) fn operator(&self) -> usize {
        self.clients.len()
    }

    /// What came of it.
    pub(super) fn ordered(&mut self, reply: &Reply) {
        self.trace.line(self.now, || format!("operator <- {reply:?}"));
        match reply {
            Reply::Done(Answer::Text(_)) => self.stats.bump("orders granted"),
            Reply::Failed(why) if why.starts_with("busy") => self.stats.bump("orders told to wait"),
            Reply::Failed(_) | Reply::Stopped(_) => self.stats.bump("orders declined"),
            other => self.fail(format!("an operator is answered with {other:?}")),
        }
    }

    /// Machines that are part of the cluster as far as their owners know.
    fn members(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|s| self.servers[*s].takes_part()).collect()
    }

    /// `s` is told to leave.
    pub(super) fn order_leave(&mut self, s: usize) -> bool {
        let others = self.members().len() > 1;
        if others {
            self.order(s, "leave");
        }
        others
    }

    /// Through `s` some other server is sent away, up or down.
    pub(super) fn order_removal(&mut self, s: usize) -> bool {
        let others: Vec<usize> = self.members().into_iter().filter(|o| *o != s).collect();
        let Some(o) = self.rng.choice(&others).copied() else { return false };
        let name = if self.rng.bool() { self.servers[o].info().client_addr } else { self.servers[o].node.to_string() };
        self.order(s, &format!("remove {name}"));
        true
    }

    /// A change of mind, or a look at what would be.
    pub(super) fn order_word(&mut self, s: usize) {
        let words = ["cancel", "cancel", "change", "plan", "plan without s0:1"];
        let word = words[self.rng.usize(..words.len())];
        self.order(s, word);
    }

    /// A server has gone; now and then its owner wants it back.
    pub(super) fn comes_back(&mut self, s: usize) {
        // Whoever was turned away for what it holds has a place in the cluster still, and is needed there.
        let needed = self.servers[s].gone == Some(Gone::Copied);
        if needed || (!self.plan.tour && self.rng.u8(0..10) < 7) {
            let at = self.now + self.rng.u64(300_000..6_000_000);
            self.queue.at(at, Event::Return { server: s });
        }
    }

    /// It is started again: with what it has, or with an empty directory. Who was sent away has to say that it may.
    pub(super) fn come_back(&mut self, s: usize) {
        let Some(how) = self.servers[s].gone else { return };
        if self.now < self.calm_until && !self.healed {
            // It would be copied from whoever coordinates, who may be the one that is damaged.
            return self.queue.at(self.calm_until, Event::Return { server: s });
        }
        if self.healed && how != Gone::Copied {
            return;
        }
        self.servers[s].gone = None;
        if how == Gone::Copied || self.rng.u8(0..3) == 0 {
            self.fresh_directory(s);
        } else {
            self.servers[s].rejoin = how == Gone::Removed;
        }
        self.stats.bump("servers that come back");
        self.start_later(s, 1_000..50_000);
    }

    /// A durable step of the ECS may begin or end a change of membership.
    pub(super) fn change_moments(&mut self, command: &Command) {
        match command {
            Command::All(commands) => commands.iter().for_each(|command| self.change_moments(command)),
            Command::Begin(change) => {
                self.stats.bump(match change {
                    Change::Join { .. } => "joins begun",
                    Change::Leave { .. } => "leaves begun",
                    Change::Rebalance { .. } => "rebalancings begun",
                });
                let before = change.before().unpack();
                let slot = Slot(self.rng.u16(0..self.record.slots));
                let source = before.get(usize::from(slot.0)).copied();
                let the_one = change.node().or(source);
                if let (Some(coordinator), Some(the_one)) = (source, the_one) {
                    let at = self.now + self.rng.u64(1..100_000);
                    self.queue.at(at, Event::Moment { moment: Moment::ChangeBegins, slot, coordinator, the_one });
                }
            }
            Command::Depart { node, .. } => {
                let slot = Slot(self.rng.u16(0..self.record.slots));
                let coordinator = self.ecs.views().get(usize::from(slot.0)).map(|view| view.coordinator);
                if let Some(coordinator) = coordinator {
                    self.moment(Step { moment: Moment::Departs, slot, coordinator, the_one: *node, before: None });
                }
            }
            Command::End => self.stats.bump("changes ended"),
            _ => {}
        }
    }

    // ---- tours ----

    /// The operator of a tour looks whether the next step is due.
    pub(super) fn tour(&mut self, said: u64) {
        let Some(tour) = self.tour else { return };
        let mut said = said;
        match tour {
            Tour::Growing if self.at_rest() => match (0..self.servers.len()).find(|s| !self.servers[*s].used) {
                Some(s) if !self.servers[s].starting => self.start_later(s, 100..200_000),
                Some(_) => {}
                None => {
                    self.tour = Some(Tour::Shrinking);
                    said = self.now;
                    self.even_out();
                }
            },
            Tour::Shrinking if self.members().len() == 1 => {
                self.stats.bump("tours from one server to all and back");
                self.tour = Some(Tour::Done);
            }
            // Not below two as long as there are faults to come: one alone has little to go wrong.
            Tour::Shrinking if self.members().len() == 2 && !self.healed && !self.exercised() => {}
            // Not beside a fault that needs every other copy until it is found: two that differ outvote nobody.
            Tour::Shrinking if self.now > said + AGAIN && self.now >= self.calm_until && self.quiet() => {
                said = self.now + self.rng.u64(0..AGAIN);
                self.send_one_away();
            }
            Tour::Growing | Tour::Shrinking => {}
            Tour::Done => return,
        }
        self.queue.at(self.now + LOOK, Event::Tour { said });
    }

    fn even_out(&mut self) {
        let up: Vec<usize> = self.members().into_iter().filter(|s| self.servers[*s].awake()).collect();
        if let Some(s) = self.rng.choice(&up).copied() {
            self.order(s, "rebalance");
        }
    }

    fn send_one_away(&mut self) {
        let members = self.members();
        let up: Vec<usize> = members.iter().copied().filter(|s| self.servers[*s].awake()).collect();
        let (Some(one), Some(via)) = (self.rng.choice(&members).copied(), self.rng.choice(&up).copied()) else {
            return;
        };
        match one == via || (self.servers[one].awake() && self.rng.bool()) {
            true => self.order(one, "leave"),
            false => self.order(via, &format!("remove {}", self.servers[one].info().client_addr)),
        }
    }

    /// Whether no change is in progress.
    fn quiet(&self) -> bool {
        self.ecs.cluster().is_some_and(|cluster| cluster.change().is_none())
    }

    /// Whether, beside that, everybody who was started has joined.
    fn at_rest(&self) -> bool {
        let Some(cluster) = self.ecs.cluster().filter(|_| self.quiet()) else { return false };
        let up = |s: &usize| {
            let info = cluster.nodes().get(&self.servers[*s].node);
            info.is_some_and(|info| info.state == NodeState::Up)
        };
        let members = self.members();
        !members.is_empty() && members.iter().all(up)
    }
}
