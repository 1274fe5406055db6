//! The files of one data directory of a server or of the ECS, as a closed list of operations.
//!
//! Everything that changes a stored file is a [`FileOp`], so that a test can stop between any two of them, and so that
//! the simulation's memory disk sees exactly what a real one does. This module knows nothing of what the files mean.

mod direct;
mod removal;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub use direct::BLOCK;
use direct::Direct;
use removal::Removed;

/// One change of a file or of the directory. Names are relative to the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileOp<'a> {
    /// Make an empty file; a leftover of the same name is replaced.
    Create(String),
    /// Add bytes at the end. If this fails, a part may have been added.
    Append(String, &'a [u8]),
    /// Put bytes at this place, over what is there; beyond the end, the file grows. If this fails, a part may have been
    /// written.
    Write(String, u64, &'a [u8]),
    /// Put the file's content and length on the disk.
    Sync(String),
    /// No more will be written to this file: changes nothing.
    Close(String),
    /// Cut the file to this length.
    Truncate(String, u64),
    /// Give the first name's file the second name, replacing what had it.
    Rename(String, String),
    /// Let the second name stand for the first one's present content too.
    Link(String, String),
    /// Take the name away; no error if there is none. The space may be free only after the next [`FileOp::SyncDir`].
    Remove(String),
    /// Put all creations, renames and removals on the disk.
    SyncDir,
}

/// Something that holds files.
pub trait Disk: Send {
    /// The names of all files.
    ///
    /// # Errors
    /// What the system says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// A file's length.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self, name: &str) -> io::Result<u64>;

    /// Exactly these bytes of a file.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` if the file is shorter.
    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Vec<u8>>;

    /// Changes something.
    ///
    /// # Errors
    /// What the system says.
    fn perform(&mut self, op: FileOp<'_>) -> io::Result<()>;
}

/// A directory of the real file system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    /// Files that are being written, so that a write does not open its file again.
    open: BTreeMap<String, File>,
    direct: Direct,
    removed: Removed,
}

impl RealDisk {
    /// The files of this directory, which must exist.
    #[must_use]
    pub fn new(path: &Path) -> RealDisk {
        RealDisk {
            path: path.to_owned(),
            open: BTreeMap::new(),
            direct: Direct::default(),
            removed: Removed::default(),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new().write(true).open(self.path.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        self.open.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn forget(&mut self, name: &str) {
        self.open.remove(name);
        self.direct.forget(name);
    }

    fn create(&mut self, name: String) -> io::Result<()> {
        self.forget(&name);
        self.removed.remove(&self.path.join(&name))?;
        let file = OpenOptions::new().write(true).create_new(true).open(self.path.join(&name))?;
        self.open.insert(name, file);
        Ok(())
    }
}

/// A hard link; a copy where the file system has none.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

impl Disk for RealDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string().ok());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        fs::metadata(self.path.join(name)).map(|meta| meta.len())
    }

    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let file = File::open(self.path.join(name))?;
        if offset.saturating_add(length) > file.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn perform(&mut self, op: FileOp<'_>) -> io::Result<()> {
        match op {
            FileOp::Create(name) => self.create(name),
            FileOp::Append(name, bytes) => {
                let file = self.file(&name)?;
                file.seek(SeekFrom::End(0))?;
                file.write_all(bytes)
            }
            FileOp::Write(name, at, bytes) => {
                if let Some(done) = self.direct.write(&self.path, &name, at, bytes) {
                    return done;
                }
                self.file(&name)?.write_all_at(bytes, at)
            }
            FileOp::Sync(name) => self.file(&name)?.sync_data(),
            FileOp::Close(name) => {
                self.forget(&name);
                Ok(())
            }
            FileOp::Truncate(name, length) => self.file(&name)?.set_len(length),
            FileOp::Rename(from, to) => {
                self.forget(&from);
                self.forget(&to);
                fs::rename(self.path.join(from), self.path.join(to))
            }
            FileOp::Link(from, to) => {
                self.removed.remove(&self.path.join(&to))?;
                link(&self.path.join(from), &self.path.join(to))
            }
            FileOp::Remove(name) => {
                self.forget(&name);
                self.removed.remove(&self.path.join(name))
            }
            FileOp::SyncDir => {
                File::open(&self.path)?.sync_all()?;
                self.removed.let_go();
                Ok(())
            }
        }
    }
}
