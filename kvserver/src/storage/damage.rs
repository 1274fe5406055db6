//! What can be wrong with stored files, and what is done about it: stop at the first damage, or keep what is readable.

use std::fmt;
use std::io;

use common::Slot;

/// Bytes that were written whole and are not any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Corruption {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What was found there.
    pub what: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.what)
    }
}

/// Why the files cannot be used as they are.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// They are damaged.
    #[error("corrupt data: {0}")]
    Corrupt(Corruption),
    /// They cannot be read: nothing is known of their content.
    #[error("cannot read {file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        error: io::Error,
    },
    /// They were written by a newer version.
    #[error("checkpoint.json has format {found}, this version reads up to {known}: start the newer version")]
    Newer {
        /// The checkpoint's format.
        found: u32,
        /// The newest this version knows.
        known: u32,
    },
}

/// One thing that could not be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Whose data it was, if that can still be told; if not, it may have been any slot's.
    pub slot: Option<Slot>,
    /// What and where.
    pub damage: Corruption,
}

/// How many losses are listed one by one; the rest is only counted.
const LISTED: usize = 1000;

/// What was found so far. In strict mode the first damage ends the recovery.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) keep_going: bool,
    pub(super) losses: Vec<Loss>,
    pub(super) unlisted: u64,
}

impl Findings {
    /// Reports damage: an error in strict mode, else a loss to be listed.
    pub(super) fn damage(
        &mut self,
        slot: Option<Slot>,
        file: &str,
        offset: u64,
        what: impl Into<String>,
    ) -> Result<(), Failure> {
        let damage = Corruption { file: file.to_owned(), offset, what: what.into() };
        if !self.keep_going {
            return Err(Failure::Corrupt(damage));
        }
        if self.losses.len() < LISTED {
            self.losses.push(Loss { slot, damage });
        } else {
            // A loss that is not listed counts as anyone's.
            self.unlisted += 1;
        }
        Ok(())
    }

    /// Whether this slot may have lost something.
    pub(super) fn touches(&self, slot: Slot) -> bool {
        self.unlisted > 0 || self.losses.iter().any(|loss| loss.slot.is_none_or(|lost| lost == slot))
    }
}

/// Tells unreadable bytes (damage) from files that cannot be opened (a mistake of permissions or mounts).
pub(super) fn judge_read_error(file: &str, error: io::Error) -> Result<String, Failure> {
    const EIO: i32 = 5;
    match error.kind() {
        io::ErrorKind::NotFound => Ok("the file is missing".to_owned()),
        io::ErrorKind::UnexpectedEof => Ok("the file is shorter than it must be".to_owned()),
        _ if error.raw_os_error() == Some(EIO) => Ok(format!("the disk cannot read it: {error}")),
        _ => Err(Failure::Io { file: file.to_owned(), error }),
    }
}
