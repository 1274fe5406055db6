//! TCP connections: the first line says what each is for.
//!
//! Bounds: [`STRANGERS`] that have not said it yet and [`ASKERS`] that ask questions (for a further one the oldest of its
//! kind is closed, so that idle crowds keep nobody out), [`SERVERS`] for everything servers say, [`FIRST`] to say something,
//! line lengths by kind, [`LARGE`] long lines at a time, [`OUTBOX`] lines and [`OUTBOX_BYTES`] to a server that does not read.
#![allow(clippy::disallowed_methods)] // a shell: a task per connection

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::clock;
use common::control::{FromServer, Question};
use common::lobby::{Lobby, Seat};
use common::throttle::Throttle;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::beats::Arrival;
use super::driver::Input;
use super::{Shared, lines};
use crate::core::{Conn, Event};

/// Connections whose first line has not come.
const STRANGERS: usize = 256;
/// Connections that ask questions.
const ASKERS: usize = 256;
/// Connections of servers: two of each.
const SERVERS: usize = 2048;
/// All of these, the admin port's, probes and the log: what the limit of open files has to allow.
pub(crate) const FILES: u64 = 3072;
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
/// Longer lines than [`SHORT`] that are read, or wait for the core, at a time. The others wait their turn.
pub(crate) const LARGE: usize = 32;
/// How long the rest of a long line may take, so that a slow one does not hold a place for ever.
const REST: Duration = Duration::from_secs(10);
/// Room for reading: small, since most connections say little.
const READ: usize = 8 << 10;
/// Lines that may wait to be sent to a server.
const OUTBOX: usize = 1024;
/// The same in bytes; one line more may lie on top.
const OUTBOX_BYTES: usize = 32 << 20;
/// How often callers that are turned away are mentioned while they keep coming.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be accepted (no file descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

static NUMBER: AtomicU64 = AtomicU64::new(0);

type Reader = BufReader<OwnedReadHalf>;

/// Lines on their way to one server, bounded in number and bytes.
#[derive(Clone)]
pub(crate) struct Outbox {
    lines: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
}

impl Outbox {
    /// False: it is full, or nobody writes it out any more.
    pub(crate) fn push(&self, line: Bytes) -> bool {
        let length = line.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let pushed = before <= OUTBOX_BYTES && self.lines.try_send(line).is_ok();
        if !pushed {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
        }
        pushed
    }
}

/// Where connections of each kind have their place.
#[derive(Clone)]
struct Places {
    strangers: Arc<Lobby>,
    askers: Arc<Lobby>,
    servers: Arc<Semaphore>,
}

