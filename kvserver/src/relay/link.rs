//! The asking end of a connection for jobs: jobs out, answers in.
#![allow(clippy::disallowed_methods)] // shell: sockets and clocks

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use common::forward::{Forward, Forwarded};
use common::peer::Purpose;
use common::{NodeInfo, clock, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::replied;
use crate::links;
use crate::node::Node;

/// Bytes of jobs that may wait for one peer. More means that it is stuck: further ones are tried elsewhere, or later.
const LIMIT: usize = 16 << 20;
/// How long connecting and greeting may take: a peer that is well does it in a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);
/// Room made for each read.
const ROOM: usize = 64 << 10;

/// Jobs on their way to one peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: BytesMut,
    ended: bool,
}

impl Peer {
    /// Appends a job; false: it will certainly not be sent.
    pub(super) fn push(&self, forward: &Forward) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.ended || queue.bytes.len() > LIMIT {
            return false;
        }
        frame::put(&mut queue.bytes, forward);
        drop(queue);
        self.wake.notify_one();
        true
    }

    fn take(&self) -> BytesMut {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).bytes)
    }

    /// Takes no more jobs. From here on every job that was taken is among those that the core counts as sent here.
    fn end(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    }
}

/// Connects, and moves jobs and answers until the connection ends.
pub(super) async fn run(node: Arc<Node>, peer: Arc<Peer>, info: NodeInfo) {
    let dialed = match timeout(PATIENCE, dial(&node, &info)).await {
        Ok(dialed) => dialed,
        Err(_) => Err(anyhow::anyhow!("no connection within {PATIENCE:?}")),
    };
    let (sent, error) = match dialed {
        Err(error) => (false, error),
        Ok(stream) => {
            let (read, write) = stream.into_split();
            let ended = tokio::select! {
                ended = take_answers(&node, read) => ended,
                ended = send_jobs(&peer, write) => ended,
                () = node.until_halted() => Ok(()),
            };
            (true, ended.err().unwrap_or_else(|| anyhow::anyhow!("closed")))
        }
    };
    peer.end();
    log::debug!("the connection for jobs to {} at {}: {error:#}", info.node, info.peer_addr);
    node.link_lost(info.node, &peer, sent);
}

async fn dial(node: &Node, info: &NodeInfo) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(&info.peer_addr).await.context("no connection")?;
    links::tune(&stream);
    links::greet(node, info.node, Purpose::Forward, &mut stream).await?;
    Ok(stream)
}

/// Everybody who is ready pushes first: what comes together leaves with one system call.
async fn send_jobs(peer: &Peer, mut write: OwnedWriteHalf) -> anyhow::Result<()> {
    loop {
        let mut bytes = peer.take();
        if bytes.is_empty() {
            peer.wake.notified().await;
            tokio::task::yield_now().await;
            continue;
        }
        write.write_all_buf(&mut bytes).await?;
    }
}

async fn take_answers(node: &Arc<Node>, mut read: OwnedReadHalf) -> anyhow::Result<()> {
    let mut input = BytesMut::new();
    loop {
        let mut answers = Vec::new();
        while let Some(Forwarded { number, came }) = frame::take(&mut input)? {
            answers.push((number, replied(came)));
        }
        if !answers.is_empty() {
            let now = clock::now();
            node.relay_step(|core, ring, out| {
                answers.into_iter().for_each(|(number, reply)| core.answer(now, number, reply, ring, out));
            });
        }
        input.reserve(ROOM);
        if read.read_buf(&mut input).await? == 0 {
            bail!("closed by the peer");
        }
    }
}
