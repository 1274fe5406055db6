//! Connections between servers. Simplex: this server dials each peer twice, once for data and once for pulses, and its
//! answers travel on its own connections.
//!
//! Not here: what the messages mean. A connection that breaks loses what was under way, and the replicas are told when it
//! is made again.

mod backoff;
mod data;
mod dial;
mod hello;
mod listen;
mod outbox;
mod tune;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use backoff::Backoff;
use common::peer::{Identity, Purpose};
use common::{BootId, NodeId, NodeInfo};
pub(crate) use data::receive;
pub(crate) use dial::greet;
pub(crate) use listen::listen;
pub(crate) use outbox::Outbox;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
pub(crate) use tune::tune;

use crate::node::Node;

/// Data waiting for one peer. More means that the peer or the way to it is stuck: further messages are dropped, and the
/// protocol sends them again or gives the peer up.
const DATA_LIMIT: usize = 64 << 20;
/// Pulses waiting for one peer. Old beacons are worth nothing, so the buffer is short.
const PULSE_LIMIT: usize = 256 << 10;

/// Servers that may connect before the ECS has told of them: as many as may be started at once. More are refused, and come
/// back.
const STRANGE_NODES: usize = 32;

/// All peers that this server has something to do with.
#[derive(Debug)]
pub(crate) struct Links {
    peers: RwLock<Vec<Arc<Peer>>>,
    inbound: Mutex<BTreeMap<NodeId, Inbound>>,
    /// Where data connections live.
    main: Handle,
    /// Where pulse connections live: nothing else may run there.
    pulse: Handle,
}

/// One peer's outgoing side.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who.
    pub(crate) node: NodeId,
    /// Data, coordinator to member and answers.
    pub(crate) data: Outbox,
    /// Beacons and their answers.
    pub(crate) pulse: Outbox,
    at: Mutex<(String, BootId)>,
    /// It moved or started again: dial at once.
    moved: Notify,
    gone: CancellationToken,
}

/// One peer's incoming side: the latest start it showed, and what ends its connections.
#[derive(Debug)]
struct Inbound {
    identity: Identity,
    /// The ECS has not told of it.
    stranger: bool,
    data: CancellationToken,
    pulse: CancellationToken,
    jobs: CancellationToken,
}

impl Links {
    /// No peers yet.
    pub(crate) fn new(main: Handle, pulse: Handle) -> Links {
        Links { peers: RwLock::default(), inbound: Mutex::default(), main, pulse }
    }

    /// The runtime of the data connections.
    pub(crate) fn main(&self) -> &Handle {
        &self.main
    }

    /// Links exactly these peers from now on.
    pub(crate) fn update(&self, node: &Arc<Node>, wanted: &BTreeMap<NodeId, &NodeInfo>) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|peer| {
            let keep = wanted.contains_key(&peer.node);
            if !keep {
                peer.gone.cancel();
            }
            keep
        });
        for (id, info) in wanted {
            match peers.iter().find(|peer| peer.node == *id) {
                Some(peer) => peer.move_to(info),
                None => peers.push(self.start(node, info)),
            }
        }
    }

    fn start(&self, node: &Arc<Node>, info: &NodeInfo) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            node: info.node,
            data: Outbox::new(DATA_LIMIT),
            pulse: Outbox::new(PULSE_LIMIT),
            at: Mutex::new((info.peer_addr.clone(), info.boot)),
            moved: Notify::new(),
            gone: CancellationToken::new(),
        });
        self.main.spawn(dial::keep(node.clone(), peer.clone(), Purpose::Data));
        self.pulse.spawn(dial::keep(node.clone(), peer.clone(), Purpose::Pulse));
        peer
    }

    /// Sends what waits for any peer, here and now.
    pub(crate) fn flush(&self) {
        self.each(|peer| {
            if peer.data.take_dirty() {
                peer.data.flush();
            }
        });
    }

    /// Runs `f` on the peer, if there is a link to it.
    pub(crate) fn with<R>(&self, node: NodeId, f: impl FnOnce(&Peer) -> R) -> Option<R> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().find(|peer| peer.node == node).map(|peer| f(peer))
    }

    /// Runs `f` on every peer.
    pub(crate) fn each(&self, f: impl FnMut(&Arc<Peer>)) {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(f);
    }

    /// Ends all links.
    pub(crate) fn close(&self) {
        self.peers.write().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|peer| peer.gone.cancel());
        for (_, inbound) in std::mem::take(&mut *self.lock()) {
            inbound.cancel();
        }
    }

    /// Decides about an incoming connection. If it is wanted, it replaces the caller's last one for the same purpose (and
    /// all of an earlier start's); the token ends it.
    pub(crate) fn admit(
        &self,
        me: &Identity,
        purpose: Purpose,
        from: &Identity,
        table: Option<&NodeInfo>,
    ) -> Result<CancellationToken, String> {
        let mut inbound = self.lock();
        let seen = inbound.get(&from.node).map(|inbound| inbound.identity);
        let told =
            table.map(|info| Identity { cluster: me.cluster, node: info.node, store: info.store, boot: info.boot });
        let known = seen.into_iter().chain(told).max_by_key(|identity| identity.boot);
        hello::admit(me, purpose, from, known.as_ref())?;
        let fresh = CancellationToken::new();
        if matches!(purpose, Purpose::Probe | Purpose::Question) {
            return Ok(fresh);
        }
        let strangers = || inbound.values().filter(|inbound| inbound.stranger).count();
        if table.is_none() && seen.is_none() && strangers() >= STRANGE_NODES {
            return Err("too many servers that the ECS has not told of: try again".into());
        }
        let entry = inbound.entry(from.node).or_insert_with(|| Inbound::new(*from));
        if entry.identity.boot < from.boot {
            entry.cancel();
            *entry = Inbound::new(*from);
        }
        entry.stranger &= table.is_none();
        let slot = match purpose {
            Purpose::Data => &mut entry.data,
            Purpose::Forward => &mut entry.jobs,
            Purpose::Pulse | Purpose::Probe | Purpose::Question => &mut entry.pulse,
        };
        std::mem::replace(slot, fresh.clone()).cancel();
        Ok(fresh)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Inbound>> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbound {
    fn new(identity: Identity) -> Inbound {
        let (data, pulse, jobs) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        Inbound { identity, stranger: true, data, pulse, jobs }
    }

    /// Ends all its connections.
    fn cancel(&self) {
        [&self.data, &self.pulse, &self.jobs].into_iter().for_each(CancellationToken::cancel);
    }
}

impl Peer {
    /// The outbox for a purpose.
    fn outbox(&self, purpose: Purpose) -> &Outbox {
        if purpose == Purpose::Pulse { &self.pulse } else { &self.data }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> String {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn move_to(&self, info: &NodeInfo) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.0 != info.peer_addr || at.1 != info.boot {
            *at = (info.peer_addr.clone(), info.boot);
            self.moved.notify_waiters();
        }
    }
}