/// Accepts connections until the shell stops.
pub(crate) async fn accept(listener: TcpListener, shared: Shared, pulse: mpsc::Sender<Arrival>) {
    let servers = Arc::new(Semaphore::new(SERVERS));
    let places = Places { strangers: Lobby::new(STRANGERS), askers: Lobby::new(ASKERS), servers };
    let mut complaints = Throttle::new(COMPLAINT_PAUSE);
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if complaints.say(clock::now(), 1).is_some() {
                    log::warn!("cannot accept connections: {error}; too many open files: see ulimit -n");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (shared, pulse, places, seat) = (shared.clone(), pulse.clone(), places.clone(), places.strangers.enter());
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            let served = stop.run_until_cancelled(serve(stream, shared, pulse, &places, seat)).await;
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
    places: &Places,
    seat: Seat,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let asker = stream.peer_addr()?;
    let (read, mut write) = stream.into_split();
    let mut input = BufReader::with_capacity(READ, read);
    let mut line = Vec::new();
    let Some(first) = seat.during(timeout(FIRST, lines::next(&mut input, &mut line, SHORT))).await else {
        return Ok(());
    };
    if !first?? {
        return Ok(());
    }
    drop(seat);
    let of_a_server = match serde_json::from_slice(&line) {
        Ok(message @ (FromServer::Heartbeat(_) | FromServer::Register { .. })) => message,
        Ok(_) => return write.write_all(b"{\"error\":\"register first\"}\n").await,
        Err(_) => {
            let seat = places.askers.enter();
            return seat.during(questions(asker, input, write, line, shared)).await.unwrap_or(Ok(()));
        }
    };
    let Ok(permit) = places.servers.clone().try_acquire_owned() else {
        return write.write_all(b"{\"error\":\"too many servers are connected: try again\"}\n").await;
    };
    match of_a_server {
        FromServer::Heartbeat(first) => {
            let rest = input.buffer().to_vec();
            let Ok(stream) = input.into_inner().reunite(write) else { return Ok(()) };
            let arrival = Arrival { stream: stream.into_std()?, first, rest, permit };
            let _ = pulse.send(arrival).await;
            Ok(())
        }
        FromServer::Register { info, cluster, rejoin, seen } => {
            let conn = Conn(NUMBER.fetch_add(1, Ordering::Relaxed));
            let ended =
                control(input, write, conn, Event::Register { conn, info, cluster, rejoin, seen }, shared).await;
            drop(permit);
            ended
        }
        _ => Ok(()),
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
    let (sender, lines) = mpsc::channel(OUTBOX);
    let outbox = Outbox { lines: sender, bytes: Arc::default() };
    let waiting = outbox.bytes.clone();
    let tell = |event| shared.events.send(Input::Event(event));
    if shared.events.send(Input::Open(conn, outbox)).await.is_err() || tell(first).await.is_err() {
        return Ok(());
    }
    let ended = tokio::select! {
        ended = hear(&mut input, conn, &shared) => ended,
        ended = speak(write, lines, &waiting) => ended,
    };
    let _ = tell(Event::Closed { conn }).await;
    ended
}

async fn hear(input: &mut Reader, conn: Conn, shared: &Shared) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        let place = match lines::begin(input, &mut line, SHORT).await? {
            lines::Begun::Whole => None,
            lines::Begun::End => return Ok(()),
            lines::Begun::Longer => {
                let Ok(place) = shared.large.clone().acquire_owned().await else { return Ok(()) };
                if !timeout(REST, lines::rest(input, &mut line, LONG)).await?? {
                    return Ok(());
                }
                Some(place)
            }
        };
        let event = match serde_json::from_slice(&line)? {
            FromServer::Ask(asks) => Event::Ask { conn, asks },
            FromServer::Report(report) => Event::Report { conn, report },
            FromServer::Goodbye => Event::Goodbye { conn },
            FromServer::Stopping => Event::Stopping { conn },
            FromServer::Wish { id, wish } => Event::Wish { conn, id, wish },
            FromServer::Register { info, cluster, rejoin, seen } => {
                Event::Register { conn, info, cluster, rejoin, seen }
            }
            FromServer::Heartbeat(_) => continue,
        };
        let input = match place {
            None => Input::Event(event),
            Some(place) => Input::Large(event, place),
        };
        if shared.events.send(input).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes what the core sends, until it hangs up.
async fn speak(
    mut write: OwnedWriteHalf,
    mut lines: mpsc::Receiver<Bytes>,
    waiting: &AtomicUsize,
) -> std::io::Result<()> {
    while let Some(line) = lines.recv().await {
        timeout(WRITE, write.write_all(&line)).await??;
        waiting.fetch_sub(line.len(), Ordering::Relaxed);
    }
    write.shutdown().await
}

async fn questions(
    asker: SocketAddr,
    mut input: Reader,
    mut write: OwnedWriteHalf,
    mut line: Vec<u8>,
    shared: Shared,
) -> std::io::Result<()> {
    loop {
        let answer = match serde_json::from_slice(&line) {
            Ok(Question::Status) => shared.status().json(),
            Ok(Question::Timeline) => shared.timeline(),
            Ok(Question::Accuse { addr, why }) => {
                let why = format!("{why} ({asker})");
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
