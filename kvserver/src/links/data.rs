//! Incoming data connections: frames to events.
#![allow(clippy::disallowed_methods)] // shell: reads clocks

use anyhow::bail;
use bytes::BytesMut;
use common::peer::PeerMsg;
use common::{NodeId, frame};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Messages handled before other tasks get a turn.
const TURN: u32 = 64;
/// Room made for each read.
const ROOM: usize = 64 << 10;

/// Delivers what `from` says until it stops, is replaced, or talks nonsense.
pub(crate) async fn receive(node: &Node, from: NodeId, stream: TcpStream, input: BytesMut, end: &CancellationToken) {
    tokio::select! {
        () = end.cancelled() => {}
        ended = listen_to(node, from, stream, input) => {
            if let Err(error) = ended {
                log::info!("data connection from {from} is closed: {error:#}");
            }
        }
    }
}

async fn listen_to(node: &Node, from: NodeId, mut stream: TcpStream, mut input: BytesMut) -> anyhow::Result<()> {
    let mut turn = 0;
    loop {
        while let Some(message) = frame::take::<PeerMsg>(&mut input)? {
            if !node.peer_message(from, message) {
                bail!("a message for a slot that does not exist");
            }
            turn += 1;
            if turn % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        node.store().room().await;
        input.reserve(ROOM);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
