//! What others may know of a replica: its shell for reports and checkpoints, people for status, the simulation for its
//! invariants. Nothing in here changes anything.

use common::control::SlotReport;
use common::view::Part;
use common::{Epoch, LogId, NodeId, Rule, Seq, Slot, Time, View};

use super::coordinator::Phase;
use super::progress::Standing;
use super::{Replica, Role};
use crate::storage::SlotImage;

impl Replica {
    /// Which slot this is.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The view in force here, if any was ever adopted.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// The slot's durable state at this moment, tail included, for a checkpoint.
    #[must_use]
    pub fn image(&self) -> &SlotImage {
        &self.log.image
    }

    /// A copy of [`Replica::image`].
    #[must_use]
    pub fn snapshot(&self) -> SlotImage {
        self.log.image.clone()
    }

    /// The last entry that is known to be committed.
    #[must_use]
    pub fn commit(&self) -> Seq {
        self.log.commit()
    }

    /// The last entry of the log.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.log.end().seq
    }

    /// Whether it coordinates the slot, in recovery or past it.
    #[must_use]
    pub fn coordinates(&self) -> bool {
        matches!(self.role, Role::Coordinator(_))
    }

    /// Whether it coordinates the slot and is past recovery.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(&self.role, Role::Coordinator(c) if matches!(c.phase, Phase::Active | Phase::Draining { .. }))
    }

    /// Whether it would answer a clean read on its lease at `now`: as a coordinator or as a member.
    #[must_use]
    pub fn may_read(&self, now: Time) -> bool {
        match (&self.role, &self.view) {
            (Role::Coordinator(c), _) => c.may_read(now, &self.setup),
            (Role::Follower(f), Some(view)) if f.part == Part::Member && f.synced => {
                let whole = f.lacks_nothing(&self.log) || self.setup.switches.off(Rule::ReadLacking);
                whole && self.leases.may_read(now, view.epoch, &self.setup)
            }
            _ => false,
        }
    }

    /// The nodes whose acknowledgement a commit needs, if it coordinates: the ISR and pending learners, without itself.
    #[must_use]
    pub fn required(&self) -> Option<Vec<NodeId>> {
        let Role::Coordinator(c) = &self.role else { return None };
        Some(c.followers.iter().filter(|(_, f)| f.required()).map(|(node, _)| *node).collect())
    }

    /// Its role, in the words that people use.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        match &self.role {
            _ if self.stopped.is_some() => "stopped",
            Role::Outside if self.log.is_blank() => "none",
            Role::Outside => "stray",
            Role::Former => "restarted",
            Role::Follower(f) if f.part == Part::Member => "replica",
            Role::Follower(_) => "learner",
            Role::Coordinator(c) => match c.phase {
                Phase::Recovering => "recovering",
                Phase::Active => "coordinator",
                Phase::Draining { .. } | Phase::Released { .. } => "handing_over",
            },
        }
    }

    /// Each follower and how far it is, if this server coordinates: (node, standing, acknowledged up to).
    #[must_use]
    pub fn followers(&self) -> Vec<(NodeId, &'static str, Seq)> {
        let Role::Coordinator(c) = &self.role else { return Vec::new() };
        let name = |standing| match standing {
            Standing::Member => "in_sync",
            Standing::Pending { .. } => "pending",
            Standing::Learner => "learner",
        };
        c.followers.iter().map(|(node, f)| (*node, name(f.standing), f.matched)).collect()
    }

    /// Why the slot has stopped, if it has.
    #[must_use]
    pub fn alarm(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// What the ECS is told, if this server coordinates the slot.
    #[must_use]
    pub fn report(&self) -> Option<SlotReport> {
        let (Role::Coordinator(c), Some(view)) = (&self.role, &self.view) else { return None };
        let (active, map) = (c.phase == Phase::Active, &self.log.image.map);
        let (records, bytes) = (map.len() as u64, map.bytes());
        Some(SlotReport { slot: self.slot, epoch: view.epoch, active, records, bytes, commit: self.log.commit() })
    }

    /// The last entry of a whole copy that is not in sync; None if there is none, or it is in the middle of a catch-up.
    #[must_use]
    pub fn outdated(&self) -> Option<LogId> {
        let outside = matches!(self.part(), Part::None | Part::Learner);
        self.log.image.base.filter(|_| outside && !self.log.is_blank() && !self.log.distrusted)
    }

    /// The epoch of a view in which this server has no part although it holds a copy; the ECS answers with a drop.
    #[must_use]
    pub fn stray(&self) -> Option<Epoch> {
        (self.part() == Part::None && !self.log.is_blank()).then(|| self.epoch()).flatten()
    }
}
