//! The load generator: one thread, many connections, closed loop, the same for every system under test.
//!
//! A connection sends a batch of requests (one, or as many as are pipelined) with one system call and waits for all
//! replies of the batch. Every reply is checked: a fast error is no result.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::histogram::Histogram;

/// A system that answers nothing for this long has failed the benchmark.
const PATIENCE: Duration = Duration::from_secs(20);
/// Keys filled in at a time.
const BATCH: usize = 64;

/// How requests are written and replies are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Annulus's text dialect.
    Text,
    /// Redis; a durable put is a SET and a WAIT for two replicas.
    Redis {
        /// Whether to wait for the replicas.
        wait: bool,
    },
    /// etcd's v2 API over HTTP/1.1.
    Etcd,
}

/// Where a connection goes, and which keys it uses there.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// The keys; all of one length and already there, so that all replies are alike.
    pub keys: Vec<String>,
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
    pub put: Option<String>,
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

impl Measured {
    /// Requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.length.as_secs_f64().max(1e-9)
    }
}

impl Load {
    /// Runs it to its end on a thread of its own runtime.
    ///
    /// # Errors
    /// A connection failed, or a reply was not the expected one.
    pub fn run(&self) -> anyhow::Result<Measured> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.run_all())
    }

    /// Puts every key of `target` once, in batches.
    ///
    /// # Errors
    /// A connection failed, or a reply was not the expected one.
    pub fn fill(protocol: Protocol, target: &Target, value: &str) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let load = Load {
            protocol,
            targets: vec![target.clone()],
            clients: 1,
            pipeline: 0,
            put: Some(value.to_owned()),
            length: Duration::ZERO,
        };
        runtime.block_on(async {
            let mut connection = Connection::open(&load, 0).await?;
            let (mut requests, mut replies) = (Vec::new(), Vec::new());
            for keys in target.keys.chunks(BATCH) {
                requests.clear();
                keys.iter().for_each(|key| write_request(protocol, key, Some(value), &mut requests));
                connection.pipeline = keys.len();
                connection.stream.write_all(&requests).await?;
                tokio::time::timeout(PATIENCE, connection.receive(&mut replies))
                    .await
                    .context("no reply in time")??;
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

struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    put: Option<String>,
    keys: Vec<String>,
    pipeline: usize,
    next: usize,
    /// The length of the last reply: the next one's, most likely.
    hint: usize,
}

impl Connection {
    async fn open(load: &Load, client: usize) -> anyhow::Result<Connection> {
        let target = &load.targets[client % load.targets.len()];
        let stream = TcpStream::connect(&target.address).await.with_context(|| target.address.clone())?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            protocol: load.protocol,
            put: load.put.clone(),
            keys: target.keys.clone(),
            pipeline: load.pipeline,
            // Connections begin at different keys, and walk with different strides from there.
            next: client * 7919,
            hint: 0,
        })
    }

    async fn run(mut self, end: Instant) -> anyhow::Result<Measured> {
        let mut measured = Measured::default();
        let (mut requests, mut replies) = (Vec::new(), Vec::with_capacity(1 << 16));
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
            if self.stream.read_buf(replies).await? == 0 {
                bail!("the server closed the connection");
            }
            while open > 0 {
                let Some(length) = reply_length(self.protocol, self.put.is_some(), self.hint, &replies[at..])? else {
                    break;
                };
                (at, self.hint, open) = (at + length, length, open - 1);
            }
        }
        Ok(())
    }
}

/// Appends one request.
fn write_request(protocol: Protocol, key: &str, put: Option<&str>, out: &mut Vec<u8>) {
    let text = match (protocol, put) {
        (Protocol::Text, None) => format!("get {key}\r\n"),
        (Protocol::Text, Some(value)) => format!("put {key} {value}\r\n"),
        (Protocol::Redis { .. }, None) => format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()),
        (Protocol::Redis { wait }, Some(value)) => {
            let set = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
            set + if wait { "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n" } else { "" }
        }
        (Protocol::Etcd, None) => format!("GET /v2/keys/{key}?quorum=true HTTP/1.1\r\nHost: etcd\r\n\r\n"),
        (Protocol::Etcd, Some(value)) => format!(
            "PUT /v2/keys/{key} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\nvalue={value}",
            value.len() + 6
        ),
    };
    out.extend_from_slice(text.as_bytes());
}

/// The length of the reply that `bytes` begin with, once it is whole.
fn reply_length(protocol: Protocol, put: bool, hint: usize, bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let length = match protocol {
        Protocol::Etcd => http_length(bytes),
        Protocol::Text => lines_length(bytes, 1, hint),
        Protocol::Redis { wait } if put => lines_length(bytes, 1 + usize::from(wait), hint),
        Protocol::Redis { .. } => lines_length(bytes, 2, hint),
    };
    let Some(length) = length else { return Ok(None) };
    let reply = &bytes[..length];
    let good = match (protocol, put) {
        (Protocol::Text, false) => reply.starts_with(b"GET_SUCCESS "),
        (Protocol::Text, true) => reply.starts_with(b"PUT_UPDATE ") || reply.starts_with(b"PUT_SUCCESS "),
        (Protocol::Redis { .. }, false) => reply.starts_with(b"$") && !reply.starts_with(b"$-"),
        (Protocol::Redis { wait: false }, true) => reply == b"+OK\r\n",
        (Protocol::Redis { wait: true }, true) => reply == b"+OK\r\n:2\r\n",
        (Protocol::Etcd, _) => reply.starts_with(b"HTTP/1.1 20"),
    };
    if !good {
        bail!("not the expected reply: {:.300}", String::from_utf8_lossy(reply));
    }
    Ok(Some(length))
}

/// The length of so many lines. The hint saves looking at every byte of replies that are all alike.
fn lines_length(bytes: &[u8], lines: usize, hint: usize) -> Option<usize> {
    if hint > 0 && lines == 1 && bytes.len() >= hint && bytes[hint - 1] == b'\n' {
        return Some(hint);
    }
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1)
}

fn http_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>().ok()?;
    (bytes.len() >= head + length).then_some(head + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_where_they_end_and_checked() {
        let text = b"PUT_UPDATE k v\r\nPUT_UP";
        assert_eq!(reply_length(Protocol::Text, true, 0, text).unwrap(), Some(16));
        assert_eq!(reply_length(Protocol::Text, true, 16, &text[16..]).unwrap(), None);
        assert!(reply_length(Protocol::Text, true, 0, b"SERVER_STOPPED\r\n").is_err());
        let redis = Protocol::Redis { wait: true };
        assert_eq!(reply_length(redis, true, 0, b"+OK\r\n:2\r\n+OK").unwrap(), Some(9));
        assert!(reply_length(redis, true, 0, b"+OK\r\n:1\r\n").is_err(), "one replica is not two");
        assert_eq!(reply_length(redis, false, 0, b"$2\r\nhi\r\n").unwrap(), Some(8));
        let http = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP";
        assert_eq!(reply_length(Protocol::Etcd, true, 0, http).unwrap(), Some(http.len() - 4));
        assert!(reply_length(Protocol::Etcd, true, 0, b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn a_wrong_hint_does_no_harm() {
        assert_eq!(lines_length(b"PUT_UPDATE k v\r\n", 1, 5), Some(16));
    }
}
