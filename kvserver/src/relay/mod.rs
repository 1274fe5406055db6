//! Any server takes any key: what this one cannot do for a client, another one does.
//!
//! [`core`] decides where a job goes and what is done when no answer comes; this is its shell. [`link`] is the connection to
//! another server (made when it is first needed, kept until it breaks), `serve` the other end of one. Jobs for this server
//! itself are done like a client's, under tokens of the relay's own.
//!
//! Bounds: jobs (in the core), bytes that wait for a peer ([`link`]), jobs and bytes of one peer under way (`serve`).
#![allow(clippy::disallowed_methods)] // shell: tasks and clocks

pub mod core;
mod link;
mod serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::blob::Blob;
use common::forward::{Came, Forward, Job, What, Why};
use common::retry::FORGOTTEN;
use common::sessions::Sessions;
use common::{ClientId, NodeId, RequestId, Switches, Time, clock};
pub(crate) use serve::serve;
use tokio::sync::Notify;

use self::core::{Action, Core, Order};
use self::link::Peer;
use crate::node::Node;
use crate::node::topology::Topology;
use crate::replica::{Lasting, Read, Refusal, Reply, Token, Write, WriteOp};
use crate::replies::{Registered, Replies};
use crate::slot_of::slot_of;

/// How often it is looked whether views have changed, while jobs are under way.
const LOOK: Duration = Duration::from_millis(3);

/// See the module.
#[derive(Debug)]
pub(crate) struct Relay {
    core: Mutex<Core>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    me: Registered,
    wake: Notify,
    ids: Arc<Mutex<Sessions>>,
}

/// A request id in use. Ends when dropped: then nobody will ask again.
#[derive(Debug)]
pub struct Once {
    ids: Arc<Mutex<Sessions>>,
    client: ClientId,
    seq: u64,
    lowest: u64,
}

impl Once {
    /// The next id of these.
    #[must_use]
    pub fn of(ids: &Arc<Mutex<Sessions>>, now: Time) -> Once {
        let mut locked = ids.lock().unwrap_or_else(PoisonError::into_inner);
        let (client, seq) = locked.begin(now);
        let lowest = locked.lowest_open(client);
        drop(locked);
        Once { ids: ids.clone(), client, seq, lowest }
    }

    /// As it is sent.
    #[must_use]
    pub fn request(&self) -> RequestId {
        RequestId { client: self.client, seq: self.seq, lowest_unacked: self.lowest }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).end(self.client, self.seq);
    }
}

impl Relay {
    /// Nothing under way.
    pub(crate) fn new(me: NodeId, replies: &Arc<Replies>) -> Relay {
        let ids = Sessions::new(fastrand::u64(..), clock::now(), clock::wall_millis());
        Relay {
            core: Mutex::new(Core::new(me, Switches::default())),
            peers: Mutex::default(),
            me: replies.register(),
            wake: Notify::new(),
            ids: Arc::new(Mutex::new(ids)),
        }
    }

