//! Real processes, and what the table of faults in `docs/replication.md` says is done to them.
//!
//! Each scenario starts a cluster of its own with clients that record what they see, does one thing to it, lets it heal,
//! and judges ([`play`]). [`table`] says which scenarios stand for which line of the table. What a scenario needs and this
//! machine lacks (root, a tool) makes it *skipped*, which is counted and told, never passed.
//!
//! These are shells: they read the clock, wait and have threads.
#![allow(clippy::disallowed_methods)]

pub mod arena;
pub mod load;
pub mod mounts;
pub mod play;
pub mod run;
pub mod spaces;
pub mod strace;
pub mod table;
pub mod wires;

mod changes;
mod clocks;
mod cuts;
mod damage;
mod directories;
mod disks;
mod ecs;
mod kills;
mod moves;
mod packets;
mod points;
mod power;
mod promises;
mod stops;

/// The last part of the ecs's address.
const ECS_HOST: usize = 250;
/// A server's proxy is at this much more than the server,
const PROXY: usize = 100;
/// and its own proxy to the ecs at this much more.
const ECS_PROXY: usize = 200;
