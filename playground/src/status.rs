//! Asks the ECS how the cluster stands, and says in words what is still missing.
//!
//! Blocking and bounded: one question, one connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::Context as _;
use common::control::Question;
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
    /// The cluster's servers, in the order of their ids.
    pub servers: Vec<Server>,
    /// How many slots the ring has.
    pub slots: usize,
    /// Slots that nobody serves at the moment.
    pub inactive: usize,
    /// Slots that have fewer copies in sync than the number of live servers and the cluster's settings allow.
    pub short: usize,
    /// Slots that another server coordinates than the one at home there.
    pub away: usize,
}

/// One server of a [`Summary`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Server {
    /// Its node id, as the ECS prints it.
    pub node: String,
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
    pub fn of(_status: &Value) -> anyhow::Result<Summary> {
        Ok(Summary::default())
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
