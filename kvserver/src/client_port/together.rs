//! A run of reads at the head of what a client has sent: their keys' positions are found together.
//!
//! A run is begun only while no request of the connection is under way, and nothing else is started before all of it is: so
//! its reads are started in their order, as they would be one by one. Where one cannot be started yet, the session goes
//! back to it, and parses again what is behind it.

use common::position::Position;
use smallvec::SmallVec;

/// Reads that are parsed and not started, as many as [`Position::of_each`] takes. `T`: what else their answers depend on.
#[derive(Debug)]
pub(super) struct Together<'a, T>(SmallVec<[Get<'a, T>; Position::AT_ONCE]>);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Get<'a, T> {
    /// Where in the input its request begins.
    pub(super) from: usize,
    pub(super) key: &'a [u8],
    pub(super) what: T,
}

impl<'a, T> Together<'a, T> {
    pub(super) fn new() -> Together<'a, T> {
        Together(SmallVec::new())
    }

    pub(super) fn push(&mut self, get: Get<'a, T>) {
        self.0.push(get);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= Position::AT_ONCE
    }

    /// All of them with their positions; the run is empty then. A few are not worth finding theirs together.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Get<'a, T>, Position)> {
        let keys: SmallVec<[&[u8]; Position::AT_ONCE]> = self.0.iter().map(|get| get.key).collect();
        let positions = Position::of_each(&keys);
        std::mem::take(&mut self.0).into_iter().zip(positions)
    }
}
