//! Writing a checkpoint: all slots' images as three maps that people can read, with one commit point.
//!
//! 1. The journal begins segment N. Every record in an older segment is contained in what follows.
//! 2. The maps and the logs are written under generation-numbered names, slot by slot, and synced.
//! 3. The manifest is written and synced beside them, then renamed to `checkpoint.json`: the commit point.
//! 4. The generation-numbered files are renamed to the plain names. Until then the plain names hold the last checkpoint:
//!    each is a whole JSON document at every moment.
//! 5. Segments below N are removed.
//!
//! Recovery finishes 4 and 5 if they were interrupted and removes what an interrupted 2 left. Memory: one slot's
//! encoding. This module decides the order of file operations and performs them on any [`Disk`]; it starts nothing.

use std::io;

use common::StoreUuid;

use super::disk::{Disk, FileOp};
use super::manifest::{FILE_END, FORMAT, Head, MANIFEST, Part, Piece, SlotLine, manifest_of_generation, put_line};
use super::section::SlotEncoder;

/// How much is written before it is synced: small enough that the journal's own sync never queues behind much more.
pub const PACE: usize = 4 << 20;

/// Why there is no new checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The files could not be written; the last checkpoint is still good, and another attempt may succeed.
    #[error("no checkpoint: {0}; the journal is kept and grows until one succeeds")]
    Failed(io::Error),
    /// What is on the disk is not known any more: the process must stop.
    #[error("cannot sync a checkpoint: {0}; stopping, since what reached the disk is not known")]
    Fatal(io::Error),
}

type Result<T> = std::result::Result<T, CheckpointError>;

/// What names a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// Its number: one more than the last one's.
    pub generation: u64,
    /// The segment begun for it.
    pub first_segment: u64,
    /// The store it belongs to.
    pub store: StoreUuid,
}

/// A checkpoint that is being written. Dropping it without [`CheckpointWriter::commit`] leaves files that the next
/// checkpoint or the next start replaces or removes.
pub struct CheckpointWriter<'d> {
    disk: &'d mut dyn Disk,
    label: Label,
    files: Vec<OutFile>,
    lines: Vec<u8>,
    slots: u64,
}

struct OutFile {
    part: Part,
    length: u64,
    unsynced: usize,
    pieces: u64,
}

impl<'d> CheckpointWriter<'d> {
    /// Creates the files of this generation.
    ///
    /// # Errors
    /// They cannot be created.
    pub fn begin(disk: &'d mut dyn Disk, label: Label) -> Result<CheckpointWriter<'d>> {
        let mut writer = CheckpointWriter { disk, label, files: Vec::new(), lines: Vec::new(), slots: 0 };
        for part in Part::ALL {
            writer.perform(FileOp::Create(part.of_generation(label.generation)))?;
            writer.files.push(OutFile { part, length: 0, unsynced: 0, pieces: 0 });
            writer.append(writer.files.len() - 1, &part.begin(label.generation))?;
        }
        Ok(writer)
    }

    /// Writes the slot that was just encoded. Each slot is written once.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, slot: &SlotEncoder) -> Result<()> {
        let Some(summary) = slot.summary.clone() else { return Ok(()) };
        let records = self.add_piece(Part::Map(summary.file), &slot.records)?;
        let log = if slot.log.is_empty() { None } else { Some(self.add_piece(Part::Logs, &slot.log)?) };
        put_line(&mut self.lines, &SlotLine { summary, records, log });
        self.slots += 1;
        Ok(())
    }

    /// Commits the checkpoint and gives its files their plain names. After this the segments below the label's may go.
    ///
    /// # Errors
    /// [`CheckpointError::Failed`]: nothing is committed. [`CheckpointError::Fatal`]: perhaps it is.
    pub fn commit(mut self) -> Result<()> {
        for file in 0..self.files.len() {
            self.append(file, FILE_END)?;
            let name = self.files[file].part.of_generation(self.label.generation);
            self.sync(name.clone())?;
            self.perform(FileOp::Close(name))?;
        }
        self.write_manifest()?;
        self.sync_dir()?;
        let manifest = manifest_of_generation(self.label.generation);
        self.perform(FileOp::Rename(manifest, MANIFEST.to_owned()))?;
        self.sync_dir()?;
        // Committed. What fails from here on is finished by the next checkpoint or the next start, but an unfinished
        // directory must not lose its old segments either: hence an error all the same.
        for op in finish(self.label.generation) {
            self.disk.perform(op).map_err(CheckpointError::Fatal)?;
        }
        Ok(())
    }

    fn write_manifest(&mut self) -> Result<()> {
        let Label { generation, first_segment, store } = self.label;
        let mut manifest = Vec::new();
        put_line(&mut manifest, &Head { format: FORMAT, generation, first_segment, store, slots: self.slots });
        manifest.append(&mut self.lines);
        let name = manifest_of_generation(generation);
        self.perform(FileOp::Create(name.clone()))?;
        self.perform(FileOp::Append(name.clone(), &manifest))?;
        self.sync(name.clone())?;
        self.perform(FileOp::Close(name))
    }

    fn add_piece(&mut self, part: Part, bytes: &[u8]) -> Result<Piece> {
        let file = Part::ALL.iter().position(|p| *p == part).unwrap_or(0);
        if self.files[file].pieces > 0 {
            self.append(file, b",\n")?;
        }
        self.files[file].pieces += 1;
        let piece = Piece { offset: self.files[file].length, length: bytes.len() as u64, crc: crc32fast::hash(bytes) };
        self.append(file, bytes)?;
        Ok(piece)
    }

    fn append(&mut self, file: usize, bytes: &[u8]) -> Result<()> {
        let name = self.files[file].part.of_generation(self.label.generation);
        for chunk in bytes.chunks(PACE) {
            self.perform(FileOp::Append(name.clone(), chunk))?;
            let file = &mut self.files[file];
            file.length += chunk.len() as u64;
            file.unsynced += chunk.len();
            if file.unsynced >= PACE {
                file.unsynced = 0;
                self.sync(name.clone())?;
            }
        }
        Ok(())
    }

    fn perform(&mut self, op: FileOp<'_>) -> Result<()> {
        self.disk.perform(op).map_err(CheckpointError::Failed)
    }

    fn sync(&mut self, name: String) -> Result<()> {
        self.disk.perform(FileOp::Sync(name)).map_err(CheckpointError::Fatal)
    }

    fn sync_dir(&mut self) -> Result<()> {
        self.disk.perform(FileOp::SyncDir).map_err(CheckpointError::Fatal)
    }
}

/// What gives a committed generation's files their plain names.
fn finish(generation: u64) -> impl Iterator<Item = FileOp<'static>> {
    let renames = Part::ALL.into_iter().map(move |part| FileOp::Rename(part.of_generation(generation), part.plain()));
    renames.chain([FileOp::SyncDir])
}
