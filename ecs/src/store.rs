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
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use common::sealed;
use common::view::ClusterRecord;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Command};

/// The log is folded into a new snapshot once it is longer than this: it is then read in a few milliseconds.
const LOG_LIMIT: u64 = 4 << 20;

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

/// An open, locked directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    log: File,
    length: u64,
    index: u64,
    _lock: File,
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
        let at = |path: &Path, error| StoreError::Io { path: path.to_path_buf(), error };
        std::fs::create_dir_all(dir).map_err(|e| at(dir, e))?;
        let lock = lock(dir)?;
        let log_path = dir.join(LOG);
        let log_bytes = read(&log_path)?.unwrap_or_default();
        let (start, mut cluster) = match read(&dir.join(SNAPSHOT))? {
            Some(bytes) => read_snapshot(&bytes).map_err(|damage| damage.of(dir.join(SNAPSHOT)))?,
            None if log_bytes.is_empty() => {
                let cluster = Cluster::new(record());
                write_snapshot(dir, 0, &cluster)?;
                (0, cluster)
            }
            None => {
                let what = format!("there is a log, but no {SNAPSHOT}");
                return Err(Damage { offset: 0, what }.of(log_path));
            }
        };
        let (index, whole) = replay(&log_bytes, start, &mut cluster).map_err(|damage| damage.of(log_path.clone()))?;
        let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(|e| at(&log_path, e))?;
        let cut = (log_bytes.len() - whole) as u64;
        let length = whole as u64;
        log.set_len(length).and_then(|()| log.sync_all()).map_err(|e| at(&log_path, e))?;
        sync_dir(dir)?;
        let store = Store { dir: dir.to_path_buf(), log, length, index, _lock: lock };
        Ok(Opened { store, cluster, replayed: index - start, cut })
    }

    /// Makes a command durable.
    ///
    /// # Errors
    /// The disk refuses. The store must not be used again: what is on disk is then unknown.
    pub fn append(&mut self, command: &Command) -> Result<(), StoreError> {
        let line = Line { index: self.index + 1, command: command.clone() };
        let mut bytes = Vec::new();
        let mut written = Ok(());
        sealed::seal(&mut bytes, |out| written = serde_json::to_writer(out, &line));
        let path = self.dir.join(LOG);
        let io = |error| StoreError::Io { path: path.clone(), error };
        written.map_err(|e| io(e.into()))?;
        self.log.write_all(&bytes).and_then(|()| self.log.sync_data()).map_err(io)?;
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
        self.length > LOG_LIMIT
    }

    /// Folds the log into a snapshot. `state` must be the state after exactly the commands that were appended.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub fn fold(&mut self, state: &Cluster) -> Result<(), StoreError> {
        write_snapshot(&self.dir, self.index, state)?;
        let io = |error| StoreError::Io { path: self.dir.join(LOG), error };
        self.log.set_len(0).and_then(|()| self.log.sync_data()).map_err(io)?;
        self.length = 0;
        Ok(())
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

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Io { path: path.to_path_buf(), error }),
    }
}

fn write_snapshot(dir: &Path, index: u64, cluster: &Cluster) -> Result<(), StoreError> {
    let snapshot = Snapshot { index, cluster: cluster.clone() };
    let mut bytes = Vec::new();
    let mut written = Ok(());
    sealed::seal(&mut bytes, |out| written = serde_json::to_writer(out, &snapshot));
    let path = dir.join(SNAPSHOT_NEW);
    let io = |error| StoreError::Io { path: path.clone(), error };
    written.map_err(|e| io(e.into()))?;
    let mut file = File::create(&path).map_err(io)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&path, dir.join(SNAPSHOT)).map_err(io)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| StoreError::Io { path: dir.to_path_buf(), error })
}

#[cfg(test)]
mod tests {
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
        write_snapshot(&dir, 2, &state(2)).unwrap();
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
}
