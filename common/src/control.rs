//! What servers and the ECS say to each other: JSON, one object a line, so that a person can listen in.
//!
//! A connection to the ECS's port begins with one [`FromServer::Register`], [`FromServer::Heartbeat`] or [`Question`] line
//! and stays what that line made it. Heartbeats are one-way and have a connection of their own.

use serde::{Deserialize, Serialize};

use crate::entry::LogId;
use crate::ids::{BootId, ClusterId, Epoch, NodeId, Seq, Slot, StoreUuid};
use crate::view::{ClusterRecord, Meta, NodeInfo};

/// Server to ECS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromServer {
    /// The first line of a control connection.
    Register {
        /// Who calls; `state` is ignored.
        info: NodeInfo,
        /// The cluster the data directory belongs to, if any yet.
        cluster: Option<ClusterId>,
        /// Its operator wants it in even if it was sent away, with whatever its directory holds.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rejoin: bool,
        /// The highest epoch that its directory knows: an ECS with an older state must not make views on its account.
        #[serde(default)]
        seen: Epoch,
    },
    /// Changes asked for: each is a compare-and-set. Repeated until a newer view arrives.
    Ask(Vec<Ask>),
    /// How the server's slots stand: sent on change and once a second.
    Report(Report),
    /// The first and every line of a heartbeat connection.
    Heartbeat(Heartbeat),
    /// The server will stop in a moment: give what it coordinates to others. It stays in sync until it says goodbye.
    Stopping,
    /// The server is about to stop in order: judge it dead at once instead of waiting.
    Goodbye,
    /// Somebody who may ask for a change of membership asked this server for it.
    Wish {
        /// Chosen by the server; the answer repeats it.
        id: u64,
        /// What.
        wish: Wish,
    },
}

/// What an operator can ask for, from any server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// The asking server leaves in order.
    Leave {
        /// Even if it is the last one, and all records go with it.
        force: bool,
    },
    /// A server is to leave: in order if it answers, as a failed one if not.
    Remove {
        /// Its id, or its `host:port`.
        node: String,
        /// As for leaving.
        force: bool,
    },
    /// A server that is down is given up with what only it has: that is lost. Apart from `Remove`, so that it cannot happen
    /// by a habit.
    GiveUp {
        /// Its id, or its `host:port`.
        node: String,
    },
    /// How far the change in progress is.
    Progress,
    /// What evening out the load would move.
    Plan,
    /// What would become of the records if this server died now.
    PlanWithout {
        /// Its id, or its `host:port`.
        node: String,
    },
    /// Evens out the load.
    Rebalance,
    /// Ends the change in progress and undoes what it has not finished.
    Cancel,
}

/// The answer to a [`Wish`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granted {
    /// It is done, or under way; or this is what was asked.
    Yes(String),
    /// Another change is in progress: ask again later.
    Busy(String),
    /// Why not, and what to try.
    No(String),
}

/// A change asked for by the slot's coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Slot.
    pub slot: Slot,
    /// The asker's epoch: the change is refused if the slot has moved on.
    pub epoch: Epoch,
    /// What.
    pub change: Change,
}

/// See [`Ask`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Take `node` out of the ISR; bumps the epoch even if it is not in it, which kills an expand in flight (C2).
    Shrink {
        /// The silent member or pending learner.
        node: NodeId,
    },
    /// Put a caught-up learner in (C3). Refused unless store and boot are the node's current ones.
    Expand {
        /// The learner,
        node: NodeId,
        /// its store
        store: StoreUuid,
        /// and boot.
        boot: BootId,
    },
    /// `node` is heard well and has lost its position, or its copy was found wrong: it must not count any longer. As a shrink,
    /// without being an accusation.
    Demote {
        /// Who.
        node: NodeId,
    },
    /// The asker has stopped, drained and released its lease; `to` coordinates next (L5). If `to` cannot, the ECS
    /// still makes a new view, with the asker as coordinator: so an answer always settles the request.
    HandOver {
        /// The successor.
        to: NodeId,
    },
    /// The asker's disk is full, stalled or lying: let another coordinate and take the asker out, if there is another.
    StepDown,
}

/// Liveness, one-way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// Its store.
    pub store: StoreUuid,
    /// Its start.
    pub boot: BootId,
    /// The [`Meta::version`] it has: the ECS sends what is missing.
    pub meta: u64,
    /// The highest epoch it has seen: an ECS with an older one knows that its own state is old, and stops.
    pub highest_epoch: Epoch,
    /// An fsync has been pending for 2 s, or the disk takes no writes (full, read-only): others should serve.
    pub disk_stalled: bool,
}

/// How a server's slots stand.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Slots it coordinates.
    pub slots: Vec<SlotReport>,
    /// Slots of which it holds a copy without having a part in their view: waiting for [`FromEcs::Drop`].
    pub strays: Vec<(Slot, Epoch)>,
    /// Slots for which it is not in sync but holds a whole copy as of an earlier entry: the last one. What is left should
    /// everybody in sync be given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<(Slot, LogId)>,
}

/// One coordinated slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotReport {
    /// Slot.
    pub slot: Slot,
    /// The epoch the coordinator is at.
    pub epoch: Epoch,
    /// Whether it serves (or is still recovering, or handing over).
    pub active: bool,
    /// Records in the slot.
    pub records: u64,
    /// Bytes of keys and values in the slot.
    pub bytes: u64,
    /// What is committed.
    pub commit: Seq,
}

/// ECS to server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromEcs {
    /// The answer to a registration, with all metadata.
    Welcome {
        /// What is fixed for the cluster.
        cluster: ClusterRecord,
        /// Everything known.
        meta: Meta,
    },
    /// The registration is refused; `fatal` means that trying again is pointless.
    Refused {
        /// What, why, and what to try.
        reason: String,
        /// Whether to stop.
        fatal: bool,
    },
    /// Changed metadata.
    Update(Meta),
    /// Hand these slots over (L5).
    HandOver {
        /// Slot, epoch, successor.
        slots: Vec<(Slot, Epoch, NodeId)>,
    },
    /// The copies of these slots are no longer needed: the views at these epochs are active without them.
    Drop {
        /// Slot and the epoch of the view that is active.
        slots: Vec<(Slot, Epoch)>,
    },
    /// Another process runs with the same identity and a higher boot: stop.
    Fenced {
        /// Who and where.
        reason: String,
    },
    /// The server is no longer part of the cluster, and nothing it holds is needed: stop.
    Left {
        /// How it went.
        reason: String,
    },
    /// To a server that said [`FromServer::Stopping`]: nobody else can take anything more of what it coordinates. It may stop.
    Relieved,
    /// Something its operator should know: its join or leave was given up, and why.
    Notice {
        /// What.
        text: String,
    },
    /// The answer to [`FromServer::Wish`].
    Granted {
        /// Which.
        id: u64,
        /// What.
        granted: Granted,
    },
}

/// Anyone to the ECS: one line, one JSON answer, then the connection may ask again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The whole state, for people and scripts.
    Status,
    /// The failure timeline: who accused whom, what was seen and decided, and when.
    Timeline,
    /// A client could not reach the server at this client address: a hint, which only leads to a probe.
    Accuse {
        /// `host:port` as in a keyrange.
        addr: String,
        /// What happened: `timeout`, `refused`, ...
        why: String,
    },
}
