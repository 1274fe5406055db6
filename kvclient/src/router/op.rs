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
    /// Servers that failed since the last pause.
    pub(super) skip: Vec<Address>,
    pub(super) trouble: Trouble,
    pub(super) state: State,
    /// The timer that is set for it.
    pub(super) wake: Time,
}

/// What an operation waits for.
#[derive(Debug)]
pub(super) enum State {
    /// A server's answer, until then.
    Sent { to: Address, at: Time, until: Time },
    /// A newer ring; `asked`: some server failed or refused under the present one.
    Ring { asked: bool },
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
            state: State::Ring { asked: false },
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

    /// The answer of `server` is no longer waited for: a write may have been executed.
    pub(super) fn give_up_on(&mut self, now: Time, server: &Address, sent: Time) {
        self.maybe_executed |= self.command.is_write();
        self.trouble.note(server, format!("no answer within {:.1} s", now.since(sent).as_secs_f64()));
    }

    /// The end without an answer. Refused and unknown are kept apart here and nowhere else.
    pub(super) fn give_up(&self, now: Time) -> Error {
        let mut trouble = self.trouble.clone();
        trouble.waited = now.since(self.started);
        trouble.attempts = self.attempt;
        if self.maybe_executed { Error::Unknown(trouble) } else { Error::Refused(trouble) }
    }
}
