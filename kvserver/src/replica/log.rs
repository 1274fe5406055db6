//! The slot's log around its image: what is committed (the map), what is not yet (the tail), what is on disk, and the
//! committed entries that are still in memory for learners.
//!
//! Invariants: base <= durable <= end once everything is fsynced; the map holds exactly the entries up to the base
//! (W4, I6); every change of the image is a journal record, in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use common::update::Becomes;
use common::{ClientId, Entry, Epoch, LogId, Op, RequestId, Rule, Seq, Slot, Switches, View};

use super::action::Action;
use crate::storage::SlotImage;
use crate::storage::map::Held;
use crate::storage::record::{Change, Record};

/// Committed entries kept in memory for learners, per slot, in bytes, while some target is no member. Beyond it a learner is served
/// by content. Members need none of them: what is committed they have. And whoever leaves the ISR lacks only what is committed
/// from then on, since until then its acknowledgement was needed.
const RECENT_BYTES: usize = 10 << 10;
/// The same while a walk needs them; beyond it the walk starts over.
const PINNED_BYTES: usize = 16 << 20;

/// Keys and values that together have no more bytes than this may share their memory with others; whoever keeps an entry
/// copies it then.
pub const SHARED: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Log {
    slot: Slot,
    switches: Switches,
    pub(super) image: SlotImage,
    /// Committed entries up to the base, oldest first.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// How many bytes of them are kept: [`RECENT_BYTES`] or none.
    kept_bytes: usize,
    /// A walk needs the entries after this one.
    pinned: Option<Seq>,
    /// The records up to this mark are on disk.
    durable_mark: u64,
    /// The entries up to this one are on disk.
    durable: Seq,
    unsynced: VecDeque<(u64, Seq)>,
    /// The weight of the tail.
    tail_bytes: usize,
    /// The newest uncommitted entries of each key that has some.
    dirty: BTreeMap<Bytes, Newest>,
    /// Uncommitted entries that answer a request.
    requests: BTreeMap<(ClientId, u64), Seq>,
    /// An audit found this copy wrong: it claims no position until it is replaced by content. Volatile: a restart reads the
    /// copy back from disk, and the next audit judges that.
    pub(super) distrusted: bool,
}

/// The newest uncommitted entries of a key.
#[derive(Clone, Copy, Debug)]
struct Newest {
    /// The last one.
    seq: Seq,
    /// The last one that says its value. None: they only move its deadline, and the value is the committed one.
    value: Option<Seq>,
}

impl Log {
    pub(super) fn new(slot: Slot, switches: Switches, image: SlotImage) -> Log {
        let mut log = Log {
            slot,
            switches,
            durable_mark: image.mark,
            durable: image.end().seq,
            kept_bytes: image.view.as_ref().map_or(0, kept_bytes),
            image,
            recent: VecDeque::new(),
            recent_bytes: 0,
            pinned: None,
            unsynced: VecDeque::new(),
            tail_bytes: 0,
            dirty: BTreeMap::new(),
            requests: BTreeMap::new(),
            distrusted: false,
        };
        log.reindex();
        if switches.off(Rule::ReplayAll) {
            log.commit_to(log.end().seq, |_| {});
        }
        log
    }

    /// The last committed entry that is known; 0 without a position.
    pub(super) fn commit(&self) -> Seq {
        self.image.base.unwrap_or_default().seq
    }

    pub(super) fn end(&self) -> LogId {
        self.image.end()
    }

