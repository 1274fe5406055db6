//! What a simulated server writes: its journal, synced in groups, and checkpoints.

use std::collections::BTreeMap;

use common::Slot;
use kvserver::replica::Event as Happening;
use kvserver::storage::Record;
use kvserver::storage::codec::put_record;

use super::disk::Mood;
use super::queue::Event;
use super::world::World;

/// What one in so many syncs has covered is told later,
const LEFT: u8 = 8;
/// and before so many microseconds have passed.
const LATEST: u64 = 3_000;

/// What a process is writing.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Journal records on their way to the disk, and the highest mark of each slot among them.
    pub(super) queue: Vec<u8>,
    queue_marks: BTreeMap<Slot, u64>,
    /// The same for the fsync under way.
    flight_marks: BTreeMap<Slot, u64>,
    pub(super) sync: Option<Sync>,
    syncs: u64,
    /// A checkpoint is under way: the journal has been rotated for it.
    checkpointing: bool,
}

/// An fsync under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sync {
    pub(super) number: u64,
    pub(super) since: u64,
}

impl World {
    pub(super) fn append(&mut self, s: usize, record: Record) {
        self.checks.journaled(s, &record);
        self.stats.journaled(&record);
        self.trace.slot(self.now, record.slot, || format!("s{s} slot {} journals {:?}", record.slot, record.change));
        let Some(process) = self.servers[s].process.as_mut() else { return };
        put_record(&mut process.writes.queue, &record);
        process.writes.queue_marks.insert(record.slot, record.mark);
        self.start_sync(s);
    }

    /// Writes what waits and begins an fsync, unless one is under way or the disk is full.
    pub(super) fn start_sync(&mut self, s: usize) {
        let now = self.now;
        let server = &mut self.servers[s];
        let Some(process) = server.process.as_mut() else { return };
        if process.writes.sync.is_some() || process.writes.queue.is_empty() || server.mood == Mood::Full {
            return;
        }
        server.files.write_group(&process.writes.queue, None);
        process.writes.queue.clear();
        process.writes.flight_marks = std::mem::take(&mut process.writes.queue_marks);
        process.writes.syncs += 1;
        let number = process.writes.syncs;
        process.writes.sync = Some(Sync { number, since: now });
        if let Some(takes) = server.mood.fsync(&mut self.rng) {
            self.queue.at(now + takes, Event::Synced { server: s, inc: server.inc, number });
        }
    }

    pub(super) fn synced(&mut self, s: usize, number: u64) {
        let server = &mut self.servers[s];
        let Some(process) = server.process.as_mut() else { return };
        if process.writes.sync.is_none_or(|sync| sync.number != number) {
            return;
        }
        process.writes.sync = None;
        server.files.sync();
        let inc = server.inc;
        let left = self.extra.u8(0..LEFT) == 0;
        for (slot, mark) in std::mem::take(&mut process.writes.flight_marks) {
            if left {
                let late = self.now + self.extra.u64(1..LATEST);
                self.queue.at(late, Event::Covered { server: s, inc, slot, mark });
            } else {
                self.handle(s, slot, Happening::Durable { mark });
            }
        }
        self.start_sync(s);
    }

    /// A checkpoint is due: first the journal goes on in a new segment, then all slots are written.
    pub(super) fn checkpoint(&mut self, s: usize) {
        let (now, inc) = (self.now, self.servers[s].inc);
        let server = &mut self.servers[s];
        let Some(process) = server.process.as_mut() else { return };
        let safe = self.healed || self.now < self.calm_until;
        if !process.writes.checkpointing {
            let idle = process.writes.sync.is_none() && process.writes.queue.is_empty() && server.mood != Mood::Full;
            if idle {
                process.writes.checkpointing = true;
                let stop = (!self.options.plain && !safe && self.extra.u8(0..40) == 0).then(|| self.extra.u64(0..6));
                if !server.files.rotate(stop) {
                    return self.dies_writing(s, "deaths in a rotation");
                }
            }
            let soon = if idle { self.rng.u64(100..30_000) } else { self.rng.u64(300..3_000) };
            return self.queue.at(now + soon, Event::Checkpoint { server: s, inc });
        }
        process.writes.checkpointing = false;
        let stop = (!safe && self.rng.u8(0..16) == 0).then(|| self.rng.u64(0..30));
        let images = process.replicas.iter().map(|replica| (replica.slot(), replica.image()));
        let done = server.files.checkpoint(images, (server.node, server.store), stop);
        self.trace.line(now, || format!("s{s} writes a checkpoint{}", if done { "" } else { " and dies of it" }));
        if done {
            if self.rng.u8(0..6) == 0 {
                self.servers[s].kept = Some(self.servers[s].files.copied());
            }
            self.stats.bump("checkpoints");
            let next = now + self.rng.u64(self.plan.checkpoints.clone());
            self.queue.at(next, Event::Checkpoint { server: s, inc });
        } else {
            self.dies_writing(s, "deaths in a checkpoint");
        }
    }

    fn dies_writing(&mut self, s: usize, how: &'static str) {
        self.stats.bump(how);
        let power = self.rng.bool();
        self.stop_server(s, power);
        self.start_later(s, 20_000..600_000);
    }
}
