//! The node's side of storage: opening, completions, checkpoints.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use common::peer::Identity;
use common::{BootId, ClusterRecord, NodeId, StoreUuid, Time};

use super::Node;
use crate::storage::{Record, SlotImage};

/// Memory only.
#[derive(Debug)]
pub(crate) struct Store {
    to: Mutex<Sender<Record>>,
    from: Mutex<Option<Receiver<Record>>>,
}

impl Store {
    pub(super) fn open() -> (Store, Identity) {
        let (to, from) = channel();
        let me = Identity {
            cluster: None,
            node: NodeId(fastrand::u64(..)),
            store: StoreUuid(fastrand::u128(..)),
            boot: BootId(1),
        };
        (Store { to: Mutex::new(to), from: Mutex::new(Some(from)) }, me)
    }

    pub(super) fn run(&self, node: Weak<Node>) -> Option<std::thread::JoinHandle<()>> {
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        std::thread::Builder::new()
            .spawn(move || {
                while let Ok(record) = from.recv() {
                    let Some(node) = node.upgrade() else { return };
                    node.durable([(record.slot, record.mark)]);
                }
            })
            .ok()
    }

    pub(super) fn append(&self, record: Record) {
        let _sent = self.to.lock().unwrap_or_else(PoisonError::into_inner).send(record);
    }

    pub(super) fn kick(&self) {}

    pub(super) fn bind(&self, cluster: &ClusterRecord) -> anyhow::Result<Vec<SlotImage>> {
        Ok((0..cluster.slots).map(|_| SlotImage::empty()).collect())
    }

    pub(super) fn bound(&self) -> Option<(common::ClusterId, u16)> {
        None
    }

    pub(super) fn highest_epoch(&self) -> common::Epoch {
        common::Epoch(0)
    }

    pub(crate) fn pending_fsync(&self) -> Option<Time> {
        None
    }

    pub(super) fn status_json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    pub(super) fn metrics(&self, _out: &mut String) {}

    pub(crate) async fn room(&self) {}
}
