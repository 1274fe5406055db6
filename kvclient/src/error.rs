//! What can go wrong for a caller, grouped by what the caller must know: was it executed or not?

use std::fmt;
use std::time::Duration;

use crate::address::Address;

/// Why an operation did not get its answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// No server could be reached at all. Nothing was executed.
    #[error("cannot connect: {0}. Check the address (-s HOST:PORT) and that the server runs")]
    Unreachable(Trouble),
    /// Nobody served it within the time limit. It was certainly not executed.
    #[error("not executed: {0}. Try again, or raise --timeout; `status` shows what the cluster waits for")]
    Refused(Trouble),
    /// It was sent, and whether it was executed could not be learnt within the time limit.
    #[error(
        "unknown outcome, it may have been executed: {0}. Read the key to find out; writing it again is safe if no one else writes it"
    )]
    Unknown(Trouble),
    /// The server says that the request itself is wrong. It was not executed and never will be.
    #[error("{server} says: {reason}")]
    Rejected {
        /// Which server.
        server: Address,
        /// What it said.
        reason: String,
    },
    /// The client was shut down.
    #[error("the client was closed")]
    Closed,
}

impl Error {
    /// The exit code of a command that fails with this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Unreachable(_) => crate::exit::UNREACHABLE,
            Error::Refused(_) | Error::Unknown(_) | Error::Closed => crate::exit::UNAVAILABLE,
            Error::Rejected { .. } => crate::exit::SERVER,
        }
    }

    /// One word for scripts.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Unreachable(_) => "unreachable",
            Error::Refused(_) => "refused",
            Error::Unknown(_) => "unknown",
            Error::Rejected { .. } => "rejected",
            Error::Closed => "closed",
        }
    }
}

/// How many of the last tries are kept for the message: enough to name every server of a usual ring.
const KEPT: usize = 6;

/// What was tried, and for how long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trouble {
    /// From the start to the end of the operation.
    pub waited: Duration,
    /// How many requests were sent.
    pub attempts: u32,
    /// The last answer of each server, the newest last.
    pub tried: Vec<(Address, String)>,
}

impl Trouble {
    /// Notes what a server did; an older note of the same server goes.
    pub fn note(&mut self, address: &Address, why: impl Into<String>) {
        self.tried.retain(|(other, _)| other != address);
        if self.tried.len() == KEPT {
            self.tried.remove(0);
        }
        self.tried.push((address.clone(), why.into()));
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:.1} s", self.waited.as_secs_f64())?;
        if self.attempts > 1 {
            write!(f, " and {} attempts", self.attempts)?;
        }
        if self.tried.is_empty() {
            return f.write_str(", no server answered");
        }
        for (nth, (address, why)) in self.tried.iter().enumerate() {
            write!(f, "{} {address}: {why}", if nth == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}
