//! One slot's replication protocol: a pure state machine.
//!
//! Events go in, actions come out, time is an argument. The same code runs behind real sockets and in the simulation.

mod action;

pub use action::{Action, Event, Read, Refusal, Reply, Token, Write, WriteOp};
use common::control::SlotReport;
use common::peer::{Beacon, BeaconAck, Identity};
use common::{Epoch, NodeId, Slot, Switches, Time, Timing, View};

use crate::storage::SlotImage;

/// What every replica of a process shares.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who this process is.
    pub me: Identity,
    /// The cluster's durations.
    pub timing: Timing,
    /// When this process started: promises given before are unknown (L3).
    pub started: Time,
    /// Ask every member before a read is answered, instead of trusting the lease (R3).
    pub confirm_reads: bool,
    /// Rules that are off; none in a product build.
    pub switches: Switches,
}

/// One slot at one server.
#[derive(Debug)]
pub struct Replica {
    slot: Slot,
    setup: Setup,
    image: SlotImage,
}

impl Replica {
    /// A replica as it starts, from what recovery found.
    #[must_use]
    pub fn new(slot: Slot, setup: Setup, image: SlotImage) -> Replica {
        Replica { slot, setup, image }
    }

    /// Which slot this is.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Takes one event; what must be done about it is appended to `out`, to be performed in order.
    pub fn handle(&mut self, _now: Time, _event: Event, _out: &mut Vec<Action>) {
        let _ = &self.setup;
    }

    /// When [`Event::Tick`] is wanted next, if at all.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// Reads a key, inline if that is possible. `now` must have been read after the request arrived.
    pub fn read(&mut self, _now: Time, key: &[u8], _token: Token, _out: &mut Vec<Action>) -> Read<'_> {
        self.image.map.get(key).map_or(Read::Missing, Read::Value)
    }

    /// The beacons that are due to every follower. Called every L/5 by whoever drives the pulse.
    pub fn beacons(&mut self, _now: Time, _out: &mut Vec<(NodeId, Beacon)>) {}

    /// A beacon from `from`: renews its lease, and perhaps ours. None: it is not our coordinator at our epoch.
    pub fn beacon(&mut self, _now: Time, _from: NodeId, _beacon: &Beacon, _out: &mut Vec<Action>) -> Option<BeaconAck> {
        None
    }

    /// The answer to a beacon that was sent at `sent` on our own clock; `answered` is on the answerer's.
    pub fn beacon_ack(
        &mut self,
        _now: Time,
        _from: NodeId,
        _sent: Time,
        _answered: Time,
        _ack: &BeaconAck,
        _out: &mut Vec<Action>,
    ) {
    }

    /// The view in force here, if any was ever adopted.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.image.view.as_ref()
    }

    /// What the ECS is told, if this server coordinates the slot.
    #[must_use]
    pub fn report(&self) -> Option<SlotReport> {
        None
    }

    /// The epoch of a view in which this server has no part although it holds a copy; the ECS answers with a drop.
    #[must_use]
    pub fn stray(&self) -> Option<Epoch> {
        None
    }

    /// The slot's durable state at this moment, tail included, for a checkpoint.
    #[must_use]
    pub fn snapshot(&self) -> SlotImage {
        self.image.clone()
    }
}
