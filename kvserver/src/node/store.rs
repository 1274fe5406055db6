//! The node's side of storage: the open directory, what the journal reports, when a checkpoint is written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{anyhow, bail};
use common::peer::Identity;
use common::{ClusterId, ClusterRecord, Epoch, Slot, Time, clock};
use serde_json::{Value, json};

use super::{Fatal, Node, NodeOptions, STANDALONE, metrics};
use crate::replica::Event;
use crate::storage::data_dir::DataDir;
use crate::storage::store::{Checkpointer, Done, Mended, StoreOptions, open};
use crate::storage::{
    CheckpointError, Journal, JournalEvent, RealDisk, Record, Report, Scrubbed, SlotEncoder, SlotImage, scrub,
};

/// How long a reader of peers' messages waits before it looks again whether the journal has room.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    dir: Mutex<DataDir>,
    journal: Journal,
    recovered: Recovered,
    /// What recovery found, until the slots are made from it.
    images: Mutex<Option<BTreeMap<Slot, SlotImage>>>,
    checkpointer: Mutex<Checkpointer>,
    /// The last checkpoint and when it was done.
    last: Mutex<(Done, Time)>,
    /// The disk takes no writes: it is full, or mounted read-only.
    refusing: AtomicBool,
    /// The files are damaged: a checkpoint is due whatever the time.
    wanted: AtomicBool,
}

/// What was found at the start.
#[derive(Clone, Copy, Debug)]
struct Recovered {
    report: Report,
    took: Duration,
    bytes: u64,
    highest_epoch: Epoch,
}

/// Where the journal's reports go: nowhere until the node exists.
pub(super) type Reports = Arc<Mutex<Weak<Node>>>;

impl Store {
    /// Opens the directory and recovers what is in it.
    pub(super) fn open(options: &NodeOptions, reports: &Reports) -> anyhow::Result<(Store, Identity)> {
        let alone = options.ecs.is_empty();
        let how =
            StoreOptions { salvage: options.salvage, cluster: alone.then_some(STANDALONE), ..StoreOptions::default() };
        let opened = open(&options.data_dir, &how)?;
        let me = opened.dir.identity();
        if !alone && me.cluster == Some(STANDALONE) {
            bail!(
                "the data directory {} belongs to a server that runs alone: start it without -b, or give this server \
                 another directory and load the data through a client",
                options.data_dir.display()
            );
        }
        if let Some(mended) = &opened.mended {
            tell(mended);
        }
        if opened.report.torn_bytes > 0 {
            log::warn!("cut {} bytes of an incomplete last write, which nothing relied on", opened.report.torn_bytes);
        }
        let reports = reports.clone();
        let (journal, checkpointer) = opened.start(Arc::new(move |event| {
            let node = reports.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            if let Some(node) = node {
                node.journal_says(event);
            }
        }))?;
        let views = opened.images.values().filter_map(|image| image.view.as_ref());
        let recovered = Recovered {
            report: opened.report,
            took: opened.took,
            bytes: opened.images.values().map(|image| image.map.bytes()).sum(),
            highest_epoch: views.map(|view| view.epoch).max().unwrap_or_default(),
        };
        let store = Store {
            dir: Mutex::new(opened.dir),
            journal,
            recovered,
            images: Mutex::new(Some(opened.images)),
            checkpointer: Mutex::new(checkpointer),
            last: Mutex::new((Done::default(), clock::now())),
            refusing: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        };
        Ok((store, me))
    }

    /// The cluster the directory belongs to, and its number of slots.
    pub(super) fn bound(&self) -> Option<(ClusterId, u16)> {
        lock(&self.dir).bound()
    }

    /// The highest epoch that any slot had adopted when the directory was opened.
    pub(super) fn highest_epoch(&self) -> Epoch {
        self.recovered.highest_epoch
    }

    /// Records and bytes that were found.
    pub(super) fn found(&self) -> (u64, u64) {
        (self.recovered.report.records, self.recovered.bytes)
    }

    /// Whether the start had to read journal records: then a checkpoint spares the next start from it.
    pub(crate) fn replayed(&self) -> bool {
        self.recovered.report.journal_records > 0
    }

    /// The directory belongs to this cluster from now on. Hands out the slots as they were recovered; once.
    pub(super) fn bind(&self, cluster: &ClusterRecord) -> anyhow::Result<Vec<SlotImage>> {
        lock(&self.dir).bind(cluster.cluster, cluster.slots)?;
        let mut images = lock(&self.images).take().ok_or_else(|| anyhow!("the slots have been made already"))?;
        let take = |slot| images.remove(&Slot(slot)).unwrap_or_else(SlotImage::empty);
        let slots = (0..cluster.slots).map(take).collect();
        match images.keys().next() {
            Some(slot) => bail!("the directory holds slot {slot}, but the cluster has only {} slots", cluster.slots),
            None => Ok(slots),
        }
    }

