//! The slots and their locks, and how actions are performed.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use common::position::Position;
use common::{Slot, Time, Wall};

use super::ticker::AlarmClock;
use super::{Node, metrics::bump};
use crate::replica::{Action, Event, Replica};
use crate::slot_of::slot_of;

thread_local! {
    /// Whether this thread flushes journal and outboxes itself; see [`flushes_itself`].
    static FLUSHES: Cell<bool> = const { Cell::new(false) };
    /// A list for a core's actions that is used again and again, so that a request allocates none.
    static ACTIONS: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
}

/// This thread calls [`Node::flush`] after what it does: those that live for the cores' sake (pulse, ticker, journal). All
/// others leave it to a task of the main runtime, which does it for all of them.
pub(super) fn flushes_itself() {
    FLUSHES.set(true);
}

/// All slots of the ring, whether or not this server has a part in them.
#[derive(Debug)]
pub(super) struct Slots {
    replicas: Box<[Mutex<Replica>]>,
    /// What of a replica can be read without its lock, densely: whoever goes through all slots, often, touches few cache
    /// lines for those that it has nothing to do with.
    notices: Box<[Notice]>,
    count: u16,
    alarm_clock: AlarmClock,
    /// How the wall clock stood when the ticker looked last: [`Wall::ahead`].
    wall: AtomicI64,
}

#[derive(Debug, Default)]
struct Notice {
    /// The replica's deadline in microseconds.
    deadline: AtomicU64,
    /// Whether it is coordinated here.
    coordinated: AtomicBool,
}

impl Notice {
    /// Called with the replica locked. What stays as it is is not written: neighbours share a cache line.
    fn is(&self, deadline: u64, coordinated: bool) {
        if self.deadline.load(Relaxed) != deadline {
            self.deadline.store(deadline, SeqCst);
        }
        if self.coordinated.load(Relaxed) != coordinated {
            self.coordinated.store(coordinated, Relaxed);
        }
    }
}

impl Slots {
    pub(super) fn new(replicas: impl Iterator<Item = Replica>, wall: Wall) -> Slots {
        let replicas: Box<[_]> = replicas.map(Mutex::new).collect();
        let notices = replicas.iter().map(|_| Notice::default()).collect();
        let count = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
        let this = Slots { count, replicas, notices, alarm_clock: AlarmClock::default(), wall: AtomicI64::new(0) };
        this.set_wall(wall);
        this
    }

    /// The slot of a key.
    pub(super) fn of(&self, key: &[u8]) -> Slot {
        slot_of(key, self.count)
    }

    /// The slot of a position, and the slot's last position.
    pub(super) fn at(&self, position: Position) -> (Slot, Position) {
        let slot = position.slot(self.count);
        (slot, Position::last_of(slot, self.count))
    }

    /// Runs `f` on a slot and performs what it wants done, all under the slot's lock.
    pub(super) fn with<R>(&self, node: &Node, slot: Slot, f: impl FnOnce(&mut Replica, &mut Vec<Action>) -> R) -> R {
        let (result, deadline) = self.run(node, slot, f);
        self.alarm_clock.before(deadline);
        result
    }

    /// Runs `f` on every slot that is coordinated here. Cheap where few are: those of others are not even locked.
    pub(super) fn each_coordinated(&self, node: &Node, mut f: impl FnMut(&mut Replica, &mut Vec<Action>)) {
        for slot in (0..self.count).filter(|slot| self.notices[usize::from(*slot)].coordinated.load(Relaxed)) {
            self.with(node, Slot(slot), &mut f);
        }
    }

    /// The same as [`Slots::with`], for the ticker: returns the slot's deadline instead of setting the alarm.
    fn run<R>(&self, node: &Node, slot: Slot, f: impl FnOnce(&mut Replica, &mut Vec<Action>) -> R) -> (R, u64) {
        let mut out = ACTIONS.take();
        let (place, notice) = (&self.replicas[usize::from(slot.0)], &self.notices[usize::from(slot.0)]);
        let mut replica = match place.lock() {
            Ok(replica) => replica,
            Err(poisoned) => {
                node.bug(&format!("slot {slot}: its core panicked; its state cannot be trusted"));
                poisoned.into_inner()
            }
        };
        replica.set_wall(Wall { ahead: Some(self.wall.load(Relaxed)) });
        let result = f(&mut replica, &mut out);
        node.perform(slot, &mut out);
        let deadline = replica.deadline().map_or(u64::MAX, |time| time.0);
        notice.is(deadline, replica.coordinates());
        drop(replica);
        ACTIONS.set(out);
        (result, deadline)
    }

    /// The ticker has looked at the wall clock. All slots hear of it before anything else happens to them.
    pub(super) fn set_wall(&self, wall: Wall) {
        self.wall.store(wall.ahead.unwrap_or(0), Relaxed);
    }

    /// Tells every slot whose time has come; returns until when there is nothing more to do.
    pub(super) fn tick(&self, node: &Node, now: impl Fn() -> Time) -> Time {
        self.alarm_clock.scanning();
        let (seen, mut next) = (now(), u64::MAX);
        for slot in 0..self.count {
            let deadline = &self.notices[usize::from(slot)].deadline;
            if deadline.load(SeqCst) <= seen.0 {
                self.run(node, Slot(slot), |replica, out| replica.handle(now(), Event::Tick, out));
            }
            next = next.min(deadline.load(SeqCst));
        }
        Time(next)
    }

    /// What wakes the ticker.
    pub(super) fn alarm_clock(&self) -> &AlarmClock {
        &self.alarm_clock
    }
}

impl Node {
    /// Performs a core's actions in order. Called under the slot's lock: only pushes, no I/O.
    fn perform(&self, slot: Slot, out: &mut Vec<Action>) {
        let mut flush = false;
        for action in out.drain(..) {
            match action {
                Action::Journal(record) => {
                    self.store.append(&record);
                    flush = true;
                }
                Action::Send { to, msg } => {
                    let pushed = self.links.with(to, |peer| peer.data.push(&msg)) == Some(true);
                    if !pushed {
                        bump(&self.metrics.peer_drops);
                    }
                    flush |= pushed;
                }
                Action::Reply { token, reply } => self.replies.complete(token, reply),
                Action::Ask(ask) => {
                    bump(&self.metrics.asks);
                    self.asks.push(ask);
                }
                Action::Alarm(text) => self.alarm(slot, &text),
                Action::Audited(what) => self.audits.note(slot, what),
                Action::Moved(what) => self.moves.note(what),
            }
        }
        if flush && !FLUSHES.get() {
            self.pushed.notify_one();
        }
    }
}
