//! The slots and their locks, and how actions are performed.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use common::position::Position;
use common::{Slot, Time};

use super::{Node, metrics::bump};
use crate::replica::{Action, Event, Replica};

thread_local! {
    /// A list for a core's actions that is used again and again, so that a request allocates none.
    static ACTIONS: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
}

/// All slots of the ring, whether or not this server has a part in them.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Place]>,
    count: u16,
}

#[derive(Debug)]
struct Place {
    replica: Mutex<Replica>,
    /// The replica's deadline in microseconds, readable without its lock: the ticker looks at every slot, often.
    deadline: AtomicU64,
}

impl Slots {
    pub(super) fn new(replicas: impl Iterator<Item = Replica>) -> Slots {
        let place = |replica| Place { replica: Mutex::new(replica), deadline: AtomicU64::new(0) };
        let slots: Box<[_]> = replicas.map(place).collect();
        Slots { count: u16::try_from(slots.len()).unwrap_or(u16::MAX), slots }
    }

    /// The slot of a key.
    pub(super) fn of(&self, key: &[u8]) -> Slot {
        Position::of(key).slot(self.count)
    }

    /// The slot of a position, and the slot's last position.
    pub(super) fn at(&self, position: Position) -> (Slot, Position) {
        let slot = position.slot(self.count);
        (slot, Position::last_of(slot, self.count))
    }

    /// Runs `f` on a slot and performs what it wants done, all under the slot's lock.
    pub(super) fn with<R>(&self, node: &Node, slot: Slot, f: impl FnOnce(&mut Replica, &mut Vec<Action>) -> R) -> R {
        let mut out = ACTIONS.take();
        let place = &self.slots[usize::from(slot.0)];
        let mut replica = match place.replica.lock() {
            Ok(replica) => replica,
            Err(poisoned) => {
                node.bug(&format!("slot {slot}: its core panicked; its state cannot be trusted"));
                poisoned.into_inner()
            }
        };
        let result = f(&mut replica, &mut out);
        node.perform(slot, &mut out);
        place.deadline.store(replica.deadline().map_or(u64::MAX, |time| time.0), Release);
        drop(replica);
        ACTIONS.set(out);
        result
    }

    /// Tells every slot whose time has come.
    pub(super) fn tick(&self, node: &Node, now: impl Fn() -> Time) {
        let seen = now();
        for slot in 0..self.count {
            if self.slots[usize::from(slot)].deadline.load(Acquire) <= seen.0 {
                self.with(node, Slot(slot), |replica, out| replica.handle(now(), Event::Tick, out));
            }
        }
    }
}

impl Node {
    /// Performs a core's actions in order. Called under the slot's lock: only pushes, no I/O.
    fn perform(&self, slot: Slot, out: &mut Vec<Action>) {
        for action in out.drain(..) {
            match action {
                Action::Journal(record) => self.store.append(&record),
                Action::Send { to, msg } => {
                    if self.links.with(to, |peer| peer.data.push(&msg)) != Some(true) {
                        bump(&self.metrics.peer_drops);
                    }
                }
                Action::Reply { token, reply } => self.replies.complete(token, reply),
                Action::Ask(ask) => {
                    bump(&self.metrics.asks);
                    self.asks.push(ask);
                }
                Action::Alarm(text) => self.alarm(slot, &text),
            }
        }
    }
}
