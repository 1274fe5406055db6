//! Why this server would answer for a key, or would not: for people.
//!
//! Looks at what a read looks at and says by which rule it would go; it changes nothing and waits for nothing.

use common::Time;
use common::question::Holding;
use common::view::Part;

use super::coordinator::Phase;
use super::{Leave, Refusal, Replica, Role};

impl Replica {
    /// What is held of `key` and of its slot, and what would become of a read of it at `now`.
    #[must_use]
    pub fn holding(&self, now: Time, key: &[u8]) -> Holding {
        let (reads, why) = self.verdict(now, key);
        let end = self.log.end();
        Holding {
            role: self.role_name().to_owned(),
            epoch: self.epoch(),
            commit: self.log.image.base,
            end,
            value_bytes: self.log.image.map.get(key).map(|value| value.len() as u64),
            uncommitted: self.log.dirty(key).map(|entry| entry.id),
            reads,
            why,
        }
    }

    /// Whether a read would be answered here and now, and by which rule.
    fn verdict(&self, now: Time, key: &[u8]) -> (bool, String) {
        let coordinates = self.coordinates();
        match self.leave_in_time(now, Some(key)) {
            Leave::Now if coordinates => (true, "R1: the coordinator, with a valid lease".into()),
            Leave::Now => {
                (true, "R2: in sync, with a read lease, and the key's newest entry is known to be committed".into())
            }
            Leave::Confirm => (true, "R3: the coordinator, once every member has confirmed the epoch".into()),
            Leave::AskCoordinator if self.setup.confirm_reads => {
                (true, "R3: in sync, once the coordinator has confirmed the epoch and told what is committed".into())
            }
            Leave::AskCoordinator if !self.leases.may_read(now, self.epoch().unwrap_or_default(), &self.setup) => {
                (false, format!("R5: not by itself: {}", self.waits_for(now)))
            }
            Leave::AskCoordinator => {
                let why = if self.log.dirty(key).is_some() {
                    "R2: in sync, but the key's newest entry is not known to be committed here: asks the coordinator first"
                } else {
                    "W3: in sync, but the key's deadline is near: asks the coordinator first"
                };
                (true, why.into())
            }
            Leave::Remove => {
                (true, "W3: the coordinator, once it has removed the key, whose deadline has passed".into())
            }
            Leave::Wait => (false, format!("R5: not now: {}", self.waits_for(now))),
            Leave::Refused(Refusal::Unavailable(why)) => (false, why.into()),
            Leave::Refused(_) => (false, self.outside().into()),
        }
    }

    /// What a read would wait for.
    fn waits_for(&self, now: Time) -> &'static str {
        match &self.role {
            Role::Former => "the coordinator has restarted and waits for the ECS to make a new view (C6)",
            Role::Coordinator(c) => match c.phase {
                Phase::Recovering if now < c.active_from => "a new coordinator that waits out an earlier lease (L3)",
                Phase::Recovering => "a new coordinator whose log not every in-sync replica has confirmed yet (C5)",
                Phase::Released { .. } => "the slot has been given back and waits for its next coordinator (L5)",
                Phase::Active | Phase::Draining { .. } => {
                    "the coordinator has no lease: a replica does not answer its beacons (L1)"
                }
            },
            Role::Follower(f) if !f.synced => "in sync, but it has not heard from this epoch's coordinator yet",
            Role::Follower(_) => {
                "in sync, but without a read lease (no beacon of its coordinator came lately, L2): asks the coordinator"
            }
            Role::Outside => "it has no part in the slot",
        }
    }

    /// Why a read is none of this server's business.
    fn outside(&self) -> &'static str {
        match &self.role {
            Role::Follower(f) if f.part == Part::Learner => "not in sync: its copy is being caught up",
            _ => "it has no part in the slot at this epoch",
        }
    }
}

#[cfg(test)]
mod tests {
    use common::peer::Identity;
    use common::{BootId, ClusterId, Epoch, NodeId, Slot, StoreUuid, Switches, Timing, View};

    use super::super::{Event, Setup, Token, Traffic, Write, WriteOp};
    use super::*;
    use crate::storage::SlotImage;

    fn replica() -> Replica {
        let me = Identity { cluster: Some(ClusterId(1)), node: NodeId(1), store: StoreUuid(1), boot: BootId(1) };
        let timing = Timing::for_lease(Timing::DEFAULT_LEASE);
        let (standalone, confirm_reads) = (false, false);
        let setup = Setup {
            me,
            timing,
            started: Time(0),
            standalone,
            confirm_reads,
            longest_value: 1 << 20,
            traffic: Traffic::new(0),
            switches: Switches::default(),
        };
        Replica::new(Slot(3), setup, SlotImage::empty())
    }

    fn view(epoch: u64, coordinator: u64, isr: &[u64], targets: &[u64]) -> View {
        View {
            slot: Slot(3),
            epoch: Epoch(epoch),
            previous: Epoch(0),
            coordinator: NodeId(coordinator),
            coordinator_boot: BootId(1),
            isr: isr.iter().map(|node| (NodeId(*node), StoreUuid(u128::from(*node)))).collect(),
            targets: targets.iter().map(|node| NodeId(*node)).collect(),
            home: NodeId(coordinator),
            released: None,
        }
    }

    #[test]
    fn each_part_gives_its_own_reason() {
        let now = Time(1_000_000);
        let mut replica = replica();
        let mut out = Vec::new();
        let mut after = |replica: &mut Replica, view: View| {
            replica.handle(now, Event::View(view), &mut out);
            replica.holding(now, b"k").why
        };
        assert!(replica.holding(now, b"k").why.contains("has not heard from the ECS"));
        assert!(after(&mut replica, view(1, 2, &[2], &[2])).contains("no part in the slot"));
        assert!(after(&mut replica, view(2, 2, &[2], &[2, 1])).contains("caught up"));
        assert!(after(&mut replica, view(3, 2, &[1, 2], &[2, 1])).contains("not heard from this epoch's coordinator"));
        assert!(after(&mut replica, view(4, 1, &[1, 2], &[1, 2])).contains("C5"));
    }

    #[test]
    fn a_key_whose_entry_is_not_committed_is_told() {
        let now = Time(1_000_000);
        let mut replica = replica();
        let mut out = Vec::new();
        replica.handle(now, Event::View(view(1, 1, &[1], &[1])), &mut out);
        replica.handle(now, Event::Durable { mark: 1 }, &mut out);
        let write = Write { key: "k".into(), op: WriteOp::Swap("value".into()), request: None, retry: false };
        replica.handle(now, Event::Write { write, token: Token::default() }, &mut out);
        let holding = replica.holding(now, b"k");
        assert!(holding.reads && holding.why.starts_with("R1"), "{holding:?}");
        assert_eq!((holding.uncommitted, holding.value_bytes), (Some(holding.end), None));
        replica.handle(now, Event::Durable { mark: 2 }, &mut out);
        let holding = replica.holding(now, b"k");
        assert_eq!((holding.uncommitted, holding.value_bytes, holding.commit), (None, Some(5), Some(holding.end)));
    }
}
