//! An ECS that keeps its state in memory and changes views when it is asked to, or told to by the test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::control::{Ask, Change, FromEcs, FromServer, Granted, Heartbeat, Report};
use common::{ClusterId, ClusterRecord, Epoch, Meta, NodeId, NodeInfo, NodeState, Slot, View};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// See the module.
#[derive(Clone)]
pub struct FakeEcs {
    pub addr: String,
    state: Arc<Mutex<State>>,
}

pub struct State {
    pub cluster: ClusterRecord,
    /// Views are made once so many servers have registered.
    wanted: usize,
    version: u64,
    epoch: Epoch,
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    pub views: Vec<View>,
    links: BTreeMap<NodeId, UnboundedSender<FromEcs>>,
    pub heartbeats: BTreeMap<NodeId, Heartbeat>,
    pub reports: BTreeMap<NodeId, Report>,
    pub goodbyes: Vec<NodeId>,
    pub refuse: Option<(String, bool)>,
}

impl FakeEcs {
    pub async fn start(slots: u16, wanted: usize) -> FakeEcs {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let cluster =
            ClusterRecord { cluster: ClusterId(fastrand::u128(1..)), slots, replicas: 2, lease_ms: 250, vnodes: 1 };
        let state = State {
            cluster,
            wanted,
            version: 0,
            epoch: Epoch(0),
            nodes: BTreeMap::new(),
            views: Vec::new(),
            links: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            reports: BTreeMap::new(),
            goodbyes: Vec::new(),
            refuse: None,
        };
        let ecs = FakeEcs { addr, state: Arc::new(Mutex::new(state)) };
        tokio::spawn({
            let ecs = ecs.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(ecs.clone().serve(stream));
                }
            }
        });
        ecs
    }

    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap())
    }

    async fn serve(self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let (read, mut write) = stream.into_split();
        let (to, mut from) = unbounded_channel::<FromEcs>();
        tokio::spawn(async move {
            while let Some(message) = from.recv().await {
                let mut line = serde_json::to_vec(&message).unwrap();
                line.push(b'\n');
                if write.write_all(&line).await.is_err() {
                    return;
                }
            }
        });
        let mut lines = BufReader::new(read).lines();
        let mut who = None;
        while let Ok(Some(line)) = lines.next_line().await {
            let message: FromServer = serde_json::from_str(&line).unwrap();
            self.with(|state| state.hear(&mut who, message, &to));
        }
    }

    /// A verdict: the node is dead.
    pub fn bury(&self, dead: NodeId) {
        self.with(|state| {
            state.nodes.get_mut(&dead).unwrap().state = NodeState::Down;
            state.remove_everywhere(dead);
        });
    }

    /// Orders the slot's coordinator to hand it over.
    pub fn hand_over(&self, slot: Slot, to: NodeId) {
        self.with(|state| {
            let view = &state.views[usize::from(slot.0)];
            let order = FromEcs::HandOver { slots: vec![(slot, view.epoch, to)] };
            state.links[&view.coordinator].send(order).unwrap();
        });
    }

    pub fn send(&self, to: NodeId, message: FromEcs) {
        self.with(|state| state.links[&to].send(message).unwrap());
    }
}

impl State {
    fn hear(&mut self, who: &mut Option<NodeId>, message: FromServer, to: &UnboundedSender<FromEcs>) {
        match message {
            FromServer::Register { info, .. } => {
                if let Some((reason, fatal)) = self.refuse.clone() {
                    to.send(FromEcs::Refused { reason, fatal }).unwrap();
                    return;
                }
                *who = Some(info.node);
                self.register(info, to);
            }
            FromServer::Ask(asks) => asks.into_iter().for_each(|ask| self.change(&ask)),
            FromServer::Heartbeat(beat) => drop(self.heartbeats.insert(beat.node, beat)),
            FromServer::Report(report) => drop(who.map(|who| self.reports.insert(who, report))),
            FromServer::Goodbye => self.goodbyes.extend(*who),
            // Hand-overs are ordered by the tests.
            FromServer::Stopping => {}
            FromServer::Wish { id, wish } => {
                let granted = Granted::Yes(format!("{wish:?}"));
                to.send(FromEcs::Granted { id, granted }).unwrap();
            }
        }
    }

