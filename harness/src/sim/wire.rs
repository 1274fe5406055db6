//! Who talks to whom, and what passes between them.

use std::fmt;

use bytes::Bytes;
use common::control::{FromEcs, FromServer, Heartbeat};
use common::forward::{Forward, Forwarded};
use common::peer::{PeerMsg, Pulse};
use common::question::Extents;
use common::{NodeId, Slot};

/// An end of a message's way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Party {
    /// A server's machine, whatever process runs on it.
    Server(usize),
    /// The ECS.
    Ecs,
    /// A client.
    Client(usize),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Server(i) => write!(f, "s{i}"),
            Party::Ecs => write!(f, "ecs"),
            Party::Client(i) => write!(f, "c{i}"),
        }
    }
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) enum Wire {
    /// Replica to replica, on a connection authenticated for these nodes.
    Peer { from: NodeId, to: NodeId, msg: PeerMsg },
    /// Beacons and their answers.
    Pulse { from: NodeId, to: NodeId, pulse: Pulse },
    /// One-way.
    Heartbeat(Heartbeat),
    /// On control connection `conn`.
    ToEcs { conn: u64, msg: FromServer },
    /// On control connection `conn`.
    FromEcs { conn: u64, msg: FromEcs },
    /// One server asks another what it holds of these slots; whoever asks leaves its question open under this number.
    Question { inquiry: u32, ask: u32, node: NodeId, slots: Vec<Slot> },
    /// The answer.
    Answer { inquiry: u32, ask: u32, extents: Extents },
    /// A server asks another one to do something for a client, on connection `lane`.
    Job { lane: u32, forward: Forward },
    /// What came of it.
    Came { lane: u32, came: Forwarded },
    /// Between a client and a server, on connection `conn`.
    Bytes { conn: u32, bytes: Bytes },
}

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Get,
    Put,
    Delete,
}
