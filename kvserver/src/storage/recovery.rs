//! From files to images: the checkpoint, then the journal over it. Pure but for reading from a [`Disk`].
//!
//! Nothing is changed: what must be done to the files (finish an interrupted checkpoint, cut a torn tail) is returned
//! as a list of operations, to be performed before anything is written.
//!
//! Entries above a slot's base come back as its tail and are never applied here: whether they are committed is for the
//! replicas to agree on.

use super::journal::extent::{is_unwritten, without_room};
use std::collections::{BTreeMap, BTreeSet};

use common::{NodeId, Slot, StoreUuid};

use super::damage::{Failure, Findings, Loss, judge_read_error};
use super::disk::{Disk, FileOp};
use super::image::SlotImage;
use super::manifest::{
    FORMAT, Head, MANIFEST, Part, Piece, SlotLine, generation_in, segment_in, segment_name, take_line,
};
use super::replay::{Replay, Segment};
use super::section::{LogPiece, Role, read_records, salvage_pieces, salvage_records};

/// What the files contain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Every slot that was ever written to.
    pub images: BTreeMap<Slot, SlotImage>,
    /// The checkpoint's number; 0 if there is none.
    pub generation: u64,
    /// Whose checkpoint it is, if there is one.
    pub store: Option<StoreUuid>,
    /// The segment to be begun next.
    pub next_segment: u64,
    /// How long the segment before it will be once `chores` are done.
    pub after: u64,
    /// What must be done to the files before anything is written, in this order.
    pub chores: Vec<FileOp<'static>>,
    /// What was read.
    pub report: Report,
    /// What could not be kept; always empty without salvage.
    pub losses: Vec<Loss>,
    /// How many more losses there are than are listed.
    pub unlisted_losses: u64,
}

/// What was read, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Bytes of checkpoint and journal.
    pub bytes: u64,
    /// Records in the maps.
    pub records: u64,
    /// Journal records, whether the checkpoint had them or not.
    pub journal_records: u64,
    /// Bytes of a write that had not ended when the process or the power did. Never acknowledged, and cut off.
    pub torn_bytes: u64,
}

/// Reads everything; the first damage ends it.
///
/// # Errors
/// The files are damaged or cannot be read.
pub fn recover(disk: &dyn Disk) -> Result<Recovered, Failure> {
    Recovery::new(disk, false)?.run()
}

/// Reads what is readable and lists what is not.
///
/// # Errors
/// The files cannot be read at all (permissions, a newer format).
pub fn salvage(disk: &dyn Disk) -> Result<Recovered, Failure> {
    Recovery::new(disk, true)?.run()
}

/// The slots of which this store holds the only in-sync copy, by the newest views that can be read.
#[must_use]
pub fn sole_copies(images: &BTreeMap<Slot, SlotImage>, node: NodeId, store: StoreUuid) -> Vec<Slot> {
    let sole = |image: &SlotImage| {
        image.view.as_ref().is_some_and(|view| view.isr.len() == 1 && view.isr.get(&node) == Some(&store))
    };
    images.iter().filter(|(_, image)| sole(image)).map(|(slot, _)| *slot).collect()
}

impl Recovered {
    /// After a salvage: a copy that may have lost something and is not the only one must not pass for an intact one. It
    /// gives up its position, and catches up from the others by content.
    pub fn demote_damaged(&mut self, node: NodeId, store: StoreUuid) {
        let sole: BTreeSet<Slot> = sole_copies(&self.images, node, store).into_iter().collect();
        let findings = Findings { keep_going: true, losses: self.losses.clone(), unlisted: self.unlisted_losses };
        for (slot, image) in &mut self.images {
            if image.view.is_some() && !sole.contains(slot) && findings.touches(*slot) {
                image.base = None;
                image.tail.clear();
                image.lineage = common::Lineage::default();
            }
        }
    }
}

struct Recovery<'d> {
    disk: &'d dyn Disk,
    names: BTreeSet<String>,
    findings: Findings,
    found: Recovered,
}

