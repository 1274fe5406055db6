//! The load generator: one thread, many connections, closed loop, the same for every system under test.
//!
//! A connection sends a batch of requests (one, or as many as are pipelined) with one system call and waits for all
//! replies of the batch. Every reply is checked: a fast error is no result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::dialect::{Protocol, reply_length, write_request};
use super::histogram::Histogram;

/// A system that answers nothing for this long has failed the benchmark.
const PATIENCE: Duration = Duration::from_secs(20);
/// Keys filled in at a time, over one connection.
const BATCH: usize = 256;
/// Bytes filled in at a time, roughly: servers bound what one connection may have under way.
const BATCH_BYTES: usize = 1 << 20;
/// Connections that fill in one target at the same time.
const FILLERS: usize = 4;

/// Where a connection goes, and which keys it uses there.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// The keys; all of one length and already there, so that all replies are alike.
    pub keys: Arc<[String]>,
}

impl Target {
    /// One server and all keys.
    #[must_use]
    pub fn new(address: &str, keys: &Arc<[String]>) -> Target {
        Target { address: address.to_owned(), keys: keys.clone() }
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Spoken to all targets.
    pub protocol: Protocol,
    /// Connections are dealt to them in turn.
    pub targets: Vec<Target>,
    /// How many connections.
    pub clients: usize,
    /// Requests per batch.
    pub pipeline: usize,
    /// The value to put; None: get.
    pub put: Option<Arc<str>>,
    /// How long.
    pub length: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Requests answered.
    pub requests: u64,
    /// In how much time.
    pub length: Duration,
    /// From a batch's sending to its last reply.
    pub latency: Histogram,
}

/// Latencies of one run, in microseconds. With pipelining, of whole batches.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// One in a hundred was slower.
    pub p99: f64,
    /// One in a thousand was slower. Not a number (in JSON null) where a tool does not tell.
    pub p999: f64,
    /// The slowest.
    pub worst: f64,
}

impl Measured {
    /// Requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.length.as_secs_f64().max(1e-9)
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentiles(&self) -> Latency {
        let micros = |part| self.latency.quantile(part).as_secs_f64() * 1e6;
        Latency { p50: micros(0.5), p99: micros(0.99), p999: micros(0.999), worst: micros(1.0) }
    }
}

impl Load {
    /// Runs it to its end on a thread of its own runtime.
    ///
    /// # Errors
    /// A connection failed, or a reply was not the expected one.
    pub fn run(&self) -> anyhow::Result<Measured> {
        runtime()?.block_on(self.run_all())
    }

    /// Puts every key of `target` once, in batches, over a few connections.
    ///
    /// # Errors
    /// A connection failed, or a reply was not the expected one.
    pub fn fill(protocol: Protocol, target: &Target, value: &str) -> anyhow::Result<()> {
        let load = Load {
            protocol,
            targets: vec![target.clone()],
            clients: 1,
            pipeline: 0,
            put: Some(value.into()),
            length: Duration::ZERO,
        };
        let part = target.keys.len().div_ceil(FILLERS).max(1);
        let parts = (0..target.keys.len()).step_by(part).map(|from| from..(from + part).min(target.keys.len()));
        runtime()?.block_on(async {
            let fillers: Vec<_> = parts.map(|part| tokio::spawn(fill_part(load.clone(), part))).collect();
            for filler in fillers {
                filler.await??;
            }
            Ok(())
        })
    }

    async fn run_all(&self) -> anyhow::Result<Measured> {
        let mut connections = Vec::new();
        for client in 0..self.clients {
            connections.push(Connection::open(self, client).await?);
        }
        let began = Instant::now();
        let end = began + self.length;
        let tasks: Vec<_> = connections.into_iter().map(|connection| tokio::spawn(connection.run(end))).collect();
        let mut all = Measured::default();
        for task in tasks {
            let one = task.await??;
            all.requests += one.requests;
            all.latency.merge(&one.latency);
        }
        all.length = began.elapsed();
        Ok(all)
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn fill_part(load: Load, part: std::ops::Range<usize>) -> anyhow::Result<()> {
    let mut connection = Connection::open(&load, 0).await?;
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    let batch = (BATCH_BYTES / load.put.as_ref().map_or(1, |value| value.len().max(1))).clamp(1, BATCH);
    for keys in load.targets[0].keys[part].chunks(batch) {
        requests.clear();
        keys.iter().for_each(|key| write_request(load.protocol, key, load.put.as_deref(), &mut requests));
        connection.pipeline = keys.len();
        connection.stream.write_all(&requests).await?;
        tokio::time::timeout(PATIENCE, connection.receive(&mut replies)).await.context("no reply in time")??;
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    put: Option<Arc<str>>,
    keys: Arc<[String]>,
    pipeline: usize,
    next: usize,
    /// The length of the last reply: the next one's, most likely.
    hint: usize,
}

impl Connection {
    async fn open(load: &Load, client: usize) -> anyhow::Result<Connection> {
        let target = &load.targets[client % load.targets.len()];
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(&target.address));
        let stream = connecting.await.context("no connection in time")?.with_context(|| target.address.clone())?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            protocol: load.protocol,
            put: load.put.clone(),
            keys: target.keys.clone(),
            pipeline: load.pipeline,
            // Connections begin at different keys.
            next: client * 7919,
            hint: 0,
        })
    }

    async fn run(mut self, end: Instant) -> anyhow::Result<Measured> {
        let mut measured = Measured::default();
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        loop {
            let sent = Instant::now();
            if sent >= end {
                return Ok(measured);
            }
            requests.clear();
            for _ in 0..self.pipeline {
                self.next += 1;
                let key = &self.keys[self.next % self.keys.len()];
                write_request(self.protocol, key, self.put.as_deref(), &mut requests);
            }
            self.stream.write_all(&requests).await?;
            tokio::time::timeout(PATIENCE, self.receive(&mut replies)).await.context("no reply in time")??;
            measured.requests += self.pipeline as u64;
            measured.latency.add(sent.elapsed());
        }
    }

    async fn receive(&mut self, replies: &mut Vec<u8>) -> anyhow::Result<()> {
        replies.clear();
        let (mut open, mut at) = (self.pipeline, 0);
        while open > 0 {
            // What is already there of a long reply is a good guess for how much more there is.
            replies.reserve((replies.len() - at).max(1 << 12));
            if self.stream.read_buf(replies).await? == 0 {
                bail!("the server closed the connection");
            }
            while open > 0 && at < replies.len() {
                let Some(length) = reply_length(self.protocol, self.put.is_some(), self.hint, &replies[at..])? else {
                    break;
                };
                (at, self.hint, open) = (at + length, length, open - 1);
            }
        }
        Ok(())
    }
}
