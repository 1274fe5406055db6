//! What the client port talks to: the node, or in tests a stand-in whose answers can be held back.

use std::sync::Arc;

use common::Time;
use common::control::Wish;
use common::position::Position;
use common::text::Whole;

use crate::node::Node;
use crate::replica::{Read, Scan, Token, Write};

/// A closed choice rather than a trait: there is one product.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    /// The node of this process.
    Node(Arc<Node>),
    /// A test's.
    #[cfg(test)]
    Stub(Arc<super::stub::Stub>),
}

/// What a session asks of whoever holds the slots. The node does it in the product; in the simulation it is the world.
pub trait Serves {
    /// Reads `key`; `f` must be quick.
    fn read<R>(&self, now: Time, key: &[u8], token: Token, f: impl FnOnce(Read<'_>) -> R) -> R;

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

impl Serves for Backend {
    fn read<R>(&self, now: Time, key: &[u8], token: Token, f: impl FnOnce(Read<'_>) -> R) -> R {
        match self {
            Backend::Node(node) => node.read(now, key, token, f),
            #[cfg(test)]
            Backend::Stub(stub) => stub.read(key, token, f),
        }
    }

    fn scan(&self, now: Time, at: Position, after: Option<&[u8]>, token: Token) -> Scan {
        match self {
            Backend::Node(node) => node.scan(now, at, after, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.scan(after, token),
        }
    }

    fn write(&self, now: Time, write: Write, token: Token) {
        match self {
            Backend::Node(node) => node.write(now, write, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.write(write, token),
        }
    }

    fn question(&self, whole: &Whole<'_>, token: Token) {
        match self {
            Backend::Node(node) => node.question(whole, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.question(whole, token),
        }
    }

    fn wish(&self, wish: Wish, token: Token) {
        match self {
            Backend::Node(node) => node.wish(wish, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.wish(&wish, token),
        }
    }

    fn serving(&self) -> bool {
        match self {
            Backend::Node(node) => node.serving(),
            #[cfg(test)]
            Backend::Stub(_) => true,
        }
    }

    fn keyrange(&self) -> Arc<str> {
        match self {
            Backend::Node(node) => node.keyrange(),
            #[cfg(test)]
            Backend::Stub(_) => Arc::from("0,f,127.0.0.1:1;"),
        }
    }

    fn keyrange_read(&self) -> Arc<str> {
        match self {
            Backend::Node(node) => node.keyrange_read(),
            #[cfg(test)]
            Backend::Stub(_) => Arc::from("0,f,127.0.0.1:2;"),
        }
    }

    fn status(&self) -> String {
        match self {
            Backend::Node(node) => node.status_json().to_string(),
            #[cfg(test)]
            Backend::Stub(_) => r#"{"stub":true}"#.to_string(),
        }
    }

    fn ecs(&self) -> Result<String, &'static str> {
        match self {
            Backend::Node(node) if node.standalone() => Err("this server is standalone: it was started without -b"),
            Backend::Node(node) => node.ecs_addr().ok_or("this server has not heard from the ECS yet"),
            #[cfg(test)]
            Backend::Stub(stub) => stub.ecs(),
        }
    }
}
