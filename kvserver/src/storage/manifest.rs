//! `checkpoint.json`: which files make up the checkpoint, and what each slot's pieces of them are.
//!
//! A sequence of sealed lines: the head, then one line for each slot. Its renaming is what commits a checkpoint.

use common::{StoreUuid, sealed};
use serde::{Deserialize, Serialize};

use super::json;
use super::section::{Role, Summary};

/// The format this version writes, and the newest it reads.
pub const FORMAT: u32 = 2;
/// The manifest's name.
pub const MANIFEST: &str = "checkpoint.json";
/// What every file of slot pieces ends with.
pub(super) const FILE_END: &[u8] = b"\n]}\n";

/// The manifest's first line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The format.
    pub format: u32,
    /// Counts checkpoints.
    pub generation: u64,
    /// The oldest journal segment with records that the checkpoint may not contain.
    pub first_segment: u64,
    /// Whose checkpoint this is.
    pub store: StoreUuid,
    /// How many lines follow.
    pub slots: u64,
}

/// One slot's line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SlotLine {
    #[serde(flatten)]
    pub(super) summary: Summary,
    pub(super) records: Piece,
    pub(super) log: Option<Piece>,
}

/// Some bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) crc: u32,
}

/// The files that consist of slot pieces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    /// One of the three maps.
    Map(Role),
    /// Uncommitted tails and retry tables.
    Logs,
}

impl Part {
    pub(super) const ALL: [Part; 4] =
        [Part::Map(Role::Coordinator), Part::Map(Role::Replica1), Part::Map(Role::Replica2), Part::Logs];

    fn stem(self) -> &'static str {
        match self {
            Part::Map(role) => role.name(),
            Part::Logs => "logs",
        }
    }

    /// The name people know.
    pub(super) fn plain(self) -> String {
        format!("{}.json", self.stem())
    }

    /// The name of one generation, before it takes the plain one.
    pub(super) fn of_generation(self, generation: u64) -> String {
        format!("{}.{generation}.json", self.stem())
    }

    /// What the file begins with.
    pub(super) fn begin(self, generation: u64) -> Vec<u8> {
        format!("{{\"annulus\":\"{}\",\"format\":{FORMAT},\"generation\":{generation},\"slots\":[\n", self.stem())
            .into_bytes()
    }
}

/// The manifest's name before it is committed.
pub(super) fn manifest_of_generation(generation: u64) -> String {
    format!("checkpoint.{generation}.json")
}

/// The generation in the name of a file that may be left over from an interrupted checkpoint.
pub(super) fn generation_in(name: &str) -> Option<u64> {
    let (stem, number) = name.strip_suffix(".json")?.rsplit_once('.')?;
    let known = stem == "checkpoint" || Part::ALL.iter().any(|part| part.stem() == stem);
    if known { number.parse().ok() } else { None }
}

/// A journal segment's name.
#[must_use]
pub fn segment_name(segment: u64) -> String {
    format!("journal-{segment}.jsonl")
}

/// The segment that a file of this name is.
#[must_use]
pub fn segment_in(name: &str) -> Option<u64> {
    name.strip_prefix("journal-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// Appends a line of the manifest.
pub(super) fn put_line<T: Serialize>(out: &mut Vec<u8>, line: &T) {
    sealed::seal(out, |out| json::value(out, line));
}

/// Reads a line of the manifest.
pub(super) fn take_line<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    let payload = sealed::open(line).ok_or("the line's checksum is wrong")?;
    serde_json::from_slice(payload).map_err(|e| format!("the line is whole but not what belongs here: {e}"))
}
