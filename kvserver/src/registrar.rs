//! The control connection to the ECS: registration, views in, requests and reports out.
//!
//! The ECS is never on the data path: while it is away, everything goes on as the last views say.
#![allow(clippy::disallowed_methods)] // shell: reads clocks and waits

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use common::control::{FromEcs, FromServer, Report};
use common::{Epoch, NodeInfo, NodeState, Slot, Time, clock};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::links::{self, Backoff};
use crate::node::{Fatal, Node};
use crate::replica::Event;

/// The longest a connection attempt, and the answer to a registration, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests of many slots come in bursts (a server died): this much is waited for more.
const GATHER: Duration = Duration::from_millis(1);
/// How often it is looked whether the report has changed.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is sent unchanged.
const REPEAT: Duration = Duration::from_secs(1);
/// How often a wait for the ECS is mentioned.
const REMIND: Duration = Duration::from_secs(2);
/// The longest line of the ECS: all views of 32,768 slots fit.
const LONGEST_LINE: usize = 64 << 20;

/// Registers at one of the addresses, again and again, until the process ends.
pub(crate) async fn run(node: Arc<Node>, addresses: Vec<String>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut said = None;
    loop {
        for addr in &addresses {
            let ended = session(&node, addr, &mut backoff).await;
            let ended = match ended {
                Ok(Ended::Elsewhere(there)) => session(&node, &there, &mut backoff).await,
                ended => ended,
            };
            node.ecs_lost();
            if node.stopping() {
                return;
            }
            match ended {
                // No longer part of the cluster: the process says so and ends.
                Ok(Ended::Left) => return,
                Ok(Ended::Elsewhere(_)) => remind(&mut said, addr, &anyhow!("only knows another server, not the ECS")),
                Ok(Ended::Said) => {}
                Err(error) => remind(&mut said, addr, &error),
            }
        }
        sleep(backoff.pause()).await;
    }
}

fn remind(said: &mut Option<Time>, addr: &str, error: &anyhow::Error) {
    let now = clock::now();
    if said.is_none_or(|at| now.since(at) >= REMIND) {
        log::warn!("ECS at {addr}: {error:#}; trying on");
        *said = Some(now);
    }
}

/// How a connection ended without an error.
enum Ended {
    /// We said goodbye.
    Said,
    /// We are no longer part of the cluster.
    Left,
    /// It was a server's, and this is its ECS.
    Elsewhere(String),
}

/// One connection, from the registration to its end.
async fn session(node: &Arc<Node>, addr: &str, backoff: &mut Backoff) -> anyhow::Result<Ended> {
    let stream = timeout(PATIENCE, TcpStream::connect(addr)).await.context("no connection within 2 s")??;
    links::tune(&stream);
    let (read, mut write) = stream.into_split();
    let mut lines = Lines { input: BufReader::with_capacity(64 << 10, read), line: Vec::new() };
    send(&mut write, &registration(node)).await?;
    let answer = timeout(PATIENCE, lines.line()).await.context("no answer to the registration within 2 s")??;
    if !answer.starts_with(b"{") {
        return the_way(&mut write, &mut lines).await.map(Ended::Elsewhere);
    }
    match parse(&answer)? {
        FromEcs::Welcome { cluster, meta } => node.welcome(cluster, meta)?,
        FromEcs::Refused { reason, fatal } => return refused(node, addr, &reason, fatal),
        FromEcs::Left { reason } => {
            node.has_left(reason);
            return Ok(Ended::Left);
        }
        other => bail!("answered the registration with {other:?}"),
    }
    backoff.reset();
    node.ecs_found(addr);
    tokio::select! {
        ended = listen(node, addr, &mut lines) => ended,
        ended = speak(node, &mut write) => ended,
    }
}

fn registration(node: &Node) -> FromServer {
    let (me, options) = (node.identity(), node.options());
    let info = NodeInfo {
        node: me.node,
        store: me.store,
        boot: me.boot,
        client_addr: options.client_addr.clone(),
        peer_addr: node.peer_addr(),
        admin_addr: options.admin_addr.clone(),
        state: NodeState::Joining,
        weight: options.weight,
    };
    let seen = node.with_topology(|topology| topology.highest_epoch).max(node.found_epoch());
    FromServer::Register { info, cluster: me.cluster, rejoin: options.rejoin, seen }
}

/// Any server of the ring knows where its ECS is: this was one.
async fn the_way(write: &mut OwnedWriteHalf, lines: &mut Lines) -> anyhow::Result<String> {
    timeout(PATIENCE, write.write_all(b"ecs\r\n")).await.context("takes no more")??;
    // Before the answer there may be a greeting, and what it says about our registration.
    for _ in 0..3 {
        let answer = timeout(PATIENCE, lines.line()).await.context("is no ECS, and does not say where it is")??;
        let text = String::from_utf8_lossy(&answer);
        let mut words = text.split_whitespace();
        if let (Some(first), Some(there)) = (words.next(), words.next())
            && first.eq_ignore_ascii_case("ecs_success")
        {
            return Ok(there.to_owned());
        }
    }
    bail!("is no ECS, and does not know one")
}

