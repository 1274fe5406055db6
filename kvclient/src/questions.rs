//! What a program can ask about the whole cluster: any server answers.

use bytes::Bytes;
use serde_json::Value;

use crate::address::Address;
use crate::client::Client;
use crate::error::Error;
use crate::router::{Answer, Command};

/// A server as the cluster lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Where clients reach it.
    pub address: String,
    /// Its id.
    pub id: String,
    /// `joining`, `up`, `leaving` or `down`.
    pub state: String,
}

impl Client {
    /// How many records the cluster holds: linearizable for each part of the ring, not one moment of all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn num_keys(&self) -> Result<u64, Error> {
        let text = self.ask("num_keys").await?;
        text.trim().parse().map_err(|_| nonsense("num_keys", &text))
    }

    /// The first key of all in the order of bytes; none if there is no record. As [`Client::num_keys`], no snapshot.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn first_key(&self) -> Result<Option<Bytes>, Error> {
        self.key("first_keyb").await
    }

    /// The last key of all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn last_key(&self) -> Result<Option<Bytes>, Error> {
        self.key("last_keyb").await
    }

    async fn key(&self, line: &str) -> Result<Option<Bytes>, Error> {
        match self.operate(Command::Ask(line.to_owned())).await? {
            Answer::Value(key) => Ok(key),
            _ => Err(nonsense(line, "no key")),
        }
    }

    /// The servers of the cluster, those that are down too.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn node_list(&self) -> Result<Vec<Node>, Error> {
        let text = self.ask("node_list").await?;
        let node = |entry: &str| {
            let mut parts = entry.splitn(3, ',').map(str::to_owned);
            Some(Node { address: parts.next()?, id: parts.next()?, state: parts.next()? })
        };
        let nodes: Option<Vec<Node>> = text.trim().split_terminator(';').map(node).collect();
        nodes.ok_or_else(|| nonsense("node_list", &text))
    }

    /// How every server stands, with a read and a write in every slot; see `docs/protocol.md`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster_status(&self) -> Result<Value, Error> {
        let text = self.ask("status cluster").await?;
        json("status cluster", &text)
    }

    /// Where a key lies, who holds it in which version, who would answer for it, and why.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn explain(&self, key: impl Into<Bytes>) -> Result<Value, Error> {
        match self.operate(Command::Explain { key: key.into() }).await? {
            Answer::Text(text) => json("explain", &text),
            _ => Err(nonsense("explain", "no text")),
        }
    }

    /// What happened to the cluster: accusations, probes, verdicts, and what followed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn timeline(&self) -> Result<Value, Error> {
        let text = self.ask("timeline").await?;
        json("timeline", &text)
    }
}

fn json(line: &str, text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|_| nonsense(line, text))
}

fn nonsense(line: &str, text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::Rejected { server: Address::from(line), reason: format!("an answer that makes no sense: {shown}") }
}
