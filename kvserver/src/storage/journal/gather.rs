//! How many records a group waits for before it is written. Pure.
//!
//! A sync costs more than anything else, and those whose records it has covered ask again as soon as they are answered: the
//! next group waits until as many records have come as the last one had. Without that, clients part into two halves that take
//! turns, and each waits for the other's sync before its own. Known from databases as a delay of group commits
//! (PostgreSQL's `commit_delay` with `commit_siblings`, MySQL's `binlog_group_commit_sync_no_delay_count`); here the count
//! comes from the load itself.
//!
//! Bounds: a group waits for no more than [`ENOUGH`] records, no longer than the last sync took, nor than [`LONGEST`], and only if it comes soon after the last one. Where
//! waiting does not help (the records take longer to make than a sync does, or the clients do not come back), it is tried ever
//! more rarely.

use std::time::Duration;

use common::Time;

/// No group waits longer.
const LONGEST: Duration = Duration::from_millis(2);
/// Who comes later than this after the last group was answered, comes for reasons of its own and waits for nobody.
const SOON: Duration = Duration::from_millis(5);
/// Fewer than so many are not worth it: the first of them would wait in vain too often.
const LEAST: usize = 8;
/// With so many a sync costs little for each: more are not waited for, since who brings them could not go on meanwhile.
pub(super) const ENOUGH: usize = 128;
/// After so many groups in a row that waited in vain,
const IN_VAIN: u32 = 4;
/// the next 2 to the power of so many do not wait; twice as many after each further one, up to this.
const MOST: u32 = 8;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Gather {
    /// Records in the last group.
    last: usize,
    /// When its clients had been answered, or are about to be (`node/commits.rs`), and how long its sync took.
    answered: Time,
    took: Duration,
    /// Groups in a row that waited in vain.
    vain: u32,
    /// Groups that are not to wait.
    skip: u32,
}

impl Gather {
    /// For how many records the next group, which has `here`, is to wait at most how long. None: it is to be written.
    pub(super) fn wait_for(&mut self, now: Time, here: usize) -> Option<(usize, Duration)> {
        let most = self.took.min(LONGEST);
        let wanted = self.last.min(ENOUGH);
        if here >= wanted || wanted < LEAST || now.since(self.answered) > SOON {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some((wanted, most))
    }

    /// A group that has waited is taken, with or without as many records as it has waited for.
    pub(super) fn waited(&mut self, enough: bool) {
        self.vain = if enough { 0 } else { (self.vain + 1).min(MOST) };
        self.skip = if self.vain < IN_VAIN { 0 } else { 1 << self.vain };
    }

    /// A group of so many records is synced, which took so long, and who waited for it is answered.
    pub(super) fn answered(&mut self, records: usize, now: Time, took: Duration) {
        (self.last, self.answered, self.took) = (records, now, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(500);

    fn after(records: usize) -> Gather {
        let mut gather = Gather::default();
        gather.answered(records, Time(1000), TOOK);
        gather
    }

    #[test]
    fn a_group_waits_for_as_many_as_the_last_one_had() {
        assert_eq!(Gather::default().wait_for(Time(1000), 1), None, "the first one waits for nobody");
        let mut gather = after(30);
        assert_eq!(gather.wait_for(Time(1100), 1), Some((30, TOOK)));
        assert_eq!(gather.wait_for(Time(1100), 30), None, "they are here");
        gather.answered(50, Time(2000), LONGEST * 9);
        assert_eq!(gather.wait_for(Time(2100), 49), Some((50, LONGEST)));
        gather.answered(500, Time(2000), TOOK);
        assert_eq!(gather.wait_for(Time(2100), 1), Some((ENOUGH, TOOK)));
        assert_eq!(gather.wait_for(Time(2100), ENOUGH), None, "with so many a sync costs little for each");
        assert_eq!(after(LEAST - 1).wait_for(Time(1100), 1), None, "a few clients are not kept waiting for each other");
        assert_eq!(after(30).wait_for(Time(7000), 1), None, "whoever comes later was not waiting for that group");
    }

    #[test]
    fn who_waits_in_vain_soon_stops_waiting_and_tries_again_later() {
        let mut gather = after(100);
        let mut waits = 0;
        for _ in 0..1000 {
            if gather.wait_for(Time(1100), 10).is_some() {
                waits += 1;
                gather.waited(false);
            }
        }
        assert!((5..20).contains(&waits), "{waits}");
        // Once it helps again, every group waits.
        while gather.wait_for(Time(1100), 10).is_none() {}
        gather.waited(true);
        assert!(gather.wait_for(Time(1100), 10).is_some());
        gather.waited(false);
        assert!(gather.wait_for(Time(1100), 10).is_some(), "once in vain is no reason to stop");
    }

    #[test]
    fn groups_that_are_large_and_small_in_turn_stop_waiting() {
        let mut gather = after(30);
        let mut waits = 0;
        for _ in 0..500 {
            if gather.wait_for(Time(1100), 10).is_some() {
                waits += 1;
                gather.waited(false);
            }
            gather.answered(10, Time(1000), TOOK);
            assert_eq!(gather.wait_for(Time(1100), 30), None, "nobody waits for what is there");
            gather.answered(30, Time(1000), TOOK);
        }
        assert!(waits < 20, "{waits}");
    }
}
