//! redis, alone or with two replicas.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Guard, Peer, free_port, until};
use crate::real::Resp;

/// What a single redis keeps on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Persistence {
    /// Nothing: as fast as it gets.
    Nothing,
    /// A snapshot when it is told to.
    Snapshot,
    /// Every write, synced each second; never rewritten.
    Log,
    /// Every write, synced before it is answered.
    Synced,
}

impl Persistence {
    fn args(self) -> &'static [&'static str] {
        match self {
            Persistence::Nothing | Persistence::Snapshot => &["--save", "", "--appendonly", "no"],
            Persistence::Log => &[
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "everysec",
                "--auto-aof-rewrite-percentage",
                "0",
            ],
            Persistence::Synced => &["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
        }
    }
}

/// One redis that may be ended and started again on its data.
#[derive(Debug)]
pub(crate) struct Redis {
    /// `host:port`.
    pub(crate) address: String,
    folder: PathBuf,
    port: u16,
    persistence: Persistence,
    guard: Option<Guard>,
}

impl Redis {
    /// Starts it and waits until it serves.
    pub(crate) fn start(folder: &Path, persistence: Persistence) -> anyhow::Result<Redis> {
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut redis = Redis { address, folder: folder.to_owned(), port, persistence, guard: None };
        redis.launch()?;
        until(&redis.address, "PING\r\n", |reply| reply.starts_with("+PONG"))?;
        Ok(redis)
    }

    /// Starts the process, on what is in its folder, without waiting for it.
    pub(crate) fn launch(&mut self) -> anyhow::Result<()> {
        let args = redis_args(&self.folder, "redis", self.port, self.persistence.args())?;
        self.guard = Some(Guard::start("redis-server", &args, &self.folder.join("redis.log"))?);
        Ok(())
    }

    /// Ends it as a power failure of its process would.
    pub(crate) fn kill(&mut self) {
        self.guard = None;
    }

    /// The reply to a command that may take long.
    pub(crate) fn ask(&self, command: &str) -> anyhow::Result<String> {
        Ok(Resp::connect(&self.address)?.ask(command)?)
    }

    /// Of the server itself, not of the shell that guards it.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        let info = self.ask("INFO server")?;
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        line.and_then(|number| number.trim().parse().ok()).context("redis does not tell its process id")
    }
}

impl Peer {
    /// A redis with two replicas, each writing through to its disk before it answers.
    pub(crate) fn durable_redis(folder: &Path) -> anyhow::Result<Peer> {
        let durable = Persistence::Synced.args();
        let port = free_port()?;
        let main = redis_args(folder, "redis-main", port, durable)?;
        let mut guards = vec![Guard::start("redis-server", &main, &folder.join("redis-main.log"))?];
        for number in 1..=2 {
            let name = format!("redis-replica{number}");
            let mut args = redis_args(folder, &name, free_port()?, durable)?;
            args.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), port.to_string()]);
            guards.push(Guard::start("redis-server", &args, &folder.join(format!("{name}.log")))?);
        }
        let peer = Peer { name: "redis x3", address: format!("127.0.0.1:{port}"), _guards: guards };
        until(&peer.address, "INFO replication\r\n", |reply| reply.matches("state=online").count() == 2)?;
        Ok(peer)
    }
}

fn redis_args(folder: &Path, name: &str, port: u16, more: &[&str]) -> anyhow::Result<Vec<String>> {
    let data: PathBuf = folder.join(name);
    std::fs::create_dir_all(&data)?;
    let fixed = ["--port".to_owned(), port.to_string(), "--dir".to_owned(), data.display().to_string()];
    Ok(fixed.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect())
}
