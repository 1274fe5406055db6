//! One server's data directory: the real files, written and read by the real code, on a disk that can lose power.
//!
//! A killed process leaves what it has written; a power cut leaves what was fsynced and, of the rest, any prefix of what
//! lengthened a file, torn at any byte, and any sectors of what was written over something. The journal's writer thread is
//! replaced by events (its grouping is the same); codec, checkpoint and recovery are the product's.

use common::peer::Identity;
use common::{ClusterId, NodeId, Slot, StoreUuid, Switches};
use kvserver::storage::checkpoint::Label;
use kvserver::storage::codec::{Line, SegmentHead, put_head, put_synced, take_line};
use kvserver::storage::data_dir::DataDir;
use kvserver::storage::journal::extent::{Extent, without_room};
use kvserver::storage::manifest::{segment_in, segment_name};
use kvserver::storage::mem_disk::{MemDisk, SharedDisk};
use kvserver::storage::record::Change;
use kvserver::storage::store::{StoreError, open_on};
use kvserver::storage::{CheckpointWriter, Disk, FileOp, Record, Role, SlotEncoder, SlotImage, StoreOptions};

/// Room ahead of the journal's lines: little, so that its end is reached often.
const AHEAD: usize = 8 << 10;

/// A data directory.
#[derive(Debug, Default)]
pub(super) struct Files {
    disk: SharedDisk,
    /// As the running process has it open.
    dir: Option<DataDir>,
    segment: u64,
    name: String,
    extent: Option<Extent>,
    generation: u64,
    pub(super) switches: Switches,
}

/// What a starting process finds.
pub(super) struct Found {
    pub(super) me: Identity,
    pub(super) images: Vec<SlotImage>,
    /// The directory was damaged; it was set aside and begun anew.
    pub(super) anew: bool,
}

impl Files {
    /// What a starting process does, by the product's own path: takes its identity, recovers every slot's image or sets
    /// damage aside, finishes what was interrupted, begins a segment. `stop`: it dies after so many file operations.
    ///
    /// # Errors
    /// Why it does not start.
    pub(super) fn open(
        &mut self,
        slots: u16,
        fresh: (NodeId, StoreUuid),
        stop: Option<u64>,
    ) -> Result<Found, StoreError> {
        self.disk.lock().operations_left = stop;
        let disk = || Box::new(self.disk.clone());
        let options = StoreOptions { switches: self.switches, ..StoreOptions::default() };
        let opened =
            DataDir::on(disk(), fresh).map_err(StoreError::from).and_then(|dir| open_on(disk(), dir, &options));
        let mut opened = opened?;
        let images = &mut opened.images;
        let images = (0..slots).map(|slot| images.remove(&Slot(slot)).unwrap_or_else(SlotImage::empty)).collect();
        let (me, anew, generation) = (opened.dir.identity(), opened.mended.is_some(), opened.generation());
        let (segment, after) = (opened.start.segment, opened.start.after);
        (self.dir, self.generation) = (Some(opened.dir), generation);
        self.disk.lock().operations_left = None;
        self.begin(segment, after);
        Ok(Found { me, images, anew })
    }

    /// A copy of all files, as they read at this moment.
    pub(super) fn copied(&self) -> Files {
        let (from, to) = (self.disk.lock(), SharedDisk::default());
        for name in from.names().unwrap_or_default() {
            to.lock().put(&name, from.get(&name).unwrap_or_default());
        }
        Files { disk: to, switches: self.switches, ..Files::default() }
    }

    /// The directory of a server of another cluster.
    pub(super) fn foreign(slots: u16, fresh: (NodeId, StoreUuid)) -> Files {
        let mut files = Files::default();
        let bound = files.open(slots, fresh, None).map_err(|error| error.to_string());
        let bound = bound.and_then(|_| files.bind(ClusterId(0xf0), slots));
        debug_assert!(bound.is_ok(), "{bound:?}");
        files.sync();
        files.close();
        files
    }

    /// The ECS has said which cluster this is.
    pub(super) fn bind(&mut self, cluster: ClusterId, slots: u16) -> Result<(), String> {
        self.dir.as_mut().map_or(Ok(()), |dir| dir.bind(cluster, slots).map_err(|error| error.to_string()))
    }

    /// The process is gone.
    pub(super) fn close(&mut self) {
        self.dir = None;
        self.disk.lock().operations_left = None;
    }

    /// The disk goes bad: a flipped bit anywhere, or something behind the end of a file.
    pub(super) fn rot(&mut self, rng: &mut fastrand::Rng) {
        let mut disk = self.disk.lock();
        let names = disk.names().unwrap_or_default();
        let filled: Vec<String> =
            names.into_iter().filter(|name| disk.get(name).is_some_and(|c| !c.is_empty())).collect();
        let Some(name) = rng.choice(&filled) else { return };
        let mut content = disk.get(name).unwrap_or_default().to_vec();
        if rng.u8(0..4) == 0 {
            let garbage = rng.usize(1..80);
            content.extend(std::iter::repeat_with(|| rng.u8(..)).take(garbage));
        } else {
            let at = rng.usize(..content.len());
            content[at] ^= 1 << rng.u8(0..8);
        }
        disk.put(name, &content);
    }

