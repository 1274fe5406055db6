//! What the comparisons of copies came to, slot by slot (`replica/audit.rs` decides, the auditor thread asks).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{Slot, Time, clock};
use serde_json::{Value, json};

use super::metrics;
use crate::replica::Audited;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Audits(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// When each slot's copies were last found equal here.
    equal: BTreeMap<Slot, Time>,
    /// Slots whose last audit came to nothing.
    missed: BTreeSet<Slot>,
    compared: u64,
    /// Copies that were found wrong, and the records in which they were.
    condemned: u64,
    differing: u64,
    undecided: u64,
    /// Copies held here that were made anew.
    repaired: u64,
    scrubs: u64,
    scrubbed_bytes: u64,
    scrub_damage: u64,
}

impl Audits {
    /// Called with the slot locked.
    pub(super) fn note(&self, slot: Slot, what: Audited) {
        let mut inner = self.lock();
        if what == Audited::Missed {
            inner.missed.insert(slot);
            return;
        }
        inner.missed.remove(&slot);
        match what {
            Audited::Equal => {
                inner.compared += 1;
                inner.equal.insert(slot, clock::now());
            }
            Audited::Condemned { records, .. } => {
                inner.compared += 1;
                inner.condemned += 1;
                inner.differing += records;
                inner.equal.remove(&slot);
            }
            Audited::Undecided { records } => {
                inner.compared += 1;
                inner.undecided += records;
                inner.equal.remove(&slot);
            }
            Audited::Repaired => inner.repaired += 1,
            Audited::Missed => {}
        }
    }

    /// The files were read back.
    pub(crate) fn scrubbed(&self, bytes: u64, damaged: bool) {
        let mut inner = self.lock();
        inner.scrubs += 1;
        inner.scrubbed_bytes += bytes;
        inner.scrub_damage += u64::from(damaged);
    }

    /// Whether the slot's last audit came to nothing and should be repeated soon.
    pub(crate) fn missed(&self, slot: Slot) -> bool {
        self.lock().missed.contains(&slot)
    }

    /// How long ago the copies of the slot of these that was compared longest ago were found equal; None: one never was.
    fn age(&self, coordinated: &[Slot]) -> Option<Duration> {
        let inner = self.lock();
        let now = clock::now();
        let oldest = coordinated.iter().map(|slot| inner.equal.get(slot)).min()?;
        oldest.map(|at| now.since(*at))
    }

    pub(super) fn status_json(&self, coordinated: &[Slot]) -> Value {
        let age = self.age(coordinated).map(|age| age.as_secs());
        let inner = self.lock();
        json!({
            "slots_compared": inner.compared, "full_pass_age_s": age, "copies_condemned": inner.condemned,
            "records_differing": inner.differing, "records_undecided": inner.undecided,
            "copies_repaired": inner.repaired, "slots_missed": inner.missed.len(),
            "scrubs": inner.scrubs, "scrubbed_bytes": inner.scrubbed_bytes, "scrub_damage": inner.scrub_damage,
        })
    }

    pub(super) fn metrics(&self, coordinated: &[Slot], out: &mut String) {
        if let Some(age) = self.age(coordinated) {
            let help =
                "Seconds since the copies of the coordinated slot that was compared longest ago were found equal.";
            metrics::gauge(out, "annulus_audit_age_seconds", help, age.as_secs());
        }
        let inner = self.lock();
        for (name, help, value) in [
            ("annulus_audit_slots_total", "Comparisons of all copies of a slot.", inner.compared),
            ("annulus_audit_condemned_total", "Copies found wrong and taken out.", inner.condemned),
            ("annulus_audit_records_total", "Records in which copies were found wrong.", inner.differing),
            ("annulus_audit_undecided_total", "Records of which nobody can tell the right version.", inner.undecided),
            ("annulus_audit_repaired_total", "Condemned copies made anew here.", inner.repaired),
            ("annulus_scrubs_total", "Times that all files were read back.", inner.scrubs),
            ("annulus_scrub_damage_total", "Times that a file read back was damaged.", inner.scrub_damage),
        ] {
            metrics::counter(out, name, help, value);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
