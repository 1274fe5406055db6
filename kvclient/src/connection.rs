//! One connection to one server: requests go out as they come, replies come back in the same order.
//!
//! It never waits for a reply before it sends the next request. Nagle is off, and whatever has gathered goes out in one
//! write. It knows for each request whether any byte of it was written, because that is what tells "certainly not
//! executed" from "perhaps". It decides nothing: everything is handed to a [`Sink`].
#![allow(clippy::disallowed_methods)] // A shell: it starts a task per connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use common::text::{ReplyParser, Response, Word};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::address::Address;
use crate::ring;
use crate::router::{Failure, Input, NoRing, OpId, Reply, Request};
use crate::wire::{self, Expect};

/// The longest that a connection may take to be made. The router asks others long before; this only ends the task.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a connection that is no longer used waits for the replies that are still out.
const LINGER: Duration = Duration::from_secs(10);
/// No further request is taken over while so many bytes wait to be written: the rest waits in the queue, whose length
/// is bounded by the client's open operations.
const OUTPUT: usize = 256 * 1024;
/// The room for one read.
const INPUT: usize = 64 * 1024;

/// Who is told what came of the requests.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Called with everything that one read brought.
    fn deliver(&self, inputs: Vec<Input>);
}

/// What to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A request of the router.
    Request(OpId, u32, Request),
    /// `keyrange` and `keyrange_read`.
    Refresh,
    /// A line to this very server, answered past the router.
    Direct(Line, oneshot::Sender<Result<Reply, String>>),
}

/// See [`Outgoing::Direct`].
#[derive(Debug)]
pub(crate) enum Line {
    /// Any words.
    Words(String),
    /// A read that only this server is to answer.
    Get(bytes::Bytes),
}

/// The sending end of a connection. It is given up by dropping it.
#[derive(Clone, Debug)]
pub(crate) struct Connection(mpsc::UnboundedSender<Outgoing>);

impl Connection {
    /// A connection to be made as soon as the task runs. The queue is bounded by the client's open operations.
    pub(crate) fn open<S: Sink>(address: Address, sink: Arc<S>) -> Connection {
        let (sender, queue) = mpsc::unbounded_channel();
        tokio::spawn(run(address, queue, sink));
        Connection(sender)
    }

    /// Hands a request over; gives it back if the connection has ended.
    pub(crate) fn send(&self, outgoing: Outgoing) -> Option<Outgoing> {
        self.0.send(outgoing).err().map(|error| error.0)
    }
}

/// Who waits for a reply, in the order of the requests.
#[derive(Debug)]
struct Pending {
    waiter: Waiter,
    /// How many bytes had been queued for writing before this request.
    start: u64,
}

#[derive(Debug)]
enum Waiter {
    Op(OpId, u32, Expect),
    Keyrange,
    KeyrangeRead,
    Direct(Expect, oneshot::Sender<Result<Reply, String>>),
}

struct Task<S> {
    address: Address,
    sink: Arc<S>,
    pending: VecDeque<Pending>,
    output: BytesMut,
    /// Bytes ever queued, and ever written.
    queued: u64,
    written: u64,
    parser: ReplyParser,
    input: BytesMut,
    /// The first line may be a greeting.
    fresh: bool,
    coordinators: Option<Result<Vec<ring::Arc>, NoRing>>,
}

async fn run<S: Sink>(address: Address, mut queue: mpsc::UnboundedReceiver<Outgoing>, sink: Arc<S>) {
    let mut task = Task::new(address, sink);
    let connected = timeout(CONNECT, TcpStream::connect(task.address.as_str())).await;
    let end = match connected {
        Ok(Ok(stream)) => task.serve(stream, &mut queue).await,
        Ok(Err(error)) => End { kind: Failure::Refused, detail: error.to_string() },
        Err(_) => End { kind: Failure::Refused, detail: format!("no answer within {CONNECT:?}") },
    };
    // Whoever still tries to send gets the request back from now on.
    queue.close();
    while let Ok(outgoing) = queue.try_recv() {
        task.enqueue(outgoing);
    }
    task.fail_all(&end);
}

/// Why a connection ended.
struct End {
    kind: Failure,
    detail: String,
}

impl End {
    fn closed(detail: impl Into<String>) -> End {
        End { kind: Failure::ClosedAfterSend, detail: detail.into() }
    }
}

impl<S: Sink> Task<S> {
    fn new(address: Address, sink: Arc<S>) -> Task<S> {
        Task {
            address,
            sink,
            pending: VecDeque::new(),
            output: BytesMut::new(),
            queued: 0,
            written: 0,
            parser: ReplyParser::new(),
            input: BytesMut::with_capacity(INPUT),
            fresh: true,
            coordinators: None,
        }
    }

