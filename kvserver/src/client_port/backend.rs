//! What the client port talks to: the node, or in tests a stand-in whose answers can be held back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use common::Time;
use common::control::Wish;
use common::position::Position;
use common::text::Whole;

use super::stats::Stats;
use crate::node::Node;
use crate::relay::Once;
use crate::relay::core::Order;
use crate::replica::{Read, Scan, Token, Write};

/// A closed choice rather than a trait: there is one product.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    /// The node of this process, and what its port has counted.
    Node(Arc<Node>, Arc<Stats>),
    /// A test's.
    #[cfg(test)]
    Stub(Arc<super::stub::Stub>),
}

/// What a session asks of whoever holds the slots. The node does it in the product; in the simulation it is the world.
pub trait Serves {
    /// Reads `key`; `f` must be quick. `at`: the key's position, if it is known already.
    fn read<R>(&self, now: Time, key: &[u8], at: Option<Position>, token: Token, f: impl FnOnce(Read<'_>) -> R) -> R;

    /// How long does `key` last? Otherwise as [`Serves::read`].
    fn lasting(&self, now: Time, key: &[u8], token: Token) -> Read<'static>;

    /// Does a job wherever it can be done; its answer comes back to the session that has the token.
    fn relay(&self, now: Time, order: Order);

    /// Whether a write of this key is to be begun here.
    fn coordinates(&self, key: &[u8]) -> bool;

    /// A request id for a write, if it may ever have to be sent again.
    fn once(&self, now: Time) -> Option<Once>;

    /// How many slots the ring has.
    fn slots(&self) -> u16;

    /// How many copies every record has beside the first, in sync.
    fn in_sync(&self) -> usize;

    /// Microseconds since the Unix epoch.
    fn wall_micros(&self) -> u64;

    /// Milliseconds since the Unix epoch.
    fn wall(&self) -> u64 {
        self.wall_micros() / 1000
    }

    /// What INFO tells.
    fn facts(&self) -> Facts;

    /// Reads a page.
    fn scan(&self, now: Time, at: Position, after: Option<&[u8]>, token: Token) -> Scan;

    /// Starts a write; its answer comes back to the session that has the token.
    fn write(&self, now: Time, write: Write, token: Token);

    /// Starts a question about the whole cluster; its answer comes back the same way.
    fn question(&self, whole: &Whole<'_>, token: Token);

    /// Passes a wish about the membership on; its answer comes back the same way.
    fn wish(&self, wish: Wish, token: Token);

    /// Whether the ring is known here.
    fn serving(&self) -> bool;

    /// The triples of `keyrange`.
    fn keyrange(&self) -> Arc<str>;

    /// The triples of `keyrange_read`.
    fn keyrange_read(&self) -> Arc<str>;

    /// How everything stands, in one line.
    fn status(&self) -> String;

    /// The ECS's address, for those who ask for it.
    ///
    /// # Errors
    /// Why it is not known.
    fn ecs(&self) -> Result<String, &'static str>;
}

/// What INFO tells about this server.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `host:port` of the client port.
    pub addr: String,
    /// The node's id.
    pub node: String,
    /// How long it runs.
    pub up_ms: u64,
    /// Whether the ring is known.
    pub serving: bool,
    /// Records in its copies.
    pub records: u64,
    /// Of these such with a deadline.
    pub with_deadline: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// See [`Serves::in_sync`].
    pub in_sync: u64,
    /// Client connections.
    pub connections: u64,
    /// Requests of clients, ever.
    pub requests: u64,
    /// Requests that are being done elsewhere.
    pub forwarding: u64,
    /// The longest value.
    pub longest_value: usize,
}

impl Facts {
    fn of(node: &Node, stats: &Stats) -> Facts {
        let status = node.status_json();
        let count = |name: &str| status["counts"][name].as_u64().unwrap_or(0);
        Facts {
            addr: node.options().client_addr.clone(),
            node: node.identity().node.to_string(),
            up_ms: node.up_ms(),
            serving: node.serving(),
            records: count("records"),
            with_deadline: count("with_deadline"),
            bytes: count("bytes"),
            in_sync: node.in_sync() as u64,
            connections: stats.open.load(Relaxed),
            requests: stats.requests(),
            forwarding: node.relaying().open() as u64,
            longest_value: node.options().longest_value,
        }
    }
}

impl Serves for Backend {
    fn lasting(&self, now: Time, key: &[u8], token: Token) -> Read<'static> {
        match self {
            Backend::Node(node, _) => node.lasting(now, key, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.lasting(key),
        }
    }

    fn relay(&self, now: Time, order: Order) {
        match self {
            Backend::Node(node, _) => node.relay(now, order),
            #[cfg(test)]
            Backend::Stub(stub) => stub.relay(order),
        }
    }

    fn coordinates(&self, key: &[u8]) -> bool {
        match self {
            Backend::Node(node, _) => node.coordinates(key),
            #[cfg(test)]
            Backend::Stub(_) => !key.starts_with(b"far"),
        }
    }

    fn once(&self, now: Time) -> Option<Once> {
        match self {
            Backend::Node(node, _) => node.once(now),
            #[cfg(test)]
            Backend::Stub(stub) => Some(stub.once(now)),
        }
    }

    fn slots(&self) -> u16 {
        match self {
            Backend::Node(node, _) => node.slots().unwrap_or(1),
            #[cfg(test)]
            Backend::Stub(_) => 1,
        }
    }

    fn in_sync(&self) -> usize {
        match self {
            Backend::Node(node, _) => node.in_sync(),
            #[cfg(test)]
            Backend::Stub(_) => 2,
        }
    }

    fn wall_micros(&self) -> u64 {
        match self {
            Backend::Node(..) => common::clock::wall_micros(),
            #[cfg(test)]
            Backend::Stub(_) => super::stub::WALL * 1000,
        }
    }

    fn facts(&self) -> Facts {
        match self {
            Backend::Node(node, stats) => Facts::of(node, stats),
            #[cfg(test)]
            Backend::Stub(_) => Facts { addr: "127.0.0.1:5001".into(), records: 7, ..Facts::default() },
        }
    }

    fn read<R>(&self, now: Time, key: &[u8], at: Option<Position>, token: Token, f: impl FnOnce(Read<'_>) -> R) -> R {
        match self {
            Backend::Node(node, _) => node.read(now, key, at, token, f),
            #[cfg(test)]
            Backend::Stub(stub) => stub.read(key, token, f),
        }
    }

    fn scan(&self, now: Time, at: Position, after: Option<&[u8]>, token: Token) -> Scan {
        match self {
            Backend::Node(node, _) => node.scan(now, at, after, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.scan(after, token),
        }
    }

    fn write(&self, now: Time, write: Write, token: Token) {
        match self {
            Backend::Node(node, _) => node.write(now, write, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.write(write, token),
        }
    }

    fn question(&self, whole: &Whole<'_>, token: Token) {
        match self {
            Backend::Node(node, _) => node.question(whole, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.question(whole, token),
        }
    }

    fn wish(&self, wish: Wish, token: Token) {
        match self {
            Backend::Node(node, _) => node.wish(wish, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.wish(&wish, token),
        }
    }

    fn serving(&self) -> bool {
        match self {
            Backend::Node(node, _) => node.serving(),
            #[cfg(test)]
            Backend::Stub(_) => true,
        }
    }

    fn keyrange(&self) -> Arc<str> {
        match self {
            Backend::Node(node, _) => node.keyrange(),
            #[cfg(test)]
            Backend::Stub(_) => Arc::from("0,f,127.0.0.1:1;"),
        }
    }

    fn keyrange_read(&self) -> Arc<str> {
        match self {
            Backend::Node(node, _) => node.keyrange_read(),
            #[cfg(test)]
            Backend::Stub(_) => Arc::from("0,f,127.0.0.1:2;"),
        }
    }

    fn status(&self) -> String {
        match self {
            Backend::Node(node, _) => node.status_json().to_string(),
            #[cfg(test)]
            Backend::Stub(_) => r#"{"stub":true}"#.to_string(),
        }
    }

    fn ecs(&self) -> Result<String, &'static str> {
        match self {
            Backend::Node(node, _) if node.standalone() => Err("this server is standalone: it was started without -b"),
            Backend::Node(node, _) => node.ecs_addr().ok_or("this server has not heard from the ECS yet"),
            #[cfg(test)]
            Backend::Stub(stub) => stub.ecs(),
        }
    }
}
