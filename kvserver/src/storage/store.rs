//! A server's store as it starts: the directory opened, the files recovered, damage dealt with.
//!
//! Damage is never worked around silently. A store of a cluster that holds no slot's only copy is set aside and begun
//! anew: its `store_uuid` changes before any port opens, so that nobody counts on the old one, and the slots are learned
//! from the others. A store that may hold an only copy is left as it is, and opened only with `--salvage`.
//! The damaged files stay in the directory, under names that begin with `corrupt-`, until somebody deletes them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use common::{ClusterId, Rule, Slot, StoreUuid, Switches, clock};

use super::checkpoint::{CheckpointError, CheckpointWriter, Label};
use super::codec::{SegmentHead, put_head};
use super::damage::{Corruption, Failure, Loss};
use super::data_dir::{DataDir, DirError};
use super::disk::{Disk, FileOp, RealDisk};
use super::image::SlotImage;
use super::journal::{Journal, JournalStart, Listener};
use super::manifest::{MANIFEST, Part, generation_in, segment_in, segment_name};
use super::recovery::{Recovered, Report, recover, salvage, sole_copies};
use super::section::{Role, SlotEncoder};

/// How a store is to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreOptions {
    /// Open a damaged store that may hold the only copy of something, keeping what is readable.
    pub salvage: bool,
    /// The cluster it must belong to, if that is known before it is opened.
    pub cluster: Option<ClusterId>,
    /// Rules that are off; none in a product build.
    pub switches: Switches,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The files cannot be read, or are of a newer format.
    #[error("the data in {path} cannot be used: {failure}")]
    Unreadable {
        /// The directory.
        path: String,
        /// What is wrong.
        failure: Failure,
    },
    /// The files are damaged, and there may be no other copy of what they hold.
    #[error(
        "the data in {path} is damaged: {corruption}. {why}, so the server does not start. Restore the directory from a \
         backup, or start once with --salvage to keep what is readable and be told what is lost"
    )]
    Corrupt {
        /// The directory.
        path: String,
        /// Where the first damage is.
        corruption: Corruption,
        /// Why it is not simply filled from others.
        why: String,
    },
    /// The files cannot be written.
    #[error("cannot write to {path}: {error}")]
    Io {
        /// The directory.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The first checkpoint cannot be written.
    #[error("cannot write to {path}: {error}")]
    Checkpoint {
        /// The directory.
        path: String,
        /// Why.
        error: CheckpointError,
    },
}

/// What was done about damage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mended {
    /// The damaged files were set aside; the store is new and empty.
    BegunAnew {
        /// The first damage.
        corruption: Corruption,
    },
    /// What was readable was kept.
    Salvaged {
        /// What was not.
        losses: Vec<Loss>,
        /// How many more losses there are than are listed.
        unlisted: u64,
    },
}

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// The directory: identity, lock.
    pub dir: DataDir,
    /// Every slot that was ever written to.
    pub images: BTreeMap<Slot, SlotImage>,
    /// What was read.
    pub report: Report,
    /// How long that took.
    pub took: Duration,
    /// What was done about damage, if there was any. To be told to the operator.
    pub mended: Option<Mended>,
    /// Where the journal goes on.
    pub start: JournalStart,
    generation: u64,
}

/// Opens the store in `path`.
///
/// # Errors
/// It cannot be used as it is; nothing has been changed but the start being counted.
pub fn open(path: &Path, options: &StoreOptions) -> Result<Opened, StoreError> {
    open_on(Box::new(RealDisk::new(path)), DataDir::open(path, options.cluster)?, options)
}

/// The same of a directory that is open already, wherever its files are.
///
/// # Errors
/// As [`open`].
pub fn open_on(disk: Box<dyn Disk>, dir: DataDir, options: &StoreOptions) -> Result<Opened, StoreError> {
    let began = clock::now();
    let mut opening = Opening { disk, path: dir.path().display().to_string(), dir, switches: options.switches };
    if !opening.dir.is_ready() {
        opening.begin()?;
    }
    let (recovered, mended) = opening.recover(options.salvage)?;
    for op in recovered.chores {
        if !(matches!(op, FileOp::Sync(_)) && options.switches.off(Rule::NoRecoverySync)) {
            opening.perform(op)?;
        }
    }
    Ok(Opened {
        dir: opening.dir,
        images: recovered.images,
        report: recovered.report,
        took: clock::now().since(began),
        mended,
        start: JournalStart { segment: recovered.next_segment, after: recovered.after },
        generation: recovered.generation,
    })
}

impl Opened {
    /// The number of the newest checkpoint.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Starts the journal, and hands over what writes checkpoints beside it.
    ///
    /// # Errors
    /// The first segment cannot be made.
    pub fn start(&self, listener: Listener) -> io::Result<(Journal, Checkpointer)> {
        let path = self.dir.path();
        let journal = Journal::start(Box::new(RealDisk::new(path)), self.start, listener)?;
        let store = self.dir.identity().store;
        Ok((journal, Checkpointer::new(Box::new(RealDisk::new(path)), self.generation, store)))
    }
}

