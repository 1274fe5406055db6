//! Giving the space of removed files back without making others wait for the disk.
//!
//! A large file's blocks are given back piece by piece. In one go a file system that discards what it gives back (the mount
//! option `discard`) keeps the disk, and with it the next sync of a journal, for as long as that takes: more than ten
//! milliseconds for 130 MiB (docs/performance.md, "The tail of PUT").

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// So much is given back at a time. Smaller files go at once.
const PIECE: u64 = 1 << 20;

/// Files whose names were taken away, perhaps not on the disk yet. Until they are let go they stay whole: after a power
/// failure the names may be back, and the files with them.
#[derive(Debug, Default)]
pub(super) struct Removed {
    files: Vec<File>,
}

impl Removed {
    /// Takes the name away; no error if there is none.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let large = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > PIECE);
        // Without the right to write to it, it goes in one piece.
        let file = if large { OpenOptions::new().write(true).open(path).ok() } else { None };
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => {
                other?;
                self.files.extend(file);
            }
        }
        Ok(())
    }

    /// The names are gone on the disk, too: gives the files back.
    pub(super) fn let_go(&mut self) {
        self.files.drain(..).for_each(|file| give_back(&file));
    }
}

fn give_back(file: &File) {
    let Ok(meta) = file.metadata() else { return };
    let mut length = meta.len();
    // It may have other names.
    while meta.nlink() == 0 && length > PIECE {
        length -= PIECE;
        // What cannot be given back now goes with the file.
        if file.set_len(length).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk as _, FileOp, RealDisk};
    use super::*;

    const LARGE: u64 = 5 << 20;

    fn large(folder: &Path, name: &str) -> File {
        fs::write(folder.join(name), vec![b'x'; 5 << 20]).unwrap();
        File::open(folder.join(name)).unwrap()
    }

    #[test]
    fn a_large_file_is_given_back_in_pieces_once_its_removal_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, reader) = (RealDisk::new(dir.path()), large(dir.path(), "journal"));
        disk.perform(FileOp::Remove("journal".into())).unwrap();
        assert_eq!(disk.names().unwrap(), Vec::<String>::new());
        assert_eq!(reader.metadata().unwrap().len(), LARGE, "its name could be back after a power failure");
        disk.perform(FileOp::SyncDir).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), PIECE, "the last piece goes with the file");
        disk.perform(FileOp::Remove("journal".into())).unwrap();
    }

    #[test]
    fn what_another_name_stands_for_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _) = (RealDisk::new(dir.path()), large(dir.path(), "snapshot"));
        disk.perform(FileOp::Link("snapshot".into(), "before".into())).unwrap();
        disk.perform(FileOp::Remove("snapshot".into())).unwrap();
        disk.perform(FileOp::SyncDir).unwrap();
        assert_eq!(disk.length("before").unwrap(), LARGE);
    }
}
