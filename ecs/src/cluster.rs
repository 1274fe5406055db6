//! The durable state, and what each command does to it.
//!
//! Pure and total: every command can be applied to every state, and replaying the same commands gives the same state,
//! byte for byte. Nothing volatile is in here: who is alive and what servers report lives in the cores around it.
//!
//! Invariants ([`Cluster::check`]): an ISR is never empty and contains its coordinator; no two views share an epoch; no
//! epoch is above the counter; every home is a known node.

use std::collections::BTreeMap;

use common::view::{ClusterRecord, Meta, NodeInfo, NodeState, View};
use common::{Epoch, NodeId, Slot, StoreUuid};
use serde::{Deserialize, Serialize};

pub use crate::change::{Change, Departed, Homes, Parting};

/// How many departed nodes are remembered; those that went first are forgotten first.
const REMEMBERED: usize = 1024;

/// A new view for one slot, unless the slot has moved on since `epoch`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Which slot.
    pub slot: Slot,
    /// The epoch the proposal was made for: a compare-and-set.
    pub epoch: Epoch,
    /// See [`View::coordinator`]. Its boot is taken from the node table.
    pub coordinator: NodeId,
    /// See [`View::isr`].
    pub isr: BTreeMap<NodeId, StoreUuid>,
    /// See [`View::targets`].
    pub targets: Vec<NodeId>,
    /// Whether the coordinator of `epoch` gave its lease back (L5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}

/// One durable step. Each is one line of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A row of the node table, new or changed.
    Node(NodeInfo),
    /// A node's state.
    State {
        /// Which node.
        node: NodeId,
        /// What it is from now on.
        state: NodeState,
    },
    /// A node is no longer known. Ignored while an ISR or a home names it.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// A node has gone for good, and is remembered. Ignored while an ISR or a home names it.
    Depart {
        /// Which.
        node: NodeId,
        /// How.
        how: Parting,
    },
    /// The last node goes by force, and all records with it: the cluster is as before its first server came, but for the
    /// epochs, which go on.
    Empty {
        /// Which: ignored unless every view has it alone in its ISR.
        node: NodeId,
    },
    /// The first node of an empty cluster takes all slots.
    Found {
        /// Which: its row must be there.
        node: NodeId,
    },
    /// New views.
    Views(Vec<Proposal>),
    /// New homes.
    Homes(Homes),
    /// A membership change begins.
    Begin(Change),
    /// The membership change in progress has come to its end, or is given up.
    End,
    /// Several commands that count as one: all or none are durable.
    All(Vec<Command>),
}

/// What a command changed, for telling the servers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// Changed rows.
    pub nodes: Vec<NodeId>,
    /// Removed rows.
    pub gone: Vec<NodeId>,
    /// Changed views.
    pub slots: Vec<Slot>,
}

/// The durable state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    record: ClusterRecord,
    /// The last epoch given out, of any slot.
    epoch: Epoch,
    /// Counts the commands that changed nodes or views.
    version: u64,
    nodes: BTreeMap<NodeId, NodeInfo>,
    /// By slot; empty until the first server founds the cluster.
    views: Vec<View>,
    homes: Homes,
    change: Option<Change>,
    /// Who has gone for good, so that none of them comes back unnoticed.
    #[serde(default)]
    departed: BTreeMap<NodeId, Departed>,
}

impl Cluster {
    /// An empty cluster.
    #[must_use]
    pub fn new(record: ClusterRecord) -> Cluster {
        Cluster {
            record,
            epoch: Epoch(0),
            version: 0,
            nodes: BTreeMap::new(),
            views: Vec::new(),
            homes: Homes::default(),
            change: None,
            departed: BTreeMap::new(),
        }
    }

    /// What is fixed.
    #[must_use]
    pub fn record(&self) -> &ClusterRecord {
        &self.record
    }