    /// Jobs under way.
    pub(crate) fn open(&self) -> usize {
        self.lock().open()
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Does a job wherever it can be done; its end comes as any other answer.
    pub(crate) fn relay(self: &Arc<Self>, now: Time, order: Order) {
        self.relay_step(|core, ring, out| core.start(now, order, ring, out));
        self.relaying().wake.notify_one();
    }

    /// A request id for a write; a server that is alone has nobody to send it to again.
    pub(crate) fn once(&self, now: Time) -> Option<Once> {
        (!self.standalone()).then(|| Once::of(&self.relaying().ids, now))
    }

    /// Whether a write of this key is to be begun here.
    pub(crate) fn coordinates(&self, key: &[u8]) -> bool {
        let Some(slots) = self.slots() else { return false };
        let (me, slot) = (self.identity().node, slot_of(key, slots));
        self.with_topology(|topology| topology.view(slot).is_some_and(|view| view.coordinator == me))
    }

    /// The copies of a record that are in sync beside the first, where they are fewest.
    pub(crate) fn in_sync(&self) -> usize {
        let copies = |topology: &Topology| topology.views.iter().flatten().map(|view| view.isr.len()).min();
        self.with_topology(copies).unwrap_or(0).saturating_sub(1)
    }

    /// Takes a step of the core, and performs what it wants done.
    fn relay_step(self: &Arc<Self>, step: impl FnOnce(&mut Core, &Topology, &mut Vec<Action>)) {
        let mut out = Vec::new();
        self.with_topology(|ring| step(&mut self.relaying().lock(), ring, &mut out));
        while !out.is_empty() {
            let unsent = self.relay_perform(std::mem::take(&mut out));
            if !unsent.is_empty() {
                self.with_topology(|ring| {
                    let (mut core, now) = (self.relaying().lock(), clock::now());
                    unsent.into_iter().for_each(|number| core.unsent(now, number, ring, &mut out));
                });
            }
        }
    }

    /// Without the core's lock, since a slot's may be taken. Returns the sendings that have not left.
    fn relay_perform(self: &Arc<Self>, actions: Vec<Action>) -> Vec<u64> {
        let mut unsent = Vec::new();
        for action in actions {
            match action {
                Action::Reply { token, reply } => self.replies().complete(token, reply),
                Action::Here(forward) => {
                    let token = self.relaying().me.token(forward.number);
                    if let Some(reply) = self.perform_job(clock::now(), forward, token) {
                        self.replies().complete(token, reply);
                    }
                }
                Action::Send { to, forward } => {
                    if !self.link_to(to).is_some_and(|peer| peer.push(&forward)) {
                        unsent.push(forward.number);
                    }
                }
            }
        }
        unsent
    }

    /// Does a job here; None: the answer comes for the token.
    fn perform_job(&self, now: Time, forward: Forward, token: Token) -> Option<Reply> {
        let Forward { job, request, retry, .. } = forward;
        match job {
            Job::Read(key) => self.read(now, &key.0, None, token, told),
            Job::Lasts(key) => told(self.lasting(now, &key.0, token)),
            Job::Keys { slot, from, count } => self.keys(now, slot, from, count, token),
            Job::Write { key, what } => {
                self.write(now, Write { key: key.0, op: what.into(), request, retry }, token);
                None
            }
        }
    }

    /// The link to a peer, made if there is none.
    fn link_to(self: &Arc<Self>, to: NodeId) -> Option<Arc<Peer>> {
        let mut peers = self.relaying().peers();
        if let Some(peer) = peers.get(&to) {
            return Some(peer.clone());
        }
        let info = self.with_topology(|topology| topology.nodes.get(&to).cloned())?;
        let peer = Arc::new(Peer::default());
        peers.insert(to, peer.clone());
        drop(peers);
        self.links().main().spawn(link::run(self.clone(), peer.clone(), info));
        Some(peer)
    }

    /// The link has ended: what was out with it goes elsewhere.
    fn link_lost(self: &Arc<Self>, to: NodeId, peer: &Arc<Peer>, sent: bool) {
        {
            let mut peers = self.relaying().peers();
            if peers.get(&to).is_some_and(|now| Arc::ptr_eq(now, peer)) {
                peers.remove(&to);
            }
        }
        self.relay_step(|core, ring, out| core.lost(clock::now(), to, sent, ring, out));
    }

    /// Keeps the relay's time, and takes the answers of this server itself.
    pub(crate) async fn relay_driver(self: Arc<Self>) {
        let mut arrived = Vec::new();
        loop {
            let (deadline, idle) = {
                let core = self.relaying().lock();
                (core.deadline(), core.open() == 0)
            };
            let now = clock::now();
            let pause = deadline.map_or(LOOK, |at| at.since(now).min(LOOK)).max(Duration::from_micros(500));
            tokio::select! {
                () = std::future::poll_fn(|cx| self.relaying().me.inbox().poll_drain(cx, &mut arrived)) => {}
                () = self.relaying().wake.notified(), if idle => {}
                () = tokio::time::sleep(pause), if !idle => {}
            }
            let replies = std::mem::take(&mut arrived);
            self.relay_step(|core, ring, out| {
                let now = clock::now();
                replies.into_iter().for_each(|(number, reply)| core.answer(now, number, reply, ring, out));
                core.look(now, ring, out);
                core.tick(now, ring, out);
            });
        }
    }
}

impl From<What> for WriteOp {
    fn from(what: What) -> WriteOp {
        match what {
            What::Put(value) => WriteOp::Put(value.0),
            What::Delete => WriteOp::Delete,
            What::Update(update) => WriteOp::Update(update),
        }
    }
}

/// What was read; None: it comes later.
#[must_use]
pub fn told(read: Read<'_>) -> Option<Reply> {
    match read {
        Read::Value(value) => Some(Reply::Value(Some(Bytes::copy_from_slice(value)))),
        Read::Missing => Some(Reply::Value(None)),
        Read::Lasts(lasting) => Some(Reply::Lasts(lasting)),
        Read::Refused(refusal) => Some(Reply::Refused(refusal)),
        Read::Later => None,
    }
}

/// An answer as it goes to the server that asked. None: an answer to something else.
#[must_use]
pub fn came(reply: Reply) -> Option<Came> {
    Some(match reply {
        Reply::Value(value) => Came::Value(value.map(Blob)),
        Reply::Lasts(Lasting::Missing) => Came::Lasts { exists: false, until: None },
        Reply::Lasts(Lasting::Forever) => Came::Lasts { exists: true, until: None },
        Reply::Lasts(Lasting::Until(at)) => Came::Lasts { exists: true, until: Some(at) },
        Reply::Keys(keys) => Came::Keys(keys),
        Reply::Written(outcome) => Came::Written(outcome),
        Reply::Updated(updated) => Came::Updated(updated),
        Reply::Refused(Refusal::NotResponsible) => Came::Refused(Why::NotResponsible),
        Reply::Refused(Refusal::WriteLocked) => Came::Refused(Why::WriteLocked),
        Reply::Refused(Refusal::Unavailable(_)) => Came::Refused(Why::Unavailable),
        Reply::Unknown(why) => Came::Unknown { forgotten: why == FORGOTTEN },
        Reply::Swapped(_) | Reply::Page(_) | Reply::Extent(_) | Reply::Told(_) => return None,
    })
}

/// The same, as it arrives there.
#[must_use]
pub fn replied(came: Came) -> Reply {
    match came {
        Came::Value(value) => Reply::Value(value.map(|value| value.0)),
        Came::Lasts { exists: false, .. } => Reply::Lasts(Lasting::Missing),
        Came::Lasts { until: None, .. } => Reply::Lasts(Lasting::Forever),
        Came::Lasts { until: Some(at), .. } => Reply::Lasts(Lasting::Until(at)),
        Came::Keys(keys) => Reply::Keys(keys),
        Came::Written(outcome) => Reply::Written(outcome),
        Came::Updated(updated) => Reply::Updated(updated),
        Came::Refused(Why::NotResponsible) => Reply::Refused(Refusal::NotResponsible),
        Came::Refused(Why::WriteLocked) => Reply::Refused(Refusal::WriteLocked),
        Came::Refused(Why::Unavailable) => {
            Reply::Refused(Refusal::Unavailable("no server serves the key at the moment"))
        }
        Came::Unknown { forgotten: true } => Reply::Unknown(FORGOTTEN),
        Came::Unknown { forgotten: false } => {
            Reply::Unknown("the server that coordinated the key stopped doing so meanwhile")
        }
    }
}
