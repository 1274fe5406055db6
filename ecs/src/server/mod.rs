//! The ECS's shell: sockets, threads and the disk around the core.
//!
//! Three threads that never wait for each other's work: the driver (the core, its log and fsync), the heartbeats, and the
//! runtime of everything else (control connections, questions, probes, the admin port). Nothing is decided in here.
#![allow(clippy::disallowed_methods)] // a shell: it starts threads and tasks

mod beats;
mod connections;
mod driver;
mod lines;
mod probe;
mod timeline;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use common::admin::{self, Page};
use common::clock;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::core::{Config, Ecs};
use crate::status::Status;
use crate::store::{Opened, StoreError};

/// Events that may wait for the core. When it is full, connections wait to hand over what they read, and so do their
/// senders: nothing is dropped.
const EVENTS: usize = 4096;

/// A running ECS.
pub struct Server {
    shared: Shared,
    driver: std::thread::JoinHandle<Result<(), StoreError>>,
    listening: SocketAddr,
}

/// What all parts of the shell have.
#[derive(Clone)]
pub(crate) struct Shared {
    ecs: Arc<Mutex<Ecs>>,
    events: mpsc::Sender<driver::Input>,
    beats: beats::Board,
    timeline: Arc<timeline::Timeline>,
    /// Places for long lines.
    large: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// The core, for a moment: never across an await, never while the disk is waited for.
    fn with_core<T>(&self, look: impl FnOnce(&mut Ecs) -> T) -> T {
        look(&mut self.ecs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn timeline(&self) -> String {
        self.with_core(|ecs| self.timeline.json(ecs.cluster())).to_string()
    }

    fn status(&self) -> Status {
        self.with_core(|ecs| Status::of(ecs, clock::now()))
    }
}

impl Server {
    /// Starts serving on `listener`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(config: Config, opened: Opened, listener: TcpListener, runtime: &Handle) -> std::io::Result<Server> {
        let listening = listener.local_addr()?;
        let probe = config.probe;
        let ecs = Ecs::new(config, opened.cluster, clock::now());
        let cluster = ecs.cluster().record().cluster;
        let (events, inputs) = mpsc::channel(EVENTS);
        let stop = CancellationToken::new();
        let beats = beats::Board::default();
        let timeline = Arc::new(timeline::Timeline::open(opened.store.dir()));
        let large = Arc::new(Semaphore::new(connections::LARGE));
        let files = common::files::allow(connections::FILES);
        if files < connections::FILES {
            log::warn!(
                "{files} open files are allowed (ulimit -Hn), {} are wanted: a crowd can keep servers out",
                connections::FILES
            );
        }
        let shared = Shared { ecs: Arc::new(Mutex::new(ecs)), events, beats, timeline, large, stop };
        let prober = probe::Prober { cluster, timeout: probe, events: shared.events.clone(), runtime: runtime.clone() };
        let driver = driver::start(shared.clone(), opened.store, inputs, prober)?;
        let pulse = beats::start(&shared)?;
        runtime.spawn(connections::accept(listener, shared.clone(), pulse));
        Ok(Server { shared, driver, listening })
    }

    /// Where it listens.
    #[must_use]
    pub fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// Serves HTTP on `listener` as well.
    pub fn serve_admin(&self, listener: TcpListener, runtime: &Handle) {
        let shared = self.shared.clone();
        let stop = shared.stop.clone();
        runtime.spawn(admin::serve(listener, "annulus.ecs", move |path| page(&shared, path), stop));
    }

    /// Until the server has stopped: because it was told to, or because the disk failed.
    pub async fn ended(&self) {
        self.shared.stop.cancelled().await;
    }

    /// Stops, and waits for the last command to be durable.
    ///
    /// # Errors
    /// The disk had failed.
    pub fn stop(self) -> Result<(), StoreError> {
        self.shared.stop.cancel();
        self.driver.join().unwrap_or(Ok(()))
    }
}

fn page(shared: &Shared, path: &str) -> Page {
    match path {
        "/healthz" => Page::text(200, "ok\n"),
        "/readyz" => match shared.with_core(|ecs| ecs.refusing().map(str::to_string)) {
            None => Page::text(200, "ready\n"),
            Some(reason) => Page::text(503, format!("{reason}\n")),
        },
        "/status" => Page::json(shared.status().json()),
        "/timeline" => Page::json(shared.timeline()),
        "/" => Page::text(200, shared.status().text()),
        "/metrics" => Page::metrics(shared.status().metrics()),
        _ => Page::not_found("/ /healthz /readyz /status /timeline /metrics"),
    }
}