    /// The last epoch given out.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Counts the changes of nodes and views; see [`Meta::version`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The node table.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.nodes
    }

    /// All views, by slot; none before the first server came.
    #[must_use]
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// The slot's view, if the slot exists and the cluster is founded.
    #[must_use]
    pub fn view(&self, slot: Slot) -> Option<&View> {
        self.views.get(usize::from(slot.0))
    }

    /// Every slot's home.
    #[must_use]
    pub fn homes(&self) -> Vec<NodeId> {
        self.homes.unpack()
    }

    /// The membership change in progress.
    #[must_use]
    pub fn change(&self) -> Option<&Change> {
        self.change.as_ref()
    }

    /// How the node went, if it has gone for good.
    #[must_use]
    pub fn departed(&self, node: NodeId) -> Option<&Departed> {
        self.departed.get(&node)
    }

    /// Everybody who has gone for good, as far as remembered.
    pub fn all_departed(&self) -> impl Iterator<Item = (NodeId, &Departed)> {
        self.departed.iter().map(|(node, departed)| (*node, departed))
    }

    /// Whether the last server went by force: directories from before hold records that were given up.
    #[must_use]
    pub fn is_emptied(&self) -> bool {
        self.views.is_empty() && self.epoch > Epoch(0)
    }

    /// All metadata.
    #[must_use]
    pub fn meta(&self) -> Meta {
        Meta {
            version: self.version,
            full: true,
            nodes: self.nodes.values().cloned().collect(),
            gone: Vec::new(),
            views: self.views.clone(),
        }
    }

    /// The metadata that a command changed, to be told to servers that have the version before.
    #[must_use]
    pub fn delta(&self, effects: &Effects) -> Meta {
        Meta {
            version: self.version,
            full: false,
            nodes: effects.nodes.iter().filter_map(|node| self.nodes.get(node)).cloned().collect(),
            gone: effects.gone.clone(),
            views: effects.slots.iter().filter_map(|slot| self.view(*slot)).cloned().collect(),
        }
    }

    /// Applies one command.
    pub fn apply(&mut self, command: &Command) -> Effects {
        let mut effects = Effects::default();
        self.perform(command, &mut effects);
        effects.tidy();
        if !effects.is_empty() {
            self.version += 1;
        }
        debug_assert_eq!(self.check(), Ok(()), "after {command:?}");
        effects
    }

    fn perform(&mut self, command: &Command, effects: &mut Effects) {
        match command {
            Command::Node(info) => self.put_node(info, effects),
            Command::State { node, state } => self.set_state(*node, *state, effects),
            Command::Remove { node } => self.remove(*node, effects),
            Command::Depart { node, how } => self.depart(*node, *how, effects),
            Command::Empty { node } => self.empty(*node, effects),
            Command::Found { node } => self.found(*node, effects),
            Command::Views(proposals) => {
                let homes = self.homes.unpack();
                proposals.iter().for_each(|p| self.change_view(p, &homes, effects));
            }
            Command::Homes(homes) => self.rehome(homes),
            Command::Begin(change) => self.change = self.change.take().or_else(|| Some(change.clone())),
            Command::End => self.change = None,
            Command::All(commands) => commands.iter().for_each(|c| self.perform(c, effects)),
        }
    }

    fn put_node(&mut self, info: &NodeInfo, effects: &mut Effects) {
        self.departed.remove(&info.node);
        if self.nodes.insert(info.node, info.clone()).as_ref() != Some(info) {
            effects.nodes.push(info.node);
        }
    }

    fn set_state(&mut self, node: NodeId, state: NodeState, effects: &mut Effects) {
        if let Some(info) = self.nodes.get_mut(&node).filter(|info| info.state != state) {
            info.state = state;
            effects.nodes.push(node);
        }
    }

    fn remove(&mut self, node: NodeId, effects: &mut Effects) {
        let held = self.views.iter().any(|view| view.isr.contains_key(&node));
        let home = self.homes.contains(node);
        if !held && !home && self.nodes.remove(&node).is_some() {
            effects.gone.push(node);
        }
    }

    fn depart(&mut self, node: NodeId, how: Parting, effects: &mut Effects) {
        let Some(boot) = self.nodes.get(&node).map(|info| info.boot) else { return };
        self.remove(node, effects);
        if self.nodes.contains_key(&node) {
            return;
        }
        self.departed.insert(node, Departed { how, boot, version: self.version });
        if self.departed.len() > REMEMBERED {
            let first = self.departed.iter().min_by_key(|(node, departed)| (departed.version, **node));
            let first = first.map(|(node, _)| *node);
            first.and_then(|node| self.departed.remove(&node));
        }
    }

    fn empty(&mut self, node: NodeId, effects: &mut Effects) {
        let alone = |view: &View| view.isr.len() == 1 && view.isr.contains_key(&node);
        if self.views.iter().all(alone) {
            (self.views, self.homes, self.change) = (Vec::new(), Homes::default(), None);
            self.depart(node, Parting::Left, effects);
        }
    }

    fn found(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(info) = self.nodes.get(&node).filter(|_| self.views.is_empty()) else { return };
        let (isr, boot) = (BTreeMap::from([(node, info.store)]), info.boot);
        for slot in 0..self.record.slots {
            self.epoch = self.epoch.next();
            self.views.push(View {
                slot: Slot(slot),
                epoch: self.epoch,
                previous: Epoch(0),
                coordinator: node,
                coordinator_boot: boot,
                isr: isr.clone(),
                targets: vec![node],
                home: node,
                released: None,
            });
            effects.slots.push(Slot(slot));
        }
        self.homes = Homes::all(node, self.record.slots);
    }

    /// The compare-and-set. A proposal that would make a bad view changes nothing: the log is replayed as it is, so the
    /// state machine itself keeps the invariants.
    fn change_view(&mut self, proposal: &Proposal, homes: &[NodeId], effects: &mut Effects) {
        let at = usize::from(proposal.slot.0);
        let Some(view) = self.views.get_mut(at) else { return };
        let Some(info) = self.nodes.get(&proposal.coordinator) else { return };
        let new = View {
            slot: proposal.slot,
            epoch: self.epoch.next(),
            previous: view.epoch,
            coordinator: proposal.coordinator,
            coordinator_boot: info.boot,
            isr: proposal.isr.clone(),
            targets: proposal.targets.clone(),
            home: homes.get(at).copied().unwrap_or(view.home),
            released: proposal.released.then_some(view.epoch),
        };
        let known = proposal.isr.keys().all(|node| self.nodes.contains_key(node));
        if view.epoch == proposal.epoch && known && new.check().is_ok() {
            self.epoch = new.epoch;
            *view = new;
            effects.slots.push(proposal.slot);
        }
    }

    fn rehome(&mut self, homes: &Homes) {
        let known = homes.nodes().all(|node| self.nodes.contains_key(&node));
        if known && homes.slots() == self.views.len() {
            self.homes = homes.clone();
        }
    }

    /// The invariants.
    ///
    /// # Errors
    /// A sentence naming the one that does not hold.
    pub fn check(&self) -> Result<(), String> {
        if !self.record.slots.is_power_of_two() {
            return Err(format!("a ring of {} slots: not a power of two", self.record.slots));
        }
        let mut epochs = std::collections::BTreeSet::new();
        for (at, view) in self.views.iter().enumerate() {
            view.check()?;
            if usize::from(view.slot.0) != at {
                return Err(format!("slot {} stands at place {at}", view.slot));
            }
            if view.epoch > self.epoch || !epochs.insert(view.epoch) {
                return Err(format!("slot {}: epoch {} is not its own", view.slot, view.epoch));
            }
            if let Some(node) = view.isr.keys().find(|node| !self.nodes.contains_key(node)) {
                return Err(format!("slot {}: {node} of its ISR is not in the node table", view.slot));
            }
        }
        let homes = self.homes.unpack();
        if homes.len() != self.views.len() {
            return Err(format!("{} homes for {} views", homes.len(), self.views.len()));
        }
        match homes.iter().find(|home| !self.nodes.contains_key(home)) {
            Some(home) => Err(format!("a slot's home {home} is not in the node table")),
            None => Ok(()),
        }
    }
}

impl Effects {
    /// Whether nothing changed that servers should know.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.gone.is_empty() && self.slots.is_empty()
    }

    /// Names everything once; what is gone is not also changed.
    fn tidy(&mut self) {
        for list in [&mut self.nodes, &mut self.gone] {
            list.sort_unstable();
            list.dedup();
        }
        self.nodes.retain(|node| !self.gone.contains(node));
        self.slots.sort_unstable();
        self.slots.dedup();
    }
}
