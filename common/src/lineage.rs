//! A log's epochs and where each begins (the "leader epoch cache" of KIP-101): enough to find where two logs part.

use serde::{Deserialize, Serialize};

use crate::entry::LogId;
use crate::ids::{Epoch, Seq};

/// The first entry of every epoch of one slot's log, oldest first.
///
/// Invariant: epochs and seqs both rise strictly.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage(Vec<LogId>);

impl Lineage {
    /// How many epochs are kept. An older divergence than that is healed by content, not by log.
    pub const KEPT: usize = 64;

    /// Takes note of an appended entry.
    pub fn note(&mut self, id: LogId) {
        if self.0.last().is_none_or(|last| last.epoch < id.epoch) {
            self.0.push(id);
            if self.0.len() > Self::KEPT {
                self.0.remove(0);
            }
        }
    }

    /// Forgets everything after `seq`.
    pub fn truncate_after(&mut self, seq: Seq) {
        self.0.retain(|first| first.seq <= seq);
    }

    /// The epoch of the entry at `seq`, if it is still known. `seq` must not lie beyond the log's end.
    #[must_use]
    pub fn epoch_at(&self, seq: Seq) -> Option<Epoch> {
        self.0.iter().rev().find(|first| first.seq <= seq).map(|first| first.epoch)
    }

    /// The last seq up to which the log with this lineage, ending at `end`, equals the `other` one.
    ///
    /// `floor` is the seq up to which the two are known to agree for another reason (this log's base: committed
    /// entries are in every log). None means that the lineages no longer reach back far enough to tell.
    #[must_use]
    pub fn agreed(&self, end: Seq, floor: Seq, other: &Lineage, other_end: Seq) -> Option<Seq> {
        let mut my_end = end;
        for first in self.0.iter().rev() {
            if my_end <= floor {
                return Some(floor);
            }
            if let Some(at) = other.0.iter().position(|o| o == first) {
                let theirs = other.0.get(at + 1).map_or(other_end, |next| Seq(next.seq.0.saturating_sub(1)));
                return Some(my_end.min(theirs).max(floor));
            }
            my_end = Seq(first.seq.0.saturating_sub(1));
        }
        (my_end <= floor).then_some(floor)
    }

    /// The invariant, for tests and debug builds.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check(&self) {
        for pair in self.0.windows(2) {
            assert!(pair[0].epoch < pair[1].epoch && pair[0].seq < pair[1].seq, "lineage rises: {self:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lineage_of(log: &[u64]) -> Lineage {
        let mut lineage = Lineage::default();
        for (i, epoch) in log.iter().enumerate() {
            lineage.note(LogId { epoch: Epoch(*epoch), seq: Seq(i as u64 + 1) });
        }
        lineage.check();
        lineage
    }

    proptest! {
        /// Two logs that share a prefix and then go through different epochs part exactly where brute force says.
        #[test]
        fn agreement_is_what_brute_force_finds(
            shared in proptest::collection::vec(1u64..4, 0..12),
            mine in proptest::collection::vec(0u64..3, 0..8),
            theirs in proptest::collection::vec(0u64..3, 0..8),
        ) {
            let rising = |steps: &[u64], from: u64, parity: u64| {
                let mut epoch = from;
                steps.iter().map(|s| { epoch += s * 2; epoch + parity }).collect::<Vec<_>>()
            };
            let mut shared_epoch = 0;
            let prefix: Vec<u64> = shared.iter().map(|s| { shared_epoch += s / 2 * 2; shared_epoch }).collect();
            let (mut a, mut b) = (prefix.clone(), prefix.clone());
            a.extend(rising(&mine, shared_epoch + 2, 0));
            b.extend(rising(&theirs, shared_epoch + 2, 1));
            let brute = a.iter().zip(&b).take_while(|(x, y)| x == y).count() as u64;
            let (end_a, end_b) = (Seq(a.len() as u64), Seq(b.len() as u64));
            prop_assert_eq!(lineage_of(&a).agreed(end_a, Seq(0), &lineage_of(&b), end_b), Some(Seq(brute)));
        }
    }
}
