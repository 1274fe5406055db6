//! The peer port. Runs on the pulse thread, so that hellos and probes are answered however busy the data path is; data
//! connections are handed over to the main runtime once they have said who they are.
#![allow(clippy::disallowed_methods)] // shell: one task per connection

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use common::lobby::Lobby;
use common::peer::{Hello, HelloAck, Identity, Purpose};
use common::throttle::Throttle;
use common::{clock, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{hello, receive, tune};
use crate::node::Node;
use crate::{pulse, questions, relay};

/// Connections that have not said who they are. For a further one the oldest is closed: peers and the ECS speak at once.
const STRANGERS: usize = 64;
/// How long a stranger may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often bad callers are mentioned while they keep coming.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections until the task is dropped.
pub(crate) async fn listen(node: Arc<Node>, listener: TcpListener) {
    let strangers = Lobby::new(STRANGERS);
    let complaints = Arc::new(Complaints(Mutex::new(Throttle::new(COMPLAINT_PAUSE))));
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                let (node, complaints, seat) = (node.clone(), complaints.clone(), strangers.enter());
                tokio::spawn(async move {
                    let met = seat.during(timeout(PATIENCE, meet(&node, stream))).await;
                    drop(seat);
                    match met {
                        Some(Ok(Ok(Some(met)))) => serve(node, met).await,
                        Some(Ok(Ok(None))) => {}
                        Some(Ok(Err(error))) => complaints.say(addr, &format!("{error:#}")),
                        Some(Err(_)) => complaints.say(addr, &format!("no hello within {PATIENCE:?}")),
                        None => complaints.say(addr, "no hello, and others were waiting"),
                    }
                });
            }
            Err(error) => {
                if let Some(count) = complaints.due() {
                    log::warn!("peer port: cannot accept a connection: {error} ({count} complaints since the last)");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What is wrong with callers, for the log: whoever can reach the port must not be able to fill it.
struct Complaints(Mutex<Throttle>);

impl Complaints {
    fn due(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).say(clock::now(), 1)
    }

    fn say(&self, addr: SocketAddr, what: &str) {
        match self.due() {
            Some(1) => log::info!("peer connection from {addr}: {what}"),
            Some(count) => log::info!("peer connection from {addr}: {what} ({count} such since this was last said)"),
            None => {}
        }
    }
}

/// A caller that was let in.
struct Met {
    hello: Hello,
    stream: TcpStream,
    /// What it said after its hello already.
    rest: BytesMut,
    end: CancellationToken,
}

async fn meet(node: &Node, mut stream: TcpStream) -> anyhow::Result<Option<Met>> {
    tune(&stream);
    let mut rest = BytesMut::new();
    let hello: Hello = loop {
        if let Some(hello) = frame::take_up_to(&mut rest, hello::LONGEST).context("its first frame is no hello")? {
            break hello;
        }
        if stream.read_buf(&mut rest).await? == 0 {
            return Ok(None);
        }
    };
    let verdict = node.admit(hello.purpose, &hello.from);
    // What the ECS's probe of a suspect hears is what `/readyz` and the gRPC health say.
    let waiting_for = if hello.purpose == Purpose::Probe { node.ready().err() } else { None };
    answer(&mut stream, node.identity(), verdict.as_ref().err(), waiting_for).await?;
    match verdict {
        // It comes back until the ECS has answered: not worth a line.
        Err(_) if !node.serving() => Ok(None),
        Err(reason) => bail!("refused node {}: {reason}", hello.from.node),
        Ok(_) if hello.purpose == Purpose::Probe => Ok(None),
        Ok(end) => Ok(Some(Met { hello, stream, rest, end })),
    }
}

async fn answer(
    stream: &mut TcpStream,
    from: Identity,
    refused: Option<&String>,
    waiting_for: Option<String>,
) -> anyhow::Result<()> {
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &HelloAck { from, refused: refused.cloned(), waiting_for });
    Ok(stream.write_all(&bytes).await?)
}

async fn serve(node: Arc<Node>, met: Met) {
    let Met { hello, stream, rest, end } = met;
    let from = hello.from.node;
    if hello.purpose == Purpose::Pulse {
        pulse::receive(&node, from, stream, rest, &end).await;
        return;
    }
    match stream.into_std() {
        Ok(stream) => {
            let main = node.links().main().clone();
            main.spawn(async move {
                match TcpStream::from_std(stream) {
                    Ok(stream) if hello.purpose == Purpose::Question => questions::serve(&node, stream, rest).await,
                    Ok(stream) if hello.purpose == Purpose::Forward => {
                        relay::serve(node, from, stream, rest, &end).await;
                    }
                    Ok(stream) => receive(&node, from, stream, rest, &end).await,
                    Err(error) => log::warn!("data connection from {from}: {error}"),
                }
            });
        }
        Err(error) => log::warn!("data connection from {from}: {error}"),
    }
}
