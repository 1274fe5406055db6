//! The process around a server: start, ports, signals, end.
//!
//! Order of a start: ports are bound (so that their numbers are known, and a taken one is told before anything else), then
//! the node recovers, and only then anyone can connect. Order of an end: with `--leave` the copies are handed over; others
//! coordinate; no more requests, answers to those under way, then the node's own end with its last checkpoint. A second
//! signal ends the process at once; what was acknowledged is on
//! disk all the same.
#![allow(clippy::disallowed_methods)] // a shell: it starts the tasks of a process

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use common::admin::{self, Page};
use common::{Time, clock, files, logging};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::client_port::{ClientPort, Settings};
use crate::config::{Config, Wanted, Wrong};
use crate::courtesy::Courtesy;
use crate::farewell;
use crate::node::{Fatal, Node, NodeOptions};
use crate::quota::Quota;
use crate::replies::Replies;

/// How long a stop waits for answers to requests under way: as long as a write waits for its commit at most.
const DRAIN: Duration = Duration::from_secs(10);
/// How long an orderly stop waits for others to coordinate what this server coordinates. Mostly it takes tens of
/// milliseconds; a server that cannot be relieved stops all the same.
const STEP_DOWN: Duration = Duration::from_millis(800);
/// Connections that may wait to be accepted: a burst of clients that all reconnect.
const BACKLOG: u32 = 1024;
/// How often to look whether the node is ready.
const READY_POLL: Duration = Duration::from_millis(5);
/// Nothing is waited for in silence for longer than this.
const SILENCE: Duration = Duration::from_secs(2);
/// File descriptors beside those of clients, with every one of these at its bound: journal, checkpoint and the ECS (64),
/// clients that are being turned away (64), the admin port (64), strangers on the peer port (64) and servers that the ECS has
/// not told of (3 x 32), and six connections each to 64 peers.
const OWN_FILES: u64 = 736;
/// The same in a cluster of a few servers and without strangers: where files are scarce, clients get half of them, but what is
/// left for the server itself is never less than this.
const FEWEST_OWN_FILES: u64 = 64;

/// Tasks that are run before sockets are looked at again: as many as one look can wake. With fewer, those that find no place
/// in a thread's own queue wait for as long as new ones keep coming, which is seconds with 10,000 busy connections.
const TURN: u32 = 1024;

const COULD_NOT_START: u8 = 1;
const WRONG_FLAGS: u8 = 2;
const NOT_LEFT: u8 = 73;
const SECOND_SIGNAL: u8 = 130;

