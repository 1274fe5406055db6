//! What servers say to each other.
//!
//! Data messages travel on one connection per direction, beacons on another that no data can delay. Both may be lost
//! (a connection breaks), repeated or, in principle, reordered: every message names its slot and epoch, and a receiver
//! drops what is older than its own view (W2).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::entry::{Entry, LogId};
use crate::ids::{BootId, ClusterId, Epoch, NodeId, Seq, Slot, StoreUuid};
use crate::lineage::Lineage;
use crate::retry::RetryTable;
use crate::time::Time;
use crate::view::View;

/// The first frame on a peer connection, answered by [`HelloAck`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// Who calls; a probe by the ECS gives zeros for the node.
    pub from: Identity,
}

/// What a peer connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// [`PeerMsg`] frames, caller to listener.
    Data,
    /// [`Pulse`] frames, caller to listener.
    Pulse,
    /// Nothing more: the answer proves that the process is alive and who it is.
    Probe,
    /// One [`crate::question::Query`] frame, answered by one [`crate::question::Say`].
    Question,
    /// [`crate::forward::Forward`] frames, caller to listener, and [`crate::forward::Forwarded`] back.
    Forward,
}

/// Who a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// Its cluster, once known.
    pub cluster: Option<ClusterId>,
    /// Its node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreUuid,
    /// Its start.
    pub boot: BootId,
}

/// The listener's answer to [`Hello`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HelloAck {
    /// Who listens.
    pub from: Identity,
    /// Why the connection is not wanted, if it is not.
    pub refused: Option<String>,
    /// To a probe: what the listener waits for before it serves all that it should, as on `/readyz` and in its gRPC
    /// health. None: nothing.
    pub waiting_for: Option<String>,
}

/// One leaf's worth of records on the way to a learner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leaf {
    /// Which of the slot's leaves.
    pub leaf: u16,
    /// Whether everything the learner has in this leaf goes first. Later pieces of a large leaf do not say so.
    pub clear: bool,
    /// The coordinator's committed records,
    pub records: Vec<(Blob, Blob)>,
    /// and those that have a deadline, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub dated: Vec<(Blob, Blob, u64)>,
}

impl Leaf {
    /// A piece without records.
    #[must_use]
    pub fn new(leaf: u16, clear: bool) -> Leaf {
        Leaf { leaf, clear, records: Vec::new(), dated: Vec::new() }
    }

    /// Adds a record.
    pub fn push(&mut self, key: Blob, value: Blob, until: Option<u64>) {
        match until {
            None => self.records.push((key, value)),
            Some(until) => self.dated.push((key, value, until)),
        }
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.dated.is_empty()
    }
}

