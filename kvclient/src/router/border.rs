//! The border of the router: everything that can happen to it, and everything it can want done.

use bytes::Bytes;
use common::position::Position;
use common::text::Page;
use common::{Outcome, RequestId};

use crate::address::Address;
use crate::error::Error;
use crate::ring::Arc;

/// Names an operation of one client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// What the caller wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Done as soon as the ring is known.
    Connect,
    /// Read a key, from any server that may answer for it.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Write a key, at its coordinator.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Write a key, at its coordinator, and learn the value before.
    Swap {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Remove a key, at its coordinator.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// A page of the records of a slot, from any server that may answer reads for it.
    Scan {
        /// A position of the slot.
        at: Position,
        /// Only keys greater than this one; none: from the first.
        after: Option<Bytes>,
    },
    /// Where a key lies and who would answer for it; any server tells.
    Explain {
        /// The key.
        key: Bytes,
    },
    /// A line that every server answers with a line.
    Ask(String),
}

impl Command {
    /// Whether it changes anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Command::Put { .. } | Command::Swap { .. } | Command::Delete { .. })
    }

    /// Where on the ring it belongs, if anywhere.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Command::Get { key } | Command::Put { key, .. } | Command::Swap { key, .. } | Command::Delete { key } => {
                Some(Position::of(key))
            }
            Command::Scan { at, .. } => Some(*at),
            Command::Connect | Command::Explain { .. } | Command::Ask(_) => None,
        }
    }
}

/// One sending of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What.
    pub command: Command,
    /// Makes a write exactly-once; none for reads.
    pub id: Option<RequestId>,
    /// An earlier sending of this id may have been executed.
    pub retry: bool,
}

/// A server's answer, as far as the router must tell answers apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It is done.
    Done(Answer),
    /// Another server is the one to ask. Not executed.
    NotResponsible,
    /// Not served at the moment, and why if the server says so. Not executed.
    Stopped(String),
    /// The slot is being handed over. Not executed.
    WriteLocked,
    /// The write may or may not have been executed.
    Unknown {
        /// Why that is not known.
        why: String,
        /// The server will never know: asking again is pointless.
        forgotten: bool,
    },
    /// The request is wrong. Not executed.
    Failed(String),
}

/// What an operation brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Command::Connect`].
    Connected,
    /// To a get; none: the key has no value.
    Value(Option<Bytes>),
    /// To a put or delete.
    Written(Outcome),
    /// To a swap: the value before, if there was one.
    Swapped(Option<Bytes>),
    /// To a scan.
    Page(Page),
    /// To [`Command::Ask`]: the line.
    Text(String),
}

/// What became of a sending that got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No connection could be made: nothing was sent.
    Refused,
    /// The connection closed before the request was written: nothing was sent.
    ClosedBeforeSend,
    /// The connection closed after the request was written, perhaps in part.
    ClosedAfterSend,
    /// The answer makes no sense: the connection is given up.
    Garbled,
}

impl Failure {
    /// Whether the server may have executed it all the same.
    #[must_use]
    pub fn maybe_executed(self) -> bool {
        matches!(self, Failure::ClosedAfterSend | Failure::Garbled)
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Failure::Refused => "cannot connect",
            Failure::ClosedBeforeSend => "the connection closed before the request was sent",
            Failure::ClosedAfterSend => "the connection closed before the answer came",
            Failure::Garbled => "the answer is not understood (is it an Annulus server?)",
        }
    }
}

/// What happens to the router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A server answered the sending `attempt` of `op`. Late answers are welcome.
    Answer {
        /// Which operation.
        op: OpId,
        /// Which sending of it.
        attempt: u32,
        /// What it said.
        reply: Reply,
    },
    /// A sending will get no answer.
    Failure {
        /// Which operation.
        op: OpId,
        /// Which sending of it.
        attempt: u32,
        /// Why.
        kind: Failure,
        /// What the system said about it, for people.
        detail: String,
    },
    /// The answer to [`Action::Refresh`].
    Keyrange {
        /// Who answered.
        from: Address,
        /// Both keyranges, or what went wrong.
        result: Result<(Vec<Arc>, Vec<Arc>), NoRing>,
    },
    /// The caller no longer waits. A write may be executed all the same.
    Cancel {
        /// Which operation.
        op: OpId,
    },
    /// [`super::Router::deadline`] has passed. Extra ticks do no harm.
    Tick,
}

/// Why a server did not tell the ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoRing {
    /// It could not be reached.
    Unreachable(String),
    /// It did not answer in time: it may be there all the same.
    Silent(String),
    /// It answered, but does not serve at the moment, or has no ring yet.
    NotServing(String),
}

/// What the router wants done. Performed in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a request, over a connection that is made if there is none.
    Send {
        /// For which operation.
        op: OpId,
        /// Which sending of it; comes back in [`Input::Answer`] or [`Input::Failure`].
        attempt: u32,
        /// To whom.
        to: Address,
        /// What.
        request: Request,
    },
    /// Ask a server for `keyrange` and `keyrange_read`; the answer is [`Input::Keyrange`].
    Refresh {
        /// Whom.
        from: Address,
    },
    /// This server did not answer in time: use a fresh connection for what comes, let the old one finish what it has.
    Retire {
        /// Whom.
        server: Address,
    },
    /// Tell the ECS that a server does not answer. A hint, best effort.
    Report {
        /// Whom.
        server: Address,
        /// What happened: `timeout` or `refused`.
        why: &'static str,
    },
    /// The operation is over.
    Done {
        /// Which.
        op: OpId,
        /// How.
        result: Result<Answer, Error>,
    },
}