fn refused<T>(node: &Node, addr: &str, reason: &str, fatal: bool) -> anyhow::Result<T> {
    if fatal {
        node.fail(Fatal { reason: format!("the ECS at {addr} refuses this server: {reason}"), code: Fatal::REFUSED });
    }
    bail!("refused: {reason}")
}

async fn listen(node: &Arc<Node>, addr: &str, lines: &mut Lines) -> anyhow::Result<Ended> {
    loop {
        match parse(&lines.line().await?)? {
            FromEcs::Welcome { cluster, meta } => node.welcome(cluster, meta)?,
            FromEcs::Update(meta) => node.update(meta),
            FromEcs::HandOver { slots } => {
                for (slot, epoch, to) in slots {
                    node.event(clock::now(), slot, Event::HandOver { epoch, to });
                }
            }
            FromEcs::Drop { slots } => {
                for (slot, epoch) in slots {
                    node.event(clock::now(), slot, Event::Drop { epoch });
                }
            }
            FromEcs::Left { reason } => {
                node.has_left(reason);
                return Ok(Ended::Left);
            }
            FromEcs::Relieved => node.relieved(),
            FromEcs::Notice { text } => node.notice(text),
            FromEcs::Granted { id, granted } => node.granted(id, granted),
            FromEcs::Fenced { reason } => return refused(node, addr, &reason, true),
            FromEcs::Refused { reason, fatal } => return refused(node, addr, &reason, fatal),
        }
    }
}

async fn speak(node: &Node, write: &mut OwnedWriteHalf) -> anyhow::Result<Ended> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: (Time, Option<Shape>) = (Time::ZERO, None);
    let mut stays = true;
    loop {
        tokio::select! {
            () = node.asks().wanted() => {
                sleep(GATHER).await;
                let asks = node.asks().take();
                if !asks.is_empty() {
                    send(write, &FromServer::Ask(asks)).await?;
                }
            }
            _ = look.tick() => {
                let (now, report) = (clock::now(), report(node));
                let shape = Some(shape(&report));
                if told.1 != shape || now.since(told.0) >= REPEAT {
                    told = (now, shape);
                    send(write, &FromServer::Report(report)).await?;
                }
            }
            () = node.wishes().wanted() => {
                for (id, wish) in node.wishes().take() {
                    send(write, &FromServer::Wish { id, wish }).await?;
                }
            }
            () = node.stepping_down(), if stays => {
                stays = false;
                send(write, &FromServer::Stopping).await?;
            }
            () = node.leaving() => {
                send(write, &FromServer::Goodbye).await?;
                write.shutdown().await?;
                return Ok(Ended::Said);
            }
        }
    }
}

/// What is worth telling the ECS at once; counts of records are not.
type Shape = (Vec<(Slot, Epoch, bool)>, Vec<(Slot, Epoch)>);

fn shape(report: &Report) -> Shape {
    (report.slots.iter().map(|slot| (slot.slot, slot.epoch, slot.active)).collect(), report.strays.clone())
}

fn report(node: &Node) -> Report {
    let mut report = Report::default();
    node.each_slot(|replica, _| {
        report.slots.extend(replica.report());
        report.strays.extend(replica.stray().map(|epoch| (replica.slot(), epoch)));
        report.held.extend(replica.outdated().map(|last| (replica.slot(), last)));
    });
    report
}

async fn send<T: Serialize>(write: &mut OwnedWriteHalf, message: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(PATIENCE, write.write_all(&line)).await.context("takes no more")??;
    Ok(())
}

fn parse(line: &[u8]) -> anyhow::Result<FromEcs> {
    serde_json::from_slice(line).context("said something that is no message")
}

/// Lines, bounded.
struct Lines {
    input: BufReader<tokio::net::tcp::OwnedReadHalf>,
    line: Vec<u8>,
}

impl Lines {
    /// The next line. Cancel-safe: what was read of it stays.
    async fn line(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let (found, used) = {
                let chunk = self.input.fill_buf().await?;
                if chunk.is_empty() {
                    bail!("closed the connection");
                }
                let end = chunk.iter().position(|byte| *byte == b'\n');
                let used = end.map_or(chunk.len(), |end| end + 1);
                self.line.extend_from_slice(&chunk[..used]);
                (end.is_some(), used)
            };
            self.input.consume(used);
            if self.line.len() > LONGEST_LINE {
                bail!("a line of more than {LONGEST_LINE} bytes: is this an ECS?");
            }
            if found {
                return Ok(std::mem::take(&mut self.line));
            }
        }
    }
}