    /// Appends a record; called with the slot locked. Somebody must call [`Node::flush`] afterwards.
    pub(super) fn append(&self, record: &Record) {
        self.journal.append(record);
    }

    /// Lets what was appended be written.
    pub(super) fn begin(&self) {
        self.journal.begin();
    }

    /// Whether the disk refuses writes: every copy here falls behind until it takes them again.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Relaxed)
    }

    /// When the write or sync in progress was begun.
    pub(crate) fn pending_fsync(&self) -> Option<Time> {
        self.journal.sync_pending_since()
    }

    /// Whether new writes may be begun.
    pub(super) fn has_room(&self) -> bool {
        self.journal.has_room()
    }

    /// Waits until the journal may take more from peers: they are held back by TCP meanwhile.
    pub(crate) async fn room(&self) {
        while !self.journal.has_room() {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// Whether the next checkpoint is due.
    pub(crate) fn checkpoint_due(&self, every: Duration, now: Time) -> bool {
        let (done, at) = *lock(&self.last);
        self.wanted.load(Relaxed) || done.next_is_due(every, self.journal.bytes_since_rotation(), now.since(at))
    }

    /// Writes a checkpoint; see [`Checkpointer::run`].
    pub(crate) fn checkpoint(
        &self,
        slots: u16,
        encode: impl FnMut(Slot, &mut SlotEncoder),
    ) -> Result<Done, CheckpointError> {
        self.wanted.store(false, Relaxed);
        let done = lock(&self.checkpointer).run(&self.journal, (0..slots).map(Slot), encode)?;
        *lock(&self.last) = (done, clock::now());
        Ok(done)
    }

    /// A checkpoint is to be written soon, whether or not there is anything new.
    pub(crate) fn want_checkpoint(&self) {
        self.wanted.store(true, Relaxed);
    }

    /// Reads the files back; see [`scrub`].
    pub(crate) fn scrub(&self, rest: impl FnMut(u64)) -> std::io::Result<Option<Scrubbed>> {
        let path = lock(&self.dir).path().to_owned();
        scrub(&RealDisk::new(&path), self.journal.synced_to(), rest)
    }

    /// Flushes the journal and ends it.
    pub(super) fn close(&self) {
        self.journal.close();
    }

    pub(super) fn status_json(&self) -> Value {
        let (done, at) = *lock(&self.last);
        let Recovered { report, took, .. } = self.recovered;
        json!({
            "bytes": self.journal.bytes_since_rotation(),
            "waiting_bytes": self.journal.waiting_bytes(),
            "recovered": {
                "bytes": report.bytes, "records": report.records, "journal_records": report.journal_records,
                "torn_bytes": report.torn_bytes, "ms": millis(took),
            },
            "checkpoint": {
                "generation": done.generation, "bytes": done.bytes, "slots": done.slots, "ms": millis(done.took),
                "age_ms": millis(clock::now().since(at)),
            },
        })
    }

    pub(super) fn metrics(&self, out: &mut String) {
        let (journal, waiting) = (self.journal.bytes_since_rotation(), self.journal.waiting_bytes());
        metrics::gauge(out, "annulus_journal_bytes", "Bytes in the journal's current segment.", journal);
        metrics::gauge(out, "annulus_journal_waiting_bytes", "Bytes waiting for the disk.", waiting);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tell(mended: &Mended) {
    match mended {
        Mended::BegunAnew { corruption } => {
            log::error!("this store was damaged ({corruption}) and is begun anew; it is filled from the other servers");
        }
        Mended::Salvaged { losses, unlisted } => {
            for loss in losses {
                log::error!("salvage: lost {loss:?}");
            }
            log::error!("salvage: {} losses in all", losses.len() as u64 + unlisted);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// What the journal's thread reports; it waits until this returns.
    fn journal_says(&self, event: JournalEvent) {
        match event {
            JournalEvent::Durable { marks, records } => {
                metrics::bump(&self.metrics.fsyncs);
                self.durable(marks, records);
            }
            JournalEvent::Writable(writable) => {
                self.store.refusing.store(!writable, Relaxed);
                super::slots::flushes_itself();
                self.each_slot(|replica, out| replica.handle(clock::now(), Event::Disk { writable }, out));
                self.flush();
            }
            JournalEvent::Fatal(reason) => self.fail(Fatal { reason, code: Fatal::DISK }),
        }
    }
}
