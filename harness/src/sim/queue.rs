//! What happens when: events by simulated real time, in the order of their making where times are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use common::{NodeId, Slot};
use kvclient::router::Failure;
use kvserver::replica::{Reply, Token};

use super::ambush::Moment;
use super::faults::FaultEvent;
use super::wire::{Party, Wire};

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A message arrives.
    Deliver { from: Party, to: Party, wire: Wire },
    /// A server's process starts.
    Start { server: usize },
    /// The replicas' deadline.
    Tick { server: usize, inc: u32 },
    /// Beacons are due.
    Pulse { server: usize, inc: u32 },
    /// A heartbeat is due.
    Heartbeat { server: usize, inc: u32 },
    /// The journal's fsync of this number has returned.
    Synced { server: usize, inc: u32, number: u64 },
    /// A slot is told what a sync has covered, perhaps after later ones: by a thread that had other things to do.
    Covered { server: usize, inc: u32, slot: Slot, mark: u64 },
    /// A checkpoint begins, or its files are written.
    Checkpoint { server: usize, inc: u32 },
    /// A server notices that its control connection is gone, or tries to make one.
    Control { server: usize, inc: u32, conn: u64 },
    /// A link to `peer` was just made.
    LinkUp { server: usize, peer: usize },
    /// The ECS's timer.
    EcsTick { inc: u32 },
    /// The ECS's fsync has returned.
    EcsSynced { inc: u32 },
    /// The ECS notices that a server's control connection is gone.
    EcsClosed { inc: u32, conn: u64 },
    /// A probe by the ECS has come to an end.
    EcsProbed { inc: u32, probe: u32 },
    /// A server that stops in order ends.
    Stop { server: usize, inc: u32 },
    /// The owner of a server that has gone wants it back.
    Return { server: usize },
    /// The operator of a tour looks how far it is; when it last said something.
    Tour { said: u64 },
    /// Somebody asks about the cluster as a whole.
    Wonder,
    /// A pause or a round of such a question is over.
    Inquiry { id: u32, round: u32 },
    /// A server's coordinators compare all copies of their slots; `again`: and go on doing so.
    Audit { server: usize, inc: u32, again: bool },
    /// A client tells the ECS that a server does not answer, though it does.
    Accuse { server: usize },
    /// An ambush may be waiting for this step.
    Moment { moment: Moment, slot: Slot, coordinator: NodeId, the_one: NodeId },
    /// What a server's coordinators ask of the ECS goes out.
    Asks { server: usize, inc: u32 },
    /// The ECS's process starts.
    EcsStart,
    /// A paused process goes on.
    Resume { party: Party },
    /// A replica's answer reaches the session that waits for it.
    Reply { server: usize, inc: u32, token: Token, reply: Reply },
    /// A server's relay looks after its jobs.
    Relay { server: usize, inc: u32 },
    /// A server hears that the connection on which it asked another one has ended.
    LaneEnds { server: usize, inc: u32, lane: u32 },
    /// A machine is started with a directory of another cluster.
    Foreign,
    /// Somebody sets a server's wall clock.
    Wall,
    /// A client hears that its connection has ended.
    ConnEnds { conn: u32, how: Failure },
    /// A router's deadline.
    Router { client: usize },
    /// A client's think time or patience is over.
    Client { client: usize, serial: u64 },
    /// A fault begins or ends.
    Fault(FaultEvent),
}

#[derive(Debug)]
struct Due {
    at: u64,
    order: u64,
    /// In a box, because the heap moves what it holds.
    event: Box<Event>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The events to come.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Due>>,
    made: u64,
}

impl Queue {
    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.heap.push(Reverse(Due { at, order: self.made, event: Box::new(event) }));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(due)| (due.at, *due.event))
    }

    /// How many events were ever made: a measure of the work.
    pub(super) fn made(&self) -> u64 {
        self.made
    }
}
