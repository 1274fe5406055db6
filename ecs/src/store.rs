//! The ECS's directory: a snapshot and a log of commands, both of sealed JSON lines.
//!
//! - `ecs.lock` keeps a second process out.
//! - `snapshot.json` is one line, `{"index": n, "cluster": ...}`: the state after command `n`. Replaced by renaming.
//! - `log.jsonl` has one line per command, `{"index": n, "command": ...}`. Lines up to the snapshot's index are skipped,
//!   so a crash between a new snapshot and the emptied log does no harm.
//!
//! A line is fsynced before anything that relies on it is said. An incomplete last line was never relied on and is cut; a
//! damaged line with whole ones after it is corruption, and the ECS refuses to start: guessing at views would lose writes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use common::disk::{Disk, FileOp, RealDisk};
use common::sealed;
use common::view::ClusterRecord;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Command};

/// The log is folded into a new snapshot once it is longer than this: it is then read in a few milliseconds.
pub const LOG_LIMIT: u64 = 4 << 20;

const LOCK: &str = "ecs.lock";
const SNAPSHOT: &str = "snapshot.json";
const SNAPSHOT_NEW: &str = "snapshot.new";
const LOG: &str = "log.jsonl";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else uses it.
    #[error("{0} is in use by another ecs: stop that one, or choose another directory with -d")]
    Locked(PathBuf),
    /// It is damaged.
    #[error(
        "{file} is damaged at byte {offset}: {what}. The ECS does not start on a guess: put back a copy of the directory, or \
         cut the file there if you know that nothing after it matters"
    )]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Where.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// The system says no.
    #[error("{path}: {error}")]
    Io {
        /// At what.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

/// Where and what, before the file's name is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The first byte of the damaged line.
    pub offset: usize,
    /// What is wrong with it.
    pub what: String,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    index: u64,
    cluster: Cluster,
}

#[derive(Serialize, Deserialize)]
struct Line {
    index: u64,
    command: Command,
}

/// An open directory.
pub struct Store {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    length: u64,
    /// The log is long beyond this.
    limit: u64,
    index: u64,
    /// Locked as long as it is open.
    _lock: Option<File>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).field("index", &self.index).finish_non_exhaustive()
    }
}

/// What opening a directory found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The state.
    pub cluster: Cluster,
    /// How many commands were read from the log.
    pub replayed: u64,
    /// How many bytes of an incomplete last line were cut.
    pub cut: u64,
}

/// Reads a snapshot.
///
/// # Errors
/// It is damaged.
pub fn read_snapshot(bytes: &[u8]) -> Result<(u64, Cluster), Damage> {
    let damage = |what: &str| Damage { offset: 0, what: what.to_string() };
    let payload = sealed::open(bytes).ok_or_else(|| damage("the checksum is wrong"))?;
    let snapshot: Snapshot = serde_json::from_slice(payload).map_err(|e| damage(&e.to_string()))?;
    snapshot.cluster.check().map_err(|what| damage(&what))?;
    Ok((snapshot.index, snapshot.cluster))
}

/// Replays a log on a snapshot: the index of the last command, and how many bytes of the log are whole.
///
/// # Errors
/// It is damaged before its last line.
pub fn replay(bytes: &[u8], mut index: u64, cluster: &mut Cluster) -> Result<(u64, usize), Damage> {
    let mut offset = 0;
    let mut previous = None;
    for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
        let whole = raw.ends_with(b"\n").then(|| sealed::open(raw)).flatten();
        let Some(payload) = whole else {
            let after = bytes.get(offset + raw.len()..).unwrap_or(&[]);
            let more = after.split_inclusive(|byte| *byte == b'\n').any(|line| sealed::open(line).is_some());
            let what = "the checksum is wrong, and whole lines follow".to_string();
            return if more { Err(Damage { offset, what }) } else { Ok((index, offset)) };
        };
        let damage = |what: String| Damage { offset, what };
        let line: Line = serde_json::from_slice(payload).map_err(|e| damage(e.to_string()))?;
        let expected = previous.map_or(line.index.min(index + 1), |last: u64| last + 1);
        if line.index != expected {
            return Err(damage(format!("command {} where {expected} should be", line.index)));
        }
        previous = Some(line.index);
        if line.index > index {
            cluster.apply(&line.command);
            index = line.index;
        }
        offset += raw.len();
    }
    Ok((index, offset))
}

