//! The node's side of storage: opening, the journal's reports, checkpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::bail;
use common::peer::Identity;
use common::{BootId, ClusterId, ClusterRecord, Epoch, NodeId, Slot, StoreUuid, Time, clock};
use serde_json::{Value, json};

use super::{Fatal, Node, NodeOptions, metrics};
use crate::replica::Event;
use crate::storage::checkpoint::Label;
use crate::storage::manifest::segment_in;
use crate::storage::{
    CheckpointError, CheckpointWriter, Disk as _, FileOp, Journal, JournalEvent, JournalStart, RealDisk, Record, Report,
    SlotImage, recover,
};

/// How long a reader of peers' messages waits before it looks again whether the journal has room.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    journal: Journal,
    report: Report,
    /// What recovery found, until the slots are made from it.
    images: Mutex<Option<BTreeMap<Slot, SlotImage>>>,
    highest_epoch: Epoch,
    bound: Option<(ClusterId, u16)>,
    checkpoint: Mutex<Checkpointed>,
}

#[derive(Debug)]
struct Checkpointed {
    generation: u64,
    at: Option<Time>,
    store: StoreUuid,
}

/// Where the journal's reports go: nowhere until the node exists.
pub(super) type Reports = Arc<Mutex<Weak<Node>>>;

impl Store {
    /// Opens the directory and recovers what is in it.
    pub(super) fn open(options: &NodeOptions, reports: &Reports) -> anyhow::Result<(Store, Identity)> {
        std::fs::create_dir_all(&options.data_dir)?;
        let me = Identity {
            cluster: None,
            node: NodeId(fastrand::u64(..)),
            store: StoreUuid(fastrand::u128(..)),
            boot: BootId(1),
        };
        let mut disk = RealDisk::new(&options.data_dir);
        let recovered = match recover(&disk) {
            Ok(recovered) => recovered,
            Err(failure) => bail!("{failure:?}"),
        };
        for chore in recovered.chores {
            disk.perform(chore)?;
        }
        let start = JournalStart { segment: recovered.next_segment, after: recovered.after };
        let reports = reports.clone();
        let listener = Arc::new(move |event| {
            let node = reports.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            if let Some(node) = node {
                node.journal_says(event);
            }
        });
        let journal = Journal::start(Box::new(disk), start, listener)?;
        let highest_epoch =
            recovered.images.values().filter_map(|image| image.view.as_ref()).map(|view| view.epoch).max();
        let store = Store {
            path: options.data_dir.clone(),
            journal,
            report: recovered.report,
            images: Mutex::new(Some(recovered.images)),
            highest_epoch: highest_epoch.unwrap_or_default(),
            bound: None,
            checkpoint: Mutex::new(Checkpointed { generation: recovered.generation, at: None, store: me.store }),
        };
        Ok((store, me))
    }

    /// The cluster the directory belongs to, and its number of slots.
    pub(super) fn bound(&self) -> Option<(ClusterId, u16)> {
        self.bound
    }

    /// The highest epoch that any slot had adopted.
    pub(super) fn highest_epoch(&self) -> Epoch {
        self.highest_epoch
    }

    /// The directory belongs to this cluster from now on. Hands out the slots as they were recovered; once.
    pub(super) fn bind(&self, cluster: &ClusterRecord) -> anyhow::Result<Vec<SlotImage>> {
        let Some(mut images) = self.images.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            bail!("the slots have been made already");
        };
        let slots =
            (0..cluster.slots).map(|slot| images.remove(&Slot(slot)).unwrap_or_else(SlotImage::empty)).collect();
        if let Some(slot) = images.keys().next() {
            bail!("the directory holds slot {slot}, but the cluster has only {} slots", cluster.slots);
        }
        Ok(slots)
    }

    /// Appends a record; called with the slot locked.
    pub(super) fn append(&self, record: &Record) {
        self.journal.append(record);
    }

    /// When the write or sync in progress was begun.
    pub(crate) fn pending_fsync(&self) -> Option<Time> {
        self.journal.sync_pending_since()
    }

    /// Waits until the journal may take more from peers: they are held back by TCP meanwhile.
    pub(crate) async fn room(&self) {
        while !self.journal.has_room() {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// Bytes that a restart would have to replay.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal.bytes_since_rotation()
    }

    /// Writes a checkpoint; `walk` adds the slots.
    pub(crate) fn checkpoint<R>(
        &self,
        walk: impl FnOnce(&mut CheckpointWriter<'_>) -> Result<R, CheckpointError>,
    ) -> Result<R, CheckpointError> {
        let mut last = self.lock_checkpoint();
        let first_segment = self.journal.rotate().map_err(CheckpointError::Failed)?;
        let label = Label { generation: last.generation + 1, first_segment, store: last.store };
        let mut disk = RealDisk::new(&self.path);
        let mut writer = CheckpointWriter::begin(&mut disk, label)?;
        let result = walk(&mut writer)?;
        writer.commit()?;
        trim(&mut disk, first_segment);
        (last.generation, last.at) = (label.generation, Some(clock::now()));
        Ok(result)
    }

    /// Flushes the journal and ends it.
    pub(super) fn close(&self) {
        self.journal.close();
    }

    fn lock_checkpoint(&self) -> MutexGuard<'_, Checkpointed> {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status_json(&self) -> Value {
        let last = self.checkpoint.try_lock().ok().map(|last| (last.generation, last.at));
        json!({
            "bytes": self.journal.bytes_since_rotation(),
            "waiting_bytes": self.journal.waiting_bytes(),
            "recovered": { "bytes": self.report.bytes, "records": self.report.records,
                "journal_records": self.report.journal_records, "torn_bytes": self.report.torn_bytes },
            "checkpoint": {
                "running": last.is_none(),
                "generation": last.map(|(generation, _)| generation),
                "age_ms": last.and_then(|(_, at)| at).map(|at| u64::try_from(clock::now().since(at).as_millis()).ok()),
            },
        })
    }

    pub(super) fn metrics(&self, out: &mut String) {
        metrics::gauge(out, "annulus_journal_bytes", "Bytes in the journal's current segment.", self.journal_bytes());
        metrics::gauge(
            out,
            "annulus_journal_waiting_bytes",
            "Bytes waiting for the disk.",
            self.journal.waiting_bytes(),
        );
    }
}

/// Removes the segments that the checkpoint contains. What remains now is removed by the next one.
fn trim(disk: &mut RealDisk, first: u64) {
    let names = disk.names().unwrap_or_default();
    let old = names.into_iter().filter(|name| segment_in(name).is_some_and(|segment| segment < first));
    for op in old.map(FileOp::Remove).chain([FileOp::SyncDir]) {
        if let Err(error) = disk.perform(op) {
            log::warn!("an old journal segment stays for now: {error}");
        }
    }
}

impl Node {
    /// What the journal's thread reports; it waits until this returns.
    fn journal_says(&self, event: JournalEvent) {
        match event {
            JournalEvent::Durable { marks, .. } => {
                metrics::bump(&self.metrics.fsyncs);
                self.durable(marks);
            }
            JournalEvent::Writable(writable) => {
                self.each_slot(|replica, out| replica.handle(clock::now(), Event::Disk { writable }, out));
                self.flush();
            }
            JournalEvent::Fatal(reason) => self.fail(Fatal { reason, code: Fatal::DISK }),
        }
    }
}
