//! A run of requests that a client has sent without waiting, each about one key: their keys' positions are found together.
//!
//! Nothing else is started before all of a run is, and its requests in their order: so it is as if they were started one by one.
//! Where one cannot be started yet, the session goes back to it, and parses again what is behind it. A read is
//! only taken into a run while nothing was under way before the run, and a write while no read was: only the run's own requests
//! make one of them wait then.

use common::position::Position;
use smallvec::SmallVec;

/// Requests that are parsed and not started, as many as [`Position::of_each`] takes. `T`: what else their answers depend on.
#[derive(Debug)]
pub(super) struct Together<'a, T>(SmallVec<[One<'a, T>; Position::AT_ONCE]>);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct One<'a, T> {
    /// Where in the input its request begins.
    pub(super) from: usize,
    pub(super) key: &'a [u8],
    pub(super) what: T,
}

impl<'a, T> Together<'a, T> {
    pub(super) fn new() -> Together<'a, T> {
        Together(SmallVec::new())
    }

    pub(super) fn push(&mut self, one: One<'a, T>) {
        self.0.push(one);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= Position::AT_ONCE
    }

    /// All of them and their positions; the run is empty then. A few are not worth finding theirs together.
    pub(super) fn take(&mut self) -> (SmallVec<[One<'a, T>; Position::AT_ONCE]>, [Position; Position::AT_ONCE]) {
        let all = std::mem::take(&mut self.0);
        let keys: SmallVec<[&[u8]; Position::AT_ONCE]> = all.iter().map(|one| one.key).collect();
        let positions = Position::of_each(&keys);
        debug_assert!(
            keys.iter().zip(&positions).all(|(key, position)| *position == Position::of(key)),
            "another key's"
        );
        (all, positions)
    }
}
