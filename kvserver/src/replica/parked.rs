//! Writes that came before the slot was active, while the lease was out, or while too much was uncommitted already.

use std::collections::VecDeque;

use common::Time;
use common::update::Update;

use super::action::{Token, Write, WriteOp};

/// Writes that may wait; more are refused.
const MAX_WRITES: usize = 1024;
/// The same in bytes of keys and values (the last one may exceed it).
const MAX_BYTES: usize = 16 << 20;

/// Oldest first; each with the time until which it waits.
#[derive(Debug, Default)]
pub(super) struct Parked {
    writes: VecDeque<(Time, Write, Token)>,
    bytes: usize,
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.writes.len() >= MAX_WRITES || self.bytes >= MAX_BYTES
    }

    pub(super) fn push(&mut self, until: Time, write: Write, token: Token) {
        self.bytes += weight(&write);
        self.writes.push_back((until, write, token));
    }

    pub(super) fn pop(&mut self) -> Option<(Write, Token)> {
        let (_, write, token) = self.writes.pop_front()?;
        self.bytes -= weight(&write);
        Some((write, token))
    }

    /// The next one that has waited for too long.
    pub(super) fn pop_late(&mut self, now: Time) -> Option<Token> {
        let late = self.writes.front().is_some_and(|(until, ..)| *until <= now);
        if late { self.pop().map(|(_, token)| token) } else { None }
    }

    /// Everybody who waits, to be refused.
    pub(super) fn into_tokens(self) -> impl Iterator<Item = Token> {
        self.writes.into_iter().map(|(_, _, token)| token)
    }
}

fn weight(write: &Write) -> usize {
    write.key.len()
        + match &write.op {
            WriteOp::Put(value) | WriteOp::Swap(value) => value.len(),
            WriteOp::Update(Update::Set { value, .. } | Update::AddFloat(value) | Update::Append(value)) => value.len(),
            WriteOp::Update(_) | WriteOp::Delete | WriteOp::Probe => 0,
        }
}
