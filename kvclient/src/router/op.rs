//! One operation on its way.

use common::{ClientId, Time};

use super::{Command, Failure};
use crate::address::Address;
use crate::error::{Error, Trouble};

/// An operation that is not over.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) command: Command,
    pub(super) started: Time,
    /// When the caller's patience ends.
    pub(super) deadline: Time,
    /// Session and number of a write.
    pub(super) id: Option<(ClientId, u64)>,
    /// A sending may have been executed. Never becomes false again.
    pub(super) maybe_executed: bool,
    /// Sendings so far; names the newest.
    pub(super) attempt: u32,
    /// Pauses so far: the exponent of the backoff.
    pub(super) pauses: u32,
    /// Timeouts so far: each doubles the patience with the next server.
    pub(super) timeouts: u32,
    /// Servers that failed in this round of reads.
    pub(super) skip: Vec<Address>,
    pub(super) trouble: Trouble,
    pub(super) state: State,
    /// The timer that is set for it.
    pub(super) wake: Time,
}

/// What an operation waits for.
#[derive(Debug)]
pub(super) enum State {
    /// A server's answer.
    Sent { to: Address, at: Time },
    /// A newer ring; `last` is who failed or refused under the present one.
    Ring { last: Option<Address> },
    /// The end of a pause.
    Pause,
}

impl Op {
    pub(super) fn new(command: Command, started: Time, deadline: Time, id: Option<(ClientId, u64)>) -> Op {
        Op {
            command,
            started,
            deadline,
            id,
            maybe_executed: false,
            attempt: 0,
            pauses: 0,
            timeouts: 0,
            skip: Vec::new(),
            trouble: Trouble::default(),
            state: State::Ring { last: None },
            wake: deadline,
        }
    }

    /// Who was asked last, and when, if the sending `attempt` is the one that is waited for.
    pub(super) fn sent(&self, attempt: u32) -> Option<(Address, Time)> {
        match &self.state {
            State::Sent { to, at, .. } if attempt == self.attempt => Some((to.clone(), *at)),
            _ => None,
        }
    }

    /// A write whose sending failed like this may have been executed.
    pub(super) fn doubt(&mut self, kind: Failure) {
        self.maybe_executed |= self.command.is_write() && kind.maybe_executed();
    }

    /// The end without an answer. Refused and unknown are kept apart here and nowhere else.
    pub(super) fn give_up(&self, now: Time) -> Error {
        let mut trouble = self.trouble.clone();
        trouble.waited = now.since(self.started);
        trouble.attempts = self.attempt;
        if self.maybe_executed { Error::Unknown(trouble) } else { Error::Refused(trouble) }
    }
}