/// A data message. Every variant names the slot and the sender's epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerMsg {
    /// Coordinator to member or learner: opens a session at this epoch. The receiver adopts the view durably, cuts its
    /// own tail where the lineages part, and answers [`PeerMsg::SyncAck`].
    Sync {
        /// The view, which carries slot and epoch.
        view: Box<View>,
        /// The coordinator's log: its epochs,
        lineage: Lineage,
        /// its end,
        end: Seq,
        /// and how much of it is known to be committed.
        commit: Seq,
    },
    /// The answer, once the adopted view and the cut are durable.
    SyncAck {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// How far the receiver's durable log equals the coordinator's. None: it holds no position (its copy is to be
        /// replaced by content) or cannot tell.
        at: Option<Seq>,
        /// How much the receiver knows to be committed: a coordinator whose log is shorter has a lying disk.
        commit: Seq,
        /// The receiver holds entries beyond the coordinator's end that an earlier start of this very coordinator has sent
        /// it. They may have been acknowledged, so none of them was cut, and no session is open.
        further: bool,
        /// The receiver's store, for the ECS to check.
        store: StoreUuid,
        /// The receiver's boot, likewise.
        boot: BootId,
    },
    /// `PUT_FROM_COORDINATOR_1` and `_2`: entries after `prev`, which must match.
    PutFromCoordinator {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// Which replica the receiver is: 1 or 2 (3 and up for learners and for an ISR that is briefly larger).
        rank: u8,
        /// The entry just before the first of `entries`.
        prev: LogId,
        /// The entries, in order; none to say only what is committed.
        entries: Vec<Entry>,
        /// How much is committed.
        commit: Seq,
    },
    /// Everything up to `end` is durable at the receiver and equals the coordinator's log. Cumulative.
    PutAck {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The last durable entry.
        end: Seq,
    },
    /// `prev` did not match: the receiver has the coordinator's log only up to `have`.
    PutGap {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The receiver's matching end.
        have: Seq,
    },
    /// Member to coordinator: what is committed now? For a read of a key whose newest entry is not known committed (R2), or
    /// whose deadline is near (W3).
    ReadIndex {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The member's number for the question.
        read: u64,
        /// The key, if it is one that is read: the coordinator removes it first if its deadline has passed.
        key: Option<Blob>,
    },
    /// The answer, given under a valid lease only.
    ReadIndexAck {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The question's number.
        read: u64,
        /// What was committed after the question arrived.
        commit: Seq,
    },
    /// Coordinator to members: is this still the epoch? (R3)
    Confirm {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The round's number.
        round: u64,
    },
    /// It is.
    ConfirmAck {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The round's number.
        round: u64,
    },
    /// Coordinator to learner: your copy is to be compared and mended by content. The learner durably gives up its
    /// position, then answers [`PeerMsg::WalkDigests`].
    WalkBegin {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The walk's number.
        walk: u64,
    },
    /// The learner's leaf digests, all of them in order; empty stands for an empty copy.
    WalkDigests {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The walk's number.
        walk: u64,
        /// One digest per leaf.
        digests: Vec<u64>,
    },
    /// Differing leaves. Frames are numbered from 0 and must arrive in order.
    WalkFill {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The walk's number.
        walk: u64,
        /// The frame's number.
        frame: u32,
        /// Replacements.
        leaves: Vec<Leaf>,
    },
    /// All frames up to and including `frame` are written (durable by the time [`PeerMsg::WalkDone`] is said).
    WalkFillAck {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The walk's number.
        walk: u64,
        /// The last frame.
        frame: u32,
    },
    /// Coordinator to learner, after the last frame: the entries since the walk began, and what the copy must then be.
    WalkEnd {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The walk's number.
        walk: u64,
        /// The entries from the walk's start up to `at`, in order.
        entries: Vec<Entry>,
        /// The position the copy then has.
        at: LogId,
        /// The root digest of the coordinator's map at `at`.
        root: u64,
        /// The epochs of the log up to `at`.
        lineage: Lineage,
        /// The retry table at `at`.
        retries: RetryTable,
    },
    /// The learner's answer once the copy equals the root and is durable (`ok`), or that it does not: start over.
    WalkDone {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The walk's number.
        walk: u64,
        /// Whether it matched.
        ok: bool,
    },
    /// Coordinator to members: compare your copy, as it is when exactly the entries up to `at` are applied (repair).
    Audit {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The audit's number.
        audit: u64,
        /// The position.
        at: Seq,
        /// What to compare.
        what: AuditOf,
    },
    /// The answer.
    AuditAck {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
        /// The audit's number.
        audit: u64,
        /// What was found.
        found: AuditFound,
    },
    /// Coordinator to a member: your copy differs from what the others agree on, and is to be replaced by content. It
    /// answers as one that has no position, with [`PeerMsg::SyncAck`], and is taken out and caught up like any learner.
    Distrust {
        /// Slot.
        slot: Slot,
        /// Epoch.
        epoch: Epoch,
    },
}

/// What an audit compares.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AuditOf {
    /// The whole copy, by this root digest of the coordinator's.
    Root(u64),
    /// The records of these leaves, one by one.
    Leaves(Vec<u16>),
}

