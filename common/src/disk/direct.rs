//! Writes of whole blocks past the system's cache of files (`O_DIRECT`).
//!
//! A journal is written once and read at the next start: to keep it in the cache costs a copy and the search for what is to be written
//! back, with each sync. Where the file system has no such writes (or wants larger blocks) the caller writes as usual.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Offset, length and place in memory of such writes are multiples of this: no disk in use wants more.
pub const BLOCK: u64 = 4096;
/// Longer writes, of large values that came together, go the usual way: they would take as much memory once more.
const LONGEST: usize = 4 << 20;
/// Memory above this is given back after a write.
const KEPT: usize = 512 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Direct {
    open: BTreeMap<String, File>,
    /// Memory in which a block can begin at a multiple of its size, for bytes that do not.
    memory: Vec<u8>,
    /// The file system refuses them.
    refused: bool,
}

impl Direct {
    /// Writes so, and tells how that went; None: it is not possible, the caller has to write all of it.
    pub(super) fn write(&mut self, folder: &Path, name: &str, at: u64, bytes: &[u8]) -> Option<io::Result<()>> {
        let whole = at.is_multiple_of(BLOCK) && (bytes.len() as u64).is_multiple_of(BLOCK);
        if self.refused || !whole || bytes.is_empty() || bytes.len() > LONGEST {
            return None;
        }
        match self.try_write(folder, name, at, bytes) {
            // What `open` and `write` say where there are none: open(2), "O_DIRECT".
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                self.refused = true;
                self.open.clear();
                None
            }
            done => Some(done),
        }
    }

    fn try_write(&mut self, folder: &Path, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.open.contains_key(name) {
            let flags = OFlags::DIRECT.bits().cast_signed();
            let file = OpenOptions::new().write(true).custom_flags(flags).open(folder.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        let file = self.open.get(name).ok_or(io::ErrorKind::NotFound)?;
        if bytes.as_ptr().align_offset(BLOCK as usize) == 0 {
            return file.write_all_at(bytes, at);
        }
        let room = bytes.len() + BLOCK as usize;
        if self.memory.len() < room {
            self.memory.resize(room, 0);
        }
        let skip = self.memory.as_ptr().align_offset(BLOCK as usize);
        let block = self.memory.get_mut(skip..skip + bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        block.copy_from_slice(bytes);
        let done = file.write_all_at(block, at);
        self.memory.truncate(KEPT);
        self.memory.shrink_to(KEPT);
        done
    }

    /// Closes the file, if it is open.
    pub(super) fn forget(&mut self, name: &str) {
        self.open.remove(name);
    }
}
