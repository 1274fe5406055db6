//! Servers that did not answer lately: asked last, and reported now and then.

use std::collections::BTreeMap;
use std::time::Duration;

use common::Time;

use crate::address::Address;

/// How long a server is passed over. Short: a server that is really gone leaves the ring, and one that is back should
/// have its share of the reads.
const SUSPECTED: Duration = Duration::from_secs(2);
/// At most one report about a server in this time: the ECS needs a hint, not a flood.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// As many as there are servers that a ring or a seed named in the last two seconds.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    since: BTreeMap<Address, Time>,
    reported: BTreeMap<Address, Time>,
}

impl Suspects {
    /// The server did not answer.
    pub(super) fn add(&mut self, now: Time, server: &Address) {
        self.since.retain(|_, since| now.since(*since) < SUSPECTED);
        self.since.insert(server.clone(), now);
    }

    /// The server answered.
    pub(super) fn clear(&mut self, server: &Address) {
        if !self.since.is_empty() {
            self.since.remove(server);
        }
    }

    /// Whether others are to be asked first.
    pub(super) fn contains(&self, now: Time, server: &Address) -> bool {
        self.since.get(server).is_some_and(|since| now.since(*since) < SUSPECTED)
    }

    /// Whether a report about the server is due.
    pub(super) fn report(&mut self, now: Time, server: &Address) -> bool {
        self.reported.retain(|_, at| now.since(*at) < REPORT_EVERY);
        let due = !self.reported.contains_key(server);
        if due {
            self.reported.insert(server.clone(), now);
        }
        due
    }
}
