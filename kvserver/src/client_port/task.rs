//! One connection's task: moves bytes between the socket and its [`Session`].
//!
//! Each turn reads what there is with one system call, lets the session answer, and sends all ready answers with one.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use common::clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::Shared;
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

thread_local! {
    /// Reads go here first, so that an idle connection needs no buffer of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

struct Connection<'a> {
    stream: &'a mut TcpStream,
    session: Session,
    shared: &'a Shared,
    me: Registered,
    replies: Vec<(u64, Reply)>,
}

/// Serves a client until it leaves, the socket fails, or the port stops.
pub(super) async fn serve(mut stream: TcpStream, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let session = Session::new(&shared.settings);
    let me = shared.replies.register();
    let mut connection = Connection { stream: &mut stream, session, shared, me, replies: Vec::new() };
    match connection.run().await {
        Ok(()) if shared.stopping.load(Relaxed) => linger(stream, LINGER_STOPPING).await,
        Ok(()) => linger(stream, LINGER).await,
        Err(error) => log::debug!("a client connection ended: {error}"),
    }
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
    async fn run(&mut self) -> io::Result<()> {
        while !self.session.is_done() {
            std::future::poll_fn(|cx| self.turn(cx)).await?;
            self.session.process(clock::now(), &self.shared.backend, self.me.conn());
            self.shared.stats.add(&mut self.session.counts);
        }
        Ok(())
    }

    /// Does all that can be done now: takes answers, sends, reads. Pending if there was nothing.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut progress = self.take_replies(cx);
        if self.shared.stopping.load(Relaxed) && !self.session.is_closing() {
            self.session.close();
            progress = true;
        }
        progress |= self.send(cx)?;
        if self.session.wants_input() {
            progress |= self.receive(cx)?;
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn take_replies(&mut self, cx: &mut Context<'_>) -> bool {
        let ready = self.me.inbox().poll_drain(cx, &mut self.replies).is_ready();
        for (index, reply) in self.replies.drain(..) {
            self.session.settle(index, reply);
        }
        ready
    }

    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.session.output().is_empty() {
            return Ok(false);
        }
        match Pin::new(&mut *self.stream).poll_write(cx, self.session.output())? {
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(count) => {
                self.session.sent(count);
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut *self.stream).poll_read(cx, &mut buffer)? {
                Poll::Pending => return Ok(false),
                // The client has sent all it will. What it asked is still answered.
                Poll::Ready(()) if buffer.filled().is_empty() => self.session.ended(),
                Poll::Ready(()) => self.session.received(buffer.filled()),
            }
            Ok(true)
        })
    }
}
