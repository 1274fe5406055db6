//! The shell around the replica cores: one per process.
//!
//! Owns the slots, the journal, the links to peers and to the ECS, and performs what the cores want done. It decides
//! nothing about replication. Invariant: a slot's lock is held for microseconds, never across an await or I/O; the actions
//! a core returned are performed (pushed to buffers) before its lock is let go, so their order per slot is the core's.

mod asks;
mod audits;
mod commits;
mod committer;
pub mod desk;
mod fatal;
mod membership;
pub(crate) mod metrics;
mod moves;
mod options;
mod slots;
mod start;
mod status;
mod store;
mod ticker;
pub mod topology;
mod wishes;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use asks::Asks;
use audits::Audits;
use commits::Commits;
use common::peer::{Identity, PeerMsg, Purpose};
use common::position::Position;
use common::{ClusterRecord, NodeId, Slot, Time, Timing, clock};
use fatal::Failure;
use metrics::{Metrics, bump};
use moves::Moves;
pub use options::{Fatal, NodeOptions};
use slots::Slots;
pub(crate) use start::STANDALONE;
pub(crate) use store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
pub(crate) use topology::Topology;
use wishes::Wishes;

use crate::links::Links;
use crate::questions::Questions;
use crate::relay::Relay;
use crate::replica::{Event, Read, Refusal, Reply, Scan, Token, Traffic, Write};
use crate::replies::Replies;

/// Said while the ECS has not answered yet.
const UNREGISTERED: &str = "this server has not heard from the ECS yet";

/// Said while the journal's buffer is full.
const DISK_BEHIND: &str = "the disk does not keep up with the writes: try again in a moment";

/// A running server without its client port.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    /// Who we are; `cluster` as the data directory says.
    me: Identity,
    started: Time,
    peer_addr: String,
    store: Store,
    links: Links,
    asks: Asks,
    wishes: Wishes,
    replies: Arc<Replies>,
    metrics: Metrics,
    questions: Questions,
    relay: Relay,
    commits: Commits,
    audits: Audits,
    moves: Moves,
    traffic: Traffic,
    serving: OnceLock<Serving>,
    /// Set together with `serving`, for those who wait for it.
    begun: tokio::sync::watch::Sender<bool>,
    topology: RwLock<Topology>,
    /// Beacons are wanted before the next round.
    beat: Notify,
    /// A task of the main runtime has something to be flushed.
    pushed: Notify,
    /// The ECS we are registered at.
    ecs: Mutex<Ecs>,
    failure: Failure,
    /// What is coordinated here is to be given to others: an orderly stop comes next.
    stepping_down: CancellationToken,
    /// Nobody can take more of it.
    relieved: CancellationToken,
    /// An orderly stop has begun.
    leaving: CancellationToken,
    /// Everything ends.
    stop: CancellationToken,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// What exists once the cluster is known.
#[derive(Debug)]
pub(crate) struct Serving {
    /// What is fixed for the cluster.
    pub(crate) cluster: ClusterRecord,
    /// The durations that follow from it.
    pub(crate) timing: Timing,
    slots: Slots,
}

#[derive(Debug, Default)]
struct Ecs {
    /// The last address that welcomed us.
    addr: Option<String>,
    /// Whether the control connection stands.
    connected: bool,
}

impl Node {
    /// Reads `key`, inline if possible; `f` turns the borrowed answer into the caller's and must be quick. `now` must have
    /// been read after the request arrived. `at`: the key's position, if it is known already.
    pub fn read<R>(
        &self,
        now: Time,
        key: &[u8],
        at: Option<Position>,
        token: Token,
        f: impl FnOnce(Read<'_>) -> R,
    ) -> R {
        bump(&self.metrics.gets);
        let Some(serving) = self.serving.get() else { return f(Read::Refused(Refusal::Unavailable(UNREGISTERED))) };

        let slot = at.unwrap_or_else(|| Position::of(key)).slot(serving.cluster.slots);
        serving.slots.with(self, slot, |replica, out| replica.read(now, key, token, out, f))
    }

    /// Reads how long `key` lasts: [`Read::Lasts`], or what else [`Node::read`] may say.
    pub fn lasting(&self, now: Time, key: &[u8], token: Token) -> Read<'static> {
        bump(&self.metrics.gets);
        let Some(serving) = self.serving.get() else { return Read::Refused(Refusal::Unavailable(UNREGISTERED)) };

        let slot = Position::of(key).slot(serving.cluster.slots);
        serving.slots.with(self, slot, |replica, out| replica.lasting(now, key, token, out))
    }

