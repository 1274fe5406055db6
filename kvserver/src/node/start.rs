//! How a node starts and stops.
#![allow(clippy::disallowed_methods)] // shell: threads and tasks begin here

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use common::{ClusterId, ClusterRecord, Epoch, Meta, NodeInfo, NodeState, Slot, Timing, View, clock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::commits::Commits;
use super::fatal::Failure;
use super::store::Reports;
use super::{Asks, Ecs, Metrics, Node, NodeOptions, Store, Wishes, ticker};
use crate::links::{self, Links};
use crate::questions::Questions;
use crate::relay::Relay;
use crate::replica::Traffic;
use crate::replies::Replies;
use crate::{auditor, checkpointer, pulse, registrar};

/// The cluster that a standalone server's directory belongs to: none that an ECS would ever draw.
pub(crate) const STANDALONE: ClusterId = ClusterId(0);
/// Slots of a standalone server: as many as a cluster has by default.
const STANDALONE_SLOTS: u16 = 256;
/// How often it is looked whether others coordinate by now.
const STEP_DOWN_LOOK: Duration = Duration::from_millis(5);
/// How long an orderly stop waits for the ECS to hear of it.
const GOODBYE: Duration = Duration::from_millis(500);

impl Node {
    /// Opens the data directory, recovers, binds the peer port and starts all threads and tasks; returns before the ECS
    /// has answered. Blocks while it reads the directory. `main` is the runtime that data connections live on.
    ///
    /// # Errors
    /// The directory cannot be used (locked, foreign, damaged), or the peer port cannot be bound.
    pub fn start(options: NodeOptions, replies: Arc<Replies>, main: &Handle) -> anyhow::Result<Arc<Node>> {
        let started = clock::now();
        let reports = Reports::default();
        let (store, me) = Store::open(&options, &reports)?;
        let listener = TcpListener::bind(options.peer_bind).with_context(|| {
            format!("cannot listen for peers at {}: is the port taken? try --peer-port 0", options.peer_bind)
        })?;
        listener.set_nonblocking(true)?;
        let peer_addr = format!("{}:{}", options.peer_host, listener.local_addr()?.port());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let relay = Relay::new(me.node, &replies);
        let node = Arc::new(Node {
            me,
            started,
            peer_addr,
            store,
            links: Links::new(main.clone(), runtime.handle().clone()),
            asks: Asks::default(),
            wishes: Wishes::default(),
            replies,
            metrics: Metrics::default(),
            questions: Questions::default(),
            relay,
            commits: Commits::default(),
            audits: super::audits::Audits::default(),
            moves: super::moves::Moves::default(),
            traffic: Traffic::new(options.move_rate),
            serving: OnceLock::new(),
            begun: watch::Sender::new(false),
            topology: RwLock::default(),
            beat: Notify::new(),
            pushed: Notify::new(),
            ecs: Mutex::new(Ecs::default()),
            failure: Failure::default(),
            stepping_down: CancellationToken::new(),
            relieved: CancellationToken::new(),
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            threads: Mutex::default(),
            options,
        });
        *reports.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&node);
        node.start_pulse(runtime, listener)?;
        node.start_threads()?;
        main.spawn(node.clone().flushing());
        main.spawn(node.clone().committing());
        main.spawn(node.clone().relaying_jobs());
        if node.standalone() {
            let (cluster, meta) = node.alone();
            node.welcome(cluster, meta)?;
        } else {
            main.spawn(node.clone().registered());
        }
        Ok(node)
    }

    async fn relaying_jobs(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.clone().relay_driver() => {}
        }
    }

    /// Waits until everything is to end.
    pub(crate) async fn until_halted(&self) {
        self.stop.cancelled().await;
    }

    async fn registered(self: Arc<Self>) {
        let addresses = self.options.ecs.clone();
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = registrar::run(self.clone(), addresses) => {}
        }
    }

    fn start_pulse(self: &Arc<Self>, runtime: tokio::runtime::Runtime, listener: TcpListener) -> anyhow::Result<()> {
        let node = self.clone();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        self.keep(thread::Builder::new().name("pulse".into()).spawn(move || {
            super::slots::flushes_itself();
            if let Err(error) = common::priority::raise() {
                log::debug!("beacons and heartbeats run at the ordinary priority: {error}");
            }
            runtime.spawn(links::listen(node.clone(), listener));
            runtime.spawn(pulse::beacons(node.clone()));
            runtime.spawn(pulse::heartbeats(node.clone()));
            runtime.block_on(node.stop.cancelled());
        })?);
        Ok(())
    }

    fn start_threads(self: &Arc<Self>) -> anyhow::Result<()> {
        let node = Arc::downgrade(self);
        self.keep(thread::Builder::new().name("ticker".into()).spawn(move || ticker::run(&node))?);
        let node = Arc::downgrade(self);
        self.keep(thread::Builder::new().name("checkpointer".into()).spawn(move || checkpointer::run(&node))?);
        let node = Arc::downgrade(self);
        self.keep(thread::Builder::new().name("auditor".into()).spawn(move || auditor::run(&node))?);
        Ok(())
    }

    fn keep(&self, thread: thread::JoinHandle<()>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// The cluster of a server that runs alone: views with nobody else, at an epoch above all that were.
    fn alone(&self) -> (ClusterRecord, Meta) {
        let slots = self.store.bound().map_or(STANDALONE_SLOTS, |(_, slots)| slots);
        let lease_ms = u32::try_from(Timing::DEFAULT_LEASE.as_millis()).unwrap_or(u32::MAX);
        let cluster = ClusterRecord { cluster: STANDALONE, slots, replicas: 0, lease_ms, vnodes: 1 };
        let previous = self.store.highest_epoch();
        let view = |slot| View {
            slot: Slot(slot),
            epoch: previous.next(),
            previous,
            coordinator: self.me.node,
            coordinator_boot: self.me.boot,
            isr: BTreeMap::from([(self.me.node, self.me.store)]),
            targets: vec![self.me.node],
            home: self.me.node,
            released: (previous > Epoch(0)).then_some(previous),
        };
        let info = NodeInfo {
            node: self.me.node,
            store: self.me.store,
            boot: self.me.boot,
            client_addr: self.options.client_addr.clone(),
            peer_addr: self.peer_addr.clone(),
            admin_addr: self.options.admin_addr.clone(),
            state: NodeState::Up,
            weight: self.options.weight,
        };
        let views = (0..slots).map(view).collect();
        (cluster, Meta { version: 1, full: true, nodes: vec![info], gone: Vec::new(), views })
    }

    /// Asks for others to coordinate what is coordinated here, and waits for that, but not for longer than `patience`; what
    /// has no other copy in sync stays. Everything is served meanwhile, so that an orderly stop is not felt.
    pub async fn step_down(&self, patience: Duration) {
        if self.standalone() || !self.lock_ecs().connected {
            return;
        }
        self.stepping_down.cancel();
        // Nobody having said so within the time, or an ECS that died meanwhile, is no reason to stay.
        let _relieved = tokio::time::timeout(patience, async {
            tokio::select! {
                () = self.relieved.cancelled() => {}
                () = self.nothing_to_give() => {}
            }
        })
        .await;
    }

    async fn nothing_to_give(&self) {
        while self.could_be_given() > 0 {
            tokio::time::sleep(STEP_DOWN_LOOK).await;
        }
    }

    /// The ECS says that nobody can take more.
    pub(crate) fn relieved(&self) {
        self.relieved.cancel();
    }

    /// Waits until [`Node::step_down`] was called.
    pub(crate) async fn stepping_down(&self) {
        self.stepping_down.cancelled().await;
    }

    /// Slots that are coordinated here and could be elsewhere.
    fn could_be_given(&self) -> usize {
        let me = self.me.node;
        let could = |view: &&View| view.coordinator == me && view.isr.len() > 1;
        self.with_topology(|topology| topology.views.iter().flatten().filter(could).count())
    }

    /// Waits until an orderly stop has begun.
    pub(crate) async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Orderly end: tells the ECS, flushes the journal, writes a checkpoint. Take no more client writes before.
    ///
    /// # Errors
    /// The last checkpoint could not be written; what was acknowledged is in the journal all the same.
    pub async fn stop(self: &Arc<Self>) -> anyhow::Result<()> {
        self.leaving.cancel();
        if self.lock_ecs().connected {
            let deadline = tokio::time::Instant::now() + GOODBYE;
            while self.lock_ecs().connected && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        self.halt();
        let node = self.clone();
        tokio::task::spawn_blocking(move || {
            node.join();
            let written = if node.serving() { checkpointer::write(&node, false) } else { Ok(()) };
            node.store.close();
            written
        })
        .await??;
        Ok(())
    }

    /// Whether everything is to end now.
    pub(crate) fn halted(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends everything at once, as a crash would: nobody is told and nothing is written.
    pub fn halt(&self) {
        self.stop.cancel();
        self.links.close();
        // Those that rest look at once.
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().for_each(|thread| thread.thread().unpark());
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a thread of the node panicked");
            }
        }
    }
}
