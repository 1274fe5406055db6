//! The peer port. Runs on the pulse thread, so that hellos and probes are answered however busy the data path is; data
//! connections are handed over to the main runtime once they have said who they are.
#![allow(clippy::disallowed_methods)] // shell: one task per connection

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::BytesMut;
use common::frame;
use common::peer::{Hello, HelloAck, Identity, Purpose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{receive, tune};
use crate::node::Node;
use crate::pulse;

/// Connections that have not said who they are. More are closed at once: peers and the ECS come back.
const STRANGERS: usize = 256;
/// How long a stranger may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A hello is short; whatever announces more is no peer.
const LONGEST_HELLO: usize = 4096;

/// Accepts connections until the task is dropped.
pub(crate) async fn listen(node: Arc<Node>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                let Ok(permit) = strangers.clone().try_acquire_owned() else { continue };
                let node = node.clone();
                tokio::spawn(async move {
                    let met = timeout(PATIENCE, meet(&node, stream)).await;
                    drop(permit);
                    match met {
                        Ok(Ok(Some(met))) => serve(node, met).await,
                        Ok(Ok(None)) => {}
                        Ok(Err(error)) => log::info!("peer connection from {addr}: {error:#}"),
                        Err(_) => log::info!("peer connection from {addr}: no hello within {PATIENCE:?}"),
                    }
                });
            }
            Err(error) => {
                log::warn!("peer port: cannot accept a connection: {error}");
                sleep(Duration::from_millis(50)).await;
            }
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
        if rest.len() >= 4 && u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize > LONGEST_HELLO {
            bail!("not a peer: its first frame is no hello");
        }
        if let Some(hello) = frame::take(&mut rest)? {
            break hello;
        }
        if stream.read_buf(&mut rest).await? == 0 {
            return Ok(None);
        }
    };
    let verdict = node.admit(hello.purpose, &hello.from);
    answer(&mut stream, node.identity(), verdict.as_ref().err()).await?;
    match verdict {
        // It comes back until the ECS has answered: not worth a line.
        Err(_) if !node.serving() => Ok(None),
        Err(reason) => bail!("refused node {}: {reason}", hello.from.node),
        Ok(_) if hello.purpose == Purpose::Probe => Ok(None),
        Ok(end) => Ok(Some(Met { hello, stream, rest, end })),
    }
}

async fn answer(stream: &mut TcpStream, from: Identity, refused: Option<&String>) -> anyhow::Result<()> {
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &HelloAck { from, refused: refused.cloned() });
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
                    Ok(stream) => receive(&node, from, stream, rest, &end).await,
                    Err(error) => log::warn!("data connection from {from}: {error}"),
                }
            });
        }
        Err(error) => log::warn!("data connection from {from}: {error}"),
    }
}
