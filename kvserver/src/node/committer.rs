//! Which thread commits what a sync has covered. Pure.
//!
//! The journal's thread is the first to know. Committing there lets the threads that serve go on with requests meanwhile. But
//! both work on the same slots then, and each line of memory that one of them has changed must come to the other's
//! processor. Between processors that share a cache that costs next to nothing; where they share none, both threads need
//! about twice the time for the same requests, and the serving thread would have done the journal's part as well by then.
//!
//! How far processors are from each other is told nowhere, least of all on a virtual machine, and changes as threads move. So it
//! is measured: what committing a record costs either thread, in processor time, which contains the waiting for memory and
//! not that for a processor. Where it costs the journal's thread much more, serving threads do it; now and then a few
//! groups go the other way.
//!
//! That concerns large groups only. Those of a few clients are committed at once, without waking anybody.

use std::time::Duration;

/// Fewer records than that are not worth waking anybody, nor measuring.
const MANY: usize = 64;
/// After so many groups on one thread,
const LOOK: u32 = 60;
/// so many go to the other.
const TRY: u32 = 4;
/// Each group weighs one in so many in the averages.
const WEIGHT: f64 = 16.0;
/// Serving threads take over where a record costs the journal's thread so many times as much,
const FAR: f64 = 1.6;
/// and give back below this.
const NEAR: f64 = 1.3;

/// Who commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Committer {
    Journal,
    Serving,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Serving threads commit, but for trials.
    given: bool,
    /// Large groups since the last trial began.
    groups: u32,
    /// Nanoseconds of processor time a record.
    journal: Option<f64>,
    serving: Option<f64>,
}

impl Choice {
    /// Whether a group of so many records is measured.
    pub(super) fn is_measured(records: usize) -> bool {
        records >= MANY
    }

    /// Who commits the next group, which has so many records.
    pub(super) fn next(&mut self, records: usize) -> Committer {
        if !Self::is_measured(records) {
            return Committer::Journal;
        }
        self.groups = (self.groups + 1) % (LOOK + TRY);
        let trial = self.groups < TRY;
        if self.given == trial { Committer::Journal } else { Committer::Serving }
    }

    /// A measured group has cost so much.
    pub(super) fn took(&mut self, who: Committer, records: usize, took: Duration) {
        let average = match who {
            Committer::Journal => &mut self.journal,
            Committer::Serving => &mut self.serving,
        };
        let cost = took.as_nanos() as f64 / records as f64;
        *average = Some(average.map_or(cost, |average| average + (cost - average) / WEIGHT));
        if let (Some(journal), Some(serving)) = (self.journal, self.serving) {
            self.given = journal > serving * if self.given { NEAR } else { FAR };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many groups serving threads commit, where a record costs either so many nanoseconds.
    fn play(choice: &mut Choice, groups: usize, records: usize, journal: u64, serving: u64) -> usize {
        let mut count = 0;
        for _ in 0..groups {
            let who = choice.next(records);
            count += usize::from(who == Committer::Serving);
            let cost = if who == Committer::Journal { journal } else { serving };
            if Choice::is_measured(records) {
                choice.took(who, records, Duration::from_nanos(cost * records as u64));
            }
        }
        count
    }

    #[test]
    fn small_groups_are_the_journals() {
        let mut choice = Choice::default();
        assert_eq!(play(&mut choice, 1000, MANY - 1, 9000, 1), 0);
        play(&mut choice, 1000, MANY, 9000, 1);
        assert_eq!(play(&mut choice, 1000, MANY - 1, 9000, 1), 0);
    }

    #[test]
    fn near_processors_share_the_work_but_for_trials() {
        let mut choice = Choice::default();
        let count = play(&mut choice, 6400, 100, 450, 400);
        assert!((300..500).contains(&count), "{count}");
    }

    #[test]
    fn far_processors_do_not_and_soon_notice_that_they_are_near_again() {
        let mut choice = Choice::default();
        play(&mut choice, 2 * (LOOK + TRY) as usize, 100, 1000, 400);
        let count = play(&mut choice, 6400, 100, 1000, 400);
        assert!((5900..6100).contains(&count), "{count}");
        // In between it stays as it is.
        let count = play(&mut choice, 640, 100, 600, 400);
        assert!((590..610).contains(&count), "{count}");
        play(&mut choice, 10 * (LOOK + TRY) as usize, 100, 450, 400);
        assert_eq!(play(&mut choice, (LOOK + TRY) as usize, 100, 600, 400), TRY as usize);
    }

    #[test]
    fn one_odd_group_changes_nothing() {
        let mut choice = Choice::default();
        play(&mut choice, 1000, 100, 450, 400);
        choice.took(Committer::Journal, 100, Duration::from_nanos(100 * 2000));
        assert!(!choice.given);
    }
}
