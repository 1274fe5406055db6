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

/// What an answer may measure at most; an identity and what it waits for is far shorter.
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

/// What a probe heard.
enum Said {
    /// A process answered: who it is, and what it waits for before it serves all that it should.
    Process {
        identity: Identity,
        waiting_for: Option<String>,
    },
    Refused,
    Silent,
}

impl Said {
    fn seen(&self) -> Probed {
        match self {
            Said::Process { identity, .. } => Probed::Answered(*identity),
            Said::Refused => Probed::Refused,
            Said::Silent => Probed::Silent,
        }
    }
}

/// What the server's gRPC health says, too; a probe asks for the process, and this is told beside it.
fn health(waiting_for: Option<&str>) -> String {
    waiting_for.map_or("SERVING".into(), |what| format!("NOT_SERVING: {what}"))
}

impl Prober {
    pub(crate) fn start(&self, node: NodeId, addr: String) {
        let (cluster, timeout, events) = (self.cluster, self.timeout, self.events.clone());
        self.runtime.spawn(async move {
            let said = tokio::time::timeout(timeout, probe(&addr, cluster)).await.unwrap_or(Said::Silent);
            let seen = said.seen();
            log::debug!("probe of {node} at {addr}: {}", seen.words());
            if let Said::Process { waiting_for, .. } = &said {
                let said = health(waiting_for.as_deref());
                let _ = events.send(Input::Event(Event::ProbeSaid { node, said })).await;
            }
            // The driver has ended: nobody wants to know.
            let _ = events.send(Input::Event(Event::Probed { node, seen })).await;
        });
    }
}

/// A process that is being killed may still take a connection and drop it, because its sockets are closed one by one:
/// that proves neither life nor death, so it is asked again until it refuses, answers, or the time is up.
async fn probe(addr: &str, cluster: ClusterId) -> Said {
    loop {
        match say_hello(addr, cluster).await {
            Ok(Some(ack)) => return Said::Process { identity: ack.from, waiting_for: ack.waiting_for },
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Said::Refused,
            Ok(None) | Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn say_hello(addr: &str, cluster: ClusterId) -> std::io::Result<Option<HelloAck>> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let from = Identity { cluster: Some(cluster), ..Identity::default() };
    let mut bytes = BytesMut::new();
    frame::put(&mut bytes, &Hello { purpose: Purpose::Probe, from });
    stream.write_all(&bytes).await?;
    bytes.clear();
    loop {
        match frame::take::<HelloAck>(&mut bytes) {
            Ok(Some(ack)) => return Ok(Some(ack)),
            Ok(None) if bytes.len() < ANSWER && stream.read_buf(&mut bytes).await? > 0 => {}
            _ => return Ok(None),
        }
    }
}
