//! One server's disk: journal bytes of which only a part is sure to survive a power cut.
//!
//! A killed process leaves what it has written; a power cut leaves what was fsynced and, of the rest, any prefix, torn at
//! any byte. The bytes are the real ones: written by the real codec, read back by the real recovery.

use common::sealed;
use kvserver::storage::{Record, SlotImage};

/// A file that is only ever appended to, and cut back by recovery.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    bytes: Vec<u8>,
    synced: usize,
}

impl Journal {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// An fsync begun when the file had `upto` bytes has returned.
    pub(super) fn synced(&mut self, upto: usize) {
        self.synced = self.synced.max(upto.min(self.bytes.len()));
    }

    /// Recovery cut a torn tail and synced the rest.
    pub(super) fn recovered(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.synced = self.bytes.len();
    }

    /// The power fails.
    pub(super) fn power_cut(&mut self, rng: &mut fastrand::Rng) {
        let keep = rng.usize(self.synced..=self.bytes.len());
        self.bytes.truncate(keep);
    }

    /// Everything is gone.
    pub(super) fn wipe(&mut self) {
        *self = Journal::default();
    }
}

/// How the disk behaves at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Mood {
    /// An fsync takes a fraction of a millisecond to a few.
    #[default]
    Well,
    /// An fsync takes tens to hundreds of milliseconds.
    Slow,
    /// No fsync returns.
    Stuck,
    /// Nothing can be written.
    Full,
}

impl Mood {
    /// How long an fsync that begins now takes; None: until the mood changes.
    pub(super) fn fsync(self, rng: &mut fastrand::Rng) -> Option<u64> {
        match self {
            Mood::Well if rng.u8(0..20) == 0 => Some(rng.u64(2_000..20_000)),
            Mood::Well => Some(rng.u64(50..1_500)),
            Mood::Slow => Some(rng.u64(20_000..300_000)),
            Mood::Stuck | Mood::Full => None,
        }
    }
}

/// Appends a record as the journal writer does.
pub(super) fn encode(out: &mut Vec<u8>, record: &Record) {
    sealed::seal(out, |out| {
        if let Ok(json) = serde_json::to_vec(record) {
            out.extend_from_slice(&json);
        }
    });
}

/// What a restarted process finds: every slot's image, and how many bytes of the journal are whole.
///
/// # Errors
/// The journal is damaged in a way that no torn write explains.
pub(super) fn recover(bytes: &[u8], slots: u16) -> Result<(Vec<SlotImage>, usize), String> {
    let mut images: Vec<SlotImage> = (0..slots).map(|_| SlotImage::empty()).collect();
    let mut len = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let Some(payload) = sealed::open(line).filter(|_| line.ends_with(b"\n")) else { break };
        let record: Record = serde_json::from_slice(payload).map_err(|e| format!("at byte {len}: {e}"))?;
        let image = images.get_mut(usize::from(record.slot.0)).ok_or("a record of an unknown slot")?;
        image.replay(record.mark, record.change).map_err(|e| format!("at byte {len}: {e}"))?;
        len += line.len();
    }
    Ok((images, len))
}
