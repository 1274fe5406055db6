//! The core's border: everything that can happen to the ECS, and everything it can want done.

use std::time::Duration;

use common::control::{Ask, FromEcs, Heartbeat, Report, Wish};
use common::peer::Identity;
use common::view::NodeInfo;
use common::{ClusterId, Epoch, NodeId};

use crate::cluster::Command;

/// One control connection, numbered by the shell; a number is never used again. Two processes that claim to be the same
/// node have two connections, which is how they are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conn(pub u64);

/// What a probe of a server's peer port met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probed {
    /// A process answered, and this is who it is.
    Answered(Identity),
    /// Nobody listens there: the connection was refused.
    Refused,
    /// No answer in time.
    Silent,
}

/// What happens to the ECS.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The first line of a control connection. Nothing else may come from a connection that was not welcomed.
    Register {
        /// Which connection.
        conn: Conn,
        /// Who calls.
        info: NodeInfo,
        /// The cluster its data directory belongs to.
        cluster: Option<ClusterId>,
        /// Its operator wants it in even if it was sent away.
        rejoin: bool,
        /// The highest epoch it knows.
        seen: Epoch,
    },
    /// A control connection has ended, whoever ended it.
    Closed {
        /// Which.
        conn: Conn,
    },
    /// A server asks for changes.
    Ask {
        /// Over which connection.
        conn: Conn,
        /// What.
        asks: Vec<Ask>,
    },
    /// A server tells how its slots stand.
    Report {
        /// Over which connection.
        conn: Conn,
        /// How.
        report: Report,
    },
    /// A server will stop in a moment: others are to coordinate what it coordinates.
    Stopping {
        /// Over which connection.
        conn: Conn,
    },
    /// An operator wants something of the membership, through a server.
    Wish {
        /// Over which connection.
        conn: Conn,
        /// The server's number for it.
        id: u64,
        /// What.
        wish: Wish,
    },
    /// A server stops in order.
    Goodbye {
        /// Over which connection.
        conn: Conn,
    },
    /// A heartbeat, from a connection of its own.
    Heartbeat(Heartbeat),
    /// The result of [`Action::Probe`].
    Probed {
        /// Who was meant.
        node: NodeId,
        /// What was met.
        seen: Probed,
    },
    /// What a process that answered [`Action::Probe`] says of its health; comes before [`Event::Probed`].
    ProbeSaid {
        /// Who was meant.
        node: NodeId,
        /// `SERVING`, or `NOT_SERVING` and what it waits for: what its gRPC health says.
        said: String,
    },
    /// A client could not reach the server with this client address: a hint, which leads to a probe at most.
    Accuse {
        /// `host:port`.
        addr: String,
        /// What happened.
        why: String,
    },
    /// [`crate::Ecs::deadline`] has passed. Extra ticks do no harm.
    Tick,
}

/// What the ECS wants done, strictly in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Write to the log and fsync; already applied to [`crate::Ecs::cluster`]. What follows relies on its being durable.
    Persist(Command),
    /// Send a line. May get lost with its connection: everything important is told again.
    Send {
        /// Over which connection.
        conn: Conn,
        /// What.
        msg: FromEcs,
    },
    /// Say hello to a server's peer port and report who answered within [`Config::probe`].
    Probe {
        /// Who is meant.
        node: NodeId,
        /// Where.
        addr: String,
    },
    /// End a connection once what was sent over it before is out.
    Disconnect {
        /// Which.
        conn: Conn,
    },
    /// Something for the operator's log.
    Log {
        /// How serious.
        level: log::Level,
        /// What.
        text: String,
    },
}

/// The ECS's durations. The defaults are the product's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A server not heard for this long is suspected.
    pub suspect: Duration,
    /// How long a suspected server has to answer a probe.
    pub probe: Duration,
    /// After a start, or after hearing nobody at all, how long servers have to be heard before they are judged.
    pub grace: Duration,
    /// How long a slot with two copies left waits for the third to come back before another server gets a copy.
    pub replace_after: Duration,
    /// How long a server must have been back before it gets the slots handed back that have their home there.
    pub settle: Duration,
    /// How long a server is down before its slots get other homes.
    pub rehome_after: Duration,
    /// How long a process that answers probes may stay without a control connection before it counts as down.
    pub detached: Duration,
    /// How long a join or a leave may stand still before it is undone; a server that was sent away and does not give its
    /// share away counts as failed then.
    pub patience: Duration,
    /// How many slots an evening out moves at a time: the throttle.
    pub moves: usize,
    /// The most slots that may be on the way from one coordinator to another at a time.
    pub handovers: usize,
    /// The same while nobody is about to stop.
    pub handovers_calm: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            suspect: Duration::from_secs(1),
            probe: Duration::from_millis(300),
            grace: Duration::from_secs(2),
            replace_after: Duration::from_secs(5),
            settle: Duration::from_secs(5),
            rehome_after: Duration::from_secs(600),
            detached: Duration::from_secs(5),
            patience: Duration::from_secs(60),
            moves: 16,
            handovers: 64,
            handovers_calm: 8,
        }
    }
}
