//! Asks the ECS how the cluster stands, and says in words what is still missing.
//!
//! Blocking and bounded: one question, one connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::Context as _;
use common::control::Question;
use serde::Deserialize;
use serde_json::Value;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The ECS's whole state, as it reports it.
///
/// # Errors
/// It cannot be reached, does not answer in time, or answers something else than JSON.
pub fn ask(ecs: &str) -> anyhow::Result<Value> {
    let address = ecs.to_socket_addrs()?.next().with_context(|| format!("{ecs} is no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("cannot reach {ecs}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&Question::Status)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(|| format!("no answer from {ecs}"))?;
    serde_json::from_str(&answer).with_context(|| format!("{ecs} answered no JSON: {answer:.200}"))
}

/// What the playground and the tests want to know of the status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// All servers that the ECS knows, in its order.
    pub servers: Vec<Server>,
    /// How many slots the ring has.
    pub slots: usize,
    /// Slots that nobody serves at the moment.
    pub inactive: usize,
    /// Slots that have fewer copies in sync than the number of live servers and the cluster's settings allow.
    pub short: usize,
    /// Slots that another server coordinates than the one at home there.
    pub away: usize,
    /// Whether a server is joining.
    pub joining: bool,
}

/// The parts of a status that are looked at.
#[derive(Deserialize)]
struct Shape {
    servers: Vec<Server>,
    slots: Totals,
    joining: Option<Value>,
}

#[derive(Deserialize)]
struct Totals {
    total: usize,
    active: usize,
    short: usize,
    away: usize,
}

/// One server of a [`Summary`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Server {
    /// Where clients reach it.
    pub address: String,
    /// `joining`, `up`, `leaving` or `down`.
    pub state: String,
    /// How many slots it coordinates.
    pub coordinates: usize,
}

impl Summary {
    /// Reads a status.
    ///
    /// # Errors
    /// It has another shape.
    pub fn of(status: &Value) -> anyhow::Result<Summary> {
        let status = Shape::deserialize(status).context("the ecs's status has another shape: another version?")?;
        let slots = status.slots;
        Ok(Summary {
            servers: status.servers,
            slots: slots.total,
            inactive: slots.total - slots.active.min(slots.total),
            short: slots.short,
            away: slots.away,
            joining: status.joining.is_some(),
        })
    }

    /// Whether `servers` servers are up and every slot is served and has all the copies it can have.
    #[must_use]
    pub fn healed(&self, servers: usize) -> bool {
        self.missing(servers).is_empty()
    }

    /// Whether it is [healed](Summary::healed) and every slot is coordinated at home.
    #[must_use]
    pub fn settled(&self, servers: usize) -> bool {
        self.healed(servers) && self.away == 0
    }

    /// What [`Summary::healed`] waits for, in words; empty if nothing.
    #[must_use]
    pub fn missing(&self, servers: usize) -> Vec<String> {
        let up = self.servers.iter().filter(|server| server.state == "up").count();
        let mut missing = Vec::new();
        if up != servers {
            missing.push(format!("{up} of {servers} servers are up"));
        }
        if self.joining {
            missing.push("a server is joining".to_owned());
        }
        if self.slots == 0 {
            missing.push("no slot has a view yet".to_owned());
        }
        for (count, what) in [(self.inactive, "are not served yet"), (self.short, "lack a copy")] {
            if count > 0 {
                missing.push(format!("{count} of {} slots {what}", self.slots));
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(states: &[&str], active: usize, short: usize, away: usize) -> Value {
        let server = |state: &&str| json!({"address": "a:1", "state": state, "coordinates": 3, "more": 1});
        let servers: Vec<Value> = states.iter().map(server).collect();
        let slots = json!({"total": 256, "active": active, "short": short, "away": away, "unavailable": 0});
        json!({"servers": servers, "slots": slots, "joining": null, "epoch": 7})
    }

    #[test]
    fn what_is_missing_is_said_in_words() {
        let summary = Summary::of(&status(&["up", "joining"], 250, 12, 0)).unwrap();
        assert_eq!(
            summary.missing(2),
            ["1 of 2 servers are up", "6 of 256 slots are not served yet", "12 of 256 slots lack a copy"]
        );
    }

    #[test]
    fn a_cluster_heals_before_it_settles() {
        let away = Summary::of(&status(&["up", "down"], 256, 0, 9)).unwrap();
        assert!(away.healed(1) && !away.settled(1) && !away.healed(2));
        assert!(Summary::of(&status(&["up"], 256, 0, 0)).unwrap().settled(1));
    }

    #[test]
    fn another_shape_is_an_error() {
        assert!(Summary::of(&json!({"servers": []})).is_err());
    }
}