impl<'d> Recovery<'d> {
    fn new(disk: &'d dyn Disk, keep_going: bool) -> Result<Recovery<'d>, Failure> {
        let names = disk.names().map_err(|error| Failure::Io { file: "the data directory".to_owned(), error })?;
        let findings = Findings { keep_going, ..Findings::default() };
        Ok(Recovery { disk, names: names.into_iter().collect(), findings, found: Recovered::default() })
    }

    fn run(mut self) -> Result<Recovered, Failure> {
        let first_segment = match self.manifest()? {
            Some((head, lines)) => self.checkpoint(&head, &lines)?,
            None => 1,
        };
        self.found.report.records = self.found.images.values().map(|image| image.map.len() as u64).sum();
        self.leftovers(first_segment);
        self.journal(first_segment)?;
        self.found.chores.push(FileOp::SyncDir);
        (self.found.losses, self.found.unlisted_losses) = (self.findings.losses, self.findings.unlisted);
        Ok(self.found)
    }

    /// The manifest's head and slot lines, if there is a manifest.
    fn manifest(&mut self) -> Result<Option<(Head, Vec<SlotLine>)>, Failure> {
        let Some(bytes) = self.manifest_bytes()? else { return Ok(None) };
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let head: Option<Head> = match take_line(first) {
            Ok(head) => Some(head),
            Err(what) => {
                self.findings.damage(None, MANIFEST, 0, what)?;
                None
            }
        };
        if let Some(head) = head.as_ref().filter(|head| head.format > FORMAT) {
            return Err(Failure::Newer { found: head.format, known: FORMAT });
        }
        let (mut slots, mut at) = (Vec::new(), first.len());
        for line in lines {
            match take_line::<SlotLine>(line) {
                Ok(slot) => slots.push(slot),
                Err(what) => self.findings.damage(None, MANIFEST, at as u64, what)?,
            }
            at += line.len();
        }
        let head = head.unwrap_or_else(|| self.guess_head(slots.len() as u64));
        if slots.len() as u64 != head.slots {
            let what = format!("{} slots should be listed, {} are", head.slots, slots.len());
            self.findings.damage(None, MANIFEST, at as u64, what)?;
        }
        Ok(Some((head, slots)))
    }

    fn manifest_bytes(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if self.names.contains(MANIFEST) {
            return self.read_whole(MANIFEST);
        }
        if Part::ALL.into_iter().any(|part| self.names.contains(&part.plain())) {
            self.findings.damage(None, MANIFEST, 0, "the file is missing, and the maps are there")?;
            return Ok(Some(Vec::new()));
        }
        Ok(None)
    }

    /// For a salvage without a readable head: what the names of the files say.
    fn guess_head(&self, slots: u64) -> Head {
        let generation = self.names.iter().filter_map(|name| generation_in(name)).max().unwrap_or(1);
        let first_segment = self.names.iter().filter_map(|name| segment_in(name)).min().unwrap_or(1);
        Head { format: FORMAT, generation, first_segment, store: StoreUuid::default(), slots }
    }

    fn checkpoint(&mut self, head: &Head, lines: &[SlotLine]) -> Result<u64, Failure> {
        for line in lines {
            let image = self.slot(head.generation, line)?;
            self.found.images.insert(line.summary.slot, image);
        }
        if self.findings.keep_going && !self.findings.losses.is_empty() {
            self.orphans(head.generation)?;
        }
        for part in Part::ALL {
            let name = part.of_generation(head.generation);
            if self.names.remove(&name) {
                self.found.chores.push(FileOp::Rename(name, part.plain()));
            } else if !self.names.contains(&part.plain()) {
                self.findings.damage(None, &part.plain(), 0, "the file is missing")?;
            }
        }
        (self.found.generation, self.found.store) = (head.generation, Some(head.store));
        Ok(head.first_segment)
    }

    fn slot(&mut self, generation: u64, line: &SlotLine) -> Result<SlotImage, Failure> {
        let summary = line.summary.clone();
        let mut image = SlotImage {
            mark: summary.mark,
            view: summary.view,
            base: summary.base,
            lineage: summary.lineage,
            ..SlotImage::default()
        };
        let slot = summary.slot;
        let file = self.file_of(Part::Map(summary.file), generation);
        if let Some(bytes) = self.piece(slot, &file, line.records)? {
            match read_records(slot, &bytes) {
                Ok(map) if map.len() as u64 == summary.count => image.map = map,
                Ok(map) => {
                    let what = format!("slot {slot} should have {} records and has {}", summary.count, map.len());
                    self.findings.damage(Some(slot), &file, line.records.offset, what)?;
                    image.map = map;
                }
                Err(what) => {
                    let (map, lost) = salvage_records(&bytes);
                    let what = format!("slot {slot}: {what}: {} records are readable, {lost} lines are not", map.len());
                    self.findings.damage(Some(slot), &file, line.records.offset, what)?;
                    image.map = map;
                }
            }
        }
        let Some(piece) = line.log else { return Ok(image) };
        let file = self.file_of(Part::Logs, generation);
        if let Some(bytes) = self.piece(slot, &file, piece)? {
            match LogPiece::read(slot, &bytes) {
                Ok(log) => (image.retries, image.tail) = (log.retries, log.tail.into()),
                Err(what) => self.findings.damage(Some(slot), &file, piece.offset, what)?,
            }
        }
        Ok(image)
    }

    /// For a salvage: records in the maps whose line in the manifest is lost. What position they had is not known.
    fn orphans(&mut self, generation: u64) -> Result<(), Failure> {
        for role in Role::ALL {
            let file = self.file_of(Part::Map(role), generation);
            let Some(bytes) = self.read_whole(&file)? else { continue };
            for (slot, offset, piece) in salvage_pieces(&bytes) {
                if self.found.images.contains_key(&slot) {
                    continue;
                }
                let (map, lost) = salvage_records(piece);
                let what = format!(
                    "slot {slot} is not listed in the manifest: {} records are readable, {lost} lines are not",
                    map.len()
                );
                self.findings.damage(Some(slot), &file, offset as u64, what)?;
                self.found.images.insert(slot, SlotImage { map, ..SlotImage::empty() });
            }
        }
        Ok(())
    }

    /// The generation's own file while its checkpoint is not finished, the plain one afterwards.
    fn file_of(&self, part: Part, generation: u64) -> String {
        let own = part.of_generation(generation);
        if self.names.contains(&own) { own } else { part.plain() }
    }

    /// A piece's bytes, if they can be read. With a wrong checksum they are reported, and still returned.
    fn piece(&mut self, slot: Slot, file: &str, piece: Piece) -> Result<Option<Vec<u8>>, Failure> {
        let bytes = match self.disk.read(file, piece.offset, piece.length) {
            Ok(bytes) => bytes,
            Err(error) => {
                let what = judge_read_error(file, error)?;
                self.findings.damage(Some(slot), file, piece.offset, what)?;
                return Ok(None);
            }
        };
        self.found.report.bytes += piece.length;
        if crc32fast::hash(&bytes) != piece.crc {
            let what = format!("slot {slot}'s checksum is wrong");
            self.findings.damage(Some(slot), file, piece.offset, what)?;
        }
        Ok(Some(bytes))
    }

    /// Takes away what interrupted checkpoints left behind.
    fn leftovers(&mut self, first_segment: u64) {
        let stale = |name: &&String| {
            generation_in(name).is_some() || segment_in(name).is_some_and(|segment| segment < first_segment)
        };
        let stale: Vec<String> = self.names.iter().filter(stale).cloned().collect();
        if !self.found.chores.is_empty() {
            self.found.chores.push(FileOp::SyncDir);
        }
        for name in stale {
            self.names.remove(&name);
            self.found.chores.push(FileOp::Remove(name));
        }
    }

    fn journal(&mut self, first_segment: u64) -> Result<(), Failure> {
        let mut segments: Vec<u64> = self.names.iter().filter_map(|name| segment_in(name)).collect();
        segments.sort_unstable();
        self.check_order(first_segment, &segments)?;
        let checkpoint = self.found.generation > 0;
        let mut replay = Replay {
            images: std::mem::take(&mut self.found.images),
            records: 0,
            findings: &mut self.findings,
            after: None,
        };
        let (mut next, mut after) = (first_segment, 0);
        for (i, number) in segments.iter().enumerate() {
            let name = segment_name(*number);
            let bytes = match self.disk.length(&name).and_then(|length| self.disk.read(&name, 0, length)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let what = judge_read_error(&name, error)?;
                    replay.findings.damage(None, &name, 0, what)?;
                    replay.after = None;
                    continue;
                }
            };
            let last = i + 1 == segments.len();
            let whole = replay.segment(&Segment { number: *number, bytes: &bytes, last })?;
            // A segment is begun and synced before the checkpoint that starts with it: this is no write that was cut off.
            if whole == 0 && checkpoint && *number == first_segment {
                replay.findings.damage(None, &name, 0, "the segment's first line is not whole, and it was synced")?;
            }
            self.found.report.bytes += bytes.len() as u64;
            // Room for what was to come is no loss.
            let torn = Some(&bytes[whole..]).filter(|rest| !rest.iter().all(|byte| is_unwritten(*byte)));
            self.found.report.torn_bytes += torn.map_or(0, |torn| without_room(torn).len() as u64);
            // A segment without even a whole head was never begun: its number is free.
            (next, after) = if whole == 0 { (*number, after) } else { (*number + 1, whole as u64) };
            if whole == 0 {
                self.found.chores.push(FileOp::Remove(name));
                continue;
            }
            if whole < bytes.len() {
                self.found.chores.push(FileOp::Truncate(name.clone(), whole as u64));
            }
            // What a killed process wrote and did not sync was read back all the same. From here on it counts as durable
            // and is acknowledged, so it has to be: the power may fail next. Older segments were synced before this one.
            if last {
                self.found.chores.push(FileOp::Sync(name));
            }
        }
        (self.found.next_segment, self.found.after) = (next, after);
        self.found.report.journal_records = replay.records;
        self.found.images = replay.images;
        Ok(())
    }

    /// Segments must be numbered without gaps from the checkpoint's first one, which was synced before it.
    fn check_order(&mut self, first_segment: u64, segments: &[u64]) -> Result<(), Failure> {
        if segments.is_empty() && self.found.generation > 0 {
            return self.findings.damage(None, &segment_name(first_segment), 0, "the file is missing");
        }
        for (expected, segment) in (first_segment..).zip(segments) {
            if *segment != expected {
                return self.findings.damage(None, &segment_name(expected), 0, "the file is missing");
            }
        }
        Ok(())
    }

    fn read_whole(&mut self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        match self.disk.length(name).and_then(|length| self.disk.read(name, 0, length)) {
            Ok(bytes) => {
                self.found.report.bytes += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Err(error) => {
                let what = judge_read_error(name, error)?;
                self.findings.damage(None, name, 0, what)?;
                Ok(None)
            }
        }
    }
}
