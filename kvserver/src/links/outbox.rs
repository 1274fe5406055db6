//! One outgoing connection's buffer: frames go in under a slot's lock, bytes go out without any.
//!
//! Bounded: a message that would make the buffer longer than its limit is dropped (and counted), as is everything while
//! the connection is down. The replication protocol takes lost messages for granted and sends again.
//!
//! Anyone may flush; only one does at a time, and the order of the bytes is the order of the pushes. What the socket does
//! not take at once is left to the connection's own task, which waits until it does.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use common::frame;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Buffers that have grown beyond this are given back once they are empty.
const KEEP: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    limit: usize,
    queue: Mutex<Queue>,
    dirty: AtomicBool,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// The connection; None: down, everything is dropped.
    stream: Option<Arc<TcpStream>>,
    /// Frames pushed and not yet taken for writing.
    pushed: BytesMut,
    /// Bytes taken and not yet accepted by the socket; they go first.
    taken: BytesMut,
    /// Somebody is writing `taken` at this moment, without the lock.
    writing: bool,
}

impl Outbox {
    /// A closed outbox for at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Outbox {
        Outbox { limit, queue: Mutex::default(), dirty: AtomicBool::new(false), wake: Notify::new() }
    }

    /// The connection is up: from now on messages are kept.
    pub(crate) fn open(&self, stream: Arc<TcpStream>) {
        *self.lock() = Queue { stream: Some(stream), ..Queue::default() };
    }

    /// The connection is down: what was not sent is lost.
    pub(crate) fn close(&self) {
        *self.lock() = Queue::default();
    }

    /// Whether the connection is up.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().stream.is_some()
    }

    /// Bytes waiting.
    pub(crate) fn len(&self) -> usize {
        let queue = self.lock();
        queue.pushed.len() + queue.taken.len()
    }

    /// Appends a frame; false if it was dropped. Somebody must call [`Outbox::flush`] afterwards.
    pub(crate) fn push<T: Serialize>(&self, message: &T) -> bool {
        let mut queue = self.lock();
        if queue.stream.is_none() || queue.pushed.len() + queue.taken.len() > self.limit {
            return false;
        }
        frame::put(&mut queue.pushed, message);
        drop(queue);
        self.dirty.store(true, Release);
        true
    }

    /// Whether something was pushed since this was last asked.
    pub(crate) fn take_dirty(&self) -> bool {
        self.dirty.load(std::sync::atomic::Ordering::Relaxed) && self.dirty.swap(false, AcqRel)
    }

    /// Lets the connection's task do the writing.
    fn wake(&self) {
        self.wake.notify_one();
    }

    /// Writes as much as the socket takes now; what remains, and any error, is the connection's task's business.
    pub(crate) fn flush(&self) {
        if !matches!(self.try_flush(), Ok(true)) {
            self.wake();
        }
    }

    /// Writes until the connection breaks.
    pub(crate) async fn pump(&self, stream: &TcpStream) -> io::Result<()> {
        loop {
            tokio::select! {
                ended = watch_end(stream) => return ended,
                () = self.wake.notified() => {}
            }
            while !self.try_flush()? {
                stream.writable().await?;
            }
        }
    }

    /// True: nothing is left to do here.
    fn try_flush(&self) -> io::Result<bool> {
        loop {
            let Some((stream, mut bytes)) = self.take() else { return Ok(true) };
            let result = write(&stream, &mut bytes);
            let left = !bytes.is_empty();
            self.put_back(&stream, bytes);
            match result {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ if left => return Ok(false),
                _ => {}
            }
        }
    }

    fn take(&self) -> Option<(Arc<TcpStream>, BytesMut)> {
        let mut queue = self.lock();
        if queue.writing {
            return None;
        }
        let stream = queue.stream.clone()?;
        if queue.taken.is_empty() {
            let Queue { pushed, taken, .. } = &mut *queue;
            std::mem::swap(pushed, taken);
        }
        if queue.taken.is_empty() {
            return None;
        }
        queue.writing = true;
        Some((stream, std::mem::take(&mut queue.taken)))
    }

    fn put_back(&self, stream: &Arc<TcpStream>, mut bytes: BytesMut) {
        let mut queue = self.lock();
        // The connection may have been replaced meanwhile: then these bytes belong to the old one.
        if queue.stream.as_ref().is_some_and(|now| Arc::ptr_eq(now, stream)) {
            if bytes.is_empty() && bytes.capacity() > KEEP {
                bytes = BytesMut::new();
            }
            (queue.taken, queue.writing) = (bytes, false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(stream: &TcpStream, bytes: &mut BytesMut) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => bytes.advance(n),
        }
    }
    bytes.clear();
    Ok(())
}

/// Nothing is ever said on this direction of a connection: readable means that it has ended.
async fn watch_end(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0; 64]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the peer")),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer spoke out of turn")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests start tasks
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialed = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Arc::new(dialed), listener.accept().await.unwrap().0)
    }

    #[test]
    fn a_message_is_dropped_while_the_connection_is_down() {
        let outbox = Outbox::new(1024);
        assert!(!outbox.push(&7u64));
        assert!(!outbox.take_dirty());
    }

    #[tokio::test]
    async fn everything_arrives_in_order_however_slowly_it_is_taken() {
        let outbox = Arc::new(Outbox::new(64 << 20));
        let (near, mut far) = pair().await;
        outbox.open(near.clone());
        let task = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.pump(&near).await }
        });
        const COUNT: u64 = 5_000;
        for number in 0..COUNT {
            assert!(outbox.push(&(number, vec![1u8; 1000])));
            if number % 7 == 0 {
                outbox.flush();
            }
        }
        outbox.flush();
        let mut input = BytesMut::new();
        for number in 0..COUNT {
            let message: (u64, Vec<u8>) = loop {
                if let Some(message) = frame::take(&mut input).unwrap() {
                    break message;
                }
                assert_ne!(far.read_buf(&mut input).await.unwrap(), 0);
            };
            assert_eq!(message.0, number);
        }
        assert_eq!(outbox.len(), 0);
        drop(far);
        assert!(task.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_full_outbox_drops_the_message_and_stays_bounded() {
        let outbox = Outbox::new(10_000);
        let (near, _far) = pair().await;
        outbox.open(near);
        let kept = (0..100).filter(|_| outbox.push(&vec![0u8; 1000])).count();
        assert!((9..12).contains(&kept), "{kept}");
        assert!(outbox.len() < 12_000);
    }
}
