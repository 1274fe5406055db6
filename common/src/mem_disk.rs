//! A disk in memory that can lose power: what was not synced may be gone, in every way a real disk allows.
//!
//! For tests and the simulation only (not behind a feature: features of one build are shared by all of its programs). What is written behind the end of a file
//! is torn to a prefix; of what is written over something, each sector is written or not, in any order.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, FileOp};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Name changes that are not synced, oldest first.
    unsynced: Vec<NameChange>,
    /// How many more operations succeed; every later one fails. None: all.
    pub operations_left: Option<u64>,
    /// What the next appends and syncs fail with, if anything.
    pub failing: Failing,
}

/// Errors to be reported by a [`MemDisk`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// Every append or write does half of its bytes and fails like this.
    pub append: Option<io::ErrorKind>,
    /// Every sync fails like this.
    pub sync: Option<io::ErrorKind>,
    /// Every cut fails like this.
    pub cut: Option<io::ErrorKind>,
    /// There is no space for more than so many bytes at once.
    pub longest: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    /// How much of `content` is on the disk.
    synced: usize,
    /// What the disk still holds after a cut that is not synced.
    uncut: Option<Vec<u8>>,
    /// What was written over synced bytes and is not synced: where, and what was there.
    over: Vec<(usize, Vec<u8>)>,
}

/// The smallest unit that a disk writes whole.
const SECTOR: usize = 512;

impl Inode {
    fn new(content: &[u8]) -> Inode {
        Inode { content: content.to_vec(), synced: content.len(), ..Inode::default() }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if at < self.synced {
            self.over.push((at, self.content[at..end.min(self.synced)].to_vec()));
        }
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[at..end].copy_from_slice(bytes);
    }

    /// Takes back some of the sectors that were written over synced ones: those of which `keep` says 0.
    fn lose_sectors(&mut self, keep: &mut impl FnMut(usize) -> usize) {
        let Some(from) = self.over.iter().map(|(at, _)| *at).min() else { return };
        let mut before = self.content.clone();
        // The file ended in the middle of a sector: what is behind its end there is on the disk with it, or is not.
        before[self.synced..].fill(0);
        for (at, bytes) in self.over.drain(..).rev() {
            let end = (at + bytes.len()).min(before.len());
            if at < end {
                before[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
        for sector in (from / SECTOR)..self.content.len().div_ceil(SECTOR) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.content.len());
            if self.content[range.clone()] != before[range.clone()] && keep(1) == 0 {
                self.content[range.clone()].copy_from_slice(&before[range]);
            }
        }
    }

    fn cut(&mut self, length: usize) {
        if length < self.synced {
            let synced = &self.content[..self.synced];
            self.uncut.get_or_insert_with(|| synced.to_vec());
            self.synced = length;
        }
        self.content.truncate(length);
    }
}

#[derive(Clone, Debug)]
struct NameChange {
    name: String,
    inode: Option<u64>,
    freed: Option<String>,
}

impl MemDisk {
    /// Puts a file there, durably.
    pub fn put(&mut self, name: &str, content: &[u8]) {
        self.next += 1;
        self.inodes.insert(self.next, Inode::new(content));
        self.names.insert(name.to_owned(), self.next);
        self.durable_names.insert(name.to_owned(), self.next);
    }

    /// A file's content.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.names.get(name).and_then(|inode| self.inodes.get(inode)).map(|inode| &inode.content[..])
    }

    /// How many of a file's bytes are synced.
    #[must_use]
    pub fn synced(&self, name: &str) -> Option<usize> {
        self.names.get(name).and_then(|inode| self.inodes.get(inode)).map(|inode| inode.synced)
    }