struct Opening {
    disk: Box<dyn Disk>,
    path: String,
    dir: DataDir,
    switches: Switches,
}

impl Opening {
    fn recover(&mut self, may_salvage: bool) -> Result<(Recovered, Option<Mended>), StoreError> {
        let corruption = match self.try_recover() {
            Ok(recovered) => return Ok((recovered, None)),
            Err(Failure::Corrupt(corruption)) => corruption,
            Err(failure) => return Err(self.unreadable(failure)),
        };
        let mut salvaged = salvage(&*self.disk).map_err(|failure| self.unreadable(failure))?;
        let mended = match self.may_be_only_copy(&salvaged) {
            None => {
                log::error!(
                    "{}: {corruption}. Set aside; the server begins anew and learns from the others",
                    self.path
                );
                self.set_aside()?;
                if !self.switches.off(Rule::KeepStore) {
                    self.dir.fresh_store()?;
                }
                self.begin()?;
                Mended::BegunAnew { corruption }
            }
            Some(why) if !may_salvage => {
                return Err(StoreError::Corrupt { path: self.path.clone(), corruption, why });
            }
            Some(_) => {
                let identity = self.dir.identity();
                salvaged.demote_damaged(identity.node, identity.store);
                self.set_aside()?;
                self.rewrite(salvaged.generation, &salvaged.images)?;
                Mended::Salvaged { losses: salvaged.losses, unlisted: salvaged.unlisted_losses }
            }
        };
        let recovered = self.try_recover().map_err(|failure| self.unreadable(failure))?;
        Ok((recovered, Some(mended)))
    }

    fn try_recover(&self) -> Result<Recovered, Failure> {
        let recovered = recover(&*self.disk)?;
        let damage = |what: String| Err(Failure::Corrupt(Corruption { file: MANIFEST.to_owned(), offset: 0, what }));
        match recovered.store {
            None => damage("the file is missing".to_owned()),
            Some(store) if store != self.dir.identity().store => {
                damage(format!("it is store {store}'s, and this is store {}", self.dir.identity().store))
            }
            Some(_) => Ok(recovered),
        }
    }

    /// Why the files may hold the only copy of something; None if they do not.
    fn may_be_only_copy(&self, readable: &Recovered) -> Option<String> {
        let identity = self.dir.identity();
        if identity.cluster.is_none() {
            return Some("The server belongs to no cluster, so this is the only copy".to_owned());
        }
        let sole = sole_copies(&readable.images, identity.node, identity.store);
        if let Some(slot) = sole.first() {
            return Some(format!("It holds the only in-sync copy of {} slots (slot {slot} is one)", sole.len()));
        }
        if readable.images.values().all(|image| image.view.is_none()) {
            return Some("No view can be read, so it cannot be told whether there are other copies".to_owned());
        }
        None
    }

    /// Gives every file of the store a second name that nothing but people looks at.
    fn set_aside(&mut self) -> Result<(), StoreError> {
        let boot = self.dir.identity().boot;
        for name in self.store_files()? {
            let aside = format!("corrupt-{boot}-{name}");
            self.perform(FileOp::Link(name, aside))?;
        }
        self.perform(FileOp::SyncDir)
    }

    /// Begins an empty store: whatever is left over in the directory is not part of it.
    fn begin(&mut self) -> Result<(), StoreError> {
        for name in self.store_files()? {
            self.perform(FileOp::Remove(name))?;
        }
        self.perform(FileOp::SyncDir)?;
        self.rewrite(0, &BTreeMap::new())?;
        Ok(self.dir.set_ready()?)
    }

    /// Makes these images the whole store: a new segment, a checkpoint, and nothing older.
    fn rewrite(&mut self, generation: u64, images: &BTreeMap<Slot, SlotImage>) -> Result<(), StoreError> {
        let names = self.store_files()?;
        let generation = 1 + names.iter().filter_map(|name| generation_in(name)).fold(generation, u64::max);
        let first_segment = 1 + names.iter().filter_map(|name| segment_in(name)).max().unwrap_or(0);
        let identity = self.dir.identity();
        let label = Label { generation, first_segment, store: identity.store };
        let mut head = Vec::new();
        put_head(&mut head, &SegmentHead { segment: first_segment, after: 0 });
        let segment = segment_name(first_segment);
        self.perform(FileOp::Create(segment.clone()))?;
        self.perform(FileOp::Append(segment.clone(), &head))?;
        self.perform(FileOp::Sync(segment))?;
        let path = self.path.clone();
        write_images(&mut *self.disk, label, images, identity.node)
            .map_err(|error| StoreError::Checkpoint { path, error })
    }

    fn store_files(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.disk.names().map_err(|error| self.io(error))?;
        names.retain(|name| {
            name == MANIFEST
                || segment_in(name).is_some()
                || generation_in(name).is_some()
                || Part::ALL.iter().any(|part| part.plain() == *name)
        });
        Ok(names)
    }

    fn perform(&mut self, op: FileOp<'_>) -> Result<(), StoreError> {
        self.disk.perform(op).map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), error }
    }

    fn unreadable(&self, failure: Failure) -> StoreError {
        StoreError::Unreadable { path: self.path.clone(), failure }
    }
}

