//! The time-bound promises of one slot: what this server promised a coordinator (L1), what it granted as one (L2), and
//! the read lease it holds as a member.
//!
//! All of it is volatile. What a restart loses is covered by the boot wait (L3).

use std::collections::BTreeMap;

use common::peer::Grant;
use common::{Epoch, NodeId, Rule, Time, View};

use super::Setup;

#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Until when this server has promised not to be an active coordinator, and the epoch it promised it in.
    promise: Option<(Epoch, Time)>,
    /// Until when each member may read on a lease granted here, in whatever epoch.
    granted: BTreeMap<NodeId, Time>,
    /// Until when somebody outside the ISR may still read on a lease granted here. Even if a server of that name is back: it may be another
    /// process, on a copy of the directory, and the one that was granted the lease may run on.
    outside: Time,
    /// The read lease this server holds as a member.
    held: Option<(Epoch, Time)>,
}

impl Leases {
    /// L1: a beacon of the current epoch's coordinator is about to be acknowledged.
    pub(super) fn promise(&mut self, now: Time, epoch: Epoch, setup: &Setup) {
        let until = now + setup.promised();
        if self.promise.is_none_or(|(e, t)| epoch > e || until > t) {
            self.promise = Some((epoch, until));
        }
    }

    /// A grant arrived. One that answers another start of this server counts for nothing: its clock may have been another.
    pub(super) fn hold(&mut self, now: Time, epoch: Epoch, grant: &Grant, setup: &Setup) {
        let foreign = grant.answered < setup.started || grant.answered > now;
        if foreign && !setup.switches.off(Rule::OldGrant) {
            return;
        }
        let from = if setup.switches.off(Rule::LateHold) { now } else { grant.answered };
        let until = from + setup.granted(std::time::Duration::from_micros(grant.micros));
        if self.held.is_none_or(|(e, t)| epoch > e || until > t) {
            self.held = Some((epoch, until));
        }
    }

    /// R2: whether a member may read in `epoch`.
    pub(super) fn may_read(&self, now: Time, epoch: Epoch, setup: &Setup) -> bool {
        self.held.is_some_and(|(e, until)| e == epoch && now < until) || setup.switches.off(Rule::NoReaderLease)
    }

    /// L2: remembers that `member` may read until `until`.
    pub(super) fn grant(&mut self, member: NodeId, until: Time) {
        let entry = self.granted.entry(member).or_insert(until);
        *entry = (*entry).max(until);
    }

    /// A view was adopted: whoever is not in its ISR has left. Until the next one only members are granted anything.
    pub(super) fn adopt(&mut self, view: &View, setup: &Setup) {
        let left = self.granted.iter().filter(|(node, _)| !view.isr.contains_key(node));
        let left = left.map(|(_, until)| *until).max().unwrap_or(Time::ZERO);
        self.outside = if setup.switches.off(Rule::ForgetLeft) { left } else { self.outside.max(left) };
    }

    /// L4, L5: until when servers outside the ISR may still read on leases granted here.
    pub(super) fn outsiders_until(&self) -> Time {
        self.outside
    }

    /// L3: from when this server may be active as the coordinator of `view`.
    pub(super) fn active_from(&self, view: &View, setup: &Setup) -> Time {
        let off = |rule| setup.switches.off(rule);
        let mut from = Time::ZERO;
        if let Some((epoch, until)) = self.promise
            && view.released != Some(epoch)
            && !off(Rule::NoPromiseWait)
        {
            from = from.max(until);
        }
        if !off(Rule::NoReaderWait) {
            from = from.max(self.granted.values().copied().max().unwrap_or(Time::ZERO));
        }
        if setup.waits_after_boot() && !off(Rule::NoBootWait) {
            from = from.max(setup.started + setup.promised());
        }
        from
    }
}