/// What a member's copy is at the audit's position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AuditFound {
    /// The root is the same.
    Equal,
    /// It is not; one digest per leaf.
    Digests(Vec<u64>),
    /// The key and digest of every record of the leaves.
    Records(Vec<(Blob, u64)>),
    /// A record is not what it was when it arrived, by its checksum.
    Damaged,
    /// The copy has gone past that position, or cannot tell.
    Missed,
}

impl PeerMsg {
    /// Which slot the message is about.
    #[must_use]
    pub fn slot(&self) -> Slot {
        use PeerMsg as M;
        match self {
            M::Sync { view, .. } => view.slot,
            M::SyncAck { slot, .. }
            | M::PutFromCoordinator { slot, .. }
            | M::PutAck { slot, .. }
            | M::PutGap { slot, .. }
            | M::ReadIndex { slot, .. }
            | M::ReadIndexAck { slot, .. }
            | M::Confirm { slot, .. }
            | M::ConfirmAck { slot, .. }
            | M::WalkBegin { slot, .. }
            | M::WalkDigests { slot, .. }
            | M::WalkFill { slot, .. }
            | M::WalkFillAck { slot, .. }
            | M::WalkEnd { slot, .. }
            | M::WalkDone { slot, .. }
            | M::Audit { slot, .. }
            | M::AuditAck { slot, .. }
            | M::Distrust { slot, .. } => *slot,
        }
    }

    /// The sender's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        use PeerMsg as M;
        match self {
            M::Sync { view, .. } => view.epoch,
            M::SyncAck { epoch, .. }
            | M::PutFromCoordinator { epoch, .. }
            | M::PutAck { epoch, .. }
            | M::PutGap { epoch, .. }
            | M::ReadIndex { epoch, .. }
            | M::ReadIndexAck { epoch, .. }
            | M::Confirm { epoch, .. }
            | M::ConfirmAck { epoch, .. }
            | M::WalkBegin { epoch, .. }
            | M::WalkDigests { epoch, .. }
            | M::WalkFill { epoch, .. }
            | M::WalkFillAck { epoch, .. }
            | M::WalkEnd { epoch, .. }
            | M::WalkDone { epoch, .. }
            | M::Audit { epoch, .. }
            | M::AuditAck { epoch, .. }
            | M::Distrust { epoch, .. } => *epoch,
        }
    }
}

/// A frame on a pulse connection: one per peer and direction, whatever the number of slots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Pulse {
    /// Coordinator to members, every L/5.
    Beacon {
        /// The sender's clock when it was sent; comes back in the ack.
        sent: Time,
        /// The sender's lease, which must be the receiver's too.
        lease_ms: u32,
        /// One for every slot that the sender coordinates and the receiver follows.
        slots: Vec<Beacon>,
    },
    /// The answer, which carries the promise of L1 for every slot it lists.
    BeaconAck {
        /// The beacon's `sent`.
        sent: Time,
        /// The answerer's own clock; a read lease is counted from it.
        answered: Time,
        /// The slots whose epoch is the answerer's own, too.
        slots: Vec<BeaconAck>,
    },
}

/// A beacon for one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Beacon {
    /// Slot.
    pub slot: Slot,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// What is committed.
    pub commit: Seq,
    /// A read lease (L2).
    pub grant: Option<Grant>,
}

/// A read lease, counted from the receiver's own clock so that no two clocks are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The receiver's `answered` that this grant answers.
    pub answered: Time,
    /// How long from then, in microseconds of the granter's clock.
    pub micros: u64,
}

/// An answer for one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BeaconAck {
    /// Slot.
    pub slot: Slot,
    /// The epoch of both.
    pub epoch: Epoch,
    /// The answerer's durable matching end, if a session is open: as good as a [`PeerMsg::PutAck`].
    pub end: Option<Seq>,
}

/// Keys and values as messages carry them.
pub type KeyValue = (Bytes, Bytes);
