//! Outgoing connections: dial, say hello, pump the outbox, and again.
#![allow(clippy::disallowed_methods)] // shell: reads clocks and waits

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use common::peer::{Hello, HelloAck, Purpose};
use common::{NodeId, Time, clock, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Backoff, Peer, hello, tune};
use crate::node::Node;

/// The longest a connection attempt and its hello may take, each.
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A peer that cannot be reached for this long is mentioned: shorter outages are a restart's.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// And this often again.
const REMIND: Duration = Duration::from_secs(10);

/// Since when a peer could not be reached, and when that was said.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Time>,
    said: Option<Time>,
}

impl Outage {
    /// Whether this failure is to be told.
    fn again(&mut self, now: Time) -> bool {
        let since = *self.since.get_or_insert(now);
        let tell = now.since(since) >= WORTH_TELLING && self.said.is_none_or(|said| now.since(said) >= REMIND);
        if tell {
            self.said = Some(now);
        }
        tell
    }
}

/// Keeps one connection to `peer` until it is no longer wanted.
pub(super) async fn keep(node: Arc<Node>, peer: Arc<Peer>, purpose: Purpose) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut outage = Outage::default();
    loop {
        let ended = tokio::select! {
            () = peer.gone.cancelled() => break,
            ended = session(&node, &peer, purpose, &mut backoff, &mut outage) => ended,
        };
        peer.outbox(purpose).close();
        if let Err(error) = ended {
            let level = if outage.again(clock::now()) { log::Level::Info } else { log::Level::Debug };
            log::log!(level, "{purpose:?} link to {} at {}: {error:#}; trying on", peer.node, peer.addr());
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
    outage: &mut Outage,
) -> anyhow::Result<()> {
    let addr = peer.addr();
    let mut stream = timeout(PATIENCE, TcpStream::connect(&addr)).await.context("no connection within 1 s")??;
    tune(&stream);
    timeout(PATIENCE, greet(node, peer.node, purpose, &mut stream)).await.context("no hello within 1 s")??;
    log::debug!("{purpose:?} link to {} at {addr} is up", peer.node);
    *outage = Outage::default();
    backoff.reset();
    let stream = Arc::new(stream);
    peer.outbox(purpose).open(stream.clone());
    match purpose {
        Purpose::Pulse => node.want_beacon(),
        Purpose::Data | Purpose::Probe | Purpose::Question | Purpose::Forward => node.link_up(peer.node),
    }
    Ok(peer.outbox(purpose).pump(&stream).await?)
}

/// Says hello to whoever is to be `wanted`, and makes sure that it is.
pub(crate) async fn greet(node: &Node, wanted: NodeId, purpose: Purpose, stream: &mut TcpStream) -> anyhow::Result<()> {
    let me = node.identity();
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &Hello { purpose, from: me });
    stream.write_all(&bytes).await?;
    bytes.clear();
    let ack: HelloAck = loop {
        if let Some(ack) = frame::take_up_to(&mut bytes, hello::LONGEST)? {
            break ack;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("closed before its hello");
        }
    };
    if let Some(reason) = ack.refused {
        bail!("refused: {reason}");
    }
    hello::expect(&me, wanted, &ack.from).map_err(anyhow::Error::msg)
}