    pub(super) fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.tail_bytes
    }

    pub(super) fn has_position(&self) -> bool {
        self.image.base.is_some()
    }

    /// Whether the slot is as if it had never held anything.
    pub(super) fn is_blank(&self) -> bool {
        self.image.base == Some(LogId::default()) && self.image.tail.is_empty() && self.image.map.is_empty()
    }

    /// The mark of the last record, and whether everything up to `mark` is on disk.
    pub(super) fn mark(&self) -> u64 {
        self.image.mark
    }

    pub(super) fn is_durable(&self, mark: u64) -> bool {
        mark <= self.durable_mark
    }

    pub(super) fn record(&mut self, change: Change, out: &mut Vec<Action>) {
        self.image.mark += 1;
        out.push(Action::Journal(Record { slot: self.slot, mark: self.image.mark, change }));
    }

    pub(super) fn adopt(&mut self, view: &View, out: &mut Vec<Action>) {
        self.image.view = Some(view.clone());
        self.kept_bytes = kept_bytes(view);
        self.record(Change::View(view.clone()), out);
    }

    pub(super) fn append(&mut self, entry: Entry, out: &mut Vec<Action>) {
        debug_assert_eq!(entry.id.seq, self.end().seq.next(), "a log has no gaps");
        self.record(Change::Append(entry.clone()), out);
        self.unsynced.push_back((self.image.mark, entry.id.seq));
        if self.switches.off(Rule::NoFsync) {
            self.durable = entry.id.seq;
        }
        self.image.lineage.note(entry.id);
        self.index(&entry);
        self.image.tail.push_back(entry);
    }

    /// Cuts the uncommitted entries after `after` off. The caller has made sure that none of them is committed.
    pub(super) fn truncate(&mut self, after: Seq, out: &mut Vec<Action>) {
        if after >= self.end().seq {
            return;
        }
        self.record(Change::Truncate { after }, out);
        self.image.tail.retain(|entry| entry.id.seq <= after);
        self.image.lineage.truncate_after(after);
        self.unsynced.retain(|(_, seq)| *seq <= after);
        self.durable = self.durable.min(after);
        self.reindex();
    }

    /// Takes note that the records up to `mark` are on disk.
    pub(super) fn synced(&mut self, mark: u64) {
        self.durable_mark = self.durable_mark.max(mark);
        while let Some((_, seq)) = self.unsynced.pop_front_if(|(m, _)| *m <= mark) {
            self.durable = self.durable.max(seq);
        }
    }

    /// Applies the entries up to `seq`, telling each to `applied`.
    pub(super) fn commit_to(&mut self, seq: Seq, mut applied: impl FnMut(&Entry)) {
        let count = self.image.tail.partition_point(|entry| entry.id.seq <= seq);
        let keeps = self.kept_bytes > 0 || self.pinned.is_some();
        for entry in self.image.tail.drain(..count) {
            self.image.map.apply(&entry.op);
            if let Some(request) = &entry.request {
                self.image.retries.record_entry(&entry);
                self.requests.remove(&(request.client, request.seq));
            }
            if let Some(key) = entry.op.key()
                && let Some(newest) = self.dirty.get_mut(key)
            {
                if newest.seq == entry.id.seq {
                    self.dirty.remove(key);
                } else if newest.value == Some(entry.id.seq) {
                    newest.value = None;
                }
            }
            self.image.base = Some(entry.id);
            applied(&entry);
            let weight = entry.weight();
            self.tail_bytes -= weight;
            if keeps {
                self.recent_bytes += weight;
                self.recent.push_back(on_its_own(entry));
            }
        }
        self.trim();
    }

    fn trim(&mut self) {
        if self.kept_bytes == 0 && self.pinned.is_none() {
            // Without the latest ones those before them are of no use.
            self.recent.clear();
            self.recent_bytes = 0;
            return;
        }
        while self.recent_bytes > self.kept_bytes {
            let unpinned = |e: &Entry| self.pinned.is_none_or(|pin| e.id.seq <= pin);
            if self.recent_bytes <= PINNED_BYTES && !self.recent.front().is_some_and(unpinned) {
                return;
            }
            let Some(entry) = self.recent.pop_front() else { return };
            self.recent_bytes -= entry.weight();
        }
    }

    /// Keeps the entries after `pin` in memory (within bounds), for a walk.
    pub(super) fn pin(&mut self, pin: Option<Seq>) {
        self.pinned = pin;
        self.trim();
    }

    /// The entries after `seq`, if they are all still in memory and the one at `seq` still has a name to be matched by.
    pub(super) fn after(&self, seq: Seq) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.recent.front().or(self.image.tail.front()).map_or(self.end().seq.next(), |e| e.id.seq);
        if seq.next() < first || seq > self.end().seq || self.id_at(seq).is_none() {
            return None;
        }
        let skip = usize::try_from(seq.0 + 1 - first.0).unwrap_or(usize::MAX);
        let in_recent = skip.min(self.recent.len());
        Some(self.recent.iter().skip(in_recent).chain(self.image.tail.iter().skip(skip - in_recent)))
    }

    /// The entry's name at `seq`, if it is known.
    pub(super) fn id_at(&self, seq: Seq) -> Option<LogId> {
        if seq == Seq(0) {
            return Some(LogId::default());
        }
        if let Some(base) = self.image.base.filter(|base| base.seq == seq) {
            return Some(base);
        }
        let epoch: Epoch = self.image.lineage.epoch_at(seq)?;
        (seq <= self.end().seq).then_some(LogId { epoch, seq })
    }

    /// The newest uncommitted entry of `key`.
    pub(super) fn dirty(&self, key: &[u8]) -> Option<&Entry> {
        self.tail_at(self.dirty.get(key)?.seq)
    }

    fn tail_at(&self, seq: Seq) -> Option<&Entry> {
        let at = self.image.tail.partition_point(|entry| entry.id.seq < seq);
        self.image.tail.get(at)
    }

    /// Whether some entry is uncommitted.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What `key` holds once everything in the log is applied, whatever its deadline.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Held<'_>> {
        let Some(newest) = self.dirty.get(key) else { return self.image.map.held(key) };
        let held = match newest.value {
            Some(seq) => self.tail_at(seq).and_then(|entry| becomes(&entry.op))?,
            None => self.image.map.held(key)?,
        };
        match self.tail_at(newest.seq).map(|entry| &entry.op) {
            Some(Op::Update { becomes: Becomes::Lasting { until }, .. }) => Some(Held { until: *until, ..held }),
            _ => Some(held),
        }
    }

    /// The uncommitted entry that answers this request.
    pub(super) fn in_flight(&self, request: &RequestId) -> Option<Seq> {
        self.requests.get(&(request.client, request.seq)).copied()
    }

    /// Forgets everything volatile and takes the image's new content: after a walk or a drop.
    pub(super) fn reset(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
        self.unsynced.clear();
        self.durable = self.end().seq;
        self.reindex();
    }

    fn reindex(&mut self) {
        self.dirty.clear();
        self.requests.clear();
        self.tail_bytes = 0;
        let tail = std::mem::take(&mut self.image.tail);
        for entry in &tail {
            self.index(entry);
        }
        self.image.tail = tail;
    }

    fn index(&mut self, entry: &Entry) {
        self.tail_bytes += entry.weight();
        let seq = entry.id.seq;
        if let Op::Update { key, becomes: Becomes::Lasting { .. }, .. } = &entry.op {
            self.dirty.entry(key.clone()).or_insert(Newest { seq, value: None }).seq = seq;
        } else if let Some(key) = entry.op.key() {
            self.dirty.insert(key.clone(), Newest { seq, value: Some(seq) });
        }
        if let Some(request) = &entry.request {
            self.requests.insert((request.client, request.seq), entry.id.seq);
        }
    }
}

/// See [`RECENT_BYTES`].
fn kept_bytes(view: &View) -> usize {
    if view.targets.iter().all(|node| view.isr.contains_key(node)) { 0 } else { RECENT_BYTES }
}

/// The same entry, holding no more memory than it weighs: small ones of a pipeline share an allocation
/// (`client_port/redis/writes.rs`), which is no matter for as long as they are uncommitted.
fn on_its_own(mut entry: Entry) -> Entry {
    if let Op::Put { key, value } = &mut entry.op
        && key.len() + value.len() <= SHARED
    {
        (*key, *value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    }
    entry
}

/// What a key holds after an operation that says its value.
fn becomes(op: &Op) -> Option<Held<'_>> {
    match op {
        Op::Put { value, .. } | Op::Swap { value, .. } => Some(Held { value, until: None }),
        Op::Update { becomes: Becomes::Value { value, until }, .. } => Some(Held { value, until: *until }),
        Op::Update { .. } | Op::Delete { .. } | Op::Noop => None,
    }
}
