//! I4: (epoch, seq) names one entry of a slot, whoever holds it.

use std::collections::BTreeMap;

use common::{Entry, LogId, Slot};
use kvserver::storage::Record;
use kvserver::storage::record::Change;

/// Every entry that was ever written to a journal.
#[derive(Debug, Default)]
pub(super) struct Entries {
    known: BTreeMap<(Slot, LogId), Entry>,
}

impl Entries {
    pub(super) fn journaled(&mut self, record: &Record) -> Result<(), String> {
        match &record.change {
            Change::Append(entry) => self.see(record.slot, entry),
            Change::WalkEnd { entries, .. } => entries.iter().try_for_each(|entry| self.see(record.slot, entry)),
            _ => Ok(()),
        }
    }

    fn see(&mut self, slot: Slot, entry: &Entry) -> Result<(), String> {
        let first = self.known.entry((slot, entry.id)).or_insert_with(|| entry.clone());
        if first == entry {
            return Ok(());
        }
        Err(format!("I4: slot {slot}: {:?} names two entries: {first:?} and {entry:?}", entry.id))
    }

    pub(super) fn get(&self, slot: Slot, id: LogId) -> Option<&Entry> {
        self.known.get(&(slot, id))
    }
}
