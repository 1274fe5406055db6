//! Outgoing connections: dial, say hello, pump the outbox, and again.
#![allow(clippy::disallowed_methods)] // shell: reads clocks and waits

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use common::peer::{Hello, HelloAck, Purpose};
use common::{clock, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Backoff, Peer, hello, tune};
use crate::node::Node;

/// The longest a connection attempt and its hello may take, each.
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a peer that cannot be reached is mentioned again.
const REMIND: Duration = Duration::from_secs(10);

/// Keeps one connection to `peer` until it is no longer wanted.
pub(super) async fn keep(node: Arc<Node>, peer: Arc<Peer>, purpose: Purpose) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut said = None;
    loop {
        let ended = tokio::select! {
            () = peer.gone.cancelled() => break,
            ended = session(&node, &peer, purpose, &mut backoff, &mut said) => ended,
        };
        peer.outbox(purpose).close();
        let now = clock::now();
        if let Err(error) = ended
            && said.is_none_or(|at| now.since(at) >= REMIND)
        {
            log::info!("{purpose:?} link to {} at {}: {error:#}; trying on", peer.node, peer.addr());
            said = Some(now);
        }
        tokio::select! {
            () = peer.gone.cancelled() => break,
            () = peer.moved.notified() => backoff.reset(),
            () = sleep(backoff.pause()) => {}
        }
    }
    peer.outbox(purpose).close();
}

async fn session(
    node: &Arc<Node>,
    peer: &Peer,
    purpose: Purpose,
    backoff: &mut Backoff,
    said: &mut Option<common::Time>,
) -> anyhow::Result<()> {
    let addr = peer.addr();
    let mut stream = timeout(PATIENCE, TcpStream::connect(&addr)).await.context("no connection within 1 s")??;
    tune(&stream);
    timeout(PATIENCE, greet(node, peer, purpose, &mut stream)).await.context("no hello within 1 s")??;
    log::debug!("{purpose:?} link to {} at {addr} is up", peer.node);
    (*said, _) = (None, backoff.reset());
    let stream = Arc::new(stream);
    peer.outbox(purpose).open(stream.clone());
    match purpose {
        Purpose::Pulse => node.want_beacon(),
        Purpose::Data | Purpose::Probe => node.link_up(peer.node),
    }
    Ok(peer.outbox(purpose).pump(&stream).await?)
}

async fn greet(node: &Node, peer: &Peer, purpose: Purpose, stream: &mut TcpStream) -> anyhow::Result<()> {
    let me = node.identity();
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &Hello { purpose, from: me });
    stream.write_all(&bytes).await?;
    bytes.clear();
    let ack: HelloAck = loop {
        if let Some(ack) = frame::take(&mut bytes)? {
            break ack;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("closed before its hello");
        }
    };
    if let Some(reason) = ack.refused {
        bail!("refused: {reason}");
    }
    hello::expect(&me, peer.node, &ack.from).map_err(anyhow::Error::msg)
}
