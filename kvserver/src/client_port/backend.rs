//! What the client port talks to: the node, or in tests a stand-in whose answers can be held back.

use std::sync::Arc;

use common::Time;
use common::control::Wish;
use common::position::Position;

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

impl Backend {
    /// Reads `key`; `f` must be quick.
    pub(super) fn read<R>(&self, now: Time, key: &[u8], token: Token, f: impl FnOnce(Read<'_>) -> R) -> R {
        match self {
            Backend::Node(node) => node.read(now, key, token, f),
            #[cfg(test)]
            Backend::Stub(stub) => stub.read(key, token, f),
        }
    }

    /// Reads a page.
    pub(super) fn scan(&self, now: Time, at: Position, after: Option<&[u8]>, token: Token) -> Scan {
        match self {
            Backend::Node(node) => node.scan(now, at, after, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.scan(after, token),
        }
    }

    /// Starts a write; its answer comes to the connection's inbox.
    pub(super) fn write(&self, now: Time, write: Write, token: Token) {
        match self {
            Backend::Node(node) => node.write(now, write, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.write(write, token),
        }
    }

    /// Passes a wish about the membership on; its answer comes to the connection's inbox.
    pub(super) fn wish(&self, wish: Wish, token: Token) {
        match self {
            Backend::Node(node) => node.wish(wish, token),
            #[cfg(test)]
            Backend::Stub(stub) => stub.wish(&wish, token),
        }
    }

    /// Whether the ring is known here.
    pub(super) fn serving(&self) -> bool {
        match self {
            Backend::Node(node) => node.serving(),
            #[cfg(test)]
            Backend::Stub(_) => true,
        }
    }

    /// The triples of `keyrange`.
    pub(super) fn keyrange(&self) -> Arc<str> {
        match self {
            Backend::Node(node) => node.keyrange(),
            #[cfg(test)]
            Backend::Stub(_) => Arc::from("0,f,127.0.0.1:1;"),
        }
    }

    /// The triples of `keyrange_read`.
    pub(super) fn keyrange_read(&self) -> Arc<str> {
        match self {
            Backend::Node(node) => node.keyrange_read(),
            #[cfg(test)]
            Backend::Stub(_) => Arc::from("0,f,127.0.0.1:2;"),
        }
    }

    /// How everything stands, in one line.
    pub(super) fn status(&self) -> String {
        match self {
            Backend::Node(node) => node.status_json().to_string(),
            #[cfg(test)]
            Backend::Stub(_) => r#"{"stub":true}"#.to_string(),
        }
    }

    /// The ECS's address, for those who ask for it. Nothing in the client port talks to it.
    pub(super) fn ecs(&self) -> Result<String, &'static str> {
        match self {
            Backend::Node(node) if node.standalone() => Err("this server is standalone: it was started without -b"),
            Backend::Node(node) => node.ecs_addr().ok_or("this server has not heard from the ECS yet"),
            #[cfg(test)]
            Backend::Stub(stub) => stub.ecs(),
        }
    }
}
