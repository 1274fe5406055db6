//! The client that programs use: the [`Router`] with real connections and a real clock.
//!
//! All operations of all clones share one router behind one mutex, held for microseconds and never across an await. What
//! the router decides is handed to connection tasks; what they hear comes back through [`Sink`]. One task sleeps until
//! the router's next deadline.
#![allow(clippy::disallowed_methods)] // A shell: it starts tasks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use common::clock;
use common::position::Position;
use common::text::Page;
use common::{Outcome, Time};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::address::Address;
use crate::connection::{Connection, Line, Outgoing, Sink};
use crate::error::Error;
use crate::report::{self, Accusation};
use crate::ring::{self, Ring};
use crate::router::{Action, Answer, Command, Failure, Input, NoRing, OpId, Reply, Router, Settings};

/// Operations of one client that may be open at a time. The next one waits for one of them to end: a program that
/// starts a million puts at once gets them done, with bounded memory.
const MAX_OPEN: usize = 1024;

/// A client of one cluster. Cheap to clone; clones share connections, and may be used from any number of tasks.
///
/// Every operation ends within [`Settings::total`]. When the last clone is dropped, the connections are closed.
#[derive(Clone, Debug)]
pub struct Client(Arc<Handle>);

/// Ends everything when the last clone goes.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Debug)]
struct Shared {
    me: Weak<Shared>,
    inner: Mutex<Inner>,
    /// The deadline has become earlier than what the timer sleeps for, or the client is closed.
    rearm: Notify,
    permits: Semaphore,
    total: Duration,
    accusations: mpsc::Sender<Accusation>,
}

#[derive(Debug)]
struct Inner {
    router: Router,
    waiters: BTreeMap<OpId, oneshot::Sender<Result<Answer, Error>>>,
    connections: BTreeMap<Address, Connection>,
    /// What the timer sleeps for.
    armed: Time,
    closed: bool,
}

impl Client {
    /// A client that learns the ring from any of `seeds`, `host:port` each. Must be called inside a tokio runtime.
    /// Nothing is connected yet: see [`Client::connect`].
    #[must_use]
    pub fn new(seeds: Vec<Address>, settings: Settings) -> Client {
        let now = clock::now();
        let total = settings.total;
        let router = Router::new(settings, seeds, fastrand::u64(..), now, clock::wall_millis());
        let (accusations, heard) = mpsc::channel(report::QUEUE);
        let shared = Arc::new_cyclic(|me| Shared {
            me: me.clone(),
            inner: Mutex::new(Inner {
                router,
                waiters: BTreeMap::new(),
                connections: BTreeMap::new(),
                armed: Time::MAX,
                closed: false,
            }),
            rearm: Notify::new(),
            permits: Semaphore::new(MAX_OPEN),
            total,
            accusations,
        });
        tokio::spawn(run_timer(Arc::downgrade(&shared)));
        let asker = Arc::downgrade(&shared);
        tokio::spawn(report::run(heard, move || {
            let shared = asker.upgrade();
            async move {
                match shared?.operate(Command::Ask("ecs".to_owned())).await {
                    Ok(Answer::Text(addresses)) => Some(addresses),
                    _ => None,
                }
            }
        }));
        Client(Arc::new(Handle(shared)))
    }

    /// A client that has reached the cluster and knows its ring.
    ///
    /// # Errors
    /// [`Error::Unreachable`] at once if none of the seeds can be reached; [`Error::Refused`] if they do not serve in time.
    pub async fn connect(seeds: Vec<Address>, settings: Settings) -> Result<Client, Error> {
        let client = Client::new(seeds, settings);
        client.0.0.operate(Command::Connect).await?;
        Ok(client)
    }

