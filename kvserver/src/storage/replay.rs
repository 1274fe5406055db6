//! Reading the journal: lines out of segments, and their records into images.
//!
//! The last segment may end in a torn tail: bytes after the last whole line, with no whole line anywhere in them. A bad
//! place with a whole line after it was once written and synced: that is damage, as is anything wrong in an older
//! segment, which was synced to its end before the next one was begun.
//!
//! One exception: a disk may write the sectors of a group in any order, so a power loss before the sync can leave a hole
//! of what was there before (room, or zeros) with whole lines after it. Such a hole is a torn tail too, unless a later line proves that it was synced. It
//! must be: when all copies lose power at once, taking it for damage would discard all of them.

use super::journal::extent::is_unwritten;
use std::collections::BTreeMap;

use common::{LogId, Seq, Slot};

use super::codec::{Line, SegmentHead, take_head, take_line};
use super::damage::{Failure, Findings};
use super::image::SlotImage;
use super::manifest::segment_name;
use super::record::{Change, Record};

/// Where a line's payload can begin: used to look for whole lines in damaged bytes.
const LINE_HEAD: &[u8] = b"{\"crc\":\"";

/// Replays segments, oldest first, over the images of a checkpoint.
pub(super) struct Replay<'f> {
    pub(super) images: BTreeMap<Slot, SlotImage>,
    /// Records seen, contained in the checkpoint or not.
    pub(super) records: u64,
    pub(super) findings: &'f mut Findings,
    /// The length of the last segment.
    pub(super) after: Option<u64>,
}

/// One segment's bytes and place.
pub(super) struct Segment<'a> {
    pub(super) number: u64,
    pub(super) bytes: &'a [u8],
    pub(super) last: bool,
}

impl Replay<'_> {
    /// Replays one segment; says how many of its bytes are whole lines (the rest is a torn tail).
    pub(super) fn segment(&mut self, segment: &Segment<'_>) -> Result<usize, Failure> {
        let file = segment_name(segment.number);
        let mut at = 0;
        while at < segment.bytes.len() {
            let line = line_at(segment.bytes, at);
            let read = if at == 0 { self.head(segment, line) } else { self.record(&file, at, line) };
            match read {
                Ok(done) => {
                    done?;
                    at += line.len();
                }
                Err(what) => match next_whole(segment.bytes, at + 1) {
                    None if segment.last => break,
                    Some(next) if segment.last && never_synced(segment.bytes, at, next) => break,
                    next => {
                        self.findings.damage(None, &file, at as u64, what)?;
                        at = next.unwrap_or(segment.bytes.len());
                    }
                },
            }
        }
        if segment.bytes.is_empty() && !segment.last {
            self.findings.damage(None, &file, 0, "the segment is empty, and it is not the last one")?;
        }
        self.after = Some(at as u64);
        Ok(at)
    }

    /// The first line. Outer error: it is unreadable. Inner error: it says that something is missing.
    fn head(&mut self, segment: &Segment<'_>, line: &[u8]) -> Result<Result<(), Failure>, String> {
        let SegmentHead { segment: named, after } = whole(line).and_then(take_head)?;
        let file = segment_name(segment.number);
        if named != segment.number {
            let what = format!("the file says that it is segment {named}");
            return Ok(self.findings.damage(None, &file, 0, what));
        }
        match self.after {
            Some(length) if length != after => {
                let what = format!("the segment before had {after} bytes when this one was begun; now it has {length}");
                Ok(self.findings.damage(None, &file, 0, what))
            }
            _ => Ok(Ok(())),
        }
    }

    fn record(&mut self, file: &str, at: usize, line: &[u8]) -> Result<Result<(), Failure>, String> {
        let Record { slot, mark, change } = match whole(line).and_then(take_line)? {
            Line::Record(record) => record,
            Line::Synced(offset) if offset <= at as u64 => return Ok(Ok(())),
            Line::Synced(offset) => {
                let what = format!("the line says that its group begins at {offset}, behind itself");
                return Ok(self.findings.damage(None, file, at as u64, what));
            }
        };
        self.records += 1;
        let image = self.images.entry(slot).or_insert_with(SlotImage::empty);
        if !self.findings.keep_going {
            let replayed = image.replay(mark, change);
            return Ok(replayed
                .or_else(|what| self.findings.damage(Some(slot), file, at as u64, format!("slot {slot}: {what}"))));
        }
        let losses = force(image, mark, change);
        if losses.is_empty() {
            return Ok(Ok(()));
        }
        Ok(self.findings.damage(Some(slot), file, at as u64, format!("slot {slot}: {}", losses.join("; "))))
    }
}

