//! How many records a group waits for before it is written. Pure.
//!
//! A sync costs more than anything else, and those whose records it has covered ask again as soon as they are answered: the
//! next group waits until as many records have come as the last one had. Without that, clients part into two halves that take
//! turns, and each waits for the other's sync before its own. Known from databases as a delay of group commits
//! (PostgreSQL's `commit_delay` with `commit_siblings`, MySQL's `binlog_group_commit_sync_no_delay_count`); here the count
//! comes from the load itself.
//!
//! Bounds: a group waits no longer than the last sync took, nor than [`LONGEST`]. Where waiting does not help (the records
//! take longer to make than a sync does, or the clients do not come back), it is tried ever more rarely.

use std::time::Duration;

/// No group waits longer.
pub(super) const LONGEST: Duration = Duration::from_millis(2);
/// Fewer than so many are not worth it: the first of them would wait in vain too often.
const LEAST: usize = 8;
/// After so many groups in a row that waited in vain,
const IN_VAIN: u32 = 4;
/// the next 2 to the power of so many do not wait; twice as many after each further one, up to this.
const MOST: u32 = 8;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Gather {
    /// Records in the last group.
    last: usize,
    /// Groups in a row that waited in vain.
    vain: u32,
    /// Groups that are not to wait.
    skip: u32,
}

impl Gather {
    /// How many records the next group waits for, if it waits.
    pub(super) fn wanted(&mut self) -> Option<usize> {
        let skip = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        Some(self.last).filter(|last| !skip && *last >= LEAST)
    }

    /// The group is taken, with so many records. `wanted`: what it has waited for, if it had to.
    pub(super) fn taken(&mut self, records: usize, wanted: Option<usize>) {
        self.last = records;
        match wanted {
            Some(wanted) if records < wanted => {
                self.vain = (self.vain + 1).min(MOST);
                self.skip = if self.vain < IN_VAIN { 0 } else { 1 << self.vain };
            }
            Some(_) => self.vain = 0,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_waits_for_as_many_as_the_last_one_had() {
        let mut gather = Gather::default();
        assert_eq!(gather.wanted(), None, "the first one waits for nobody");
        gather.taken(30, None);
        assert_eq!(gather.wanted(), Some(30));
        gather.taken(50, Some(30));
        assert_eq!(gather.wanted(), Some(50));
        gather.taken(LEAST - 1, Some(50));
        assert_eq!(gather.wanted(), None, "a few clients are not kept waiting for each other");
    }

    #[test]
    fn who_waits_in_vain_soon_stops_waiting_and_tries_again_later() {
        let mut gather = Gather { last: 100, ..Gather::default() };
        let mut waited = 0;
        for _ in 0..1000 {
            let wanted = gather.wanted();
            waited += u32::from(wanted.is_some());
            gather.taken(99, wanted.map(|_| 100));
        }
        assert!((5..20).contains(&waited), "{waited}");
        // Once it helps again, every group waits.
        while gather.wanted().is_none() {
            gather.taken(100, None);
        }
        gather.taken(100, Some(100));
        assert_eq!(gather.wanted(), Some(100));
        gather.taken(99, Some(100));
        assert_eq!(gather.wanted(), Some(99), "once in vain is no reason to stop");
    }
}
