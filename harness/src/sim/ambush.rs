//! Faults that wait for their moment: what goes wrong only within milliseconds of a certain step of the protocol is found
//! by striking at that step, not by waiting for chance to do it.

use common::{NodeId, Slot, View};

use super::faults::FaultEvent;
use super::queue::Event;
use super::wire::Party;
use super::world::World;

/// A step of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The ECS has taken a member in, and has told nobody yet.
    Expanded,
    /// The ECS has taken a member out, and has told nobody yet.
    Shrunk,
    /// The ECS has replaced a coordinator.
    FailedOver,
    /// The ECS has completed a hand-over.
    HandedOver,
    /// A coordinator asks for a learner to be taken in.
    AsksExpand,
    /// A coordinator has released its slot and asks for the hand-over to be completed.
    AsksHandOver,
    /// A catch-up by content begins.
    WalkBegins,
    /// A catch-up by content ends.
    WalkEnds,
    /// A join, a leave or a move of slots has just begun.
    ChangeBegins,
    /// A server has gone for good, and has not been told yet.
    Departs,
    /// The ECS writes a step down, and nothing of it is synced yet.
    EcsWrites,
}

impl Moment {
    const ALL: [Moment; 11] = [
        Moment::Expanded,
        Moment::Shrunk,
        Moment::FailedOver,
        Moment::HandedOver,
        Moment::AsksExpand,
        Moment::AsksHandOver,
        Moment::WalkBegins,
        Moment::WalkEnds,
        Moment::ChangeBegins,
        Moment::Departs,
        Moment::EcsWrites,
    ];
}

/// What happens then. *The one* is whom the step is about: who is taken in or out, deposed, or caught up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// Those who were there before are on one side of a cut, the ECS and the one on the other.
    Split,
    /// The one and the coordinator do not reach each other.
    Part,
    /// The one reaches nobody but clients.
    Exile,
    /// The coordinator dies.
    KillCoordinator,
    /// The one dies.
    KillTheOne,
    /// The power of both fails.
    PowerCutBoth,
    /// The coordinator stops for a while.
    PauseCoordinator,
    /// The ECS stops for a while, and the coordinator and the one do not reach each other.
    Deadlock,
    /// The ECS dies.
    KillEcs,
    /// The coordinator's control connection breaks.
    Disconnect,
    /// The coordinator dies and is back at once; the one reaches nobody but clients.
    Bounce,
    /// The coordinator does not hear the ECS for a moment, in which another member dies; the one reaches nobody but clients.
    Blink,
}

impl Trap {
    pub(super) const ALL: [Trap; 12] = [
        Trap::Split,
        Trap::Part,
        Trap::Exile,
        Trap::KillCoordinator,
        Trap::KillTheOne,
        Trap::PowerCutBoth,
        Trap::PauseCoordinator,
        Trap::Deadlock,
        Trap::KillEcs,
        Trap::Disconnect,
        Trap::Bounce,
        Trap::Blink,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Trap::Split => "ambush: split",
            Trap::Part => "ambush: parted",
            Trap::Exile => "ambush: exile",
            Trap::KillCoordinator => "ambush: coordinator killed",
            Trap::KillTheOne => "ambush: the other killed",
            Trap::PowerCutBoth => "ambush: power cut of both",
            Trap::PauseCoordinator => "ambush: coordinator paused",
            Trap::Deadlock => "ambush: ECS paused, parted",
            Trap::KillEcs => "ambush: ECS killed",
            Trap::Disconnect => "ambush: disconnected",
            Trap::Bounce => "ambush: coordinator restarted",
            Trap::Blink => "ambush: a view missed",
        }
    }
}

/// A trap and its moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ambush {
    /// When.
    pub moment: Moment,
    /// What.
    pub trap: Trap,
    /// In how many of 100 such moments.
    pub percent: u32,
}

impl Ambush {
    /// Any.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Ambush {
        let (moment, trap) = (Moment::ALL[rng.usize(..Moment::ALL.len())], Trap::ALL[rng.usize(..Trap::ALL.len())]);
        Ambush { moment, trap, percent: rng.u32(3..40) }
    }
}

/// A step as it happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    pub(super) moment: Moment,
    pub(super) slot: Slot,
    pub(super) coordinator: NodeId,
    pub(super) the_one: NodeId,
    /// Who was in the ISR before.
    pub(super) before: Option<&'a View>,
}

impl World {
    /// Something happens that an ambush may wait for.
    pub(super) fn moment(&mut self, step: Step<'_>) {
        let idle = self.stats.faults == 0 || self.enough() || self.now < self.calm_until;
        if self.healed || idle {
            return;
        }
        for ambush in self.plan.ambushes.clone() {
            if ambush.moment == step.moment && self.rng.u32(0..100) < ambush.percent && self.spring(ambush.trap, step) {
                self.stats.bump(ambush.trap.name());
                self.stats.faults += 1;
            }
        }
    }