impl Store {
    /// Opens a directory, made with `record` if it is empty.
    ///
    /// # Errors
    /// It is in use, damaged, or cannot be read or written.
    pub fn open(dir: &Path, record: impl FnOnce() -> ClusterRecord) -> Result<Opened, StoreError> {
        std::fs::create_dir_all(dir).map_err(|error| StoreError::Io { path: dir.to_path_buf(), error })?;
        let lock = lock(dir)?;
        Self::start(dir, Box::new(RealDisk::new(dir)), Some(lock), LOG_LIMIT, record)
    }

    /// The same of a directory in memory, which nobody else can have; its log is long beyond `limit` bytes.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn on(disk: Box<dyn Disk>, limit: u64, record: impl FnOnce() -> ClusterRecord) -> Result<Opened, StoreError> {
        Self::start(Path::new("memory"), disk, None, limit, record)
    }

    fn start(
        dir: &Path,
        disk: Box<dyn Disk>,
        lock: Option<File>,
        limit: u64,
        record: impl FnOnce() -> ClusterRecord,
    ) -> Result<Opened, StoreError> {
        let mut store = Store { dir: dir.to_path_buf(), disk, length: 0, limit, index: 0, _lock: lock };
        let log = store.read(LOG)?;
        let log_bytes = log.as_deref().unwrap_or_default();
        let (start, mut cluster) = match store.read(SNAPSHOT)? {
            Some(bytes) => read_snapshot(&bytes).map_err(|damage| damage.of(dir.join(SNAPSHOT)))?,
            None if log_bytes.is_empty() => {
                let cluster = Cluster::new(record());
                store.write_snapshot(&cluster)?;
                (0, cluster)
            }
            None => {
                let what = format!("there is a log, but no {SNAPSHOT}");
                return Err(Damage { offset: 0, what }.of(dir.join(LOG)));
            }
        };
        let (index, whole) = replay(log_bytes, start, &mut cluster).map_err(|damage| damage.of(dir.join(LOG)))?;
        (store.index, store.length) = (index, whole as u64);
        if log.is_none() {
            store.perform(FileOp::Create(LOG.to_owned()))?;
        }
        // What was read back counts from now on, so it must be on the disk whoever wrote it.
        store.perform(FileOp::Truncate(LOG.to_owned(), whole as u64))?;
        store.perform(FileOp::Sync(LOG.to_owned()))?;
        store.perform(FileOp::SyncDir)?;
        let cut = (log_bytes.len() - whole) as u64;
        Ok(Opened { store, cluster, replayed: index - start, cut })
    }

    /// Makes a command durable.
    ///
    /// # Errors
    /// The disk refuses. The store must not be used again: what is on disk is then unknown.
    pub fn append(&mut self, command: &Command) -> Result<(), StoreError> {
        let line = Line { index: self.index + 1, command: command.clone() };
        let bytes = self.seal(LOG, &line)?;
        self.perform(FileOp::Append(LOG.to_owned(), &bytes))?;
        self.perform(FileOp::Sync(LOG.to_owned()))?;
        self.index += 1;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the log is due to be folded into a snapshot.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.length > self.limit
    }

    /// Folds the log into a snapshot. `state` must be the state after exactly the commands that were appended.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub fn fold(&mut self, state: &Cluster) -> Result<(), StoreError> {
        self.write_snapshot(state)?;
        self.perform(FileOp::Truncate(LOG.to_owned(), 0))?;
        self.perform(FileOp::Sync(LOG.to_owned()))?;
        self.length = 0;
        Ok(())
    }

    fn write_snapshot(&mut self, cluster: &Cluster) -> Result<(), StoreError> {
        let bytes = self.seal(SNAPSHOT_NEW, &Snapshot { index: self.index, cluster: cluster.clone() })?;
        let new = || SNAPSHOT_NEW.to_owned();
        self.perform(FileOp::Create(new()))?;
        self.perform(FileOp::Append(new(), &bytes))?;
        self.perform(FileOp::Sync(new()))?;
        self.perform(FileOp::Rename(new(), SNAPSHOT.to_owned()))?;
        self.perform(FileOp::SyncDir)
    }

    fn seal(&self, file: &str, what: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let (mut bytes, mut written) = (Vec::new(), Ok(()));
        sealed::seal(&mut bytes, |out| written = serde_json::to_writer(out, what));
        written.map_err(|error| self.io(file, error.into()))?;
        Ok(bytes)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.disk.length(name).and_then(|length| self.disk.read(name, 0, length)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io(name, error)),
        }
    }

    fn perform(&mut self, op: FileOp<'_>) -> Result<(), StoreError> {
        let name = match &op {
            FileOp::Create(name) | FileOp::Append(name, _) | FileOp::Write(name, ..) | FileOp::Sync(name) => name,
            FileOp::Truncate(name, _) => name,
            FileOp::Rename(_, name) | FileOp::Link(_, name) | FileOp::Remove(name) | FileOp::Close(name) => name,
            FileOp::SyncDir => "",
        };
        let path = self.dir.join(name);
        self.disk.perform(op).map_err(|error| StoreError::Io { path, error })
    }

    fn io(&self, name: &str, error: io::Error) -> StoreError {
        StoreError::Io { path: self.dir.join(name), error }
    }
}

