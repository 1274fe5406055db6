//! One server's data directory: the real files, written and read by the real code, on a disk that can lose power.
//!
//! A killed process leaves what it has written; a power cut leaves what was fsynced and, of the rest, any prefix, torn at
//! any byte. The journal's writer thread is replaced by events (its grouping is the same); codec, checkpoint and recovery
//! are the product's.

use common::{NodeId, Slot, StoreUuid};
use kvserver::storage::checkpoint::Label;
use kvserver::storage::codec::{SegmentHead, put_head};
use kvserver::storage::manifest::{segment_in, segment_name};
use kvserver::storage::mem_disk::MemDisk;
use kvserver::storage::{CheckpointWriter, Disk, FileOp, Role, SlotEncoder, SlotImage, recover};

/// A data directory.
#[derive(Debug, Default)]
pub(super) struct Files {
    disk: MemDisk,
    segment: u64,
    name: String,
    length: u64,
    generation: u64,
}

impl Files {
    /// What a starting process does: recovers every slot's image, finishes what was interrupted, begins a segment.
    ///
    /// # Errors
    /// The directory is damaged in a way that nothing here can have caused.
    pub(super) fn open(&mut self, slots: u16) -> Result<Vec<SlotImage>, String> {
        let mut found = recover(&self.disk).map_err(|e| e.to_string())?;
        for op in found.chores {
            self.perform(op);
        }
        self.generation = found.generation;
        self.begin(found.next_segment, found.after);
        Ok((0..slots).map(|slot| found.images.remove(&Slot(slot)).unwrap_or_else(SlotImage::empty)).collect())
    }

    fn begin(&mut self, segment: u64, after: u64) {
        (self.segment, self.name) = (segment, segment_name(segment));
        let mut head = Vec::new();
        put_head(&mut head, &SegmentHead { segment, after });
        self.perform(FileOp::Create(self.name.clone()));
        self.perform(FileOp::Append(self.name.clone(), &head));
        self.perform(FileOp::Sync(self.name.clone()));
        self.perform(FileOp::SyncDir);
        self.length = head.len() as u64;
    }

    /// A memory disk fails only when a test tells it to; see [`Files::checkpoint`].
    fn perform(&mut self, op: FileOp<'_>) {
        let done = self.disk.perform(op);
        debug_assert!(done.is_ok(), "{done:?}");
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.perform(FileOp::Append(self.name.clone(), bytes));
    }

    /// The fsync of everything written so far has returned.
    pub(super) fn sync(&mut self) {
        self.perform(FileOp::Sync(self.name.clone()));
    }

    /// The journal goes on in a new segment. Nothing may be unsynced.
    pub(super) fn rotate(&mut self) {
        self.begin(self.segment + 1, self.length);
    }

    /// Writes a checkpoint of all slots and lets the old segments go. `stop`: the process dies after so many file
    /// operations, if it gets that far. True if the checkpoint is whole.
    pub(super) fn checkpoint<'a>(
        &mut self,
        images: impl Iterator<Item = (Slot, &'a SlotImage)>,
        (node, store): (NodeId, StoreUuid),
        stop: Option<u64>,
    ) -> bool {
        self.disk.operations_left = stop;
        let label = Label { generation: self.generation + 1, first_segment: self.segment, store };
        let done = Self::write_checkpoint(&mut self.disk, label, images, node) && self.trim();
        self.disk.operations_left = None;
        self.generation = label.generation;
        done
    }

    fn write_checkpoint<'a>(
        disk: &mut MemDisk,
        label: Label,
        images: impl Iterator<Item = (Slot, &'a SlotImage)>,
        node: NodeId,
    ) -> bool {
        let Ok(mut writer) = CheckpointWriter::begin(disk, label) else { return false };
        let mut encoder = SlotEncoder::default();
        for (slot, image) in images {
            encoder.encode(slot, Role::of(image.view.as_ref(), node), &image.parts());
            if writer.add(&encoder).is_err() {
                return false;
            }
        }
        writer.commit().is_ok()
    }

    fn trim(&mut self) -> bool {
        let names = self.disk.names().unwrap_or_default();
        let old = names.into_iter().filter(|name| segment_in(name).is_some_and(|segment| segment < self.segment));
        old.map(FileOp::Remove).chain([FileOp::SyncDir]).all(|op| self.disk.perform(op).is_ok())
    }

    /// The power fails.
    pub(super) fn power_cut(&mut self, rng: &mut fastrand::Rng) {
        self.disk.lose_power(|n| rng.usize(..=n));
    }

    /// Everything is gone.
    pub(super) fn wipe(&mut self) {
        *self = Files::default();
    }
}

/// How the disk behaves at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Mood {
    /// An fsync takes a fraction of a millisecond to a few.
    #[default]
    Well,
    /// An fsync takes tens to hundreds of milliseconds.
    Slow,
    /// No fsync returns.
    Stuck,
    /// Nothing can be written.
    Full,
}

impl Mood {
    /// How long an fsync that begins now takes; None: until the mood changes.
    pub(super) fn fsync(self, rng: &mut fastrand::Rng) -> Option<u64> {
        match self {
            Mood::Well if rng.u8(0..20) == 0 => Some(rng.u64(2_000..20_000)),
            Mood::Well => Some(rng.u64(50..1_500)),
            Mood::Slow => Some(rng.u64(20_000..300_000)),
            Mood::Stuck | Mood::Full => None,
        }
    }
}