    /// The power fails. `keep(n)` says how many of `n` unsynced bytes or name changes made it nevertheless.
    pub fn lose_power(&mut self, mut keep: impl FnMut(usize) -> usize) {
        let kept = keep(self.unsynced.len());
        for change in self.unsynced.drain(..).take(kept) {
            apply(&mut self.durable_names, &change);
        }
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.lose_sectors(&mut keep);
            match inode.uncut.take() {
                Some(uncut) if keep(1) == 0 => inode.content = uncut,
                _ => inode.content.truncate(inode.synced + keep(inode.content.len() - inode.synced)),
            }
            inode.synced = inode.content.len();
        }
        let named: std::collections::BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
        (self.operations_left, self.failing) = (None, Failing::default());
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.unsynced.push(change);
    }

    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let inode = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.inodes.get_mut(inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let end = self.inode(name)?.content.len();
        self.write(name, end, bytes)
    }

    fn write(&mut self, name: &str, at: usize, bytes: &[u8]) -> io::Result<()> {
        let full = self.failing.longest.is_some_and(|longest| bytes.len() > longest);
        let failing = if full { Some(io::ErrorKind::StorageFull) } else { self.failing.append };
        let inode = self.inode(name)?;
        match failing {
            None => inode.write(at, bytes),
            Some(kind) => {
                inode.write(at, &bytes[..bytes.len() / 2]);
                return Err(kind.into());
            }
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        if let Some(kind) = self.failing.sync {
            return Err(kind.into());
        }
        let inode = self.inode(name)?;
        (inode.synced, inode.uncut) = (inode.content.len(), None);
        inode.over.clear();
        Ok(())
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    if let Some(freed) = &change.freed {
        names.remove(freed);
    }
    match change.inode {
        Some(inode) => names.insert(change.name.clone(), inode),
        None => names.remove(&change.name),
    };
}

impl Disk for MemDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.names.keys().cloned().collect())
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.get(name).map(|content| content.len() as u64).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let content = self.get(name).ok_or(io::ErrorKind::NotFound)?;
        let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(length)).ok());
        let piece = range.and_then(|(from, to)| content.get(from..to)).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(piece.to_vec())
    }

    fn perform(&mut self, op: FileOp<'_>) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("stopped by the test"))?;
        }
        match op {
            FileOp::Create(name) => {
                self.next += 1;
                self.inodes.insert(self.next, Inode::default());
                self.change(NameChange { name, inode: Some(self.next), freed: None });
            }
            FileOp::Append(name, bytes) => self.append(&name, bytes)?,
            FileOp::Write(name, at, bytes) => {
                self.write(&name, usize::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge)?, bytes)?;
            }
            FileOp::Sync(name) => self.sync(&name)?,
            FileOp::Close(_) => {}
            FileOp::Truncate(..) if let Some(kind) = self.failing.cut => return Err(kind.into()),
            FileOp::Truncate(name, length) => self.inode(&name)?.cut(usize::try_from(length).unwrap_or(usize::MAX)),
            FileOp::Rename(from, to) => {
                let inode = *self.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                self.change(NameChange { name: to, inode: Some(inode), freed: Some(from) });
            }
            FileOp::Link(from, to) => {
                let inode = *self.names.get(&from).ok_or(io::ErrorKind::NotFound)?;
                self.change(NameChange { name: to, inode: Some(inode), freed: None });
            }
            FileOp::Remove(name) => self.change(NameChange { name, inode: None, freed: None }),
            FileOp::SyncDir => {
                if let Some(kind) = self.failing.sync {
                    return Err(kind.into());
                }
                self.durable_names = self.names.clone();
                self.unsynced.clear();
            }
        }
        Ok(())
    }
}

/// A [`MemDisk`] that a test can look at and break while a journal writes to it.
#[derive(Clone, Debug, Default)]
pub struct SharedDisk(Arc<Mutex<MemDisk>>);

impl SharedDisk {
    /// The disk. While it is held every operation of others is stuck, as on a disk that does not answer.
    pub fn lock(&self) -> MutexGuard<'_, MemDisk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SharedDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        self.lock().names()
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.lock().length(name)
    }

    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        self.lock().read(name, offset, length)
    }

    fn perform(&mut self, op: FileOp<'_>) -> io::Result<()> {
        self.lock().perform(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_written_over_something_any_sector_can_be_lost() {
        let mut disk = MemDisk::default();
        disk.put("f", &[0; 2000]);
        disk.perform(FileOp::Write("f".to_owned(), 500, &[1; 600])).unwrap();
        disk.perform(FileOp::Write("f".to_owned(), 1100, &[2; 1000])).unwrap();
        let mut answers = [1, 0, 1, 0].into_iter();
        // Sectors end at 512, 1024, 1536 and 2048; what is behind the synced 2000 bytes is a tail of its own.
        disk.lose_power(|n| if n == 1 { answers.next().unwrap_or(0) } else { n });
        let mut expected = [&[0; 500][..], &[1; 12], &[0; 512], &[1; 76], &[2; 436], &[0; 464]].concat();
        expected.extend([2; 100]);
        let found = disk.get("f").unwrap();
        assert_eq!(&found[..2000], &expected[..2000]);
        disk.perform(FileOp::Write("f".to_owned(), 0, &[3; 10])).unwrap();
        disk.perform(FileOp::Sync("f".to_owned())).unwrap();
        disk.lose_power(|_| 0);
        assert_eq!(disk.get("f").unwrap()[..11], [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0]);
    }
}