impl Damage {
    fn of(self, file: PathBuf) -> StoreError {
        StoreError::Corrupt { file, offset: self.offset, what: self.what }
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let io = |error| StoreError::Io { path: path.clone(), error };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use common::mem_disk::SharedDisk;
    use common::view::{NodeInfo, NodeState};
    use common::{BootId, ClusterId, NodeId, StoreUuid};

    use super::*;

    fn record() -> ClusterRecord {
        ClusterRecord { cluster: ClusterId(7), slots: 4, replicas: 2, lease_ms: 250, vnodes: 1 }
    }

    fn commands() -> Vec<Command> {
        let node = |id: u64| NodeInfo {
            node: NodeId(id),
            store: StoreUuid(1),
            boot: BootId(1),
            client_addr: format!("h:{id}"),
            peer_addr: format!("p:{id}"),
            admin_addr: None,
            state: NodeState::Up,
            weight: common::view::WEIGHT,
        };
        let first = Command::All(vec![Command::Node(node(1)), Command::Found { node: NodeId(1) }]);
        std::iter::once(first).chain((2..6).map(|id| Command::Node(node(id)))).collect()
    }

    fn log(commands: &[Command], from: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, command) in (from..).zip(commands) {
            let line = Line { index, command: command.clone() };
            sealed::seal(&mut bytes, |out| serde_json::to_writer(out, &line).unwrap());
        }
        bytes
    }

    /// The state after the first `count` commands.
    fn state(count: usize) -> Cluster {
        let mut cluster = Cluster::new(record());
        commands().iter().take(count).for_each(|command| drop(cluster.apply(command)));
        cluster
    }

    #[test]
    fn a_log_cut_at_every_byte_is_its_whole_lines() {
        let bytes = log(&commands(), 1);
        for cut in 0..=bytes.len() {
            let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            let mut cluster = state(0);
            let (index, kept) = replay(&bytes[..cut], 0, &mut cluster).unwrap();
            assert_eq!((index, &cluster), (whole as u64, &state(whole)), "cut at {cut}");
            assert!(kept <= cut && (kept == 0 || bytes[kept - 1] == b'\n'));
        }
    }

