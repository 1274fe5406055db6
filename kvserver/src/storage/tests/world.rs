//! A store driven by hand on a memory disk, with the images that it ought to bring back.

use std::collections::BTreeMap;

use bytes::Bytes;
use common::retry::RetryTable;
use common::update::Becomes;
use common::{BootId, ClientId, Entry, Epoch, LogId, NodeId, Op, Outcome, RequestId, Seq, Slot, StoreUuid, View};
use proptest::prelude::*;

use super::super::arbitrary::some_bytes;
use super::super::checkpoint::{CheckpointWriter, Label};
use super::super::codec::{SegmentHead, put_head, put_record};
use super::super::disk::{Disk, FileOp};
use super::super::image::SlotImage;
use super::super::manifest::{segment_in, segment_name};
use super::super::mem_disk::MemDisk;
use super::super::record::{Change, Record};
use super::super::recovery::{Recovered, recover};
use super::super::section::{Role, SlotEncoder};

pub(super) const STORE: StoreUuid = StoreUuid(0x5107e);
pub(super) const ME: NodeId = NodeId(7);

/// One thing that happens to a slot.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// The oldest so many uncommitted entries become committed: nothing is written.
    Commit(u64),
    View,
    Truncate(u64),
    Walk(Vec<(Bytes, Bytes)>),
    WalkBegin,
    Drop,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (some_bytes(), some_bytes()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => some_bytes().prop_map(Step::Delete),
        3 => (1u64..4).prop_map(Step::Commit),
        1 => Just(Step::View),
        1 => (1u64..3).prop_map(Step::Truncate),
        1 => proptest::collection::vec((some_bytes(), some_bytes()), 0..4).prop_map(Step::Walk),
        1 => Just(Step::WalkBegin),
        1 => Just(Step::Drop),
    ]
}

/// See the module.
#[derive(Clone)]
pub(super) struct World {
    pub(super) disk: MemDisk,
    pub(super) images: BTreeMap<Slot, SlotImage>,
    pub(super) segment: u64,
    pub(super) generation: u64,
    /// The images after each record.
    pub(super) history: Vec<BTreeMap<Slot, SlotImage>>,
    epoch: u64,
}

impl World {
    pub(super) fn new() -> World {
        let mut world = World {
            disk: MemDisk::default(),
            images: BTreeMap::new(),
            segment: 0,
            generation: 0,
            history: vec![BTreeMap::new()],
            epoch: 1,
        };
        world.rotate();
        world
    }

    /// Begins the next segment, synced.
    pub(super) fn rotate(&mut self) {
        let after = self.disk.length(&segment_name(self.segment)).unwrap_or(0);
        self.segment += 1;
        let mut head = Vec::new();
        put_head(&mut head, &SegmentHead { segment: self.segment, after });
        self.disk.put(&segment_name(self.segment), &head);
    }

    /// Writes a record without syncing it.
    pub(super) fn write(&mut self, slot: Slot, change: Change) {
        let image = self.images.entry(slot).or_insert_with(SlotImage::empty);
        let mark = image.mark + 1;
        image.replay(mark, change.clone()).unwrap();
        image.check();
        let mut line = Vec::new();
        put_record(&mut line, &Record { slot, mark, change });
        self.disk.perform(FileOp::Append(segment_name(self.segment), &line)).unwrap();
        self.history.push(self.images.clone());
    }

    pub(super) fn sync(&mut self) {
        self.disk.perform(FileOp::Sync(segment_name(self.segment))).unwrap();
    }

    pub(super) fn put(&mut self, slot: u16, key: &str, value: &str) {
        let end = self.images.entry(Slot(slot)).or_insert_with(SlotImage::empty).end();
        let (key, value) = (key.as_bytes().to_vec().into(), value.as_bytes().to_vec().into());
        self.append(Slot(slot), Op::Put { key, value }, end);
    }

    pub(super) fn step(&mut self, slot: Slot, step: &Step) {
        let image = self.images.entry(slot).or_insert_with(SlotImage::empty);
        let positioned = image.base.is_some();
        let (end, base) = (image.end(), image.base.unwrap_or_default());
        match step {
            Step::Put(key, value) if positioned => {
                self.append(slot, some_put(key, value, end.seq.0), end);
            }
            Step::Delete(key) if positioned => self.append(slot, Op::Delete { key: key.clone() }, end),
            Step::Commit(by) if positioned => image.commit_to(Seq(base.seq.0 + by)),
            Step::Truncate(by) if positioned => {
                self.epoch += 1;
                let after = Seq(end.seq.0.saturating_sub(*by).max(base.seq.0));
                self.write(slot, Change::Truncate { after });
            }
            Step::Walk(records) => self.walk(slot, records),
            Step::WalkBegin => self.write(slot, Change::WalkBegin { applied: base.seq }),
            Step::View => {
                self.epoch += 1;
                let view = view(slot, self.epoch, &[ME, NodeId(9)]);
                self.write(slot, Change::View(view));
            }
            Step::Drop => self.write(slot, Change::Drop { epoch: Epoch(self.epoch) }),
            _ => {}
        }
    }

