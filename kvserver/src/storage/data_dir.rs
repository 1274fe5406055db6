//! The data directory: who it belongs to, and that only one process uses it.
//!
//! `lock` is locked while the process lives. `identity.json` is one sealed line: the node, the store, how often it was
//! started, and the cluster it belongs to once that is known. It is replaced by rename, synced, before anything that
//! depends on it happens. Nothing here knows what else is in the directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use common::peer::Identity;
use common::{BootId, ClusterId, NodeId, StoreUuid, sealed};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, FileOp, RealDisk};
use super::json;

const IDENTITY: &str = "identity.json";
const IDENTITY_NEW: &str = "identity.json.new";
const LOCK: &str = "lock";
/// The directory format this version writes, and the newest it reads. 2: deadlines, and the answers of updates.
const FORMAT: u32 = 2;

/// Why a directory cannot be used. Each text says which directory, what is wrong with it, and what to try.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It cannot be read or written.
    #[error("cannot use the data directory {path}: {what}: {error}{hint}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
        /// What may help, if anything can be said.
        hint: &'static str,
    },
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by another process ({holder}): stop that one, or give this server a \
         directory of its own with -d"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What is known of the other process.
        holder: String,
    },
    /// It belongs elsewhere.
    #[error("the data directory {path} belongs to {theirs}, and this server is to join {ours}: give it another -d")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it belongs to.
        theirs: String,
        /// What was expected.
        ours: String,
    },
    /// A newer version wrote it.
    #[error("the data directory {path} has format {found}, this version knows up to {known}: start the newer version")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest this version knows.
        known: u32,
    },
    /// The identity cannot be read, or is missing beside data.
    #[error("the data directory {path} does not say whose it is: {what}")]
    Nameless {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What `identity.json` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    node: NodeId,
    store: StoreUuid,
    boot: BootId,
    cluster: Option<ClusterId>,
    slots: Option<u16>,
    /// Whether the store's first checkpoint exists. Until then the store holds nothing, and leftovers are not its own.
    ready: bool,
}

/// An open, locked data directory.
pub struct DataDir {
    path: PathBuf,
    disk: Box<dyn Disk>,
    stored: Stored,
    /// Locked as long as it is open.
    _lock: Option<File>,
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir").field("path", &self.path).field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl DataDir {
    /// Opens or makes the directory, locks it, and counts this start, durably.
    ///
    /// # Errors
    /// It cannot be used, or belongs to another cluster than `expect`.
    pub fn open(path: &Path, expect: Option<ClusterId>) -> Result<DataDir, DirError> {
        fs::create_dir_all(path).map_err(|error| io_error(path, "creating it", error))?;
        let lock = lock(path)?;
        let fresh = (NodeId(fastrand::u64(1..)), StoreUuid(fastrand::u128(1..)));
        Self::start(path, Box::new(RealDisk::new(path)), Some(lock), fresh, expect)
    }

    /// The same of a directory in memory, which nobody else can have; an empty one becomes `fresh`.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn on(disk: Box<dyn Disk>, fresh: (NodeId, StoreUuid)) -> Result<DataDir, DirError> {
        Self::start(Path::new("memory"), disk, None, fresh, None)
    }

    fn start(
        path: &Path,
        disk: Box<dyn Disk>,
        lock: Option<File>,
        fresh: (NodeId, StoreUuid),
        expect: Option<ClusterId>,
    ) -> Result<DataDir, DirError> {
        let mut stored = match read(&*disk, path)? {
            Some(stored) => stored,
            None => draw(fresh),
        };
        if let (Some(cluster), Some(expected)) = (stored.cluster, expect)
            && cluster != expected
        {
            return Err(foreign(path, cluster, expected));
        }
        stored.boot = stored.boot.next();
        // From here on lines may be written that an earlier version would take for damage: it must refuse the directory.
        stored.format = FORMAT;
        let mut dir = DataDir { path: path.to_owned(), disk, stored, _lock: lock };
        dir.write()?;
        Ok(dir)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this process is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let Stored { cluster, node, store, boot, .. } = self.stored;
        Identity { cluster, node, store, boot }
    }

    /// The cluster the directory belongs to and its number of slots, once known.
    #[must_use]
    pub fn bound(&self) -> Option<(ClusterId, u16)> {
        self.stored.cluster.zip(self.stored.slots)
    }

    /// Binds the directory to a cluster, for good. The same cluster again changes nothing.
    ///
    /// # Errors
    /// It belongs to another cluster, or cannot be written.
    pub fn bind(&mut self, cluster: ClusterId, slots: u16) -> Result<(), DirError> {
        match self.bound() {
            Some(bound) if bound == (cluster, slots) => return Ok(()),
            Some((theirs, _)) if theirs != cluster => return Err(foreign(&self.path, theirs, cluster)),
            Some((_, theirs)) => {
                let (theirs, ours) = (format!("a ring of {theirs} slots"), format!("one of {slots}"));
                return Err(DirError::Foreign { path: self.path.clone(), theirs, ours });
            }
            None => {}
        }
        (self.stored.cluster, self.stored.slots) = (Some(cluster), Some(slots));
        self.write()
    }

    /// Takes a fresh store: from now on nobody counts on what the old one held. To be called before any port is open.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn fresh_store(&mut self) -> Result<(), DirError> {
        self.stored.store = StoreUuid(fastrand::u128(..));
        self.stored.ready = false;
        self.write()
    }

    /// Whether the store's first checkpoint exists.
    pub(super) fn is_ready(&self) -> bool {
        self.stored.ready
    }

    /// The store's first checkpoint exists from now on.
    pub(super) fn set_ready(&mut self) -> Result<(), DirError> {
        self.stored.ready = true;
        self.write()
    }

    fn write(&mut self) -> Result<(), DirError> {
        let mut line = Vec::new();
        sealed::seal(&mut line, |out| json::value(out, &self.stored));
        let new = || IDENTITY_NEW.to_owned();
        let ops = [
            FileOp::Create(new()),
            FileOp::Append(new(), &line),
            FileOp::Sync(new()),
            FileOp::Rename(new(), IDENTITY.to_owned()),
            FileOp::SyncDir,
        ];
        ops.into_iter()
            .try_for_each(|op| self.disk.perform(op))
            .map_err(|error| io_error(&self.path, "writing identity.json", error))
    }
}

