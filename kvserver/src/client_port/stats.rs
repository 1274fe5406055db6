//! What the client port has done, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::memory::Memory;

/// What one connection did since it last reported: plain numbers, so that counting a request costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) gets: u64,
    pub(super) writes: u64,
    pub(super) others: u64,
    pub(super) mistakes: u64,
}

/// All connections together, since the start.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) open: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) turned_away: AtomicU64,
    gets: AtomicU64,
    writes: AtomicU64,
    others: AtomicU64,
    mistakes: AtomicU64,
}

impl Stats {
    /// Adds what a connection counted.
    pub(super) fn add(&self, counts: &mut Counts) {
        for (total, count) in [
            (&self.gets, counts.gets),
            (&self.writes, counts.writes),
            (&self.others, counts.others),
            (&self.mistakes, counts.mistakes),
        ] {
            if count > 0 {
                total.fetch_add(count, Relaxed);
            }
        }
        *counts = Counts::default();
    }

    /// All requests of clients.
    pub(super) fn requests(&self) -> u64 {
        [&self.gets, &self.writes, &self.others].iter().map(|counter| counter.load(Relaxed)).sum()
    }

    /// Prometheus text.
    pub(super) fn metrics(&self, memory: &Memory) -> String {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        format!(
            "# HELP annulus_client_connections Client connections open now.\n\
             # TYPE annulus_client_connections gauge\n\
             annulus_client_connections {}\n\
             # HELP annulus_client_connections_total Client connections, served and turned away.\n\
             # TYPE annulus_client_connections_total counter\n\
             annulus_client_connections_total{{result=\"served\"}} {}\n\
             annulus_client_connections_total{{result=\"turned_away\"}} {}\n\
             # HELP annulus_client_memory_bytes Bytes of requests and unsent answers, of all client connections.\n\
             # TYPE annulus_client_memory_bytes gauge\n\
             annulus_client_memory_bytes {}\n\
             # HELP annulus_client_connections_cut_total Client connections closed because memory was short.\n\
             # TYPE annulus_client_connections_cut_total counter\n\
             annulus_client_connections_cut_total {}\n\
             # HELP annulus_client_requests_total Client requests by kind.\n\
             # TYPE annulus_client_requests_total counter\n\
             annulus_client_requests_total{{kind=\"get\"}} {}\n\
             annulus_client_requests_total{{kind=\"write\"}} {}\n\
             annulus_client_requests_total{{kind=\"other\"}} {}\n\
             annulus_client_requests_total{{kind=\"mistake\"}} {}\n",
            of(&self.open),
            of(&self.accepted),
            of(&self.turned_away),
            memory.total(),
            memory.cut(),
            of(&self.gets),
            of(&self.writes),
            of(&self.others),
            of(&self.mistakes),
        )
    }
}
