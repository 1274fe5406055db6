//! Reads the files back and looks at every checksum, while the server runs: damage on disk should be found before the
//! restart or the second fault that needs what is there.
//!
//! Only reads. What is found wrong is still right in memory, so the cure is a new checkpoint, which replaces all of it. The
//! current segment is looked at as far as it is synced: what is behind that is being written.

use std::io;

use common::sealed;

use super::disk::Disk;
use super::manifest::{Head, MANIFEST, Part, Piece, SlotLine, segment_in, take_line};

/// What a scrub came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// The first thing that is wrong: the file, where in it, and what.
    pub damage: Option<String>,
}

/// Looks at everything once. `synced`: the segment that is being written, and how far it is synced. `rest` is called with the bytes just read, for pacing. None: a checkpoint was written
/// meanwhile, so there is nothing to be said about the files that were looked at.
///
/// # Errors
/// The directory or the manifest cannot be read.
pub fn scrub(disk: &dyn Disk, synced: (u64, u64), mut rest: impl FnMut(u64)) -> io::Result<Option<Scrubbed>> {
    let Some(manifest) = whole(disk, MANIFEST)? else { return Ok(Some(Scrubbed::default())) };
    let mut scrub = Scrub { disk, synced, rest: &mut rest, bytes: manifest.len() as u64 };
    let damage = scrub.all(&manifest).err();
    let bytes = scrub.bytes;
    let unchanged = whole(disk, MANIFEST)?.is_some_and(|now| now == manifest);
    Ok(unchanged.then_some(Scrubbed { bytes, damage }))
}

fn whole(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    match disk.length(name).and_then(|length| disk.read(name, 0, length)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct Scrub<'a> {
    disk: &'a dyn Disk,
    synced: (u64, u64),
    rest: &'a mut dyn FnMut(u64),
    bytes: u64,
}

impl Scrub<'_> {
    fn all(&mut self, manifest: &[u8]) -> Result<(), String> {
        let mut lines = manifest.split_inclusive(|byte| *byte == b'\n');
        let wrong = |what: String| format!("{MANIFEST}: {what}");
        let head: Head = take_line(lines.next().unwrap_or_default()).map_err(wrong)?;
        for line in lines {
            let line: SlotLine = take_line(line).map_err(wrong)?;
            self.piece(Part::Map(line.summary.file), head.generation, line.records)?;
            if let Some(log) = line.log {
                self.piece(Part::Logs, head.generation, log)?;
            }
        }
        let names = self.disk.names().map_err(|error| format!("the data directory: {error}"))?;
        let live = head.first_segment..=self.synced.0;
        let segments = names.iter().filter_map(|name| Some((segment_in(name).filter(|n| live.contains(n))?, name)));
        for (number, name) in segments {
            self.segment(name, (number == self.synced.0).then_some(self.synced.1))?;
        }
        Ok(())
    }

    fn piece(&mut self, part: Part, generation: u64, piece: Piece) -> Result<(), String> {
        let read = |name: &str| self.disk.read(name, piece.offset, piece.length);
        let name = part.plain();
        // An unfinished checkpoint has its own names still.
        let bytes = read(&part.of_generation(generation)).or_else(|_| read(&name));
        let bytes = bytes.map_err(|error| format!("{name} at byte {}: {error}", piece.offset))?;
        self.took(piece.length);
        if crc32fast::hash(&bytes) == piece.crc {
            return Ok(());
        }
        Err(format!("{name} at byte {}: the checksum of {} bytes is wrong", piece.offset, piece.length))
    }

    /// Looks at a segment's lines, up to a place or all.
    fn segment(&mut self, name: &str, end: Option<u64>) -> Result<(), String> {
        let read = || self.disk.read(name, 0, end.map_or_else(|| self.disk.length(name), Ok)?);
        let bytes = match read() {
            Ok(bytes) => bytes,
            // A checkpoint has made it superfluous meanwhile, and has replaced the manifest.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{name}: {error}")),
        };
        self.took(bytes.len() as u64);
        let mut at = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if sealed::open(line).is_none() {
                return Err(format!("{name} at byte {at}: the line's checksum is wrong"));
            }
            at += line.len();
        }
        Ok(())
    }

    fn took(&mut self, bytes: u64) {
        self.bytes += bytes;
        (self.rest)(bytes);
    }
}
