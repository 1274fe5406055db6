//! The core's thread: takes what came in, asks the core, and performs what it wants, strictly in order.
//!
//! A command is on disk before the next action is looked at. The core itself is only locked while it thinks, not while the
//! disk works, so that a status can be had at any time.
#![allow(clippy::disallowed_methods)] // a shell: a thread

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::clock;
use common::control::FromEcs;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Shared;
use super::connections::Outbox;
use super::probe::Prober;
use crate::core::{Action, Conn, Event};
use crate::store::{Store, StoreError};

/// Events that are handled before heartbeats and the clock are looked at again.
const BATCH: usize = 256;
/// Full batches in a row before the clock is looked at all the same.
const ROUNDS: usize = 8;
/// The longest sleep: the core's deadlines are closer.
const SLEEP: Duration = Duration::from_secs(1);

/// What comes to the core.
pub(crate) enum Input {
    /// A control connection begins: where its lines go.
    Open(Conn, Outbox),
    /// Something happened.
    Event(Event),
    /// The same, with the place that its long line takes until it has been heard.
    Large(Event, OwnedSemaphorePermit),
}

struct Driver {
    shared: Shared,
    store: Store,
    prober: Prober,
    outboxes: BTreeMap<Conn, Outbox>,
    /// The last line that was written out: updates go to many, and are the same for all.
    last: Option<(FromEcs, Bytes)>,
}

/// Starts the thread. It ends when told to, or with the disk's error, and then everything else stops, too.
pub(crate) fn start(
    shared: Shared,
    store: Store,
    inputs: mpsc::Receiver<Input>,
    prober: Prober,
) -> std::io::Result<std::thread::JoinHandle<Result<(), StoreError>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let stop = shared.stop.clone();
    let mut driver = Driver { shared, store, prober, outboxes: BTreeMap::new(), last: None };
    std::thread::Builder::new().name("core".into()).spawn(move || {
        let ended = runtime.block_on(driver.run(inputs));
        if let Err(error) = &ended {
            log::error!("{error}: what is on disk is unknown now, so this ECS stops; the servers go on without it");
        }
        stop.cancel();
        ended
    })
}

impl Driver {
    async fn run(&mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), StoreError> {
        let (mut batch, mut rounds) = (Vec::with_capacity(BATCH), 0);
        let (stop, beats) = (self.shared.stop.clone(), self.shared.beats.clone());
        loop {
            let deadline = self.shared.with_core(|ecs| ecs.deadline());
            let sleep = tokio::time::sleep(deadline.since(clock::now()).min(SLEEP));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = inputs.recv_many(&mut batch, BATCH) => {}
                () = beats.news() => {}
                () = sleep => {}
            }
            for beat in beats.take().into_values() {
                self.handle(Event::Heartbeat(beat))?;
            }
            for input in batch.drain(..) {
                match input {
                    Input::Open(conn, outbox) => {
                        self.outboxes.insert(conn, outbox);
                    }
                    Input::Event(event) => self.handle(event)?,
                    Input::Large(event, place) => {
                        self.handle(event)?;
                        drop(place);
                    }
                }
            }
            // Only now, when all that had come was heard: after a slow fsync nobody is called silent unheard. A flood of
            // lines does not keep the clock from being looked at, though.
            rounds = if inputs.is_empty() { ROUNDS } else { rounds + 1 };
            if rounds >= ROUNDS && self.shared.with_core(|ecs| ecs.deadline()) <= clock::now() {
                rounds = 0;
                self.handle(Event::Tick)?;
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), StoreError> {
        let mut actions = Vec::new();
        if let Event::Closed { conn } = &event {
            self.outboxes.remove(conn);
        }
        let now = clock::now();
        self.shared.with_core(|ecs| ecs.handle(now, event, &mut actions));
        actions.into_iter().try_for_each(|action| self.perform(action))?;
        // Not in between: the core is already where the last of these commands leads.
        if self.store.is_long() {
            let state = self.shared.with_core(|ecs| ecs.cluster().clone());
            self.store.fold(&state)?;
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) -> Result<(), StoreError> {
        match action {
            Action::Persist(command) => self.store.append(&command)?,
            Action::Send { conn, msg } => self.send(conn, msg),
            Action::Probe { node, addr } => self.prober.start(node, addr),
            // What is in its outbox is still written; then the connection ends, and says so.
            Action::Disconnect { conn } => drop(self.outboxes.remove(&conn)),
            Action::Log { level, text } => {
                log::log!(level, "{text}");
                self.shared.timeline.add(level, text);
            }
        }
        Ok(())
    }

    /// A server that does not read its lines is disconnected, and gets everything when it registers again.
    fn send(&mut self, conn: Conn, msg: FromEcs) {
        let Some(outbox) = self.outboxes.get(&conn) else { return };
        let line = match &self.last {
            Some((last, line)) if *last == msg => line.clone(),
            _ => {
                let mut line = serde_json::to_vec(&msg).unwrap_or_default();
                line.push(b'\n');
                Bytes::from(line)
            }
        };
        if !outbox.push(line.clone()) {
            // Or it has just ended, and the core will be told.
            log::debug!("connection {}: the server does not read what it is told: disconnected", conn.0);
            self.outboxes.remove(&conn);
        }
        self.last = Some((msg, line));
    }
}