    /// The last entries of the journal are gone, as many lines as that at most: the disk had not written what it said it had.
    /// Returns how many there were.
    pub(super) fn forget(&mut self, lines: usize) -> usize {
        let mut disk = self.disk.lock();
        let Some(content) = disk.get(&self.name).map(<[u8]>::to_vec) else { return 0 };
        let mut kept: Vec<&[u8]> = without_room(&content).split_inclusive(|byte| *byte == b'\n').collect();
        let mut gone = 0;
        while gone < lines && kept.len() > 1 {
            let Some(line) = kept.last() else { break };
            match take_line(line) {
                Ok(Line::Record(Record { change: Change::Append(_), .. })) => gone += 1,
                Ok(Line::Synced(_)) => {}
                _ => break,
            }
            kept.pop();
        }
        let kept = kept.concat();
        disk.put(&self.name, &kept);
        gone
    }

    /// True if nothing went wrong.
    fn begin(&mut self, segment: u64, after: u64) -> bool {
        (self.segment, self.name) = (segment, segment_name(segment));
        let mut head = Vec::new();
        put_head(&mut head, &SegmentHead { segment, after });
        let done = self.perform(FileOp::Create(self.name.clone()))
            && self.perform(FileOp::Append(self.name.clone(), &head))
            && self.perform(FileOp::Sync(self.name.clone()))
            && self.perform(FileOp::SyncDir);
        self.extent = Some(Extent::new(&head, AHEAD));
        done
    }

    /// A memory disk fails only when the process is to die; see [`Files::checkpoint`]. False: it has.
    fn perform(&mut self, op: FileOp<'_>) -> bool {
        let mut disk = self.disk.lock();
        let dying = disk.operations_left.is_some();
        let done = disk.perform(op);
        debug_assert!(done.is_ok() || dying, "{done:?}");
        done.is_ok()
    }

    /// Writes a group as the journal's thread does: with a line behind it that says where it begins, and with room behind
    /// that when it reaches the end of the file. `whole`: so many bytes of its lines and room; less than all of them is what a crash leaves.
    pub(super) fn write_group(&mut self, records: &[u8], whole: Option<usize>) {
        let Some(extent) = &mut self.extent else { return };
        let mut group = records.to_vec();
        put_synced(&mut group, extent.length());
        let length = extent.length();
        let (at, bytes) = extent.frame(&group, true);
        let before = usize::try_from(length - at).unwrap_or(0);
        let bytes = bytes.to_vec();
        extent.wrote(&group, at, bytes.len());
        let whole = whole.map_or(bytes.len(), |whole| (before + whole).min(bytes.len()));
        self.perform(FileOp::Write(self.name.clone(), at, &bytes[..whole]));
    }

    /// The fsync of everything written so far has returned.
    pub(super) fn sync(&mut self) {
        self.perform(FileOp::Sync(self.name.clone()));
    }

    /// The journal goes on in a new segment. Nothing may be unsynced. `stop`: the process dies after so many file
    /// operations, if it gets that far. True if it does not.
    pub(super) fn rotate(&mut self, stop: Option<u64>) -> bool {
        let Some(extent) = self.extent.clone() else { return true };
        self.disk.lock().operations_left = stop;
        let mut done = true;
        if extent.has_room() {
            done &= self.perform(FileOp::Truncate(self.name.clone(), extent.length()));
            done &= self.perform(FileOp::Sync(self.name.clone()));
        }
        done &= self.begin(self.segment + 1, extent.length());
        self.disk.lock().operations_left = None;
        done
    }

    /// Writes a checkpoint of all slots and lets the old segments go. `stop`: the process dies after so many file
    /// operations, if it gets that far. True if the checkpoint is whole.
    pub(super) fn checkpoint<'a>(
        &mut self,
        images: impl Iterator<Item = (Slot, &'a SlotImage)>,
        (node, store): (NodeId, StoreUuid),
        stop: Option<u64>,
    ) -> bool {
        self.disk.lock().operations_left = stop;
        let label = Label { generation: self.generation + 1, first_segment: self.segment, store };
        let done = Self::write_checkpoint(&mut self.disk.lock(), label, images, node) && self.trim();
        self.disk.lock().operations_left = None;
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
        let mut disk = self.disk.lock();
        let names = disk.names().unwrap_or_default();
        let old = names.into_iter().filter(|name| segment_in(name).is_some_and(|segment| segment < self.segment));
        old.map(FileOp::Remove).chain([FileOp::SyncDir]).all(|op| disk.perform(op).is_ok())
    }

    /// The power fails.
    pub(super) fn power_cut(&mut self, rng: &mut fastrand::Rng) {
        self.dir = None;
        self.disk.lock().lose_power(|n| rng.usize(..=n));
    }

    /// Everything is gone.
    pub(super) fn wipe(&mut self) {
        *self = Files { switches: self.switches, ..Files::default() };
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