/// Runs a server with these arguments (the program's name first) until it is told to stop.
pub fn cli(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match Config::read(args) {
        Ok(Wanted::Serve(config)) => *config,
        Ok(Wanted::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(Wrong::Flags(error)) => {
            let _ = error.print();
            return ExitCode::from(WRONG_FLAGS);
        }
        Err(Wrong::Together(text)) => {
            complain(&text);
            return ExitCode::from(WRONG_FLAGS);
        }
    };
    match serve(&config) {
        Ok(code) => code,
        Err(error) => {
            log::error!("{error:#}");
            complain(&format!("{error:#}"));
            ExitCode::from(COULD_NOT_START)
        }
    }
}

fn serve(config: &Config) -> anyhow::Result<ExitCode> {
    let begun = clock::now();
    logging::start(config.log_level, config.log_file.as_deref())
        .with_context(|| format!("cannot open the log file {:?}: try another --log-file", config.log_file))?;
    warn(config);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(config.threads).event_interval(TURN).enable_all();
    builder.on_thread_park(let_others_go);
    let runtime = builder.build().context("cannot start the runtime")?;
    let server = start(config, &runtime)?;
    let node = server.node.identity();
    say(&format!("kvserver {}, node {}, start {}\n", env!("CARGO_PKG_VERSION"), node.node, node.boot));
    say(&format!("data in {}: {}, {} ms\n", config.dir.display(), loaded(&server.node), millis(begun)));
    if let Some(addr) = server.admin {
        say(&format!("admin on http://{addr}\n"));
    }
    say(&format!("kvserver listening on {}\n", server.port.addr()));
    let code = runtime.block_on(until_stopped(server, begun));
    runtime.shutdown_background();
    code
}

thread_local! {
    static COURTESY: Cell<(Courtesy, Quota)> = const { Cell::new((Courtesy::new(), Quota::new())) };
}

/// A serving thread is about to sleep.
fn let_others_go() {
    let (since, (mut courtesy, mut quota)) = (clock::now(), COURTESY.get());
    if courtesy.is_due(since) {
        std::thread::yield_now();
        courtesy.went(since, clock::now(), || quota.has_throttled());
        COURTESY.set((courtesy, quota));
    }
}

struct Server {
    port: ClientPort,
    node: Arc<Node>,
    admin: Option<SocketAddr>,
    stop_admin: CancellationToken,
    signals: Signals,
    /// Whether SIGTERM means leaving, and how long that may take.
    leave: Option<Duration>,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

fn start(config: &Config, runtime: &Runtime) -> anyhow::Result<Server> {
    let _inside = runtime.enter();
    let signals = Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    let clients = bind(config.listen, "--port")?;
    let admin = config.admin_listen.map(|addr| bind(addr, "--admin-port")).transpose()?;
    let admin_addr = admin.as_ref().map(TcpSocket::local_addr).transpose()?;
    let replies = Replies::new();
    let options = options(config, clients.local_addr()?, admin_addr);
    let node = Node::start(options, replies.clone(), runtime.handle())?;
    let settings = settings(config, room_for(config.max_connections));
    let port = ClientPort::start(listen(clients, "--port")?, settings, node.clone(), replies)?;
    let stop_admin = CancellationToken::new();
    if let Some(socket) = admin {
        let (node, metrics) = (node.clone(), port.metrics());
        let route = move |path: &str| page(path, &node, &metrics());
        let listener = listen(socket, "--admin-port")?;
        runtime.spawn(admin::serve(listener, "annulus.kv", route, stop_admin.clone()));
    }
    Ok(Server { port, node, admin: admin_addr, stop_admin, signals, leave: config.leave })
}

fn bind(addr: SocketAddr, flag: &str) -> anyhow::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr).map_err(|error| taken(addr, flag, &error))?;
    Ok(socket)
}

fn listen(socket: TcpSocket, flag: &str) -> anyhow::Result<TcpListener> {
    let addr = socket.local_addr()?;
    socket.listen(BACKLOG).map_err(|error| taken(addr, flag, &error))
}

fn taken(addr: SocketAddr, flag: &str, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port (0 for any)",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
        io::ErrorKind::AddrNotAvailable => "it is no address of this machine: see --address",
        _ => "choose another",
    };
    anyhow!("cannot listen on {addr} ({flag}): {error}; {hint}")
}

fn options(config: &Config, clients: SocketAddr, admin: Option<SocketAddr>) -> NodeOptions {
    let reached = |addr: SocketAddr| format!("{}:{}", config.host, addr.port());
    NodeOptions {
        data_dir: config.dir.clone(),
        ecs: config.bootstrap.clone(),
        client_addr: reached(clients),
        peer_bind: config.peer_listen,
        peer_host: config.host.clone(),
        admin_addr: admin.map(reached),
        confirm_reads: config.confirm_reads,
        longest_value: config.limits.value,
        checkpoint_every: config.checkpoint_every,
        audit_every: config.audit_every,
        move_rate: config.move_rate,
        weight: config.weight,
        salvage: config.salvage,
        rejoin: config.rejoin,
    }
}

fn settings(config: &Config, max_connections: usize) -> Settings {
    Settings {
        dialect: config.dialect,
        greeting: config.greeting.clone(),
        limits: config.limits,
        bounds: config.bounds,
        admin_token: config.admin_token.as_deref().map(Arc::from),
        max_connections,
        max_memory: config.max_client_memory,
    }
}

fn page(path: &str, node: &Node, port_metrics: &str) -> Page {
    match path {
        "/healthz" => Page::text(200, "ok\n"),
        "/readyz" => match node.ready() {
            Ok(()) => Page::text(200, "ready\n"),
            Err(why) => Page::text(503, format!("{why}\n")),
        },
        "/status" => Page::json(format!("{}\n", node.status_json())),
        "/metrics" => Page::metrics(node.metrics_text() + port_metrics),
        _ => Page::not_found("/healthz /readyz /status /metrics"),
    }
}

