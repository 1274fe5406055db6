//! Taking a name away without making others wait for the disk.
//!
//! A large file's blocks are given back piece by piece. In one go a file system that discards what it gives back (the mount
//! option `discard`) keeps the disk, and with it the next sync of a journal, for as long as that takes: 13 to 19 ms for 130 MiB
//! where a sync takes 0.2 ms otherwise, and below 1 ms with pieces of 1 MiB.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// So much is given back at a time. Smaller files go at once.
const PIECE: u64 = 1 << 20;

/// Takes the name away; no error if there is none. Afterwards the file is either there as it was or gone, also if the machine
/// fails meanwhile.
pub(super) fn remove(folder: &Path, name: &str) -> io::Result<()> {
    let path = folder.join(name);
    // Without the right to write to it, it goes in one piece.
    let large = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() > PIECE);
    let file = if large { OpenOptions::new().write(true).open(&path).ok() } else { None };
    match fs::remove_file(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    if let Some(file) = file {
        // Else the name could be back after a power failure, with a part of the file.
        File::open(folder)?.sync_all()?;
        let_go(&file);
    }
    Ok(())
}

/// Gives a file back that has no name any more.
fn let_go(file: &File) {
    let Ok(meta) = file.metadata() else { return };
    let mut length = meta.len();
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
    use super::*;

    fn large(folder: &Path, name: &str) -> u64 {
        fs::write(folder.join(name), vec![b'x'; 5 << 20]).unwrap();
        5 << 20
    }

    #[test]
    fn a_large_file_is_given_back_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        large(dir.path(), "journal");
        let reader = File::open(dir.path().join("journal")).unwrap();
        remove(dir.path(), "journal").unwrap();
        assert!(!dir.path().join("journal").exists());
        // The last piece goes with the file.
        assert_eq!(reader.metadata().unwrap().len(), PIECE);
        remove(dir.path(), "journal").unwrap();
    }

    #[test]
    fn what_another_name_stands_for_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let length = large(dir.path(), "snapshot");
        fs::hard_link(dir.path().join("snapshot"), dir.path().join("before")).unwrap();
        remove(dir.path(), "snapshot").unwrap();
        assert_eq!(fs::metadata(dir.path().join("before")).unwrap().len(), length);
    }
}
