//! Commits what the journal reports, on its thread or on one that serves; see [`super::committer`].
//!
//! A later group may be committed first. Marks only say how far records are on disk, so a lower one that comes late says
//! nothing new. What is left when the process ends has been acknowledged to nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Slot, clock};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::committer::{Choice, Committer};
use super::{Node, slots};
use crate::replica::Event;

/// So many records are left to a serving thread; where it does not keep up with them, the journal's thread commits them.
const MOST_LEFT: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Commits {
    choice: Mutex<Choice>,
    left: Mutex<Group>,
    wake: Notify,
}

/// How far the records of some slots are on disk, and how many of them that concerns.
#[derive(Debug, Default)]
struct Group {
    marks: Vec<(Slot, u64)>,
    records: usize,
}

impl Commits {
    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, Group> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a group to a serving thread. Otherwise: what the journal's thread is to commit, that group with all that was
    /// left before.
    fn leave(&self, mut group: Group, halted: bool) -> Option<Group> {
        let serving = self.choice().next(group.records) == Committer::Serving && !halted;
        let mut left = self.left();
        left.marks.append(&mut group.marks);
        left.records += group.records;
        if serving && left.records <= MOST_LEFT {
            drop(left);
            self.wake.notify_one();
            return None;
        }
        Some(std::mem::take(&mut *left))
    }
}

impl Node {
    /// The journal's thread: so many records of these slots are on disk.
    pub(super) fn durable(&self, marks: Vec<(Slot, u64)>, records: usize) {
        slots::flushes_itself();
        if let Some(group) = self.commits.leave(Group { marks, records }, self.halted()) {
            self.commit(&group, Committer::Journal);
            self.flush();
        }
    }

    /// A task of the main runtime: commits what is left to it.
    pub(super) async fn committing(self: Arc<Self>) {
        let commit = async {
            loop {
                self.commits.wake.notified().await;
                let group = std::mem::take(&mut *self.commits.left());
                self.commit(&group, Committer::Serving);
                // Whoever was answered has a turn before the next group.
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = commit => {}
        }
    }

    fn commit(&self, group: &Group, who: Committer) {
        let began = Choice::is_measured(group.records).then(processor_time);
        for (slot, mark) in &group.marks {
            self.with_slot(*slot, |replica, out| replica.handle(clock::now(), Event::Durable { mark: *mark }, out));
        }
        if let Some(began) = began {
            let took = processor_time().saturating_sub(began);
            self.commits.choice().took(who, group.records, took);
        }
    }
}

/// What this thread has had.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_bounded_and_taken_back_in_order() {
        let commits = Commits::default();
        let group = |mark| Group { marks: vec![(Slot(1), mark), (Slot(2), mark)], records: 1000 };
        let held = || {
            let left = commits.left();
            (left.records, left.marks.len())
        };
        // The first large groups are a trial of the serving threads: nobody takes these.
        assert!((1..=3).all(|mark| commits.leave(group(mark), false).is_none()));
        assert_eq!(held(), (3000, 6));
        let all = commits
            .leave(Group { marks: vec![(Slot(3), 9)], records: 1 }, false)
            .expect("a small one is the journal's");
        assert_eq!((all.records, all.marks.len()), (3001, 7));
        assert_eq!(all.marks.last(), Some(&(Slot(3), 9)));
        assert_eq!(held(), (0, 0));
        // Whatever is chosen: more than that is not left.
        for mark in 0..1000 {
            let _journals = commits.leave(group(mark), false);
            assert!(commits.left().records <= MOST_LEFT);
        }
        assert!(commits.leave(group(1000), true).is_some(), "nobody would commit it after the end");
    }
}
