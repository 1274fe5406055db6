//! Who may take part: the answer to a registration.
//!
//! One identity is one process at a time: the higher boot wins and the other is fenced, so a copied directory cannot
//! speak with two voices ([`crate::twins`] says what a copy counts for). One address is one server: a stranger at the
//! address of one that is gone has come with an empty disk to take its place.

use std::collections::BTreeMap;

use common::control::FromEcs;
use common::view::{HIGHEST_WEIGHT, NodeInfo, NodeState};
use common::{ClusterId, Epoch, NodeId, Rule, Time};

use crate::change::{Change, Departed, Homes, Parting};
use crate::cluster::Command;
use crate::core::{Action, Conn, Ecs, shorten};
use crate::planner;

/// Who wants to take part.
pub(crate) struct Caller {
    pub(crate) info: NodeInfo,
    /// The cluster its directory belongs to.
    pub(crate) cluster: Option<ClusterId>,
    /// Whether its operator wants it in even if it was sent away.
    pub(crate) rejoin: bool,
    /// The highest epoch it knows.
    pub(crate) seen: Epoch,
}

/// Why a registration is refused, and what the caller is to do.
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) then: Then,
}

pub(crate) enum Then {
    /// Try again later.
    Retry,
    /// Trying again is pointless.
    Stop,
    /// It has left, and is to end as it was asked to.
    Left,
}

impl Refusal {
    fn message(self) -> FromEcs {
        let reason = self.reason;
        match self.then {
            Then::Retry => FromEcs::Refused { reason, fatal: false },
            Then::Stop => FromEcs::Refused { reason, fatal: true },
            Then::Left => FromEcs::Left { reason },
        }
    }
}

impl Ecs {
    pub(crate) fn register(&mut self, now: Time, conn: Conn, caller: Caller, out: &mut Vec<Action>) {
        if caller.cluster == Some(self.cluster.record().cluster) {
            // Before anything is decided on its account: a new start of a coordinator would get a view at once.
            self.beware(now, caller.info.node, caller.seen, out);
        }
        self.watch_twin(&caller.info, now);
        if let Err(refusal) = self.admissible(&caller, now) {
            if self.refusing().is_none() {
                self.detector.note(now, caller.info.node, format!("registration refused: {}", refusal.reason));
            }
            out.push(Action::Send { conn, msg: refusal.message() });
            out.push(Action::Disconnect { conn });
            return;
        }
        let weight = caller.info.weight.clamp(1, HIGHEST_WEIGHT);
        let info = NodeInfo { weight, ..caller.info };
        let (node, boot) = (info.node, info.boot);
        let copied = self.is_of_a_copy(&info, now);
        self.supersede(&info, out);
        if copied && !self.switches.off(Rule::TrustCopy) {
            self.discount(now, &info, out);
        }
        self.forget_twin(&info);
        let mut commands = match self.cluster.nodes().get(&node) {
            Some(known) => self.returned(known, info),
            None => self.arrived(now, info, out),
        };
        commands
            .retain(|command| !matches!(command, Command::Node(row) if self.cluster.nodes().get(&node) == Some(row)));
        if self.cluster.nodes().get(&node).is_some_and(|known| known.boot != boot) {
            self.reports.forget(node);
            self.deferred.remove(&node);
            self.accusations.remove(&node);
        }
        self.detector.registered(node, boot, conn, now);
        self.settle(now, commands, BTreeMap::new(), out);
        if !self.cluster.nodes().contains_key(&node) {
            // Its coming was all that its leave still waited for: it was told goodbye already.
            return;
        }
        self.welcome(now, conn, node, boot, out);
        self.tell_to_wait(conn, node, out);
        self.wake(now);
    }