/// The line that begins at `at`, its line feed included if it has one.
fn line_at(bytes: &[u8], at: usize) -> &[u8] {
    let rest = &bytes[at..];
    &rest[..rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1)]
}

/// A line without its line feed has not been written to its end, whatever its checksum says.
fn whole(line: &[u8]) -> Result<&[u8], String> {
    if line.ends_with(b"\n") { Ok(line) } else { Err("the line has no end".to_owned()) }
}

/// Where the next whole line begins. Not only behind line feeds: the damaged byte may have been one.
fn next_whole(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = bytes.get(at..)?.windows(LINE_HEAD.len()).position(|window| window == LINE_HEAD) {
        at += found;
        let line = line_at(bytes, at);
        if line.ends_with(b"\n") && common::sealed::open(line).is_some() {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The smallest unit that a disk writes whole.
const SECTOR: usize = 512;

/// Whether the damage between `at` and `next` is sectors that were never written, of a group that was never synced.
fn never_synced(bytes: &[u8], at: usize, next: usize) -> bool {
    has_hole(bytes, at, next) && !proves_synced(bytes, at, next)
}

/// A run of what no line contains, up to the end of a sector, from the beginning of one or from where the lines ended
/// before. A few flipped bits do not make such a run.
fn has_hole(bytes: &[u8], at: usize, next: usize) -> bool {
    let mut run = at;
    for (end, byte) in bytes.iter().enumerate().take(next).skip(at) {
        if !is_unwritten(*byte) {
            run = end + 1;
        } else if (end + 1).is_multiple_of(SECTOR) && (run == at || run.is_multiple_of(SECTOR)) {
            return true;
        }
    }
    false
}

/// Whether a whole line from `next` on says that what lies at `at` had been synced when it was written.
fn proves_synced(bytes: &[u8], at: usize, next: usize) -> bool {
    let mut next = Some(next);
    while let Some(line_begin) = next {
        let line = line_at(bytes, line_begin);
        if matches!(take_line(line), Ok(Line::Synced(offset)) if offset > at as u64) {
            return true;
        }
        next = next_whole(bytes, line_begin + line.len());
    }
    false
}

/// Replays a record although records before it are missing. Says what is missing.
fn force(image: &mut SlotImage, mark: u64, change: Change) -> Vec<String> {
    let mut losses = Vec::new();
    if mark <= image.mark {
        return losses;
    }
    if mark != image.mark + 1 {
        losses.push(format!("record {mark} follows record {}: some are missing", image.mark));
        image.mark = mark - 1;
    }
    match &change {
        Change::Append(entry) if image.base.is_some() => losses.extend(make_room(image, entry.id)),
        Change::Truncate { after } if image.base.is_some_and(|base| *after < base.seq) => {
            image.base = image.base.map(|base| LogId { seq: *after, ..base });
            losses.push(format!("a truncation to {after} below the base: what it undid stays in the map"));
        }
        _ => {}
    }
    if let Err(what) = image.replay(mark, change) {
        image.mark = mark;
        losses.push(what);
    }
    losses
}

/// Lets the entry `id` be the next one. What is there counts as committed, or else it could never be reached again.
fn make_room(image: &mut SlotImage, id: LogId) -> Option<String> {
    let end = image.end();
    if id.seq == end.seq.next() {
        return None;
    }
    let before = Seq(id.seq.0.saturating_sub(1));
    if image.base.is_some_and(|base| base.seq <= before) && before < end.seq {
        image.tail.retain(|entry| entry.id.seq <= before);
        image.lineage.truncate_after(before);
        return Some(format!("entry {:?} replaces {end:?}: a truncation is missing", id));
    }
    image.commit_to(end.seq);
    image.lineage.truncate_after(before);
    image.base = Some(LogId { epoch: end.epoch.min(id.epoch), seq: before });
    Some(format!("entry {id:?} follows {end:?}: some are missing"))
}
