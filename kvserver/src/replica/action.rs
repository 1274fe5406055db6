//! The border of a replica: everything that can happen to it, and everything it can want done.

use std::time::Duration;

use bytes::Bytes;
use common::control::Ask;
use common::forward::Keys;
use common::peer::PeerMsg;
use common::update::{Update, Updated};
use common::{Epoch, NodeId, Outcome, RequestId, View};

use crate::storage::Record;
use crate::storage::map::Held;

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Event {
    /// The ECS made a view. Older ones than the view in force are ignored.
    View(View),
    /// A peer said something.
    Peer {
        /// Who: authenticated by the connection.
        from: NodeId,
        /// What.
        msg: PeerMsg,
    },
    /// All of the slot's records up to this mark are on disk (fsynced). Cumulative.
    Durable {
        /// The mark.
        mark: u64,
    },
    /// A client wants to write; it is answered with [`Action::Reply`].
    Write {
        /// What.
        write: Write,
        /// Whom to answer.
        token: Token,
    },
    /// The ECS wants `to` to coordinate from now on (L5). Ignored unless active at this epoch.
    HandOver {
        /// The epoch meant.
        epoch: Epoch,
        /// The successor.
        to: NodeId,
    },
    /// The ECS says that this server's copy is no longer needed as of `epoch`. Ignored if the view has moved on.
    Drop {
        /// The epoch meant.
        epoch: Epoch,
    },
    /// A connection to this peer was just (re)made: what was sent before may be lost.
    LinkUp {
        /// Which peer.
        peer: NodeId,
    },
    /// The disk takes no more writes (full, read-only), or does again.
    Disk {
        /// Whether writes can be taken.
        writable: bool,
    },
    /// It is this slot's turn to be compared with its other copies. Ignored unless active with all copies in sync.
    Audit,
    /// [`crate::replica::Replica::deadline`] has passed. Extra ticks do no harm.
    Tick,
}

/// What a replica wants done. Performed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append to the journal; once it is fsynced, report its mark with [`Event::Durable`].
    Journal(Record),
    /// Send to a peer. May get lost: the protocol sends again.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        msg: PeerMsg,
    },
    /// Answer a client. Each token is answered at most once.
    Reply {
        /// Whom.
        token: Token,
        /// What.
        reply: Reply,
    },
    /// Ask the ECS for a change. May get lost: it is asked again.
    Ask(Ask),
    /// Something that must never happen was seen; the slot has stopped. Tell the operator, loudly.
    Alarm(String),
    /// What an audit came to, to be counted.
    Audited(Audited),
    /// What moving a copy, or the coordination, came to, to be counted.
    Moved(Moved),
}

/// What moving a slot cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// A learner's copy was made equal by content.
    Walked(Walked),
    /// For so long writes were refused here because the slot was handed over.
    Locked(Duration),
    /// So long it took from the view that made this server coordinator until it served.
    TookOver(Duration),
}

/// One finished walk: what went over, of what the slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Walked {
    /// Leaves that differed.
    pub leaves: u64,
    /// Records that were sent: all of those leaves.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Records that the slot holds.
    pub held_records: u64,
    /// Bytes of their keys and values.
    pub held_bytes: u64,
}

/// The outcome of comparing a slot's copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audited {
    /// All are the same.
    Equal,
    /// A member had gone past the position that was asked about: to be tried again.
    Missed,
    /// A copy is wrong in so many records that were looked at, and is taken out to be made anew.
    Condemned {
        /// Whose.
        node: NodeId,
        /// Records.
        records: u64,
    },
    /// This copy had been condemned and was made anew.
    Repaired,
    /// Nobody can tell which copy is right: the slot has stopped.
    Undecided {
        /// Records.
        records: u64,
    },
}

/// Names a waiting client request; opaque to the replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Token {
    /// The connection.
    pub conn: u32,
    /// The request's number on that connection.
    pub index: u64,
}

/// A client's write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// What to do with it.
    pub op: WriteOp,
    /// Makes it exactly-once.
    pub request: Option<RequestId>,
    /// Whether the client says that it may have sent this before.
    pub retry: bool,
}

/// See [`Write`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteOp {
    /// Set the value.
    Put(Bytes),
    /// Set the value, and tell the one before.
    Swap(Bytes),
    /// Remove the key.
    Delete,
    /// What depends on the value that is there.
    Update(Update),
    /// Change nothing, but go all the way: shows that the slot takes writes. The key means nothing then.
    Probe,
}

/// An answer to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The write is committed: on every in-sync disk.
    Written(Outcome),
    /// The same for a [`WriteOp::Swap`]: the value until then, if there was one.
    Swapped(Option<Bytes>),
    /// The same for a [`WriteOp::Update`].
    Updated(Updated),
    /// The value of the key a read asked for, if it has one.
    Value(Option<Bytes>),
    /// How long the key a [`super::Replica::lasting`] asked for lasts.
    Lasts(Lasting),
    /// The keys that were asked for.
    Keys(Keys),
    /// The page a scan asked for; see [`common::text::Page`].
    Page(Bytes),
    /// What the slot holds, for a [`Want::Extent`](super::reads::Want); see [`Extent`].
    Extent(Extent),
    /// The answer to a question about the whole cluster, ready to be sent.
    Told(Told),
    /// Nothing was executed.
    Refused(Refusal),
    /// The write may or may not have been executed; the text says why that is not known.
    Unknown(&'static str),
}

/// How long a key lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lasting {
    /// There is no such key.
    Missing,
    /// Until it is deleted.
    Forever,
    /// Until then, in milliseconds since the Unix epoch.
    Until(u64),
}

impl Lasting {
    pub(super) fn of(held: Option<Held<'_>>) -> Lasting {
        held.map_or(Lasting::Missing, |held| held.until.map_or(Lasting::Forever, Lasting::Until))
    }
}

/// What a slot holds, committed, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// How many records.
    pub records: u64,
    /// The first key, in the order of bytes.
    pub first: Option<Bytes>,
    /// The last.
    pub last: Option<Bytes>,
}

/// See [`Reply::Told`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The reply's first word.
    pub word: &'static str,
    /// What follows it, if anything does.
    pub text: Option<Bytes>,
    /// Whether the text is sent with its length before it, so that it may hold any bytes.
    pub counted: bool,
}

impl Told {
    /// Stands for the dialect's own word for what is not possible.
    pub const FAILED: &'static str = "FAILED";
}

/// Why nothing was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Another server is the one to ask: see keyrange.
    NotResponsible,
    /// The slot is being handed over: try again in a moment.
    WriteLocked,
    /// The slot is not served at the moment; the text says what it waits for.
    Unavailable(&'static str),
}

/// The immediate answer to a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read<'a> {
    /// The value.
    Value(&'a [u8]),
    /// How long the key lasts, if that was asked for.
    Lasts(Lasting),
    /// The key has no value.
    Missing,
    /// Not to be answered here or now.
    Refused(Refusal),
    /// The answer comes as an [`Action::Reply`] for the token.
    Later,
}

/// The immediate answer to a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scan {
    /// The page.
    Page(Bytes),
    /// Not to be answered here or now.
    Refused(Refusal),
    /// The answer comes as an [`Action::Reply`] for the token.
    Later,
}