    /// The same for what a view change is.
    pub(super) fn view_moments(&mut self, old: &View, new: &View) {
        let mut step = Step {
            moment: Moment::Expanded,
            slot: new.slot,
            coordinator: new.coordinator,
            the_one: old.coordinator,
            before: Some(old),
        };
        if let Some(node) = new.isr.keys().find(|node| !old.isr.contains_key(node)) {
            self.moment(Step { the_one: *node, ..step });
        }
        if let Some(node) = old.isr.keys().find(|node| !new.isr.contains_key(node)) {
            self.moment(Step { moment: Moment::Shrunk, the_one: *node, ..step });
        }
        if new.coordinator != old.coordinator {
            step.moment = if new.released.is_some() { Moment::HandedOver } else { Moment::FailedOver };
            self.moment(step);
        }
    }

    fn machine(&self, node: NodeId) -> Option<usize> {
        let machines = self.servers.iter().enumerate().filter(|(_, server)| server.node == node);
        machines.max_by_key(|(s, server)| (server.boot, std::cmp::Reverse(*s))).map(|(s, _)| s)
    }

    fn spring(&mut self, trap: Trap, step: Step<'_>) -> bool {
        let (Some(c), Some(o)) = (self.machine(step.coordinator), self.machine(step.the_one)) else { return false };
        self.trace
            .line(self.now, || format!("-------- {trap:?} at {:?} of slot {}: s{c}, s{o}", step.moment, step.slot));
        let spell = self.rng.u64(200_000..3_500_000);
        match trap {
            Trap::Split => {
                let inside = |s: usize| step.before.is_none_or(|view| view.isr.contains_key(&self.servers[s].node));
                let (old, mut new): (Vec<usize>, Vec<usize>) =
                    (0..self.servers.len()).partition(|s| *s != o && inside(*s));
                new.retain(|s| !old.contains(s));
                let new: Vec<Party> = new.into_iter().map(Party::Server).chain([Party::Ecs]).collect();
                let old: Vec<Party> = old.into_iter().map(Party::Server).collect();
                self.part(&old, &new, spell);
            }
            Trap::Part if c != o => self.part(&[Party::Server(c)], &[Party::Server(o)], spell),
            Trap::Exile => self.exile(o, spell),
            Trap::KillCoordinator if self.servers[c].process.is_some() => self.crash(c, false),
            Trap::KillTheOne if self.servers[o].process.is_some() => self.crash(o, false),
            Trap::PowerCutBoth if self.servers[c].process.is_some() => {
                self.crash(c, true);
                self.crash(o, true);
            }
            Trap::PauseCoordinator if self.servers[c].awake() => self.pause(c),
            Trap::Deadlock if self.ecs.awake() && c != o => {
                self.part(&[Party::Server(c)], &[Party::Server(o)], spell);
                self.ecs.paused = true;
                self.queue.at(self.now + spell * 9 / 10, Event::Resume { party: Party::Ecs });
            }
            Trap::KillEcs if self.ecs.process.is_some() => self.ecs_crash(false),
            Trap::Disconnect => {
                let Some(conn) = self.servers[c].process.as_ref().and_then(|process| process.conn) else {
                    return false;
                };
                self.break_conn(conn, Some(2_000));
            }
            Trap::Bounce if c != o && self.servers[c].process.is_some() => {
                self.exile(o, spell);
                self.stop_server(c, false);
                self.start_later(c, 1_000..40_000);
            }
            Trap::Blink if c != o => {
                self.exile(o, spell);
                self.part(&[Party::Server(c)], &[Party::Ecs], 40_000);
                let nodes = step.before.map(|view| view.isr.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
                let others = nodes.into_iter().filter_map(|node| self.machine(node));
                let others: Vec<usize> =
                    others.filter(|s| *s != c && *s != o && self.servers[*s].process.is_some()).collect();
                others.into_iter().for_each(|s| self.crash(s, false));
            }
            _ => return false,
        }
        true
    }

    fn exile(&mut self, s: usize, spell: u64) {
        let others: Vec<Party> =
            (0..self.servers.len()).filter(|o| *o != s).map(Party::Server).chain([Party::Ecs]).collect();
        self.part(&[Party::Server(s)], &others, spell);
    }

    fn part(&mut self, left: &[Party], right: &[Party], spell: u64) {
        let ways: Vec<(Party, Party)> =
            left.iter().flat_map(|a| right.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect();
        ways.iter().for_each(|(from, to)| self.net.cut(*from, *to));
        self.queue.at(self.now + spell, Event::Fault(FaultEvent::Mend(ways)));
    }
}
