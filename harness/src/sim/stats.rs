//! What a run exercised: a simulation that finds nothing because it did nothing must not look like one that passed.

use std::collections::BTreeMap;
use std::fmt;

use common::View;
use common::peer::PeerMsg;
use kvserver::replica::Audited;
use kvserver::storage::Record;
use kvserver::storage::record::Change;

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    counts: BTreeMap<&'static str, u64>,
    /// Simulated microseconds.
    pub simulated: u64,
    /// Simulated events.
    pub events: u64,
    /// Operations that clients began.
    pub operations: u64,
    /// Faults injected.
    pub faults: u64,
}

impl Stats {
    /// Counts one more of `what`.
    pub fn bump(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts `n` more of `what`.
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// Raises the figure for `what` to at least `n`.
    pub fn peak(&mut self, what: &'static str, n: u64) {
        let entry = self.counts.entry(what).or_default();
        *entry = n.max(*entry);
    }

    /// How often `what` was counted.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Adds another run's figures. Those that begin with "longest" or "most" are peaks.
    pub fn merge(&mut self, other: &Stats) {
        for (what, n) in &other.counts {
            if what.starts_with("longest") || what.starts_with("most") {
                self.peak(what, *n);
            } else {
                self.add(what, *n);
            }
        }
        self.simulated += other.simulated;
        self.events += other.events;
        self.operations += other.operations;
        self.faults += other.faults;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<34}{:>12}", "simulated seconds", self.simulated / 1_000_000)?;
        writeln!(f, "  {:<34}{:>12}", "events", self.events)?;
        writeln!(f, "  {:<34}{:>12}", "operations", self.operations)?;
        writeln!(f, "  {:<34}{:>12}", "faults", self.faults)?;
        for (what, n) in &self.counts {
            writeln!(f, "  {what:<34}{n:>12}")?;
        }
        Ok(())
    }
}

/// What is worth counting of what the cores do.
impl Stats {
    /// A message goes out.
    pub(super) fn saw(&mut self, msg: &PeerMsg) {
        match msg {
            PeerMsg::WalkBegin { .. } => self.bump("catch-ups by content begun"),
            PeerMsg::WalkDone { ok: true, .. } => self.bump("catch-ups by content done"),
            PeerMsg::PutGap { .. } => self.bump("gaps"),
            PeerMsg::ReadIndex { .. } => self.bump("reads asked of the coordinator"),
            PeerMsg::Confirm { .. } => self.bump("confirm messages"),
            _ => {}
        }
    }

    /// All copies of a slot were compared.
    pub(super) fn audited(&mut self, what: Audited) {
        self.bump(match what {
            Audited::Equal => "audits: all copies equal",
            Audited::Missed => "audits: missed",
            Audited::Condemned { .. } => "audits: a copy condemned",
            Audited::Repaired => "audits: a copy made anew",
            Audited::Undecided { .. } => "audits: undecided",
        });
    }

    /// A record is journaled.
    pub(super) fn journaled(&mut self, record: &Record) {
        match record.change {
            Change::Append(_) => self.bump("entries journaled"),
            Change::View(_) => self.bump("views adopted"),
            Change::Truncate { .. } => self.bump("truncations"),
            Change::Drop { .. } => self.bump("copies dropped"),
            _ => {}
        }
    }
}

/// View changes, by what they are.
impl Stats {
    /// The ECS replaced `old` by `new`.
    pub(super) fn changed(&mut self, old: &View, new: &View) {
        self.bump("view changes");
        if new.released.is_some() && new.coordinator != old.coordinator {
            self.bump("hand-overs");
        } else if new.coordinator != old.coordinator {
            self.bump("failovers");
        }
        if new.isr.keys().any(|node| !old.isr.contains_key(node)) {
            self.bump("expands");
        }
        if old.isr.keys().any(|node| !new.isr.contains_key(node)) {
            self.bump("shrinks");
        }
    }
}
