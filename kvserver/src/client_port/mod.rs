//! The client port: what clients connect to.
//!
//! One task per connection ([`task`]) around a [`session`] that knows no sockets. Requests are parsed as they arrive, clean
//! reads answered inline, everything else waits under a token while later requests go on; answers leave in the order of the
//! requests. There is no task, channel or allocation per read.
//!
//! What a client can do to others is bounded: connections ([`Settings::max_connections`]), requests under way and bytes per
//! connection ([`Bounds`]), bytes per request ([`Limits`]), and bytes of all together ([`memory`]). Nothing a client sends
//! ends the process.
#![allow(clippy::disallowed_methods)] // a shell: one task per connection

mod backend;
mod buffer;
mod memory;
mod pending;
mod redis;
pub mod session;
mod stats;
#[cfg(test)]
mod stub;
mod task;
#[cfg(test)]
mod tests;
mod text;
mod together;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use common::text::{Answer, Dialect, Form, Limits, encode};
use common::throttle::Throttle;
use common::{Time, clock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::backend::Backend;
pub use self::backend::{Facts, Serves};
use self::memory::Memory;
pub use self::session::Bounds;
use self::stats::Stats;
use crate::node::Node;
use crate::replies::Replies;

/// Connections over the limit that are being told so at one time; more than that are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;
/// How long to wait when no connection can be accepted (no file descriptors left): trying again at once would only burn.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often that is logged while it lasts.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// How the port behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which words are spoken.
    pub dialect: Dialect,
    /// A line sent before anything is asked.
    pub greeting: Option<String>,
    /// How large requests may be.
    pub limits: Limits,
    /// What one connection may keep busy.
    pub bounds: Bounds,
    /// What lets clients of other machines ask for changes of membership, if anything does.
    pub admin_token: Option<Arc<str>>,
    /// How many connections there may be.
    pub max_connections: usize,
    /// How many bytes all of them together may hold.
    pub max_memory: usize,
}

/// A port that serves until it is drained.
#[derive(Debug)]
pub struct ClientPort {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    accepting: tokio::task::JoinHandle<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    backend: Backend,
    replies: Arc<Replies>,
    stats: Arc<Stats>,
    memory: Memory,
    /// Connections that were cut, to be mentioned now and then.
    cuts: Mutex<Throttle>,
    stopping: AtomicBool,
}

impl Shared {
    /// Too much is held: those who must go are woken, to find out.
    fn relieve(&self, now: Time) {
        let chosen = self.memory.relieve(now);
        chosen.iter().for_each(|conn| self.replies.nudge(*conn));
        if chosen.is_empty() {
            return;
        }
        let said = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).say(now, chosen.len() as u64);
        if let Some(count) = said {
            let limit = self.settings.max_memory;
            log::warn!(
                "{count} client connections closed: all clients together held more than {limit} bytes of requests and \
                 unread replies (--max-client-memory)"
            );
        }
    }
}

impl ClientPort {
    /// Serves the clients of `listener` with `node`, which answers through `replies`.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        node: Arc<Node>,
        replies: Arc<Replies>,
    ) -> io::Result<ClientPort> {
        let stats = Arc::new(Stats::default());
        ClientPort::with(listener, settings, Backend::Node(node, stats.clone()), replies, stats)
    }

    fn with(
        listener: TcpListener,
        settings: Settings,
        backend: Backend,
        replies: Arc<Replies>,
        stats: Arc<Stats>,
    ) -> io::Result<ClientPort> {
        let addr = listener.local_addr()?;
        let stopping = AtomicBool::new(false);
        let memory = Memory::new(settings.max_memory);
        let cuts = Mutex::new(Throttle::new(COMPLAINT_PAUSE));
        let shared = Arc::new(Shared { settings, backend, replies, stats, memory, cuts, stopping });
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, shared.clone(), stop.clone()));
        Ok(ClientPort { addr, shared, stop, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What makes Prometheus text, now and later.
    pub fn metrics(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.stats.metrics(&shared.memory)
    }

    /// Stops: accepts no connection and reads no request any more, answers those under way, for at most `patience`, then
    /// cuts what is left. Returns how many connections were cut.
    pub async fn drain(self, patience: Duration) -> usize {
        self.stop.cancel();
        let Ok(mut connections) = self.accepting.await else { return 0 };
        self.shared.stopping.store(true, Relaxed);
        self.shared.replies.nudge_all();
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(patience, all).await;
        let cut = connections.len();
        connections.shutdown().await;
        cut
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(shared.settings.max_connections));
    let telling = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
    let mut complaints = Throttle::new(COMPLAINT_PAUSE);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return connections,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => admit(stream, &mut connections, &shared, &room, &telling),
            Err(error) => {
                if complaints.say(clock::now(), 1).is_some() {
                    log::warn!("cannot accept client connections: {error}; too many open files: see ulimit -n");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    connections: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    room: &Arc<Semaphore>,
    telling: &Arc<Semaphore>,
) {
    if let Ok(permit) = room.clone().try_acquire_owned() {
        shared.stats.accepted.fetch_add(1, Relaxed);
        shared.stats.open.fetch_add(1, Relaxed);
        let shared = shared.clone();
        connections.spawn(async move {
            task::serve(stream, &shared).await;
            drop(permit);
            shared.stats.open.fetch_sub(1, Relaxed);
        });
        return;
    }
    shared.stats.turned_away.fetch_add(1, Relaxed);
    if let Ok(permit) = telling.clone().try_acquire_owned() {
        let line = full(&shared.settings);
        connections.spawn(async move {
            task::turn_away(stream, line).await;
            drop(permit);
        });
    }
}

fn full(settings: &Settings) -> String {
    let limit = settings.max_connections;
    let why = format!("all {limit} connections are taken: close some, try later, or raise --max-connections");
    let mut line = BytesMut::new();
    encode(&mut line, settings.dialect, Form::Text, &Answer::Failed(&why));
    String::from_utf8_lossy(&line).into_owned()
}