    fn append(&mut self, slot: Slot, op: Op, end: LogId) {
        let id = LogId { epoch: Epoch(self.epoch.max(end.epoch.0)), seq: end.seq.next() };
        let request =
            id.seq.0.is_multiple_of(3).then_some(RequestId { client: ClientId(5), seq: id.seq.0, lowest_unacked: 1 });
        self.write(slot, Change::Append(Entry { id, op, outcome: Outcome::Created, request }));
    }

    fn walk(&mut self, slot: Slot, records: &[(Bytes, Bytes)]) {
        let applied = self.images[&slot].base.unwrap_or_default().seq;
        self.write(slot, Change::WalkBegin { applied });
        let blob = common::blob::Blob;
        let leaves = records.iter().enumerate().map(|(i, (key, value))| {
            let mut leaf = common::peer::Leaf::new(super::super::SlotMap::leaf_of(key), true);
            leaf.push(blob(key.clone()), blob(value.clone()), i.is_multiple_of(2).then_some(LATE + i as u64));
            leaf
        });
        self.write(slot, Change::Fill { leaves: leaves.collect() });
        self.epoch += 1;
        let at = LogId { epoch: Epoch(self.epoch), seq: Seq(self.epoch * 100) };
        let mut lineage = common::Lineage::default();
        lineage.note(at);
        let mut retries = RetryTable::default();
        retries.record(&RequestId { client: ClientId(5), seq: 77, lowest_unacked: 2 }, Outcome::Updated);
        self.write(slot, Change::WalkEnd { entries: Vec::new(), at, lineage, retries });
    }

    /// A whole checkpoint. With operations limited, it may stop anywhere.
    pub(super) fn checkpoint(&mut self) -> bool {
        self.rotate();
        self.generation += 1;
        let label = Label { generation: self.generation, first_segment: self.segment, store: STORE };
        write_checkpoint(&mut self.disk, label, &self.images) && self.trim()
    }

    /// Removes the segments that the last checkpoint made superfluous.
    pub(super) fn trim(&mut self) -> bool {
        let first = self.segment;
        let mut names = self.disk.names().unwrap();
        names.retain(|name| segment_in(name).is_some_and(|segment| segment < first));
        names.into_iter().all(|name| self.disk.perform(FileOp::Remove(name)).is_ok())
    }

    /// Recovers, and requires exactly what was written.
    pub(super) fn assert_recovers(&self) -> Recovered {
        let recovered = recover(&self.disk).unwrap_or_else(|e| panic!("{e}"));
        assert_same(&recovered.images, &self.images);
        recovered
    }
}

/// Writes all images; says whether that succeeded.
pub(super) fn write_checkpoint(disk: &mut MemDisk, label: Label, images: &BTreeMap<Slot, SlotImage>) -> bool {
    let mut encoder = SlotEncoder::default();
    let mut writer = match CheckpointWriter::begin(disk, label) {
        Ok(writer) => writer,
        Err(_) => return false,
    };
    for (slot, image) in images {
        encoder.encode(*slot, Role::of(image.view.as_ref(), ME), &image.parts());
        if writer.add(&encoder).is_err() {
            return false;
        }
    }
    writer.commit().is_ok()
}

pub(super) fn view(slot: Slot, epoch: u64, isr: &[NodeId]) -> View {
    View {
        slot,
        epoch: Epoch(epoch),
        previous: Epoch(epoch - 1),
        coordinator: isr[0],
        coordinator_boot: BootId(1),
        isr: isr.iter().map(|node| (*node, STORE)).collect(),
        targets: isr.to_vec(),
        home: isr[0],
        released: None,
    }
}

/// Images are the same if they are once the commits that were never written down are repeated.
pub(super) fn assert_same(found: &BTreeMap<Slot, SlotImage>, expected: &BTreeMap<Slot, SlotImage>) {
    for (slot, expected) in expected {
        let mut found = found.get(slot).cloned().unwrap_or_else(SlotImage::empty);
        found.check();
        found.commit_to(expected.base.unwrap_or_default().seq);
        assert_eq!(&found, expected, "slot {slot}");
    }
    for (slot, found) in found {
        assert!(expected.contains_key(slot), "slot {slot} was never written: {found:?}");
    }
}

/// A deadline.
const LATE: u64 = 1_795_258_800_000;

/// One of the ways in which an entry gives a key a value.
fn some_put(key: &Bytes, value: &Bytes, seq: u64) -> Op {
    let (key, value) = (key.clone(), value.clone());
    let until = Some(LATE + seq);
    match seq % 4 {
        0 => Op::Update { key, becomes: Becomes::Value { value, until }, told: None },
        1 => Op::Update { key, becomes: Becomes::Lasting { until }, told: Some(common::blob::Blob(value)) },
        _ => Op::Put { key, value },
    }
}