    fn register(&mut self, mut info: NodeInfo, to: &UnboundedSender<FromEcs>) {
        let node = info.node;
        info.state = NodeState::Up;
        self.nodes.insert(node, info.clone());
        self.links.insert(node, to.clone());
        let meta = self.meta();
        to.send(FromEcs::Welcome { cluster: self.cluster.clone(), meta }).unwrap();
        if self.views.is_empty() && self.nodes.len() == self.wanted {
            self.found();
        } else if !self.views.is_empty() {
            self.renew(&info);
        }
    }

    fn meta(&self) -> Meta {
        let nodes = self.nodes.values().cloned().collect();
        Meta { version: self.version, full: true, nodes, gone: Vec::new(), views: self.views.clone() }
    }

    /// The first views: every node coordinates its share alone, the others are to learn it.
    fn found(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for slot in 0..self.cluster.slots {
            let at = usize::from(slot) * ids.len() / usize::from(self.cluster.slots);
            let targets: Vec<NodeId> = ids.iter().cycle().skip(at).take(ids.len().min(3)).copied().collect();
            let home = &self.nodes[&targets[0]];
            self.epoch = self.epoch.next();
            self.views.push(View {
                slot: Slot(slot),
                epoch: self.epoch,
                previous: Epoch(0),
                coordinator: home.node,
                coordinator_boot: home.boot,
                isr: BTreeMap::from([(home.node, home.store)]),
                targets: targets.clone(),
                home: home.node,
                released: None,
            });
        }
        let changed = self.views.clone();
        self.tell(changed);
    }

    /// A node has started again: it coordinates nothing, and is in sync only where it is the last.
    fn renew(&mut self, info: &NodeInfo) {
        self.remove_everywhere(info.node);
        let alone: Vec<View> = self.views.iter().filter(|view| view.coordinator == info.node).cloned().collect();
        for mut view in alone {
            view.coordinator_boot = info.boot;
            self.replace(view);
        }
        self.tell(Vec::new());
    }

    fn remove_everywhere(&mut self, node: NodeId) {
        for mut view in self.views.clone() {
            if !view.isr.contains_key(&node) || view.isr.len() == 1 {
                continue;
            }
            view.isr.remove(&node);
            if view.coordinator == node {
                view.coordinator = *view.targets.iter().find(|target| view.isr.contains_key(target)).unwrap();
                view.coordinator_boot = self.nodes[&view.coordinator].boot;
            }
            self.replace(view);
        }
    }

    fn change(&mut self, ask: &Ask) {
        let mut view = self.views[usize::from(ask.slot.0)].clone();
        if view.epoch != ask.epoch {
            return;
        }
        match ask.change {
            Change::Shrink { node } | Change::Demote { node } => drop(view.isr.remove(&node)),
            Change::Expand { node, store, boot } => {
                let current = &self.nodes[&node];
                if (current.store, current.boot) != (store, boot) {
                    return;
                }
                view.isr.insert(node, store);
            }
            Change::HandOver { to } => {
                view.released = Some(view.epoch);
                if view.isr.contains_key(&to) {
                    (view.coordinator, view.coordinator_boot) = (to, self.nodes[&to].boot);
                }
            }
            Change::StepDown => return,
        }
        self.replace(view);
    }

    fn replace(&mut self, mut view: View) {
        self.epoch = self.epoch.next();
        (view.previous, view.epoch) = (view.epoch, self.epoch);
        view.check().unwrap();
        let at = usize::from(view.slot.0);
        self.views[at] = view.clone();
        self.tell(vec![view]);
    }

    fn tell(&mut self, views: Vec<View>) {
        self.version += 1;
        let nodes = self.nodes.values().cloned().collect();
        let meta = Meta { version: self.version, full: false, nodes, gone: Vec::new(), views };
        self.links.retain(|_, link| link.send(FromEcs::Update(meta.clone())).is_ok());
    }
}
