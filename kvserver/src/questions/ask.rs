//! Asking another server, or the ECS; and being asked by another server. A connection for each question: they are rare.
#![allow(clippy::disallowed_methods)] // shell: sockets and clocks

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use common::peer::Purpose;
use common::question::{Ask, Query, Say};
use common::{NodeInfo, frame};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::local;
use crate::links;
use crate::node::Node;

/// The longest answer of the ECS: a status of the largest ring.
const LONGEST: u64 = 32 << 20;
/// How long a server that has connected may take to ask, and whoever asked to take the answer.
const IDLE: Duration = Duration::from_secs(2);
/// The longest question: the slots of the largest ring, or a key.
const QUESTION: usize = 1 << 20;
/// The most that a question may ask to be waited for.
const MOST: Duration = Duration::from_secs(5);

/// What the server says.
pub(super) async fn peer(node: &Node, info: &NodeInfo, ask: Ask, until: Instant) -> Result<Say, String> {
    let said = timeout_at(until, exchange(node, info, ask, until)).await;
    let said = said.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
    said.map_err(|error| format!("{}: {error:#}", info.client_addr))
}

async fn exchange(node: &Node, info: &NodeInfo, ask: Ask, until: Instant) -> anyhow::Result<Say> {
    let mut stream = TcpStream::connect(&info.peer_addr).await?;
    links::tune(&stream);
    links::greet(node, info.node, Purpose::Question, &mut stream).await?;
    let patience = until.saturating_duration_since(Instant::now());
    let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &Query { ask, patience_ms });
    stream.write_all(&bytes).await?;
    bytes.clear();
    loop {
        if let Some(said) = frame::take(&mut bytes)? {
            return Ok(said);
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("it hung up instead of answering");
        }
    }
}

/// Answers the one question of a server that was let in.
pub(crate) async fn serve(node: &Node, stream: TcpStream, rest: BytesMut) {
    if let Err(error) = answer(node, stream, rest).await {
        log::debug!("a question of another server was not answered: {error:#}");
    }
}

async fn answer(node: &Node, mut stream: TcpStream, mut input: BytesMut) -> anyhow::Result<()> {
    let query: Query = timeout(IDLE, async {
        loop {
            if let Some(query) = frame::take_up_to(&mut input, QUESTION)? {
                return Ok(query);
            }
            if stream.read_buf(&mut input).await? == 0 {
                bail!("no question came");
            }
        }
    })
    .await??;
    let until = Instant::now() + Duration::from_millis(u64::from(query.patience_ms)).min(MOST);
    let said = match node.questions().answered.try_acquire() {
        Ok(_permit) => local::answer(node, query.ask, until).await,
        Err(_) => Say::Refused("it answers too many questions at the moment".into()),
    };
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &said);
    timeout(IDLE, stream.write_all(&bytes)).await??;
    Ok(())
}

/// The line that the ECS answers to this line.
pub(super) async fn ecs(node: &Node, question: &str, until: Instant) -> Result<String, String> {
    if node.standalone() {
        return Err("this server is standalone: it was started without -b, so there is no ECS".into());
    }
    let Some(addr) = node.ecs_addr() else { return Err("this server has not heard from the ECS yet".into()) };
    let line = timeout_at(until, converse(&addr, question)).await;
    let line = line.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
    line.map_err(|error| format!("the ECS at {addr} does not answer: {error:#}"))
}

async fn converse(addr: &str, question: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr).await.context("no connection")?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).take(LONGEST).read_line(&mut line).await?;
    if !line.ends_with('\n') {
        bail!("its answer is incomplete");
    }
    Ok(line.trim_end().to_owned())
}
