//! Commits what the journal reports, on its thread or on one that serves; see [`super::committer`].
//!
//! What is left to serving threads may be overtaken by what the journal's thread commits itself meanwhile: a slot takes a
//! mark that is lower than the one before for what it is, old news. Nothing is lost with the process, for nothing of it has
//! been acknowledged.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Slot, clock};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::committer::{Choice, Committer};
use super::{Node, slots};
use crate::replica::Event;

/// Slots, and how far their records are on disk.
type Marks = Vec<(Slot, u64)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Commits {
    choice: Mutex<Choice>,
    /// What is left to a serving thread, and of how many records.
    left: Mutex<(Marks, usize)>,
    wake: Notify,
}

impl Commits {
    fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, (Marks, usize)> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, mut marks: Marks, records: usize) {
        let mut left = self.left();
        left.0.append(&mut marks);
        left.1 += records;
        drop(left);
        self.wake.notify_one();
    }
}

impl Node {
    /// The journal's thread: so many records of these slots are on disk.
    pub(super) fn durable(&self, marks: Marks, records: usize) {
        slots::flushes_itself();
        let who = self.commits.choice().next(records);
        if who == Committer::Serving && !self.halted() {
            return self.commits.leave(marks, records);
        }
        self.commit(&marks, records, Committer::Journal);
        self.flush();
    }

    /// A task of the main runtime: commits what is left to it.
    pub(super) async fn committing(self: std::sync::Arc<Self>) {
        let commit = async {
            let mut marks = Vec::new();
            loop {
                self.commits.wake.notified().await;
                let records = {
                    let mut left = self.commits.left();
                    std::mem::swap(&mut left.0, &mut marks);
                    std::mem::take(&mut left.1)
                };
                self.commit(&marks, records, Committer::Serving);
                marks.clear();
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = commit => {}
        }
    }

    fn commit(&self, marks: &[(Slot, u64)], records: usize, who: Committer) {
        let began = processor_time();
        for (slot, mark) in marks {
            self.with_slot(*slot, |replica, out| replica.handle(clock::now(), Event::Durable { mark: *mark }, out));
        }
        self.commits.choice().took(who, records, processor_time().saturating_sub(began));
    }
}

/// What this thread has had.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