    /// One change at a time: whoever comes in the middle of another is told what it waits for.
    fn tell_to_wait(&self, conn: Conn, node: NodeId, out: &mut Vec<Action>) {
        let waits = self.cluster.nodes().get(&node).is_some_and(|info| info.state == NodeState::Joining);
        let other = self.cluster.change().filter(|change| waits && change.node() != Some(node));
        if let Some(change) = other {
            let text = format!("{} is in progress: your join waits for it", change.name());
            out.push(Action::Send { conn, msg: FromEcs::Notice { text } });
        }
    }

    fn admissible(&self, caller: &Caller, now: Time) -> Result<(), Refusal> {
        let (info, own) = (&caller.info, self.cluster.record().cluster);
        if let Some(reason) = self.refusing() {
            return Err(Refusal { reason: reason.to_string(), then: Then::Retry });
        }
        if let Some(other) = caller.cluster.filter(|other| *other != own) {
            let reason = format!(
                "this is cluster {own}, but your data directory belongs to cluster {other}: start with another -d, or with \
                 that cluster's ECS as -b"
            );
            return Err(Refusal { reason, then: Then::Stop });
        }
        check_spelling(info)?;
        self.check_departed(caller)?;
        self.check_identity(info)?;
        if !self.switches.off(Rule::TrustCopy) {
            self.check_twin(info, now)?;
        }
        self.check_addresses(info)
    }

    /// Nobody who has gone comes back unnoticed, and nothing that was given up comes back as if it had not been.
    fn check_departed(&self, caller: &Caller) -> Result<(), Refusal> {
        let (node, boot) = (caller.info.node, caller.info.boot);
        let mend = "start it with an empty directory, or with --rejoin if it is to take part again";
        match self.cluster.departed(node) {
            Some(departed) if boot == departed.boot => {
                return Err(Refusal { reason: format!("{node} has left the cluster"), then: Then::Left });
            }
            Some(departed) if boot < departed.boot => {
                let reason =
                    format!("{node} has left the cluster, and your data directory is an old copy of its: {mend}");
                return Err(Refusal { reason, then: Then::Stop });
            }
            Some(Departed { how: Parting::Removed, .. }) if !caller.rejoin => {
                return Err(Refusal {
                    reason: format!("{node} was removed from the cluster: {mend}"),
                    then: Then::Stop,
                });
            }
            _ => {}
        }
        if self.cluster.is_emptied() && caller.cluster.is_some() && !caller.rejoin {
            let reason = format!(
                "the cluster's last server was made to leave, and its records were given up; {node} may hold some from \
                 before: {mend}"
            );
            return Err(Refusal { reason, then: Then::Stop });
        }
        Ok(())
    }

    /// An older process of the same identity, or another one of the same age, does not get in.
    fn check_identity(&self, info: &NodeInfo) -> Result<(), Refusal> {
        let Some(known) = self.cluster.nodes().get(&info.node) else { return Ok(()) };
        let elsewhere = info.client_addr != known.client_addr || info.peer_addr != known.peer_addr;
        let (node, boot, at) = (info.node, info.boot, &known.client_addr);
        if info.boot < known.boot {
            let reason = format!(
                "server {node} has already been started {} times, last at {at}; yours is start {boot}: your data directory is \
                 an old copy. Use the newest one, or an empty one",
                known.boot
            );
            return Err(Refusal { reason, then: Then::Stop });
        }
        if info.boot == known.boot && elsewhere {
            let reason = format!(
                "start {boot} of server {node} runs at {at}: your data directory is a copy of its. Use an empty one"
            );
            return Err(Refusal { reason, then: Then::Stop });
        }
        Ok(())
    }

    /// No two live servers share an address.
    fn check_addresses(&self, info: &NodeInfo) -> Result<(), Refusal> {
        let clash = |other: &&NodeInfo| {
            other.node != info.node && (other.client_addr == info.client_addr || other.peer_addr == info.peer_addr)
        };
        let live = |other: &&NodeInfo| self.detector.connected(other.node);
        match self.cluster.nodes().values().filter(clash).find(live) {
            Some(other) => Err(Refusal {
                reason: format!(
                    "{} (peers: {}) is in use by the live server {}: choose other ports, or stop that server first",
                    other.client_addr, other.peer_addr, other.node
                ),
                then: Then::Retry,
            }),
            None => Ok(()),
        }
    }