fn write_images(
    disk: &mut dyn Disk,
    label: Label,
    images: &BTreeMap<Slot, SlotImage>,
    node: common::NodeId,
) -> Result<(), CheckpointError> {
    let mut writer = CheckpointWriter::begin(disk, label)?;
    let mut encoder = SlotEncoder::default();
    for (slot, image) in images {
        encoder.encode(*slot, Role::of(image.view.as_ref(), node), &image.parts());
        writer.add(&encoder)?;
    }
    writer.commit()
}

/// A checkpoint is due once this much was journaled, or as much as half of what the last checkpoint wrote if that is
/// more: so the journal stays in proportion to the data, and so does what is written for it.
pub const DUE_BYTES: u64 = 64 << 20;
/// Unless the operator says otherwise, a checkpoint is due this long after the last one, if anything was journaled since.
pub const DUE_AFTER: Duration = Duration::from_secs(60);
/// Checkpoints that are due by time alone take at most one part in so many of the time.
const DUE_SHARE: u32 = 10;

/// What a checkpoint was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Its number.
    pub generation: u64,
    /// Slots in it.
    pub slots: u64,
    /// Bytes of maps and logs.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl Done {
    /// Whether the next checkpoint is due, `journaled` bytes and `elapsed` after this one; `every`: see [`DUE_AFTER`].
    #[must_use]
    pub fn next_is_due(&self, every: Duration, journaled: u64, elapsed: Duration) -> bool {
        journaled >= DUE_BYTES.max(self.bytes / 2) || (journaled > 0 && elapsed >= every.max(self.took * DUE_SHARE))
    }
}

/// Writes checkpoints beside a running journal. Whoever owns it has a thread for it: it waits for the disk.
pub struct Checkpointer {
    disk: Box<dyn Disk>,
    generation: u64,
    store: StoreUuid,
    encoder: SlotEncoder,
}

impl Checkpointer {
    /// The next checkpoint's number will be `generation + 1`.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, generation: u64, store: StoreUuid) -> Checkpointer {
        Checkpointer { disk, generation, store, encoder: SlotEncoder::default() }
    }

    /// Writes a checkpoint and removes the journal segments it makes superfluous.
    ///
    /// `encode` is called for each slot in turn: it locks the slot, calls [`SlotEncoder::encode`] and lets go. A slot for
    /// which it encodes nothing must have no record in the journal.
    ///
    /// # Errors
    /// [`CheckpointError::Failed`]: try again later. [`CheckpointError::Fatal`]: stop the process.
    pub fn run(
        &mut self,
        journal: &Journal,
        slots: impl IntoIterator<Item = Slot>,
        mut encode: impl FnMut(Slot, &mut SlotEncoder),
    ) -> Result<Done, CheckpointError> {
        let began = clock::now();
        // Used up even by a failure: its files may still lie there.
        self.generation += 1;
        let first_segment = journal.rotate().map_err(CheckpointError::Failed)?;
        let label = Label { generation: self.generation, first_segment, store: self.store };
        let written = self.write(label, slots, &mut encode);
        if let Err(CheckpointError::Failed(_)) = &written {
            self.clean_up();
        }
        let done = written?;
        self.remove_segments_below(first_segment)?;
        Ok(Done { took: clock::now().since(began), ..done })
    }

    fn write(
        &mut self,
        label: Label,
        slots: impl IntoIterator<Item = Slot>,
        encode: &mut impl FnMut(Slot, &mut SlotEncoder),
    ) -> Result<Done, CheckpointError> {
        let mut writer = CheckpointWriter::begin(&mut *self.disk, label)?;
        let mut done = Done { generation: label.generation, ..Done::default() };
        for slot in slots {
            self.encoder.clear();
            encode(slot, &mut self.encoder);
            if self.encoder.is_worth_writing() {
                writer.add(&self.encoder)?;
                done.slots += 1;
                done.bytes += self.encoder.bytes();
            }
        }
        writer.commit()?;
        Ok(done)
    }

    /// Takes away what a failed attempt left: on a full disk it is in the way. The next start does so too.
    fn clean_up(&mut self) {
        let stale = self.disk.names().unwrap_or_default();
        let stale = stale.into_iter().filter(|name| generation_in(name) == Some(self.generation));
        for op in stale.map(FileOp::Remove).chain([FileOp::SyncDir]) {
            if let Err(error) = self.disk.perform(op) {
                log::warn!("cannot remove what a failed checkpoint left: {error}");
            }
        }
    }

    fn remove_segments_below(&mut self, first: u64) -> Result<(), CheckpointError> {
        let mut names = self.disk.names().map_err(CheckpointError::Failed)?;
        names.retain(|name| segment_in(name).is_some_and(|segment| segment < first));
        for name in names {
            self.disk.perform(FileOp::Remove(name)).map_err(CheckpointError::Failed)?;
        }
        self.disk.perform(FileOp::SyncDir).map_err(CheckpointError::Fatal)
    }
}

impl std::fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpointer").field("generation", &self.generation).finish_non_exhaustive()
    }
}
