//! One connection's task: moves bytes between the socket and its [`Session`].
//!
//! Each turn reads what there is with one system call, lets the session answer, and sends all ready answers with one.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use common::{Time, clock};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::Shared;
use super::memory::{Account, Pressure};
use super::session::Session;
use crate::replica::Reply;
use crate::replies::Registered;

/// The most that one read takes: many requests of a pipeline, and a large value in few pieces.
pub(super) const READ: usize = 64 * 1024;
/// How long, and how much, a closed connection is still read, so that unread bytes do not make the system throw the last
/// answers away.
const LINGER: Duration = Duration::from_secs(1);
/// The same when the whole port stops: clients close at once, and those that do not must not delay the stop.
const LINGER_STOPPING: Duration = Duration::from_millis(100);
const LINGER_BYTES: usize = 1 << 20;
/// How long a client may be silent before its machine is asked whether it still knows the connection.
const SILENT: Duration = Duration::from_secs(60);

thread_local! {
    /// Reads go here first, so that an idle connection needs no buffer of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Answers for which an idle connection keeps room.
const KEEP: usize = 64;
/// What a client is told whose connection is closed to save memory.
const CUT: &str =
    "the clients together hold more than --max-client-memory allows: send less at once, and read your replies";

struct Connection<'a> {
    session: Session,
    shared: &'a Shared,
    me: Registered,
    account: Account<'a>,
    /// What had moved when that was last looked at.
    moved: u64,
    replies: Vec<(u64, Reply)>,
    /// There are answers to be sent once the other connections have had their turn.
    holds: bool,
}

/// Why a connection is served no more.
enum End {
    /// The client has its answers, or the port stops.
    Done,
    /// Memory is needed.
    Cut,
}

/// Serves a client until it leaves, the socket fails, memory is needed, or the port stops.
pub(super) async fn serve(mut stream: TcpStream, shared: &Shared) {
    tune(&stream);
    let trusted = stream.peer_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback());
    let (mut session, me) = (Session::new(&shared.settings, trusted), shared.replies.register());
    if let Ok(addr) = stream.peer_addr() {
        session.set_peer(addr);
    }
    let account = shared.memory.account(me.conn());
    let mut connection = Connection { session, shared, me, account, moved: 0, replies: Vec::new(), holds: false };
    let ended = connection.run(&mut stream).await;
    connection.session.abandon(matches!(ended, Ok(End::Cut)).then_some(CUT));
    match ended {
        Ok(End::Done) => {
            let patience = if shared.stopping.load(Relaxed) { LINGER_STOPPING } else { LINGER };
            linger(stream, patience).await;
        }
        Ok(End::Cut) => {
            // One attempt: who did not read before will not now.
            let _ = stream.try_write(connection.session.output());
            drop(stream);
        }
        Err(error) => {
            log::debug!("a client connection ended: {error}");
            drop(stream);
        }
    }
    connection.orphans().await;
}

/// Says why not, and hangs up.
pub(super) async fn turn_away(mut stream: TcpStream, line: String) {
    if matches!(tokio::time::timeout(LINGER, stream.write_all(line.as_bytes())).await, Ok(Ok(()))) {
        linger(stream, LINGER).await;
    }
}

async fn linger(mut stream: TcpStream, patience: Duration) {
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(LINGER_BYTES as u64);
        let _ = tokio::time::timeout(patience, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

impl Connection<'_> {
    async fn run(&mut self, stream: &mut TcpStream) -> io::Result<End> {
        std::future::poll_fn(|cx| self.poll(cx, stream)).await
    }

    /// Does all that can be done now.
    ///
    /// Answers go out when every other connection that has something to do has had its turn: they are sent one right after the
    /// other then. A client's processor that sleeps is woken by the first of them, which costs this one more than a request does,
    /// and is still awake for the others. The same is done by redis, which sends when it has nothing left to read.
    fn poll(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<io::Result<End>> {
        loop {
            if self.session.is_done() {
                return Poll::Ready(Ok(End::Done));
            }
            let held = std::mem::take(&mut self.holds);
            let news = !held && self.news(cx, stream)?;
            if news && self.answer() {
                return Poll::Ready(Ok(End::Cut));
            }
            if news && !self.session.output().is_empty() {
                self.holds = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let sent = self.send(cx, stream)?;
            // What waited for room may go on now, and what took room is not held any more.
            if sent && !self.is_settled() && self.answer() {
                return Poll::Ready(Ok(End::Cut));
            }
            if !held && !news && !sent {
                return Poll::Pending;
            }
        }
    }

    /// Whether there is nothing to be done for the client but to wait for its next request.
    fn is_settled(&self) -> bool {
        self.session.is_idle() && self.account.covers(self.session.memory())
    }

    /// Lets the session answer what it can; true: this connection must go.
    fn answer(&mut self) -> bool {
        let now = clock::now();
        self.session.process(now, &self.shared.backend, self.me.conn());
        self.shared.stats.add(&mut self.session.counts);
        self.account_for(now)
    }

    /// Says what this connection holds; true: it must go.
    fn account_for(&mut self, now: Time) -> bool {
        let moved = std::mem::replace(&mut self.moved, self.session.moved()) != self.session.moved();
        let pressure = self.account.holds(now, self.session.memory(), moved);
        self.session.tighten(pressure != Pressure::Calm);
        if pressure == Pressure::Over {
            self.shared.relieve(now);
        }
        self.account.is_cut()
    }

    /// The client is gone; what it started goes on, and counts until it is answered. That is bounded in time.
    async fn orphans(&mut self) {
        while self.session.waiting() > 0 && !self.shared.stopping.load(Relaxed) {
            std::future::poll_fn(|cx| {
                let woken = self.take_replies(cx) || self.shared.stopping.load(Relaxed);
                if woken { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            self.session.abandon(None);
            self.account.holds(clock::now(), self.session.memory(), false);
        }
    }

    /// Takes answers and bytes; false if there was nothing. The task is woken when there is.
    fn news(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> io::Result<bool> {
        let mut news = self.take_replies(cx) || self.account.is_cut();
        if self.shared.stopping.load(Relaxed) && !self.session.is_closing() {
            self.session.close();
            news = true;
        }
        if self.session.wants_input() {
            news |= self.receive(cx, stream)?;
        }
        Ok(news)
    }

    fn take_replies(&mut self, cx: &mut Context<'_>) -> bool {
        let ready = self.me.inbox().poll_drain(cx, &mut self.replies).is_ready();
        for (index, reply) in self.replies.drain(..) {
            self.session.settle(index, reply);
        }
        if self.replies.capacity() > KEEP {
            self.replies = Vec::new();
        }
        ready
    }

    fn send(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> io::Result<bool> {
        if self.session.output().is_empty() {
            return Ok(false);
        }
        match Pin::new(stream).poll_write(cx, self.session.output())? {
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(count) => {
                self.session.sent(count);
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(stream).poll_read(cx, &mut buffer)? {
                Poll::Pending => return Ok(false),
                // The client has sent all it will. What it asked is still answered.
                Poll::Ready(()) if buffer.filled().is_empty() => self.session.ended(),
                Poll::Ready(()) => self.session.received(buffer.filled()),
            }
            Ok(true)
        })
    }
}

/// No Nagle; and a client that is gone without a word (its machine, its network) is noticed within two minutes, so that it
/// does not hold its place among --max-connections for ever. An option that the system lacks is done without.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, SILENT);
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(stream, 6);
}