async fn until_stopped(server: Server, begun: Time) -> anyhow::Result<ExitCode> {
    let Server { port, node, admin: _, stop_admin, mut signals, leave } = server;
    let ready = tokio::spawn(tell_when_ready(node.clone(), begun));
    let ended = tokio::select! {
        fatal = node.fatal() => Ended::Failed(fatal),
        reason = node.until_left() => Ended::Left(reason),
        name = signals.next() => Ended::Told(name),
    };
    ready.abort();
    let mut code = ExitCode::SUCCESS;
    match (ended, leave) {
        (Ended::Failed(Fatal { reason, code }), _) => {
            complain(&reason);
            return Ok(ExitCode::from(code));
        }
        (Ended::Left(reason), _) => say(&format!("{reason}: nothing to serve any more, stopping\n")),
        (Ended::Told("SIGTERM"), Some(patience)) => {
            say("leaving the cluster on SIGTERM: handing all copies over (once more to stay in it and stop here)\n");
            if let Err(why) = leave_or_stay(&node, patience, &mut signals).await {
                complain(&format!(
                    "did not leave: {why}; stopping as a member, whose copies are missed until it is back"
                ));
                code = ExitCode::from(NOT_LEFT);
            }
        }
        (Ended::Told(name), _) => {
            say(&format!(
                "stopping on {name}: answering what was asked, then writing a checkpoint (once more to stop at once)\n"
            ));
        }
    }
    let stopped = tokio::select! {
        stopped = stop(port, &node) => stopped,
        _ = signals.next() => return Ok(ExitCode::from(SECOND_SIGNAL)),
    };
    stop_admin.cancel();
    stopped?;
    say("stopped\n");
    Ok(code)
}

/// What ends a server.
enum Ended {
    Failed(Fatal),
    Left(String),
    Told(&'static str),
}

async fn leave_or_stay(node: &Arc<Node>, patience: Duration, signals: &mut Signals) -> Result<(), String> {
    let left = tokio::select! {
        left = farewell::leave(node, patience, |text| say(&format!("{text}\n"))) => left,
        _ = signals.next() => Err("told to stop before that".to_owned()),
        fatal = node.fatal() => Err(fatal.reason),
    };
    match left {
        Ok(reason) => {
            say(&format!("{reason}\n"));
            Ok(())
        }
        Err(why) => {
            farewell::stay(node).await;
            Err(why)
        }
    }
}

async fn stop(port: ClientPort, node: &Arc<Node>) -> anyhow::Result<()> {
    node.step_down(STEP_DOWN).await;
    let cut = port.drain(DRAIN).await;
    if cut > 0 {
        log::warn!("{cut} connections still waited for answers after {} s and were cut", DRAIN.as_secs());
    }
    node.stop().await.context("the last checkpoint was not written; nothing acknowledged is lost, the journal has it")
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

async fn tell_when_ready(node: Arc<Node>, begun: Time) {
    let mut told = clock::now();
    while let Err(why) = node.ready() {
        if clock::now().since(told) >= SILENCE {
            told = clock::now();
            say(&format!("not ready after {} s: {why}\n", clock::now().since(begun).as_secs()));
        }
        tokio::time::sleep(READY_POLL).await;
    }
    say(&format!("ready in {} ms\n", millis(begun)));
}

fn loaded(node: &Node) -> String {
    let status = node.status_json();
    let count = |name: &str| status["counts"][name].as_u64().unwrap_or(0);
    format!("{} records, {} bytes", count("records"), count("bytes"))
}

fn warn(config: &Config) {
    if config.is_exposed() {
        log::warn!(
            "LISTENING ON {}: anyone who reaches this address can read and change everything; there is no TLS and no password",
            config.listen.ip()
        );
    }
    if config.cache_flags {
        log::info!("all data is in memory: --cache-size and --cache-strategy change nothing");
    }
    if config.salvage {
        log::warn!("--salvage: damaged data is left out; records may be missing afterwards");
    }
}

/// How many client connections the limit of open files leaves room for, once it is raised as far as this process may.
/// Clients must never take the files that journal, checkpoint and peers need.
fn room_for(connections: usize) -> usize {
    let files = files::allow(connections as u64 + OWN_FILES);
    let own = OWN_FILES.min((files / 2).max(FEWEST_OWN_FILES));
    let room = usize::try_from(files.saturating_sub(own).max(1)).unwrap_or(usize::MAX);
    if room < connections {
        log::warn!(
            "room for {room} client connections instead of {connections}: {files} open files are allowed (ulimit -Hn)"
        );
    }
    room.min(connections)
}

fn millis(since: Time) -> u128 {
    clock::now().since(since).as_millis()
}

/// To stdout; nobody reading it is no reason to stop.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "kvserver: {text}");
}
