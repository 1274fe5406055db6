//! One slot's durable state as a value: what recovery yields, what a replica starts from, what a checkpoint writes.

use std::collections::VecDeque;

use common::retry::RetryTable;
use common::update::Becomes;
use common::{Entry, Lineage, LogId, Op, Seq, View};

use super::map::SlotMap;
use super::record::Change;

/// A slot as it is on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotImage {
    /// The number of the last record that is contained.
    pub mark: u64,
    /// The latest adopted view.
    pub view: Option<View>,
    /// The entry up to which `map` and `retries` hold everything. None: the copy has no position (a catch-up was cut off).
    pub base: Option<LogId>,
    /// The records at `base`: committed ones only.
    pub map: SlotMap,
    /// The results at `base`.
    pub retries: RetryTable,
    /// The epochs of the log up to the end of `tail`.
    pub lineage: Lineage,
    /// The log after `base`: not known to be committed.
    pub tail: VecDeque<Entry>,
}

impl SlotImage {
    /// A slot that never held anything: its position is 0, not "none".
    #[must_use]
    pub fn empty() -> SlotImage {
        SlotImage { base: Some(LogId::default()), ..SlotImage::default() }
    }

    /// The last entry of the log.
    #[must_use]
    pub fn end(&self) -> LogId {
        self.tail.back().map_or(self.base.unwrap_or_default(), |entry| entry.id)
    }

    /// Replays one record. Records must come in order; those already contained are skipped.
    ///
    /// # Errors
    /// The record does not follow what is there: the journal lacks something, which is corruption.
    pub fn replay(&mut self, mark: u64, change: Change) -> Result<(), String> {
        if mark <= self.mark {
            return Ok(());
        }
        if mark != self.mark + 1 {
            return Err(format!("record {mark} follows record {}: some are missing", self.mark));
        }
        self.mark = mark;
        match change {
            Change::Append(entry) => {
                if self.base.is_none() || entry.id.seq != self.end().seq.next() {
                    return Err(format!("entry {:?} does not follow {:?}", entry.id, self.end()));
                }
                self.lineage.note(entry.id);
                self.tail.push_back(entry);
            }
            Change::View(view) => self.view = Some(view),
            Change::Truncate { after } => {
                if self.base.is_some_and(|base| after < base.seq) {
                    return Err(format!("truncation to {after} is below the base {:?}", self.base));
                }
                self.tail.retain(|entry| entry.id.seq <= after);
                self.lineage.truncate_after(after);
            }
            Change::WalkBegin { applied } => {
                self.commit_to(applied);
                self.base = None;
                self.tail.clear();
                self.lineage = Lineage::default();
            }
            Change::Fill { leaves } => self.map.fill(&leaves),
            Change::WalkEnd { entries, at, lineage, retries } => {
                for entry in &entries {
                    self.map.apply(&entry.op);
                }
                (self.base, self.lineage, self.retries) = (Some(at), lineage, retries);
            }
            Change::Drop { .. } => {
                *self = SlotImage { mark: self.mark, view: self.view.take(), ..SlotImage::empty() };
            }
        }
        Ok(())
    }

    /// Applies the tail up to `seq`: what a replica does when it learns of a commit.
    pub fn commit_to(&mut self, seq: Seq) {
        let split = self.tail.partition_point(|entry| entry.id.seq <= seq);
        for entry in self.tail.drain(..split) {
            self.map.apply(&entry.op);
            self.retries.record_entry(&entry);
            self.base = Some(entry.id);
        }
    }

    /// The keys and values: a convenience for tests.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.map.iter()
    }

    /// What must hold of every image.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        self.lineage.check();
        let mut seq = self.base.unwrap_or_default().seq;
        for entry in &self.tail {
            assert_eq!(entry.id.seq, seq.next(), "a tail has no gaps");
            assert_eq!(self.lineage.epoch_at(entry.id.seq), Some(entry.id.epoch), "the lineage knows every tail entry");
            seq = entry.id.seq;
            debug_assert!(
                entry.op.key().is_some() || matches!(entry.op, Op::Noop | Op::Update { becomes: Becomes::Same, .. })
            );
        }
    }
}
