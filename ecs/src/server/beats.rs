//! Heartbeats: a thread, a runtime and connections of their own, so that neither a long fsync nor a flood of other lines
//! makes a live server look dead.
//!
//! Only the newest heartbeat of each process is kept until the driver takes it, and of no more than [`PROCESSES`].
#![allow(clippy::disallowed_methods)] // a shell: a thread, and a task per connection

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use common::control::{FromServer, Heartbeat};
use common::{BootId, NodeId};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use super::{Shared, lines};

/// A heartbeat is one short line.
const LINE: usize = 4096;
/// Processes whose heartbeats may wait. One connection can name any number of them, and the driver may be waiting for its
/// disk: those that do not fit in come again.
const PROCESSES: usize = 4096;
/// Connections on their way from the listener to this thread. When it is full the listener waits.
const ARRIVING: usize = 64;

/// The newest heartbeats.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<(Mutex<Newest>, Notify)>);

type Newest = BTreeMap<(NodeId, BootId), Heartbeat>;

impl Board {
    fn put(&self, beat: Heartbeat) {
        let mut newest = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (beat.node, beat.boot);
        if newest.len() < PROCESSES || newest.contains_key(&name) {
            newest.insert(name, beat);
        }
        drop(newest);
        self.0.1.notify_one();
    }

    pub(crate) fn take(&self) -> Newest {
        std::mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn news(&self) {
        self.0.1.notified().await;
    }
}

/// A connection whose first line was a heartbeat.
pub(crate) struct Arrival {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) first: Heartbeat,
    /// What was read after the first line.
    pub(crate) rest: Vec<u8>,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Starts the thread; it takes connections from the sender.
pub(crate) fn start(shared: &Shared) -> std::io::Result<mpsc::Sender<Arrival>> {
    let (sender, mut arrivals) = mpsc::channel::<Arrival>(ARRIVING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (board, stop) = (shared.beats.clone(), shared.stop.clone());
    std::thread::Builder::new().name("heartbeats".into()).spawn(move || {
        if let Err(error) = common::priority::raise() {
            log::debug!("heartbeats are heard at the ordinary priority: {error}");
        }
        runtime.block_on(async move {
            while let Some(Some(arrival)) = stop.run_until_cancelled(arrivals.recv()).await {
                tokio::spawn(listen(arrival, board.clone()));
            }
        });
    })?;
    Ok(sender)
}

async fn listen(arrival: Arrival, board: Board) {
    let Arrival { stream, first, rest, permit } = arrival;
    board.put(first);
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let mut input = BufReader::new(tokio::io::AsyncReadExt::chain(std::io::Cursor::new(rest), stream));
    let mut line = Vec::new();
    while let Ok(true) = lines::next(&mut input, &mut line, LINE).await {
        match serde_json::from_slice(&line) {
            Ok(FromServer::Heartbeat(beat)) => board.put(beat),
            _ => break,
        }
    }
    drop(permit);
}
