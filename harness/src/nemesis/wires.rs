//! Proxies between the processes: each direction of each pair can be held (a half-open link: the connection stands and
//! nothing comes through), delayed, or cut (connections closed and refused).
//!
//! A server is told to advertise the address of its proxy, so everyone who dials it comes through here. Who dials a
//! peer port says so in its first frame, because on loopback all addresses look alike; towards the ecs every server has a
//! proxy of its own. What is held is delivered when the link opens again, like a very late packet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use common::peer::{Hello, Purpose};
use common::{NodeId, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A hello is short; whoever sends more without one is no peer.
const LONGEST_HELLO: usize = 4096;
/// What is carried at once, and how many of those are on their way at most; beyond it the sender waits.
const PIECE: usize = 16 << 10;
const PIECES: usize = 1024;

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// A server.
    Server(usize),
    /// The connections of a server that carry its beacons and answers to beacons, and nothing else; they are its others'
    /// like, unless something is said of them.
    Pulse(usize),
    /// The configuration service.
    Ecs,
    /// Any client.
    Client,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// They arrive.
    Open,
    /// They arrive this much later.
    Late(Duration),
    /// They wait here until the link is opened.
    Held,
    /// The connection is closed, and new ones are refused.
    Cut,
}

type Rules = BTreeMap<(Who, Who), Flow>;

/// The proxies of one cluster.
#[derive(Debug)]
pub struct Wires {
    rules: watch::Sender<Rules>,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: Mutex<BTreeMap<NodeId, Who>>,
    stopped: AtomicU64,
}

impl Wires {
    /// None yet.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new() -> anyhow::Result<Wires> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Wires { rules: watch::Sender::new(Rules::new()), shared: Arc::default(), runtime: Some(runtime) })
    }

    /// Listens for those who look for `target`, who really is at `real`. Whoever comes is `dialer`, or says who it is.
    ///
    /// # Errors
    /// The address is taken.
    pub fn listen(&self, at: &str, real: &str, dialer: Option<Who>, target: Who) -> anyhow::Result<()> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let listener = runtime.block_on(TcpListener::bind(at))?;
        let (real, shared, rules) = (real.to_owned(), self.shared.clone(), self.rules.subscribe());
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (shared, rules, real) = (shared.clone(), rules.clone(), real.clone());
                tokio::spawn(async move {
                    let (dialer, first) = match dialer {
                        Some(dialer) => (Dialer::Known(dialer), BytesMut::new()),
                        None => meet(&mut stream).await,
                    };
                    Link { shared, rules, dialer, target }.carry(stream, &real, first).await;
                });
            }
        });
        Ok(())
    }

    /// The server with this node id is this one.
    pub fn know(&self, node: NodeId, who: Who) {
        self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(node, who);
    }

    /// From now on, bytes from `from` to `to` do this.
    pub fn set(&self, from: Who, to: Who, flow: Flow) {
        self.rules.send_modify(|rules| {
            rules.insert((from, to), flow);
        });
    }

    /// The same for both directions.
    pub fn set_both(&self, one: Who, other: Who, flow: Flow) {
        self.set(one, other, flow);
        self.set(other, one, flow);
    }

    /// Everything is well again.
    pub fn open_all(&self) {
        self.rules.send_modify(Rules::clear);
    }

    /// How many times bytes were held or a connection was cut or refused, so far.
    #[must_use]
    pub fn stopped(&self) -> u64 {
        self.shared.stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn count(&self) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who dialled a connection.
#[derive(Clone, Copy)]
enum Dialer {
    Known(Who),
    /// A server that may not have been introduced yet, and what it came for.
    Named(NodeId, Purpose),
}

/// Hears who dials a peer port, and gives back what was read for that.
async fn meet(stream: &mut TcpStream) -> (Dialer, BytesMut) {
    let mut seen = BytesMut::new();
    loop {
        if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
            return (Dialer::Known(Who::Client), seen);
        }
        match frame::take::<Hello>(&mut seen.clone()) {
            // The ecs has no node id.
            Ok(Some(hello)) if hello.from.node == NodeId(0) => return (Dialer::Known(Who::Ecs), seen),
            Ok(Some(hello)) => return (Dialer::Named(hello.from.node, hello.purpose), seen),
            Ok(None) if seen.len() < LONGEST_HELLO => {}
            _ => return (Dialer::Known(Who::Client), seen),
        }
    }
}

/// One connection.
#[derive(Clone)]
struct Link {
    shared: Arc<Shared>,
    rules: watch::Receiver<Rules>,
    dialer: Dialer,
    target: Who,
}

impl Link {
    fn dialer(&self) -> Who {
        match self.dialer {
            Dialer::Known(who) => who,
            Dialer::Named(node, _) => {
                let nodes = self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                nodes.get(&node).copied().unwrap_or(Who::Client)
            }
        }
    }

