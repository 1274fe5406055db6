//! One load against servers that run already: what somebody wants to know of their own cluster.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::dialect::Protocol;
use super::load::{Latency, Load, Target};
use super::setup::{fill, keys, shares_of, value};
use super::usage::cpu;
use crate::real::Text;

/// What to do to whom.
#[derive(Clone, Debug)]
pub struct Against {
    /// `host:port` of one or more servers.
    pub servers: Vec<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Connections.
    pub clients: usize,
    /// Requests at a time on each.
    pub pipeline: usize,
    /// How many keys are used; they are put first.
    pub keys: usize,
    /// The length of values.
    pub value: usize,
    /// Whether to put or to get.
    pub put: bool,
    /// How long.
    pub length: Duration,
    /// Processes whose processor time is to be told: the servers, if they are on this machine.
    pub pids: Vec<u32>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Requests a second.
    pub rate: f64,
    /// Of batches of as many requests as are pipelined.
    pub micros: Latency,
    /// Processor time of the named processes for each request, in microseconds.
    pub processor: Option<f64>,
}

impl Outcome {
    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let Latency { p50, p99, p999, worst } = self.micros;
        let processor = self.processor.map_or(String::new(), |micros| format!("; {micros:.2} us of processor each"));
        format!(
            "{:.0} requests a second; in us: p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}, longest {worst:.0}{processor}",
            self.rate
        )
    }
}

/// Puts the keys, then runs the load.
///
/// # Errors
/// A server cannot be reached or answers with an error.
pub fn run(against: &Against) -> anyhow::Result<Outcome> {
    ensure!(against.clients > 0 && against.pipeline > 0 && against.keys > 0, "nothing to do: a number is 0");
    let (targets, value) = (targets(against)?, value(against.value));
    fill(against.protocol, &targets, &value)?;
    let load = Load {
        protocol: against.protocol,
        targets,
        clients: against.clients,
        pipeline: against.pipeline,
        put: against.put.then_some(value),
        length: against.length,
    };
    let used = || against.pids.iter().map(|pid| cpu(*pid)).sum::<anyhow::Result<f64>>();
    let before = used()?;
    let measured = load.run()?;
    let processor = (used()? - before) * 1e6 / measured.requests.max(1) as f64;
    Ok(Outcome {
        rate: measured.rate(),
        micros: measured.percentiles(),
        processor: (!against.pids.is_empty()).then_some(processor),
    })
}

/// The text dialect wants each key at its coordinator, which the first server knows; any server takes any key of a Redis client.
fn targets(against: &Against) -> anyhow::Result<Vec<Target>> {
    let first = against.servers.first().context("name a server")?;
    let keys = keys(against.keys);
    if against.protocol != Protocol::Text {
        return Ok(against.servers.iter().map(|server| Target::new(server, &keys)).collect());
    }
    let keyrange = Text::connect(first).and_then(|mut text| text.keyrange(false)).with_context(|| first.clone())?;
    let mut servers: Vec<String> = keyrange.0.iter().map(|arc| arc.server.clone()).collect();
    servers.sort_unstable();
    servers.dedup();
    shares_of(&keyrange, servers, &keys)
}
