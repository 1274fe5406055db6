//! Every default and every bound of a setting, with its reason.

use common::text::Limits;

/// The first server of the courses' examples.
pub(super) const PORT: u16 = 5001;
/// Beside whatever the server is started from; a second server in the same place is refused by the directory's lock.
pub(super) const DIR: &str = "./data";
/// There is no TLS yet, so nothing but this machine unless told otherwise.
pub(super) const ADDRESS: &str = "127.0.0.1";
/// Peers learn the port from the ECS, so it need not be known beforehand.
pub(super) const PEER_PORT: u16 = 0;
/// Leases make reads at every copy free of round trips.
pub(super) const READS: &str = "lease";

/// The courses' limits.
pub(super) const TEXT_MAX_KEY: usize = Limits::TEXT_KEY;
/// The courses' limits.
pub(super) const TEXT_MAX_VALUE: usize = Limits::TEXT_VALUE;
/// See [`Limits::KEY`].
pub(super) const MAX_KEY: usize = Limits::KEY;
/// See [`Limits::VALUE`].
pub(super) const MAX_VALUE: usize = Limits::VALUE;
/// Keys live in memory twice (map and log tail) and in every message: longer ones belong into the value.
pub(super) const HIGHEST_KEY: usize = 64 * 1024;
/// Some of them must fit into one peer frame of 64 MiB, in JSON's longest spelling.
pub(super) const HIGHEST_VALUE: usize = 16 * 1024 * 1024;

/// Ten thousand idle clients and some room; an idle connection costs little more than its socket.
pub(super) const MAX_CONNECTIONS: usize = 16 * 1024;
/// Enough that one pipelining client fills a group commit.
pub(super) const MAX_PENDING: usize = 1024;
/// A few of the largest values; times the connections that are busy at once it must stay below the machine's memory.
pub(super) const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;
/// Some hundred clients in the middle of the largest requests; on top of the data, which is all in memory.
pub(super) const MAX_CLIENT_MEMORY: usize = 1 << 30;
/// As [`HIGHEST_COUNT`].
pub(super) const HIGHEST_CLIENT_MEMORY: usize = 1 << 40;
/// One processor is left to the threads beside them, to the disk and to the network. On two processors a second thread costs more
/// than it does: each wakes the other for half of its work (`ANNULUS_THREADS=2 just bench --only get` shows it).
#[must_use]
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().saturating_sub(1).max(1))
}

/// As [`HIGHEST_COUNT`].
pub(super) const HIGHEST_THREADS: usize = 1024;
/// More than any machine serves: to catch slips of the finger.
pub(super) const HIGHEST_COUNT: usize = 1_000_000;
/// As [`HIGHEST_COUNT`].
pub(super) const HIGHEST_PENDING_BYTES: usize = 1 << 30;

/// What a greeting client waits for; the text is free.
pub(super) const TUM_GREETING: &str = "Connection to Annulus established";
/// The maps on disk follow the data by a minute at most, and an idle minute writes nothing.
pub(super) const CHECKPOINT_SECONDS: u64 = crate::storage::store::DUE_AFTER.as_secs();
/// Every copy is hashed once in five minutes: a million records cost a few hundredths of a second of each server then.
pub(super) const AUDIT_SECONDS: u64 = 300;
/// A million small records from three servers in some forty seconds; more is felt by clients: see `just moving`.
pub(super) const MOVE_RATE: u64 = 1_000_000;
/// Minutes, so that a large share can be handed over; whoever waits sees the progress.
pub(super) const LEAVE_SECONDS: u64 = 600;
/// The journal is trimmed by its size all the same.
pub(super) const HIGHEST_CHECKPOINT_SECONDS: u64 = 86_400;