    /// The same identity is connected already: the newer process, or the newer connection of one process, stays.
    fn supersede(&mut self, info: &NodeInfo, out: &mut Vec<Action>) {
        let Some(old) = self.detector.conn(info.node) else { return };
        if self.conns.remove(&old).is_some_and(|peer| peer.boot < info.boot) {
            let reason =
                format!("server {} was started again, as start {} at {}", info.node, info.boot, info.client_addr);
            out.push(Action::Send { conn: old, msg: FromEcs::Fenced { reason } });
        }
        out.push(Action::Disconnect { conn: old });
    }

    /// A known server is back.
    fn returned(&self, known: &NodeInfo, info: NodeInfo) -> Vec<Command> {
        let leaving = self.cluster.change().and_then(Change::leaver) == Some(known.node);
        let state = match known.state {
            // It died before its leave was complete, and holds copies that nobody else has: it goes on leaving.
            NodeState::Down if leaving => NodeState::Leaving,
            NodeState::Down if self.cluster.homes().contains(&known.node) => NodeState::Up,
            NodeState::Down => NodeState::Joining,
            state => state,
        };
        vec![Command::Node(NodeInfo { state, ..info })]
    }

    /// A server that nobody has seen before.
    fn arrived(&mut self, now: Time, info: NodeInfo, out: &mut Vec<Action>) -> Vec<Command> {
        let node = info.node;
        if self.cluster.views().is_empty() {
            return vec![Command::Node(NodeInfo { state: NodeState::Up, ..info }), Command::Found { node }];
        }
        let same_place = |other: &&NodeInfo| other.client_addr == info.client_addr;
        let Some(old) = self.cluster.nodes().values().find(same_place).map(|other| other.node) else {
            return vec![Command::Node(NodeInfo { state: NodeState::Joining, ..info })];
        };
        let mut found = Vec::new();
        self.detector.gone(old, &format!("{node} has taken its place at {}", info.client_addr), now, &mut found);
        let mut commands = self.act_on(now, found, out);
        commands.extend(self.inherit(old, info));
        commands
    }

    /// The newcomer gets the homes of `old`, which went without its disk. A joiner's place is not inherited: its join
    /// is undone first.
    fn inherit(&self, old: NodeId, info: NodeInfo) -> Vec<Command> {
        let (node, homes) = (info.node, self.cluster.homes());
        let joining = self.cluster.change().and_then(Change::joiner) == Some(old);
        if joining || !homes.contains(&old) {
            return vec![Command::Node(NodeInfo { state: NodeState::Joining, ..info })];
        }
        let homes = planner::replace(&homes, old, node);
        vec![Command::Node(NodeInfo { state: NodeState::Up, ..info }), Command::Homes(Homes::pack(&homes))]
    }
}

/// The longest host and port: a host name has 253 bytes at most.
const LONGEST_ADDRESS: usize = 300;

/// What an address is made of goes into the keyranges that clients read, and into logs: no separators, nothing endless.
fn check_spelling(info: &NodeInfo) -> Result<(), Refusal> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | ';' | '/');
    let wrong = |text: &&String| text.is_empty() || text.len() > LONGEST_ADDRESS || text.contains(odd);
    let addresses = [Some(&info.client_addr), Some(&info.peer_addr), info.admin_addr.as_ref()];
    match addresses.into_iter().flatten().find(wrong) {
        Some(text) => Err(Refusal {
            reason: format!(
                "{:?} is no address: host:port of at most {LONGEST_ADDRESS} bytes, without blanks, `,`, `;` and `/`",
                shorten(text)
            ),
            then: Then::Stop,
        }),
        None => Ok(()),
    }
}
