//! The failure timeline: who accused whom, what the probe said, what was decided, and when, by the wall clock.
//!
//! Everything the core says for the operator's log is kept: the newest [`KEPT`] lines in memory, and as JSON lines in the
//! directory, so that it outlives the process. The file is for people, nothing is decided by it: it is not synced, a line
//! that cannot be written is only missing, and a damaged one is skipped. At [`LIMIT`] bytes it becomes `timeline.old.jsonl`
//! and a new one is begun, so the two together are bounded.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use common::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Lines that are told.
pub(crate) const KEPT: usize = 1000;
/// The longest file: some ten thousand lines.
const LIMIT: u64 = 1 << 20;
const FILE: &str = "timeline.jsonl";
const OLD: &str = "timeline.old.jsonl";

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// How serious: `info`, `warn`, `error`.
    pub(crate) level: String,
    /// What was seen or decided. Servers are named by their ids.
    pub(crate) what: String,
}

/// See the module.
pub(crate) struct Timeline(Mutex<Inner>);

struct Inner {
    dir: PathBuf,
    file: Option<File>,
    length: u64,
    entries: VecDeque<Entry>,
}

impl Timeline {
    /// Continues what the directory has.
    pub(crate) fn open(dir: &Path) -> Timeline {
        let mut entries = VecDeque::new();
        for name in [OLD, FILE] {
            let text = std::fs::read(dir.join(name)).unwrap_or_default();
            let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
            entries.extend(lines);
        }
        entries.drain(..entries.len().saturating_sub(KEPT));
        let mut inner = Inner { dir: dir.to_path_buf(), file: None, length: 0, entries };
        inner.reopen();
        Timeline(Mutex::new(inner))
    }

    /// Adds a line, now.
    pub(crate) fn add(&self, level: log::Level, what: String) {
        let entry = Entry { at_ms: clock::wall_millis(), level: level.as_str().to_lowercase(), what };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(entry);
    }

    /// One line of JSON: the entries, oldest first, and who the servers are that they speak of.
    pub(crate) fn json(&self, cluster: &Cluster) -> Value {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let servers: BTreeMap<String, &str> =
            cluster.nodes().values().map(|info| (info.node.to_string(), info.client_addr.as_str())).collect();
        json!({ "now_ms": clock::wall_millis(), "servers": servers, "entries": inner.entries })
    }
}

impl Inner {
    fn add(&mut self, entry: Entry) {
        if self.length >= LIMIT {
            // If it cannot be renamed the old lines go: better than growing on.
            let (file, old) = (self.dir.join(FILE), self.dir.join(OLD));
            let _ = std::fs::rename(&file, old).or_else(|_| std::fs::remove_file(&file));
            self.reopen();
        }
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_vec(&entry)) {
            line.push(b'\n');
            // A full disk must not keep the ECS from working, and its log says so where it matters.
            if file.write_all(&line).is_ok() {
                self.length += line.len() as u64;
            }
        }
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    fn reopen(&mut self) {
        let path = self.dir.join(FILE);
        self.file = OpenOptions::new().create(true).append(true).open(&path).ok();
        self.length = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |data| data.len());
        if self.file.is_none() {
            log::warn!("{}: cannot be written: the timeline will not outlive this process", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(timeline: &Timeline) -> Vec<String> {
        timeline.0.lock().unwrap().entries.iter().map(|entry| entry.what.clone()).collect()
    }

    #[test]
    fn it_outlives_the_process_and_skips_what_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::open(dir.path());
        timeline.add(log::Level::Info, "suspected".into());
        timeline.add(log::Level::Warn, "down\nfor good".into());
        drop(timeline);
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
        file.write_all(b"{\"at_ms\":1,\"le").unwrap();
        file.write_all(b"\n").unwrap();
        let timeline = Timeline::open(dir.path());
        timeline.add(log::Level::Info, "back".into());
        assert_eq!(texts(&timeline), ["suspected", "down\nfor good", "back"]);
        assert_eq!(texts(&Timeline::open(dir.path())).len(), 3);
    }

    #[test]
    fn files_and_memory_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline::open(dir.path());
        for nth in 0..3000 {
            timeline.add(log::Level::Info, format!("{nth} {}", "x".repeat(1000)));
        }
        assert_eq!(texts(&timeline).len(), KEPT);
        let length = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(length(FILE) <= LIMIT + 2000 && length(OLD) <= LIMIT + 2000);
        let again = texts(&Timeline::open(dir.path()));
        assert!(again.last().unwrap().starts_with("2999 ") && again.len() == KEPT, "{}", again.len());
    }
}
