//! TCP connections: the first line says what each is for.
//!
//! Bounds: [`CONNECTIONS`] in all (more are told so and closed), [`FIRST`] to say something, line lengths by kind,
//! [`OUTBOX`] lines to a server that does not read.
#![allow(clippy::disallowed_methods)] // a shell: a task per connection

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::control::{FromServer, Question};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::beats::Arrival;
use super::driver::Input;
use super::{Shared, lines};
use crate::core::{Conn, Event};

/// Two per server, and some for questions.
const CONNECTIONS: usize = 2048;
/// How long a new connection may be silent.
const FIRST: Duration = Duration::from_secs(10);
/// How long one that asks questions may be silent.
const IDLE: Duration = Duration::from_secs(60);
/// How long writing one line may take before the reader counts as gone.
const WRITE: Duration = Duration::from_secs(10);
/// A question, or the start of anything.
const SHORT: usize = 64 << 10;
/// A server's report: some 120 bytes a slot, for the largest ring.
const LONG: usize = 8 << 20;
/// Lines that may wait to be sent to a server.
const OUTBOX: usize = 1024;
/// How long to wait when no connection can be accepted (no file descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

static NUMBER: AtomicU64 = AtomicU64::new(0);

type Reader = BufReader<OwnedReadHalf>;

/// Accepts connections until the shell stops.
pub(crate) async fn accept(listener: TcpListener, shared: Shared, pulse: mpsc::Sender<Arrival>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            log::warn!("{peer} is turned away: {CONNECTIONS} connections are open");
            continue;
        };
        let (shared, pulse) = (shared.clone(), pulse.clone());
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            let served = stop.run_until_cancelled(serve(stream, shared, pulse, permit)).await;
            if let Some(Err(error)) = served {
                log::debug!("connection from {peer} ended: {error}");
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    shared: Shared,
    pulse: mpsc::Sender<Arrival>,
    permit: OwnedSemaphorePermit,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut input = BufReader::with_capacity(SHORT, read);
    let mut line = Vec::new();
    if !timeout(FIRST, lines::next(&mut input, &mut line, SHORT)).await?? {
        return Ok(());
    }
    match serde_json::from_slice(&line) {
        Ok(FromServer::Heartbeat(first)) => {
            let rest = input.buffer().to_vec();
            let Ok(stream) = input.into_inner().reunite(write) else { return Ok(()) };
            let arrival = Arrival { stream: stream.into_std()?, first, rest, permit };
            let _ = pulse.send(arrival).await;
            Ok(())
        }
        Ok(FromServer::Register { info, cluster, rejoin }) => {
            let conn = Conn(NUMBER.fetch_add(1, Ordering::Relaxed));
            control(input, write, conn, Event::Register { conn, info, cluster, rejoin }, shared).await
        }
        Ok(_) => write.write_all(b"{\"error\":\"register first\"}\n").await,
        Err(_) => questions(input, write, line, shared).await,
    }
}

/// A server's control connection. Whatever way it ends, the core is told.
async fn control(
    mut input: Reader,
    write: OwnedWriteHalf,
    conn: Conn,
    first: Event,
    shared: Shared,
) -> std::io::Result<()> {
    let (outbox, lines) = mpsc::channel(OUTBOX);
    let tell = |event| shared.events.send(Input::Event(event));
    if shared.events.send(Input::Open(conn, outbox)).await.is_err() || tell(first).await.is_err() {
        return Ok(());
    }
    let ended = tokio::select! {
        ended = hear(&mut input, conn, &shared) => ended,
        ended = speak(write, lines) => ended,
    };
    let _ = tell(Event::Closed { conn }).await;
    ended
}

async fn hear(input: &mut Reader, conn: Conn, shared: &Shared) -> std::io::Result<()> {
    let mut line = Vec::new();
    while lines::next(input, &mut line, LONG).await? {
        let event = match serde_json::from_slice(&line)? {
            FromServer::Ask(asks) => Event::Ask { conn, asks },
            FromServer::Report(report) => Event::Report { conn, report },
            FromServer::Goodbye => Event::Goodbye { conn },
            FromServer::Stopping => Event::Stopping { conn },
            FromServer::Wish { id, wish } => Event::Wish { conn, id, wish },
            FromServer::Register { info, cluster, rejoin } => Event::Register { conn, info, cluster, rejoin },
            FromServer::Heartbeat(_) => continue,
        };
        if shared.events.send(Input::Event(event)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes what the core sends, until it hangs up.
async fn speak(mut write: OwnedWriteHalf, mut lines: mpsc::Receiver<Bytes>) -> std::io::Result<()> {
    while let Some(line) = lines.recv().await {
        timeout(WRITE, write.write_all(&line)).await??;
    }
    write.shutdown().await
}

async fn questions(
    mut input: Reader,
    mut write: OwnedWriteHalf,
    mut line: Vec<u8>,
    shared: Shared,
) -> std::io::Result<()> {
    loop {
        let answer = match serde_json::from_slice(&line) {
            Ok(Question::Status) => shared.status().json(),
            Ok(Question::Accuse { addr, why }) => {
                // A hint that does not fit in is forgotten: there will be more of them.
                let _ = shared.events.try_send(Input::Event(Event::Accuse { addr, why }));
                "{\"ok\":true}".to_string()
            }
            Err(_) => {
                let help = "{\"error\":\"this is an Annulus ECS: it speaks JSON lines; try \\\"status\\\", or its --admin-port\"}\n";
                return write.write_all(help.as_bytes()).await;
            }
        };
        timeout(WRITE, write.write_all(format!("{answer}\n").as_bytes())).await??;
        if !timeout(IDLE, lines::next(&mut input, &mut line, SHORT)).await?? {
            return Ok(());
        }
    }
}
