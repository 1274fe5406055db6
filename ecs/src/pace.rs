//! How the membership change in progress gets on: what is left of it, since when nothing has moved, and what is done then.
//!
//! Volatile: a restarted ECS begins to count anew, which at worst gives a stuck change a little more time. A change that
//! stands still for [`crate::Config::patience`] is undone, and whoever it was about is told why; a server that was sent
//! away and does not move counts as failed instead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::control::FromEcs;
use common::view::NodeState;
use common::{NodeId, Time};

use crate::change::Parting;
use crate::cluster::{Change, Command};
use crate::core::{Action, Ecs};
use crate::director::{Placement, World};

/// The first pause before a joiner whose join was undone gets another try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What is known of the change in progress beside what is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    change: Change,
    /// Who is there: when that changes, what is left may grow, and the time begins anew.
    present: BTreeSet<NodeId>,
    best: usize,
    /// Since when it has been watched.
    pub begun: Time,
    /// When something last moved.
    pub moved: Time,
    /// Slots that it is about, done ones included.
    pub slots: usize,
    /// Those that were done when it was first looked at: an ECS that was restarted did not see how long they took.
    pub done_before: usize,
    /// Slots that have something left.
    pub slots_left: usize,
}

/// A joiner that has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deferred {
    /// How often its join has been undone.
    pub times: u32,
    /// When it may try again.
    pub until: Time,
}

impl Ecs {
    /// Looks after the change in progress: the commands that end it if it stands still, and why.
    pub(crate) fn look_after_change(&mut self, now: Time, out: &mut Vec<Action>) -> (Vec<Command>, Vec<String>) {
        let Some(change) = self.cluster.change().cloned() else {
            self.pace = None;
            return Default::default();
        };
        self.measure(now, &change);
        let stands = self.pace.as_ref().map_or(Duration::ZERO, |pace| now.since(pace.moved));
        if stands < self.config.patience || self.detector.in_grace(now) {
            return Default::default();
        }
        let why = format!("nothing has moved for {stands:?}: {}", self.obstacles(now));
        let alone = |node| self.cluster.views().iter().any(|view| view.isr.len() == 1 && view.isr.contains_key(&node));
        // Whoever holds a last in-sync copy is no less needed when it counts as failed: its removal is undone like a leave.
        if let Change::Leave { node, how: Parting::Removed, .. } = change
            && !alone(node)
            && self.cluster.nodes().get(&node).is_some_and(|info| info.state != NodeState::Down)
        {
            let mut found = Vec::new();
            self.detector.gone(node, &format!("was sent away, and {why}: it counts as failed"), now, &mut found);
            return (self.act_on(now, found, out), Vec::new());
        }
        self.give_up(now, &why, out)
    }

    /// Ends the change in progress and undoes what it has not finished.
    pub(crate) fn give_up(&mut self, now: Time, why: &str, out: &mut Vec<Action>) -> (Vec<Command>, Vec<String>) {
        let Some(change) = self.cluster.change().cloned() else { return Default::default() };
        let commands = self.world(now).undo();
        let text = format!("{} is undone: {why}", change.name());
        if let Some(node) = change.joiner() {
            let deferred = self.deferred.entry(node).or_insert(Deferred { times: 0, until: now });
            let pause = FIRST_PAUSE.saturating_mul(1 << deferred.times.min(10)).min(LONGEST_PAUSE);
            (deferred.times, deferred.until) = (deferred.times + 1, now + pause);
        }
        if let Some(node) = change.node() {
            self.detector.note(now, node, text.clone());
            if let Some(conn) = self.detector.conn(node) {
                out.push(Action::Send { conn, msg: FromEcs::Notice { text: text.clone() } });
            }
        }
        self.last = Some(text.clone());
        self.wake(now);
        (commands, vec![text])
    }

    fn measure(&mut self, now: Time, change: &Change) {
        let world = self.world(now);
        let placement = Placement::of(&world);
        let left: Vec<usize> = world.cluster.views().iter().map(|view| world.remaining_of(&placement, view)).collect();
        let present = world.cluster.nodes().keys().filter(|node| world.detector.healthy(**node)).copied().collect();
        let (all, open) = (left.iter().sum(), left.iter().filter(|left| **left > 0).count());
        let slots = world.concerned(&placement).max(open);
        let known = self.pace.take().filter(|pace| pace.change == *change);
        let mut pace = known.unwrap_or_else(|| Pace {
            change: change.clone(),
            present: BTreeSet::new(),
            best: all,
            begun: now,
            moved: now,
            slots,
            done_before: slots - open,
            slots_left: open,
        });
        if all < pace.best || present != pace.present {
            (pace.best, pace.moved, pace.present) = (all, now, present);
        }
        pace.slots_left = open;
        pace.slots = pace.slots.max(slots);
        self.pace = Some(pace);
    }

    /// Which servers the change waits for: the coordinators of the slots that have something left.
    fn obstacles(&self, now: Time) -> String {
        let world = self.world(now);
        let placement = Placement::of(&world);
        let mut waits: BTreeMap<NodeId, usize> = BTreeMap::new();
        for view in world.cluster.views().iter().filter(|view| world.remaining_of(&placement, view) > 0) {
            *waits.entry(view.coordinator).or_default() += 1;
        }
        let words: Vec<String> =
            waits.iter().map(|(node, slots)| format!("{slots} slots coordinated by {node} wait")).collect();
        if words.is_empty() { "a slot is not served".to_string() } else { words.join(", ") }
    }

    /// How the change in progress gets on, if there is one and it has been looked at.
    #[must_use]
    pub fn pace(&self) -> Option<&Pace> {
        self.pace.as_ref()
    }

    /// Who has to wait before it may try to join again.
    #[must_use]
    pub fn deferred(&self) -> &BTreeMap<NodeId, Deferred> {
        &self.deferred
    }
}

impl World<'_> {
    /// What the change in progress does now, in a word or two.
    #[must_use]
    pub fn step(&self, placement: &Placement) -> &'static str {
        let left = || self.cluster.views().iter().filter(|view| self.remaining_of(placement, view) > 0);
        let copying = |view: &&common::View| {
            let desired = placement.desired(view, &view.isr);
            desired.iter().any(|node| !view.isr.contains_key(node))
        };
        if left().any(|view| copying(&view)) {
            "copying"
        } else if left().any(|view| placement.desired(view, &view.isr).first() != Some(&view.coordinator)) {
            "handing over"
        } else {
            "giving up copies"
        }
    }
}

impl Change {
    /// What it is, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Change::Join { node, .. } => format!("the join of {node}"),
            Change::Leave { node, how: Parting::Left, .. } => format!("the leave of {node}"),
            Change::Leave { node, how: Parting::Removed, .. } => format!("the removal of {node}"),
            Change::Rebalance { .. } => "the rebalancing".to_string(),
        }
    }
}
