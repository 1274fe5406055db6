//! Clusters of real processes, for end-to-end tests and benchmarks.
//!
//! Every server is a process of its own with its own directory and ports that the system chose; all of it is gone when
//! the [`Cluster`] is dropped. Nothing here waits for a fixed time: [`Cluster::wait`] waits for a state, with a deadline,
//! and shows the last state and the processes' logs when it passes.
//!
//! These are shells: they read the clock, wait and have threads.
#![allow(clippy::disallowed_methods)]

mod cluster;
pub mod crowd;
mod ledger;
pub mod memory;
mod records;
mod resp;
mod survival;
mod text;
mod writers;

pub use cluster::{Cluster, Options};
pub use ledger::Ledger;
pub use records::{Record, records};
pub use resp::Resp;
pub use survival::survive;
pub use text::{Arc, Keyrange, Text, position};
pub use writers::{Outcome, Writers, load};
