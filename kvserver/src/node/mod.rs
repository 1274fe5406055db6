//! The shell around the replica cores: one per process.
//!
//! Owns the slots, the journal, the links to peers and to the ECS, and performs what the cores want done. It decides
//! nothing about replication. Invariant: a slot's lock is held for microseconds, never across an await or I/O; the actions
//! a core returned are performed (pushed to buffers) before its lock is let go, so their order per slot is the core's.

mod options;

use std::sync::Arc;

use common::{Slot, Time};
pub use options::{Fatal, NodeOptions};
use tokio::runtime::Handle;

use crate::replica::{Event, Read, Token, Write};
use crate::replies::Replies;

/// A running server without its client port.
#[derive(Debug)]
pub struct Node {
    replies: Arc<Replies>,
}

impl Node {
    /// Opens the data directory, recovers, binds the peer port and starts all threads and tasks; returns before the ECS
    /// has answered. Blocks while it reads the directory. `main` is the runtime that data connections live on.
    ///
    /// # Errors
    /// The directory cannot be used (locked, foreign, damaged), or the peer port cannot be bound.
    pub fn start(_options: NodeOptions, replies: Arc<Replies>, _main: &Handle) -> anyhow::Result<Arc<Node>> {
        Ok(Arc::new(Node { replies }))
    }

    /// Orderly end: tells the ECS, flushes the journal, writes a checkpoint. Take no more client writes before.
    ///
    /// # Errors
    /// The last checkpoint could not be written; what was acknowledged is in the journal all the same.
    pub async fn stop(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Waits until the node cannot go on.
    pub async fn fatal(&self) -> Fatal {
        std::future::pending().await
    }

    /// Reads `key`, inline if possible; `f` turns the borrowed answer into the caller's and must be quick. `now` must have
    /// been read after the request arrived.
    pub fn read<R>(&self, _now: Time, _key: &[u8], _token: Token, f: impl FnOnce(Read<'_>) -> R) -> R {
        f(Read::Missing)
    }

    /// Starts a write; it is answered through [`Replies`], perhaps before this returns.
    pub fn write(&self, _now: Time, _write: Write, _token: Token) {
        let _ = &self.replies;
    }

    /// Delivers an event to a slot.
    pub fn event(&self, _now: Time, _slot: Slot, _event: Event) {}

    /// Whether this server has been told its cluster's views: before, every request is answered SERVER_STOPPED.
    #[must_use]
    pub fn serving(&self) -> bool {
        false
    }

    /// The triples of KEYRANGE.
    #[must_use]
    pub fn keyrange(&self) -> Arc<str> {
        Arc::from("")
    }

    /// The triples of KEYRANGE_READ.
    #[must_use]
    pub fn keyrange_read(&self) -> Arc<str> {
        Arc::from("")
    }

    /// Whether everything is in place: registered, and every slot in its role.
    ///
    /// # Errors
    /// What it still waits for.
    pub fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// How everything stands, for scripts and people.
    #[must_use]
    pub fn status_json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Prometheus text.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        String::new()
    }

    /// `host:port` of the peer listener.
    #[must_use]
    pub fn peer_addr(&self) -> String {
        String::new()
    }
}
