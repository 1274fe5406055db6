//! Writes: what is kept of them until they are answered, and how they are begun.

use bytes::Bytes;
use common::blob::Blob;
use common::forward::{Job, What};
use common::position::Position;
use smallvec::{SmallVec, smallvec};
use xxhash_rust::xxh3::xxh3_64;

use super::owed::{Owed, Shape, Task, Tasks};
use super::{Call, plan};
use crate::client_port::backend::Serves;
use crate::client_port::pending::What as Kind;
use crate::client_port::session::Session;
use crate::client_port::together::One;
use crate::relay::Once;
use crate::replica::{Token, Write};
use crate::slot_of;

impl Session {
    /// Writes a key.
    pub(super) fn store_one<B: Serves>(&mut self, key: Bytes, what: What, shape: Shape, call: &Call<'_, B>) -> bool {
        let hash = xxh3_64(&key);
        if self.pending.conflicts(Kind::Write, hash) {
            return false;
        }
        self.store_all(smallvec![Task::of(hash, key, what, call)], &[], shape, call);
        true
    }

    /// Writes keys, each on its own. They must be different ones.
    pub(super) fn store<B: Serves>(&mut self, all: Vec<(Bytes, What)>, shape: Shape, call: &Call<'_, B>) -> bool {
        if all.iter().any(|(key, _)| self.pending.conflicts(Kind::Write, xxh3_64(key))) {
            return false;
        }
        let tasks: Tasks = all.into_iter().map(|(key, what)| Task::of(xxh3_64(&key), key, what, call)).collect();
        self.store_all(tasks, &[], shape, call);
        true
    }

    /// Begins a run of nothing but small SETs: one request with as many replies. False: it is no such run, or there is no room for
    /// all of it; nothing is begun.
    pub(super) fn store_run<B: Serves>(
        &mut self,
        run: &[One<'_, Option<&[u8]>>],
        positions: &[Position],
        call: &Call<'_, B>,
    ) -> bool {
        let pairs: SmallVec<[_; Position::AT_ONCE]> = run.iter().map_while(|one| Some((one.key, one.what?))).collect();
        let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let together = pairs.len() > 1 && pairs.len() == run.len() && bytes <= plan::LARGE;
        // A write may have to wait for a read: one by one, then.
        if !together || self.pending.is_reading() || !self.has_room(run.len(), Owed::cost_of(run.len(), bytes)) {
            return false;
        }
        let all = plan::puts(&pairs, bytes);
        let tasks = all.map(|(key, what)| Task::of(xxh3_64(&key), key, what, call)).collect();
        self.store_all(tasks, positions, Shape::Each, call);
        true
    }

    /// `positions`: the keys', if they are known.
    fn store_all<B: Serves>(&mut self, tasks: Tasks, positions: &[Position], shape: Shape, call: &Call<'_, B>) {
        self.counts.writes += tasks.len() as u64;
        let base = self.pending.next_index();
        // A command may have thousands, all of different keys: asked before they are owed, so that nothing goes through all of
        // them for each.
        let asked = |task: &Task| (task.hash, self.pending.is_relayed(task.hash), task.write());
        let writes: SmallVec<[_; Position::AT_ONCE]> = tasks.iter().map(asked).collect();
        let owed = Owed::new(self.redis.proto, shape, tasks);
        let run = owed.is_run();
        self.pending.owe(owed);
        let mut positions = positions.iter();
        for (index, (hash, behind, write)) in (base..).zip(writes) {
            if let (Some(write), Some(position)) = (&write, positions.next()) {
                slot_of::remember(&write.key, *position);
            }
            self.begin(index, write, behind || (run && self.pending.is_relayed(hash)), call);
        }
    }

    /// Begins a write that is owed: here, unless it belongs elsewhere or `behind` another of its key that does.
    fn begin<B: Serves>(&mut self, index: u64, write: Option<Write>, behind: bool, call: &Call<'_, B>) {
        match write {
            Some(write) if !behind && call.backend.coordinates(&write.key) => {
                call.backend.write(call.now, write, Token { conn: call.conn, index });
            }
            _ => self.relay(index, call),
        }
    }
}

impl Task {
    /// A write's.
    fn of<B: Serves>(hash: u64, key: Bytes, what: What, call: &Call<'_, B>) -> Task {
        let once = call.backend.once(call.now);
        Task { once, ..Task::new(hash, Job::Write { key: Blob(key), what }) }
    }

    /// As it is done here.
    fn write(&self) -> Option<Write> {
        let Job::Write { key, what } = &self.job else { return None };
        let request = self.once.as_ref().map(Once::request);
        Some(Write { key: key.0.clone(), op: what.clone().into(), request, retry: false })
    }
}
