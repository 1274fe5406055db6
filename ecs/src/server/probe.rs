//! Probes: says hello to a server's peer port and reports who answered.
#![allow(clippy::disallowed_methods)] // a shell: one task per probe

use std::io::ErrorKind;
use std::time::Duration;

use bytes::BytesMut;
use common::peer::{Hello, HelloAck, Identity, Purpose};
use common::{ClusterId, NodeId, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::driver::Input;
use crate::core::{Event, Probed};

/// What an answer may measure at most; an identity is far shorter.
const ANSWER: usize = 4096;

/// The pause before a dropped connection is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// Starts probes. At most one a server is under way in the detector's view, so they need no bound of their own.
pub(crate) struct Prober {
    pub(crate) cluster: ClusterId,
    pub(crate) timeout: Duration,
    pub(crate) events: mpsc::Sender<Input>,
    pub(crate) runtime: Handle,
}

impl Prober {
    pub(crate) fn start(&self, node: NodeId, addr: String) {
        let (cluster, timeout, events) = (self.cluster, self.timeout, self.events.clone());
        self.runtime.spawn(async move {
            let seen = tokio::time::timeout(timeout, probe(&addr, cluster)).await.unwrap_or(Probed::Silent);
            log::debug!("probe of {node} at {addr}: {}", seen.words());
            // The driver has ended: nobody wants to know.
            let _ = events.send(Input::Event(Event::Probed { node, seen })).await;
        });
    }
}

/// A process that is being killed may still take a connection and drop it, because its sockets are closed one by one:
/// that proves neither life nor death, so it is asked again until it refuses, answers, or the time is up.
async fn probe(addr: &str, cluster: ClusterId) -> Probed {
    loop {
        match say_hello(addr, cluster).await {
            Ok(Some(identity)) => return Probed::Answered(identity),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Probed::Refused,
            Ok(None) | Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn say_hello(addr: &str, cluster: ClusterId) -> std::io::Result<Option<Identity>> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let from = Identity { cluster: Some(cluster), ..Identity::default() };
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &Hello { purpose: Purpose::Probe, from });
    stream.write_all(&bytes).await?;
    bytes.clear();
    loop {
        match frame::take::<HelloAck>(&mut bytes) {
            Ok(Some(ack)) => return Ok(Some(ack.from)),
            Ok(None) if bytes.len() < ANSWER && stream.read_buf(&mut bytes).await? > 0 => {}
            _ => return Ok(None),
        }
    }
}
