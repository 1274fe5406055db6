//! How far the membership change in progress is, for people and scripts. A picture; nothing is kept in here.

use std::fmt;

use common::{NodeId, Time};
use serde::Serialize;

use crate::change::{Change, Parting};
use crate::core::Ecs;
use crate::director::Placement;

/// The change in progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Progress {
    /// `join`, `leave`, `remove` or `rebalance`.
    pub kind: &'static str,
    /// Whom it is about, if one server.
    pub node: Option<NodeId>,
    /// Its address.
    pub address: Option<String>,
    /// What it does now: `copying`, `handing over` or `giving up copies`.
    pub step: &'static str,
    /// Slots that it is about.
    pub slots: usize,
    /// Those that are done.
    pub done: usize,
    /// Those that were done while this ECS watched: what the speed is told by.
    pub done_since: usize,
    /// Bytes of copies that are still to be made, as last reported.
    pub bytes_left: u64,
    /// For how long this ECS has watched it.
    pub since_ms: u64,
    /// For how long nothing has moved.
    pub still_ms: u64,
    /// How long it will take at the speed so far, if that can be said.
    pub eta_ms: Option<u64>,
}

impl Progress {
    /// The picture at `now`.
    #[must_use]
    pub fn of(ecs: &Ecs, now: Time) -> Option<Progress> {
        let change = ecs.cluster().change()?;
        let world = ecs.world(now);
        let placement = Placement::of(&world);
        let (mut left, mut bytes_left) = (0, 0);
        for view in world.cluster.views() {
            left += usize::from(world.remaining_of(&placement, view) > 0);
            let missing = placement.desired(view, &view.isr).iter().filter(|node| !view.isr.contains_key(node)).count();
            bytes_left += ecs.reports().slot(view.slot).map_or(0, |report| report.bytes) * missing as u64;
        }
        let (slots, before, begun, moved) =
            ecs.pace().map_or((left, 0, now, now), |pace| (pace.slots, pace.done_before, pace.begun, pace.moved));
        let (done, since_ms) = (slots.saturating_sub(left), millis(begun, now));
        let done_since = done.saturating_sub(before);
        let info = change.node().and_then(|node| world.cluster.nodes().get(&node));
        Some(Progress {
            kind: kind(change),
            node: change.node(),
            address: info.map(|info| info.client_addr.clone()),
            step: world.step(&placement),
            slots,
            done,
            done_since,
            bytes_left,
            since_ms,
            still_ms: millis(moved, now),
            eta_ms: (done_since > 0).then(|| since_ms * left as u64 / done_since as u64),
        })
    }

    /// As one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Progress { kind, step, slots, done, .. } = self;
        write!(f, "{kind}")?;
        if let Some(address) = &self.address {
            write!(f, " of {address}")?;
        }
        write!(f, ": {step}, {done} of {slots} slots done in {:.1} s", self.since_ms as f64 / 1000.0)?;
        if self.still_ms >= 2000 {
            write!(f, ", nothing has moved for {} s", self.still_ms / 1000)?;
        }
        Ok(())
    }
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::Join { .. } => "join",
        Change::Leave { how: Parting::Left, .. } => "leave",
        Change::Leave { how: Parting::Removed, .. } => "remove",
        Change::Rebalance { .. } => "rebalance",
    }
}

fn millis(from: Time, to: Time) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}