    /// The value of `key`; none if it has none. Linearizable, from any of the servers that hold it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        match self.0.0.operate(Command::Get { key: key.into() }).await? {
            Answer::Value(value) => Ok(value),
            _ => Err(Error::Closed),
        }
    }

    /// Sets `key` to `value`, exactly once however often it had to be sent.
    ///
    /// # Errors
    /// See [`Error`]; only [`Error::Unknown`] leaves open whether it was executed.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Outcome, Error> {
        self.write(Command::Put { key: key.into(), value: value.into() }).await
    }

    /// Sets `key` to `value`, exactly once however often it had to be sent, and tells the value before, if there was one.
    ///
    /// # Errors
    /// See [`Error`]; only [`Error::Unknown`] leaves open whether it was executed.
    pub async fn getset(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        match self.0.0.operate(Command::Swap { key: key.into(), value: value.into() }).await? {
            Answer::Swapped(old) => Ok(old),
            _ => Err(Error::Closed),
        }
    }

    /// Removes `key`, exactly once however often it had to be sent.
    ///
    /// # Errors
    /// See [`Error`]; only [`Error::Unknown`] leaves open whether it was executed.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Outcome, Error> {
        self.write(Command::Delete { key: key.into() }).await
    }

    pub(crate) async fn operate(&self, command: Command) -> Result<Answer, Error> {
        self.0.0.operate(command).await
    }

    async fn write(&self, command: Command) -> Result<Outcome, Error> {
        match self.0.0.operate(command).await? {
            Answer::Written(outcome) => Ok(outcome),
            _ => Err(Error::Closed),
        }
    }

    /// A page of the records of the slot in which `at` lies: those with keys greater than `after`, or from the first.
    /// Linearizable like a read. To walk through everything: the next page is at the same position after the last key while
    /// there is [`Page::more`], then at the position after [`Page::last`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn scan(&self, at: Position, after: Option<Bytes>) -> Result<Page, Error> {
        match self.0.0.operate(Command::Scan { at, after }).await? {
            Answer::Page(page) => Ok(page),
            _ => Err(Error::Closed),
        }
    }

    /// The arcs that each server coordinates, asked afresh.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn keyrange(&self) -> Result<Vec<ring::Arc>, Error> {
        self.arcs("keyrange").await
    }

    /// The arcs that each server may answer reads for, asked afresh.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn keyrange_read(&self) -> Result<Vec<ring::Arc>, Error> {
        self.arcs("keyrange_read").await
    }

    async fn arcs(&self, line: &str) -> Result<Vec<ring::Arc>, Error> {
        let text = self.ask(line).await?;
        ring::parse(&text).map_err(|reason| Error::Rejected { server: Address::from("keyrange"), reason })
    }

    /// Sends a line that any server can answer, such as `status`; what comes back after the first word.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ask(&self, line: &str) -> Result<String, Error> {
        match self.0.0.operate(Command::Ask(line.to_owned())).await? {
            Answer::Text(text) => Ok(text),
            _ => Err(Error::Closed),
        }
    }

    /// Sends a line to this very server, once, for at most `patience`.
    ///
    /// # Errors
    /// A sentence.
    pub async fn ask_server(&self, server: &Address, line: &str, patience: Duration) -> Result<Reply, String> {
        self.0.0.direct(server, Line::Words(line.to_owned()), patience).await
    }

    /// Reads `key` from this very server, once, for at most `patience`: to compare copies.
    ///
    /// # Errors
    /// A sentence.
    pub async fn get_at(&self, server: &Address, key: impl Into<Bytes>, patience: Duration) -> Result<Reply, String> {
        self.0.0.direct(server, Line::Get(key.into()), patience).await
    }

    /// The ring as it was last learnt.
    #[must_use]
    pub fn ring(&self) -> Ring {
        self.0.0.lock().router.ring().clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the router consistent enough to fail the rest of its operations in time.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn operate(&self, command: Command) -> Result<Answer, Error> {
        let permit = tokio::time::timeout(self.total, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Error::Refused(crate::error::Trouble {
                waited: self.total,
                attempts: 0,
                tried: vec![(Address::from("this client"), format!("has {MAX_OPEN} operations open already"))],
            }));
        };
        let (sender, receiver) = oneshot::channel();
        let op = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(Error::Closed);
            }
            let mut out = Vec::new();
            let op = inner.router.start(clock::now(), command, &mut out);
            inner.waiters.insert(op, sender);
            self.perform(&mut inner, out);
            op
        };
        let guard = CancelOnDrop { shared: self, op };
        let result = receiver.await.unwrap_or(Err(Error::Closed));
        std::mem::forget(guard);
        result
    }

    async fn direct(&self, server: &Address, line: Line, patience: Duration) -> Result<Reply, String> {
        let (sender, receiver) = oneshot::channel();
        self.send(&mut self.lock(), server, Outgoing::Direct(line, sender));
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the client was closed".to_owned()),
            Err(_) => Err(format!("no answer within {patience:?}")),
        }
    }

    /// Gives inputs to the router and does what it wants done.
    fn drive(&self, inner: &mut Inner, inputs: impl IntoIterator<Item = Input>) {
        let now = clock::now();
        let mut out = Vec::new();
        for input in inputs {
            inner.router.handle(now, input, &mut out);
        }
        self.perform(inner, out);
    }

    fn perform(&self, inner: &mut Inner, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if let Some(input) = self.perform_one(inner, action) {
                let mut more = Vec::new();
                inner.router.handle(clock::now(), input, &mut more);
                actions.extend(more);
            }
        }
        if inner.router.deadline().is_some_and(|deadline| deadline < inner.armed) {
            self.rearm.notify_one();
        }
    }

    fn perform_one(&self, inner: &mut Inner, action: Action) -> Option<Input> {
        match action {
            Action::Send { op, attempt, to, request } => {
                let failed = !self.send(inner, &to, Outgoing::Request(op, attempt, request));
                let (kind, detail) = (Failure::ClosedBeforeSend, String::new());
                failed.then_some(Input::Failure { op, attempt, kind, detail })
            }
            Action::Refresh { from } => {
                let failed = !self.send(inner, &from, Outgoing::Refresh);
                let result = Err(NoRing::Unreachable("the client was closed".to_owned()));
                failed.then_some(Input::Keyrange { from, result })
            }
            Action::Retire { server } => {
                inner.connections.remove(&server);
                None
            }
            Action::Report { server, why } => {
                // Full: the ECS has been told enough.
                drop(self.accusations.try_send(Accusation { server, why }));
                None
            }
            Action::Done { op, result } => {
                if let Some(waiter) = inner.waiters.remove(&op) {
                    drop(waiter.send(result));
                }
                None
            }
        }
    }

    /// Hands something to the server's connection, a fresh one if the old one has ended. False if there can be none.
    fn send(&self, inner: &mut Inner, to: &Address, outgoing: Outgoing) -> bool {
        let Some(me) = self.me.upgrade().filter(|_| !inner.closed) else { return false };
        let outgoing = match inner.connections.get(to) {
            Some(connection) => match connection.send(outgoing) {
                None => return true,
                Some(returned) => returned,
            },
            None => outgoing,
        };
        let connection = Connection::open(to.clone(), Arc::new(ToShared(Arc::downgrade(&me))));
        let sent = connection.send(outgoing).is_none();
        inner.connections.insert(to.clone(), connection);
        sent
    }

    fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.connections.clear();
        inner.waiters.clear();
        self.rearm.notify_one();
    }
}

/// What connection tasks hold: it does not keep the client alive.
struct ToShared(Weak<Shared>);

impl Sink for ToShared {
    fn deliver(&self, inputs: Vec<Input>) {
        if let Some(shared) = self.0.upgrade() {
            shared.drive(&mut shared.lock(), inputs);
        }
    }
}

/// A future that is dropped takes its operation along.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    op: OpId,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.waiters.remove(&self.op);
        self.shared.drive(&mut inner, [Input::Cancel { op: self.op }]);
    }
}

/// Wakes the router at its deadlines until the client is closed.
async fn run_timer(shared: Weak<Shared>) {
    /// How long it sleeps when nothing is due; also how soon a client that was never closed in order is noticed.
    const IDLE: Duration = Duration::from_secs(60);
    while let Some(shared) = shared.upgrade() {
        let sleep = {
            let mut inner = shared.lock();
            if inner.closed {
                return;
            }
            let now = clock::now();
            if inner.router.deadline().is_some_and(|deadline| deadline <= now) {
                shared.drive(&mut inner, [Input::Tick]);
            }
            inner.armed = inner.router.deadline().unwrap_or(Time::MAX).min(now + IDLE);
            inner.armed.since(now)
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = shared.rearm.notified() => {}
        }
    }
}
