//! Two processes with one identity: which of them is the server, and which runs on a copy of its directory.
//!
//! A directory is locked while it is used. So a later start at another address, while the earlier one still runs, was
//! copied, and lacks whatever has been acknowledged since. It may come in where others are in sync, and counts for nothing until it has caught
//! up. Where the earlier start holds the last in-sync copy it may not; and whoever was seen running beside its
//! original is not taken for it later, when the original is away for a moment and nothing else would tell them apart.

use std::collections::BTreeMap;

use common::view::NodeInfo;
use common::{BootId, Time};

use crate::core::{Action, Ecs};
use crate::detector::Runs;
use crate::register::{Refusal, Then};

/// A later start at another address.
#[derive(Debug)]
pub(crate) struct Twin {
    client_addr: String,
    /// Since when it has come from there, beside one and the same start of its original.
    since: Time,
    beside: BootId,
    /// Whether that start was heard long after.
    proven: bool,
}

impl Ecs {
    /// Whether somebody else starts where the server was not, later than it.
    fn is_moved(&self, info: &NodeInfo) -> bool {
        let later = |known: &NodeInfo| info.boot > known.boot && info.client_addr != known.client_addr;
        self.cluster.nodes().get(&info.node).is_some_and(later)
    }

    /// Remembers since when somebody has come from where the server is not, and whether the two were there together: so
    /// much later that it is no heartbeat under way of a process that ended before.
    pub(crate) fn watch_twin(&mut self, info: &NodeInfo, now: Time) {
        let moved = self.is_moved(info);
        let Some(beside) = self.cluster.nodes().get(&info.node).map(|known| known.boot).filter(|_| moved) else {
            return;
        };
        let fresh = || Twin { client_addr: info.client_addr.clone(), since: now, beside, proven: false };
        let twin = self.twins.entry(info.node).or_insert_with(fresh);
        if twin.client_addr != info.client_addr || (twin.beside != beside && !twin.proven) {
            *twin = fresh();
        }
        let late = twin.since + self.config.suspect;
        twin.proven |= twin.beside == beside && self.detector.was_heard_after(info.node, late);
    }

    fn is_proven_copy(&self, info: &NodeInfo) -> bool {
        let twin = self.twins.get(&info.node).filter(|twin| twin.client_addr == info.client_addr);
        self.is_moved(info) && twin.is_some_and(|twin| twin.proven)
    }

    /// Whether this start runs on a copy of the server's directory.
    pub(crate) fn is_of_a_copy(&self, info: &NodeInfo, now: Time) -> bool {
        let runs = self.detector.runs(info.node, now) == Runs::Yes;
        self.is_moved(info) && (runs || self.is_proven_copy(info))
    }

    /// Where the earlier start holds a last in-sync copy, or may still run, its copy must not take its place.
    pub(crate) fn check_twin(&self, info: &NodeInfo, now: Time) -> Result<(), Refusal> {
        if !self.is_moved(info) {
            return Ok(());
        }
        let node = info.node;
        let world = self.world(now);
        let served =
            |view: &common::View| view.isr.iter().any(|(other, store)| *other != node && world.capable(*other, *store));
        let views = self.cluster.views().iter();
        let slots = views.filter(|view| view.isr.contains_key(&node) && !served(view)).count();
        let holds = format!("{slots} slots of which no other server in sync is here");
        if slots > 0 && self.is_proven_copy(info) {
            let reason = format!(
                "your data directory is a copy of server {node}'s, which ran beside you and holds {holds}: use an empty one"
            );
            return Err(Refusal { reason, then: Then::Stop });
        }
        let reason = match self.detector.runs(node, now) {
            Runs::Yes if slots > 0 => format!(
                "an earlier start of server {node} is connected and holds {holds}, and your data directory is a copy of \
                 its: use an empty one, or stop that server first"
            ),
            // Nobody is taken out of anything yet, so it would count at once.
            Runs::Yes if self.detector.in_grace(now) => {
                format!("an earlier start of server {node} is connected, and this ECS has just started")
            }
            Runs::Perhaps => {
                format!("an earlier start of server {node}, at another address, may still run: it is being looked for")
            }
            _ => return Ok(()),
        };
        Err(Refusal { reason, then: Then::Retry })
    }

    /// Takes the node out of every ISR before the copy is let in: it catches up like any server that was down.
    pub(crate) fn discount(&mut self, now: Time, info: &NodeInfo, out: &mut Vec<Action>) {
        let mut found = Vec::new();
        let why = format!("start {} at {} uses a copy of its directory", info.boot, info.client_addr);
        self.detector.gone(info.node, &why, now, &mut found);
        let commands = self.act_on(now, found, out);
        self.settle(now, commands, BTreeMap::new(), out);
    }

    /// It is let in. Its original coming back changes nothing.
    pub(crate) fn forget_twin(&mut self, info: &NodeInfo) {
        if self.twins.get(&info.node).is_some_and(|twin| twin.client_addr == info.client_addr) {
            self.twins.remove(&info.node);
        }
    }
}
