//! Bringing slots home: which coordinator is told to hand which slots over, and how many at a time (L5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::control::FromEcs;
use common::{Epoch, NodeId, Slot, Time};

use crate::core::{Action, Ecs};
use crate::director::Placement;

/// An order to hand a slot over is repeated after this long.
const ORDER_PAUSE: Duration = Duration::from_secs(1);

/// A hand-over that was ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    from: NodeId,
    to: NodeId,
    epoch: Epoch,
    at: Time,
}

impl Ecs {
    pub(crate) fn order_handovers(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.refusing.is_some() {
            return;
        }
        self.orders.retain(|_, order| now.since(order.at) < ORDER_PAUSE);
        let world = self.world(now);
        let placement = Placement::of(&world);
        // Who is about to stop and has nothing left that another could take need not wait any longer.
        let mut bound: BTreeSet<NodeId> = BTreeSet::new();
        // None is ordered twice in a while, even if its view has changed since: the answer may have been a refusal.
        let (mut flying, mut due) = (0, Vec::new());
        for (view, to) in world.handovers(&placement) {
            bound.insert(view.coordinator);
            let order = Order { from: view.coordinator, to, epoch: view.epoch, at: now };
            match self.orders.get(&view.slot) {
                Some(last) if (last.from, last.to) == (order.from, to) => {
                    flying += usize::from(last.epoch == order.epoch);
                }
                _ => due.push((self.waits.get(&view.slot).copied().unwrap_or(Time::ZERO), view.slot, order)),
            }
        }
        // Those that were never ordered come first, so that slots that cannot move do not hold up the others.
        due.sort_unstable_by_key(|(last, slot, _)| (*last, *slot));
        // Who is about to stop has no time to lose; else few at a time, each done soon: writes to a slot wait meanwhile.
        let hurry = due.iter().any(|(_, _, order)| self.detector.draining(order.from, now));
        let most = if hurry { self.config.handovers } else { self.config.handovers_calm };
        due.truncate(most.saturating_sub(flying));
        let mut orders: BTreeMap<NodeId, Vec<(Slot, Epoch, NodeId)>> = BTreeMap::new();
        for (_, slot, order) in due {
            self.orders.insert(slot, order);
            self.waits.insert(slot, now);
            orders.entry(order.from).or_default().push((slot, order.epoch, order.to));
        }
        for node in self.detector.unrelieved(now).into_iter().filter(|node| !bound.contains(node)) {
            self.detector.relieve(node);
            out.extend(self.detector.conn(node).map(|conn| Action::Send { conn, msg: FromEcs::Relieved }));
        }
        for (from, slots) in orders {
            if let Some(conn) = self.detector.conn(from) {
                out.push(Action::Send { conn, msg: FromEcs::HandOver { slots } });
            }
        }
    }
}