    /// Reads a page of the records of the slot in which `at` lies, after a key or from the first.
    pub fn scan(&self, now: Time, at: Position, after: Option<&[u8]>, token: Token) -> Scan {
        let Some(serving) = self.serving.get() else { return Scan::Refused(Refusal::Unavailable(UNREGISTERED)) };
        let (slot, last) = serving.slots.at(at);

        serving.slots.with(self, slot, |replica, out| replica.scan(now, last, after, token, out))
    }

    /// Lists keys of a slot; None: the answer comes for the token.
    pub fn keys(&self, now: Time, slot: Slot, from: u64, count: u32, token: Token) -> Option<Reply> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let listed = self.with_slot(slot, |replica, out| replica.keys(now, from, count, token, out));
        listed.unwrap_or(Some(Reply::Refused(Refusal::Unavailable(UNREGISTERED))))
    }

    /// Starts a write; it is answered through [`Replies`], perhaps before this returns.
    pub fn write(&self, now: Time, write: Write, token: Token) {
        bump(&self.metrics.puts);
        let Some(serving) = self.serving.get() else {
            self.replies.complete(token, Reply::Refused(Refusal::Unavailable(UNREGISTERED)));
            return;
        };
        if !self.store.has_room() {
            self.replies.complete(token, Reply::Refused(Refusal::Unavailable(DISK_BEHIND)));
            return;
        }
        let slot = serving.slots.of(&write.key);
        serving.slots.with(self, slot, |replica, out| replica.handle(now, Event::Write { write, token }, out));
    }

    /// Delivers an event to a slot; false if there is no such slot.
    pub fn event(&self, now: Time, slot: Slot, event: Event) -> bool {
        self.with_slot(slot, |replica, out| replica.handle(now, event, out)).is_some()
    }

    /// Whether this server has been told its cluster's views: before, every request is answered SERVER_STOPPED.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.serving.get().is_some()
    }

    /// The highest epoch that the data directory knew at the start.
    pub(crate) fn found_epoch(&self) -> common::Epoch {
        self.store.highest_epoch()
    }

    /// What the comparisons of copies came to.
    pub(crate) fn audits(&self) -> &Audits {
        &self.audits
    }

    /// The slots that this server coordinates at the moment.
    pub(crate) fn coordinated(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        self.each_slot(|replica, _| {
            if replica.is_active() {
                slots.push(replica.slot());
            }
        });
        slots
    }

    /// How many slots the ring has, once that is known.
    #[must_use]
    pub fn slots(&self) -> Option<u16> {
        self.serving.get().map(|serving| serving.cluster.slots)
    }

    /// Whether this server runs without a cluster.
    #[must_use]
    pub fn standalone(&self) -> bool {
        self.options.ecs.is_empty()
    }

    /// The triples of KEYRANGE.
    #[must_use]
    pub fn keyrange(&self) -> Arc<str> {
        self.with_topology(|topology| topology.keyrange.clone())
    }

    /// The triples of KEYRANGE_READ.
    #[must_use]
    pub fn keyrange_read(&self) -> Arc<str> {
        self.with_topology(|topology| topology.keyrange_read.clone())
    }

    /// `host:port` of the peer listener.
    #[must_use]
    pub fn peer_addr(&self) -> String {
        self.peer_addr.clone()
    }

    /// The ECS's address, as it can be handed on to others.
    #[must_use]
    pub fn ecs_addr(&self) -> Option<String> {
        self.lock_ecs().addr.clone()
    }

    /// Who this process is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let cluster = self.serving.get().map(|serving| serving.cluster.cluster);
        Identity { cluster: cluster.or(self.me.cluster), ..self.me }
    }

    pub(crate) fn options(&self) -> &NodeOptions {
        &self.options
    }

    pub(crate) fn replies(&self) -> &Arc<Replies> {
        &self.replies
    }

    pub(crate) fn questions(&self) -> &Questions {
        &self.questions
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn relaying(&self) -> &Relay {
        &self.relay
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn asks(&self) -> &Asks {
        &self.asks
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn serving_state(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// Waits for the first welcome.
    pub(crate) async fn until_serving(&self) -> &Serving {
        let mut begun = self.begun.subscribe();
        loop {
            if let Some(serving) = self.serving.get() {
                return serving;
            }
            // The sender lives as long as this node: waiting cannot fail.
            let _changed = begun.wait_for(|begun| *begun).await;
        }
    }

    /// Runs `f` on a slot and performs what it wants done; None if there is no such slot.
    pub(crate) fn with_slot<R>(
        &self,
        slot: Slot,
        f: impl FnOnce(&mut crate::replica::Replica, &mut Vec<crate::replica::Action>) -> R,
    ) -> Option<R> {
        let serving = self.serving.get().filter(|serving| slot.0 < serving.cluster.slots)?;
        Some(serving.slots.with(self, slot, f))
    }

    /// Runs `f` on every slot in turn, and performs what they want done.
    pub(crate) fn each_slot(&self, mut f: impl FnMut(&mut crate::replica::Replica, &mut Vec<crate::replica::Action>)) {
        let Some(serving) = self.serving.get() else { return };
        for slot in 0..serving.cluster.slots {
            serving.slots.with(self, Slot(slot), &mut f);
        }
    }

    /// The same with every slot that is coordinated here.
    pub(crate) fn each_coordinated(
        &self,
        f: impl FnMut(&mut crate::replica::Replica, &mut Vec<crate::replica::Action>),
    ) {
        if let Some(serving) = self.serving.get() {
            serving.slots.each_coordinated(self, f);
        }
    }

    /// A message from a peer; false if it cannot have been meant for us.
    pub(crate) fn peer_message(&self, from: NodeId, msg: PeerMsg) -> bool {
        bump(&self.metrics.peer_messages);
        let slot = msg.slot();
        self.event(clock::now(), slot, Event::Peer { from, msg })
    }

    /// A data connection to `peer` was made: what was sent before may be lost.
    pub(crate) fn link_up(&self, peer: NodeId) {
        let now = clock::now();
        self.each_slot(|replica, out| replica.handle(now, Event::LinkUp { peer }, out));
    }

    /// Lets go what this thread has appended and pushed, here and now.
    pub(crate) fn flush(&self) {
        // Messages first: what others do about them takes longer than what is done here.
        self.links.flush();
        self.store.begin();
    }

    /// The same for everybody who does not do it, once a turn of the main runtime: all tasks that are ready append and push
    /// first, so that one sync covers their records, and their messages to a peer leave with one system call. One task for
    /// all, since waking several would wake several of the runtime's threads.
    async fn flushing(self: Arc<Self>) {
        let flush = async {
            loop {
                self.pushed.notified().await;
                tokio::task::yield_now().await;
                self.flush();
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = flush => {}
        }
    }

    /// Decides about an incoming peer connection.
    pub(crate) fn admit(&self, purpose: Purpose, from: &Identity) -> Result<CancellationToken, String> {
        let mut me = self.identity();
        if !self.serving() {
            me.cluster = None;
        }
        let table = self.with_topology(|topology| topology.nodes.get(&from.node).cloned());
        self.links.admit(&me, purpose, from, table.as_ref())
    }

    /// Beacons are wanted at once: somebody new can hear them, or must.
    pub(crate) fn want_beacon(&self) {
        self.beat.notify_one();
    }

    /// Waits until beacons are wanted before their time.
    pub(crate) async fn beacon_wanted(&self) {
        self.beat.notified().await;
    }

    pub(crate) fn with_topology<R>(&self, f: impl FnOnce(&Topology) -> R) -> R {
        f(&self.topology.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_ecs(&self) -> std::sync::MutexGuard<'_, Ecs> {
        self.ecs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