    /// What the rules say for the way there, or back.
    fn flow(&mut self, there: bool) -> Flow {
        let (dialer, target) = (self.dialer(), self.target);
        let pulse = match (self.dialer, dialer) {
            (Dialer::Named(_, Purpose::Pulse), Who::Server(number)) => Some(Who::Pulse(number)),
            _ => None,
        };
        let rules = self.rules.borrow_and_update();
        let rule = |dialer| rules.get(&if there { (dialer, target) } else { (target, dialer) }).copied();
        pulse.and_then(rule).or_else(|| rule(dialer)).unwrap_or(Flow::Open)
    }

    fn is_cut(&mut self) -> bool {
        self.flow(true) == Flow::Cut || self.flow(false) == Flow::Cut
    }

    async fn cut(mut self) {
        while !self.is_cut() {
            if self.rules.changed().await.is_err() {
                return;
            }
        }
        self.shared.count();
    }

    async fn carry(mut self, near: TcpStream, real: &str, first: BytesMut) {
        if self.is_cut() {
            return self.shared.count();
        }
        let Ok(far) = TcpStream::connect(real).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let there = self.clone().pump(near_in, far_out, true, first);
        let back = self.clone().pump(far_in, near_out, false, BytesMut::new());
        tokio::select! {
            ((), ()) = async { tokio::join!(there, back) } => {}
            () = self.cut() => {}
        }
    }

    /// Waits while the way is held, and gives what it is then.
    async fn passable(&mut self, there: bool) -> Option<Flow> {
        if self.flow(there) == Flow::Held {
            self.shared.count();
        }
        loop {
            match self.flow(there) {
                Flow::Held => self.rules.changed().await.ok()?,
                flow => return Some(flow),
            }
        }
    }

    /// Carries bytes of one way until its end. Each piece is late by the same: pieces do not wait for each other's delay.
    async fn pump(self, input: OwnedReadHalf, mut output: OwnedWriteHalf, there: bool, first: BytesMut) {
        let (put, mut take) = mpsc::channel(PIECES);
        let reader = self.collect(input, there, first, put);
        let writer = async move {
            while let Some((due, piece)) = take.recv().await {
                tokio::time::sleep_until(due).await;
                if output.write_all(&piece).await.is_err() {
                    return;
                }
            }
            let _ = output.shutdown().await;
        };
        tokio::join!(reader, writer);
    }

    /// Takes what comes, and says when it is due at the other end.
    async fn collect(
        mut self,
        mut input: OwnedReadHalf,
        there: bool,
        first: BytesMut,
        put: mpsc::Sender<(Instant, BytesMut)>,
    ) {
        let mut buffer = first;
        loop {
            buffer.reserve(PIECE);
            if buffer.is_empty() && !matches!(input.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
            let came = Instant::now();
            let Some(flow) = self.passable(there).await else { return };
            let due = if let Flow::Late(delay) = flow { came + delay } else { came };
            if put.send((due, buffer.split())).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_direction_delivers_later_and_a_cut_one_closes() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let wires = Wires::new().unwrap();
        wires.listen(&unused, &server.local_addr().unwrap().to_string(), Some(Who::Client), Who::Server(1)).unwrap();
        let mut client = TcpStream::connect(&unused).unwrap();
        let (mut inside, _) = server.accept().unwrap();
        let mut byte = [0];
        wires.set(Who::Client, Who::Server(1), Flow::Held);
        client.write_all(b"a").unwrap();
        inside.write_all(b"b").unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b", "the other direction is open");
        inside.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(inside.read_exact(&mut byte).is_err(), "held");
        wires.open_all();
        inside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        inside.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a", "what was held arrives");
        wires.set_both(Who::Client, Who::Server(1), Flow::Cut);
        assert_eq!(client.read(&mut byte).unwrap_or(0), 0, "closed");
        assert!(wires.stopped() >= 2);
    }

    #[test]
    fn a_dialler_of_a_peer_port_is_known_by_its_hello() {
        use common::peer::Identity;
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let wires = Wires::new().unwrap();
        wires.listen(&unused, &server.local_addr().unwrap().to_string(), None, Who::Server(1)).unwrap();
        wires.know(NodeId(7), Who::Server(2));
        wires.set(Who::Server(1), Who::Server(2), Flow::Held);
        let mut hello = BytesMut::new();
        let from = Identity { cluster: None, node: NodeId(7), store: Default::default(), boot: Default::default() };
        frame::put(&mut hello, &Hello { purpose: Purpose::Data, from });
        let mut client = TcpStream::connect(&unused).unwrap();
        client.write_all(&hello).unwrap();
        let (mut inside, _) = server.accept().unwrap();
        let mut seen = vec![0; hello.len()];
        inside.read_exact(&mut seen).unwrap();
        assert_eq!(seen, hello, "the hello itself goes through");
        inside.write_all(b"x").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(client.read_exact(&mut [0]).is_err(), "the way back to that server is held");
    }
}
