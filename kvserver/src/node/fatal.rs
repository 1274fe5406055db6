//! How a node ends before its time, and what it complains about while it runs.

use std::sync::{Mutex, PoisonError};

use common::Slot;
use tokio::sync::watch;

use super::metrics::bump;
use super::{Fatal, Node};

/// Alarms kept for the status; later ones are only logged and counted.
const ALARMS: usize = 64;

/// What has gone wrong so far.
#[derive(Debug)]
pub(super) struct Failure {
    fatal: watch::Sender<Option<Fatal>>,
    alarms: Mutex<Vec<String>>,
}

impl Default for Failure {
    fn default() -> Self {
        Failure { fatal: watch::Sender::new(None), alarms: Mutex::default() }
    }
}

impl Node {
    /// Waits until the node cannot go on.
    pub async fn fatal(&self) -> Fatal {
        let mut fatal = self.failure.fatal.subscribe();
        loop {
            if let Some(fatal) = fatal.borrow_and_update().clone() {
                return fatal;
            }
            // The sender lives as long as this node: waiting cannot fail.
            let _changed = fatal.changed().await;
        }
    }

    /// The node cannot go on; the first reason counts.
    pub(crate) fn fail(&self, fatal: Fatal) {
        log::error!("{}", fatal.reason);
        self.failure.fatal.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(fatal);
            }
            is_first
        });
    }

    /// Whether the node has been asked to stop, or cannot go on.
    pub(crate) fn stopping(&self) -> bool {
        self.leaving.is_cancelled() || self.stop.is_cancelled() || self.failure.fatal.borrow().is_some()
    }

    pub(super) fn bug(&self, reason: &str) {
        if self.failure.fatal.borrow().is_none() {
            self.fail(Fatal { reason: format!("bug: {reason}"), code: Fatal::BUG });
        }
    }

    pub(super) fn alarm(&self, slot: Slot, text: &str) {
        log::error!("ALARM slot {slot}: {text}");
        bump(&self.metrics.alarms);
        let mut alarms = self.failure.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        if alarms.len() < ALARMS {
            alarms.push(format!("slot {slot}: {text}"));
        }
    }

    /// Why the node cannot go on, if so.
    pub(super) fn failure_reason(&self) -> Option<String> {
        self.failure.fatal.borrow().as_ref().map(|fatal| fatal.reason.clone())
    }

    pub(crate) fn alarms(&self) -> Vec<String> {
        self.failure.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