    async fn serve(&mut self, stream: TcpStream, queue: &mut mpsc::UnboundedReceiver<Outgoing>) -> End {
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("{}: cannot switch Nagle's algorithm off: {error}", self.address);
        }
        let (mut reader, mut writer) = stream.into_split();
        loop {
            let open = !queue.is_closed() || !queue.is_empty();
            tokio::select! {
                read = read(&mut reader, &mut self.input) => match read {
                    Ok(0) => return End::closed("closed by the server"),
                    Ok(_) => if let Err(end) = self.replies() { return end },
                    Err(error) => return End::closed(error.to_string()),
                },
                wrote = write(&mut writer, &self.output), if !self.output.is_empty() => match wrote {
                    Ok(count) => {
                        self.output.advance(count);
                        self.written += count as u64;
                    }
                    Err(error) => return End::closed(error.to_string()),
                },
                next = queue.recv(), if open && self.output.len() < OUTPUT => match next {
                    Some(outgoing) => self.take(outgoing, queue),
                    None if self.pending.is_empty() => return End::closed("no longer used"),
                    None => {}
                },
                () = tokio::time::sleep(LINGER), if !open => return End::closed("given up"),
            }
            if !open && self.pending.is_empty() {
                return End::closed("no longer used");
            }
        }
    }

    /// Takes over what has gathered, so that it goes out in one write.
    fn take(&mut self, first: Outgoing, queue: &mut mpsc::UnboundedReceiver<Outgoing>) {
        self.enqueue(first);
        while self.output.len() < OUTPUT {
            let Ok(next) = queue.try_recv() else { return };
            self.enqueue(next);
        }
    }

    fn enqueue(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Request(op, attempt, request) => {
                self.push(|out| Waiter::Op(op, attempt, wire::encode(out, &request)));
            }
            Outgoing::Refresh => {
                self.push(|out| {
                    wire::ask(out, "keyrange");
                    Waiter::Keyrange
                });
                self.push(|out| {
                    wire::ask(out, "keyrange_read");
                    Waiter::KeyrangeRead
                });
            }
            Outgoing::Direct(Line::Words(words), answer) => {
                self.push(|out| Waiter::Direct(wire::ask(out, &words), answer));
            }
            Outgoing::Direct(Line::Get(key), answer) => {
                self.push(|out| Waiter::Direct(wire::get(out, &key), answer));
            }
        }
    }

    fn push(&mut self, encode: impl FnOnce(&mut BytesMut) -> Waiter) {
        let before = self.output.len();
        let waiter = encode(&mut self.output);
        self.pending.push_back(Pending { waiter, start: self.queued });
        self.queued += (self.output.len() - before) as u64;
    }

    /// Handles every whole reply of the input.
    fn replies(&mut self) -> Result<(), End> {
        let mut inputs = Vec::new();
        let mut result = Ok(());
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while result.is_ok() {
            match self.parser.next(rest) {
                Ok((used, response)) => {
                    rest = &rest[used..];
                    let Some(response) = response else { break };
                    result = self.reply(&response, &mut inputs);
                }
                Err(error) => result = Err(End { kind: Failure::Garbled, detail: error.to_string() }),
            }
        }
        let used = input.len() - rest.len();
        self.input = input;
        self.input.advance(used);
        if !inputs.is_empty() {
            self.sink.deliver(inputs);
        }
        result
    }

    fn reply(&mut self, response: &Response<'_>, inputs: &mut Vec<Input>) -> Result<(), End> {
        if std::mem::take(&mut self.fresh) && response.word == Word::Other {
            log::debug!("{} greets: {}", self.address, String::from_utf8_lossy(response.rest));
            return Ok(());
        }
        let garbled = || End {
            kind: Failure::Garbled,
            detail: String::from_utf8_lossy(&response.rest[..response.rest.len().min(80)]).into_owned(),
        };
        let Some(pending) = self.pending.pop_front() else { return Err(garbled()) };
        match pending.waiter {
            Waiter::Op(op, attempt, expect) => match wire::decode(expect, response) {
                Some(reply) => inputs.push(Input::Answer { op, attempt, reply }),
                None => {
                    self.pending.push_front(Pending { waiter: Waiter::Op(op, attempt, expect), ..pending });
                    return Err(garbled());
                }
            },
            Waiter::Keyrange => self.coordinators = Some(wire::arcs(response)),
            Waiter::KeyrangeRead => {
                let readers = wire::arcs(response);
                let coordinators = self.coordinators.take().unwrap_or_else(|| Ok(Vec::new()));
                let result = coordinators.and_then(|coordinators| readers.map(|readers| (coordinators, readers)));
                inputs.push(Input::Keyrange { from: self.address.clone(), result });
            }
            Waiter::Direct(expect, answer) => {
                let reply = wire::decode(expect, response).ok_or_else(|| garbled().detail);
                // Whoever no longer waits needs no answer.
                drop(answer.send(reply));
            }
        }
        Ok(())
    }

    /// Tells everyone who waits that no reply comes.
    fn fail_all(&mut self, end: &End) {
        let mut inputs = Vec::new();
        for pending in self.pending.drain(..) {
            let kind = match end.kind {
                Failure::ClosedAfterSend if self.written <= pending.start => Failure::ClosedBeforeSend,
                kind => kind,
            };
            match pending.waiter {
                Waiter::Op(op, attempt, _) => {
                    inputs.push(Input::Failure { op, attempt, kind, detail: end.detail.clone() });
                }
                Waiter::Keyrange => {}
                Waiter::KeyrangeRead => {
                    let why = format!("{}: {}", kind.text(), end.detail);
                    let result = Err(NoRing::Unreachable(why));
                    inputs.push(Input::Keyrange { from: self.address.clone(), result });
                }
                Waiter::Direct(_, answer) => drop(answer.send(Err(format!("{}: {}", kind.text(), end.detail)))),
            }
        }
        if !inputs.is_empty() {
            self.sink.deliver(inputs);
        }
    }
}

async fn read(reader: &mut OwnedReadHalf, input: &mut BytesMut) -> std::io::Result<usize> {
    if input.capacity() - input.len() < INPUT / 4 {
        input.reserve(INPUT);
    }
    reader.read_buf(input).await
}

async fn write(writer: &mut OwnedWriteHalf, output: &[u8]) -> std::io::Result<usize> {
    writer.write(output).await
}