fn draw((node, store): (NodeId, StoreUuid)) -> Stored {
    Stored { format: FORMAT, node, store, boot: BootId(0), cluster: None, slots: None, ready: false }
}

fn lock(path: &Path) -> Result<File, DirError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(LOCK));
    let mut file = file.map_err(|error| io_error(path, "opening its lock", error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let holder = if known { format!("pid {}", holder.trim()) } else { "its pid is not known".to_owned() };
            return Err(DirError::InUse { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(path, "locking it", error)),
    }
    // For people who wonder who holds it. The lock is what counts, so that a full disk is no reason to stop here.
    let noted = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        log::warn!("cannot note this process's id in {}: {error}", path.join(LOCK).display());
    }
    Ok(file)
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Stored>, DirError> {
    match disk.length(IDENTITY).and_then(|length| disk.read(IDENTITY, 0, length)) {
        Ok(line) => understand(path, &line).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => no_identity(disk, path).map(|()| None),
        Err(error) => Err(io_error(path, "reading identity.json", error)),
    }
}

/// Who the directory `path` belongs to, by the content of its `identity.json`. Touches no file.
///
/// # Errors
/// It does not say.
pub fn read_identity(path: &Path, line: &[u8]) -> Result<Identity, DirError> {
    let Stored { cluster, node, store, boot, .. } = understand(path, line)?;
    Ok(Identity { cluster, node, store, boot })
}

fn understand(path: &Path, line: &[u8]) -> Result<Stored, DirError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let nameless = |what: String| DirError::Nameless { path: path.to_owned(), what };
    let payload = sealed::open(line).ok_or_else(|| {
        nameless(
            "the checksum of identity.json is wrong. In a cluster, move the directory aside and start with an empty one: \
             the server will be filled from the others. Otherwise restore the file"
                .to_owned(),
        )
    })?;
    let Format { format } = serde_json::from_slice(payload).map_err(|e| nameless(format!("identity.json: {e}")))?;
    if format > FORMAT {
        return Err(DirError::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    serde_json::from_slice(payload).map_err(|e| nameless(format!("identity.json: {e}")))
}

/// Data without an identity is somebody's whose name is lost: not to be taken for an empty directory.
fn no_identity(disk: &dyn Disk, path: &Path) -> Result<(), DirError> {
    let names = disk.names().map_err(|error| io_error(path, "reading it", error))?;
    let data = |name: &&String| super::manifest::segment_in(name).is_some() || *name == super::manifest::MANIFEST;
    match names.iter().find(data) {
        Some(name) => Err(DirError::Nameless {
            path: path.to_owned(),
            what: format!("there is {name} but no identity.json; restore it, or give this server an empty directory"),
        }),
        None => Ok(()),
    }
}

fn foreign(path: &Path, theirs: ClusterId, ours: ClusterId) -> DirError {
    let name = |cluster: ClusterId| match cluster {
        // What a server without an ECS binds its directory to.
        ClusterId(0) => "a server that runs alone".to_owned(),
        cluster => format!("cluster {cluster}"),
    };
    DirError::Foreign { path: path.to_owned(), theirs: name(theirs), ours: name(ours) }
}

fn io_error(path: &Path, what: &'static str, error: io::Error) -> DirError {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; check its owner and mode, or choose another with -d",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => "; a file is in the way: choose another with -d",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on its disk",
        io::ErrorKind::ReadOnlyFilesystem => "; its file system is mounted read-only",
        _ => "",
    };
    DirError::Io { path: path.to_owned(), what, error, hint }
}
