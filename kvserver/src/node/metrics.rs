//! Counters, and their Prometheus text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident => $metric:literal),+ $(,)?) => {
        /// Everything that is counted. Relaxed: the numbers are for people, nothing is decided by them.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[doc = $help])+ pub(crate) $name: AtomicU64,)+
        }

        impl Metrics {
            /// The Prometheus text of all counters.
            pub(crate) fn render(&self, out: &mut String) {
                $(counter(out, $metric, concat!($($help),+), self.$name.load(Relaxed));)+
            }
        }
    };
}

counters! {
    /// Reads asked of this server.
    gets => "annulus_gets_total",
    /// Writes asked of this server.
    puts => "annulus_puts_total",
    /// Peer messages handled.
    peer_messages => "annulus_peer_messages_total",
    /// Peer messages dropped because a link was down or its buffer full; the protocol sends again.
    peer_drops => "annulus_peer_drops_total",
    /// Beacon rounds sent.
    beacon_rounds => "annulus_beacon_rounds_total",
    /// Beacon frames received.
    beacons => "annulus_beacons_total",
    /// Views learned from the ECS.
    views => "annulus_view_changes_total",
    /// Groups of records written and synced.
    fsyncs => "annulus_fsyncs_total",
    /// Changes asked of the ECS.
    asks => "annulus_asks_total",
    /// Checkpoints written.
    checkpoints => "annulus_checkpoints_total",
    /// Alarms raised by a slot.
    alarms => "annulus_alarms_total",
}

impl Metrics {
    /// All requests of clients for a key.
    pub(super) fn requests(&self) -> u64 {
        self.gets.load(Relaxed) + self.puts.load(Relaxed)
    }
}

/// Counts one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// One counter in Prometheus text.
pub(crate) fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    sample(out, name, help, "counter", value);
}

/// One gauge in Prometheus text.
pub(crate) fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    sample(out, name, help, "gauge", value);
}

fn sample(out: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let written = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n{name} {value}", help.trim());
    debug_assert!(written.is_ok(), "a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_told_with_its_help_and_type() {
        let metrics = Metrics::default();
        bump(&metrics.gets);
        let mut text = String::new();
        metrics.render(&mut text);
        let expected = "# HELP annulus_gets_total Reads asked of this server.\n\
                        # TYPE annulus_gets_total counter\nannulus_gets_total 1\n";
        assert!(text.starts_with(expected), "{text}");
    }
}
