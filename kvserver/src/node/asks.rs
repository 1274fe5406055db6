//! Requests to the ECS on their way to the control connection.

use std::sync::{Mutex, PoisonError};

use common::control::Ask;
use tokio::sync::Notify;

/// More than this many waiting means that the ECS is away: further ones are dropped, since every one is asked again.
const LIMIT: usize = 8192;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    waiting: Mutex<Vec<Ask>>,
    wake: Notify,
}

impl Asks {
    /// Adds a request; one that waits already is not added again.
    pub(super) fn push(&self, ask: Ask) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = waiting.iter().rev().take(16).any(|other| *other == ask);
        if waiting.len() < LIMIT && !repeated {
            waiting.push(ask);
            self.wake.notify_one();
        }
    }

    /// Takes all that wait.
    pub(crate) fn take(&self) -> Vec<Ask> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when there is something to take, or was.
    pub(crate) async fn wanted(&self) {
        self.wake.notified().await;
    }
}