    #[test]
    fn a_byte_flipped_anywhere_is_refused_or_cuts_the_last_line() {
        let bytes = log(&commands(), 1);
        let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            // A checksum's hex digit in upper case is the same number.
            if bad[at].eq_ignore_ascii_case(&bytes[at]) && bad[at].is_ascii_hexdigit() && sealed_head(&bytes, at) {
                continue;
            }
            let mut cluster = state(0);
            match replay(&bad, 0, &mut cluster) {
                // The line feed before the last line belongs to both.
                Ok((index, kept)) if at + 1 == last => assert!(kept < last && index == 3, "flip at {at}: {index}"),
                Ok((index, kept)) => assert!(at >= last && kept == last && index == 4, "flip at {at}: {index}"),
                Err(damage) => assert!(damage.offset <= at, "flip at {at}: {damage:?}"),
            }
        }
    }

    /// Whether the byte lies in the checksum at the start of its line.
    fn sealed_head(bytes: &[u8], at: usize) -> bool {
        let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        at - start < 20
    }

    #[test]
    fn lines_before_the_snapshot_are_skipped_and_gaps_refused() {
        let bytes = log(&commands(), 1);
        let mut cluster = state(3);
        assert_eq!(replay(&bytes, 3, &mut cluster).unwrap().0, 5);
        assert_eq!(cluster, state(5));
        let gap = log(&commands()[..2], 5);
        assert!(replay(&gap, 3, &mut state(3)).is_err());
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let dir = std::env::temp_dir().join(format!("annulus-ecs-store-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let mut opened = Store::open(&dir, record).unwrap();
        assert!(matches!(Store::open(&dir, record), Err(StoreError::Locked(_))));
        for command in commands() {
            opened.cluster.apply(&command);
            opened.store.append(&command).unwrap();
        }
        // Folded into a snapshot by hand: the log is emptied only afterwards, so both orders must work.
        opened.store.index = 2;
        opened.store.write_snapshot(&state(2)).unwrap();
        drop(opened);
        let mut torn = OpenOptions::new().append(true).open(dir.join(LOG)).unwrap();
        torn.write_all(b"{\"crc\":\"0").unwrap();
        let again = Store::open(&dir, record).unwrap();
        assert_eq!((&again.cluster, again.replayed, again.cut), (&state(5), 3, 9));
        let mut store = again.store;
        store.fold(&again.cluster).unwrap();
        drop(store);
        let folded = Store::open(&dir, record).unwrap();
        assert_eq!((folded.cluster, folded.replayed), (state(5), 0));
        drop(folded.store);
        std::fs::write(dir.join(LOG), log(&commands(), 1)).unwrap();
        std::fs::remove_file(dir.join(SNAPSHOT)).unwrap();
        assert!(matches!(Store::open(&dir, record), Err(StoreError::Corrupt { .. })));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Appends and folds until the disk stops after so many operations; how many commands were promised to be durable.
    fn until_stopped(disk: &SharedDisk, stop: u64) -> usize {
        let mut opened = Store::on(Box::new(disk.clone()), 1, record).unwrap();
        disk.lock().operations_left = Some(stop);
        for (done, command) in commands().iter().enumerate() {
            opened.cluster.apply(command);
            if opened.store.append(command).is_err() {
                return done;
            }
            if opened.store.is_long() && opened.store.fold(&opened.cluster).is_err() {
                return done + 1;
            }
        }
        commands().len()
    }

    #[test]
    fn a_death_between_any_two_operations_forgets_nothing_that_was_promised() {
        for (stop, keep) in (0..40).flat_map(|stop| [0, 1, 9, 1000].map(|keep| (stop, keep))) {
            let disk = SharedDisk::default();
            let promised = until_stopped(&disk, stop);
            disk.lock().lose_power(|unsynced| unsynced.min(keep));
            let again = Store::on(Box::new(disk.clone()), 1, record).unwrap();
            let found = (promised..=promised + 1).find(|count| again.cluster == state(*count));
            assert!(found.is_some(), "stopped after {stop}, {keep} kept: {promised} were promised");
        }
    }
}
