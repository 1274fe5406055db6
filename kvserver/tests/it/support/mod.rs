//! A small cluster in one process: real nodes on real sockets, and an ECS that does what it is told.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)] // test support: clocks, tasks, and no error handling

pub mod fake_ecs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::clock;
use common::text::Whole;
use common::update::Update;
use kvserver::node::{Node, NodeOptions};
use kvserver::replica::{Read, Reply, Write, WriteOp};
use kvserver::replies::{Registered, Replies};
use tokio::runtime::Handle;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A directory that is removed with the test.
#[derive(Debug)]
pub struct TempDir(pub std::path::PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        let path = std::env::temp_dir().join(format!("annulus-{}-{:016x}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until `met` holds.
pub async fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !met() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A server without its client port, and one client of it.
pub struct Server {
    pub node: Arc<Node>,
    replies: Arc<Replies>,
    client: Registered,
    next: std::sync::atomic::AtomicU64,
}

impl Server {
    pub fn standalone(dir: &TempDir) -> Server {
        Server::start(NodeOptions::standalone(dir.0.clone(), "127.0.0.1:5001".into()))
    }

    pub fn clustered(dir: &TempDir, name: &str, ecs: &str) -> Server {
        let mut options = NodeOptions::standalone(dir.0.clone(), name.into());
        options.ecs = vec![ecs.into()];
        Server::start(options)
    }

    pub fn start(options: NodeOptions) -> Server {
        let replies = Replies::new();
        let node = Node::start(options, replies.clone(), &Handle::current()).unwrap();
        let client = replies.register();
        Server { node, replies, client, next: 0.into() }
    }

    pub async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while let Err(reason) = self.node.ready() {
            assert!(tokio::time::Instant::now() < deadline, "not ready: {reason}\n{:#}", self.node.status_json());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn put(&self, key: &str, value: &str) -> Reply {
        let token = self.token();
        let op = WriteOp::Put(Bytes::copy_from_slice(value.as_bytes()));
        let write = Write { key: Bytes::copy_from_slice(key.as_bytes()), op, request: None, retry: false };
        self.node.write(clock::now(), write, token);
        self.answer(token.index).await
    }

    pub async fn get(&self, key: &str) -> Reply {
        let token = self.token();
        let now = self.node.read(clock::now(), key.as_bytes(), None, token, |read| match read {
            Read::Value(value) => Some(Reply::Value(Some(Bytes::copy_from_slice(value)))),
            Read::Missing => Some(Reply::Value(None)),
            Read::Refused(refusal) => Some(Reply::Refused(refusal)),
            Read::Lasts(lasts) => Some(Reply::Lasts(lasts)),
            Read::Later => None,
        });
        match now {
            Some(reply) => reply,
            None => self.answer(token.index).await,
        }
    }

    pub async fn getset(&self, key: &str, value: &str) -> Reply {
        let token = self.token();
        let op = WriteOp::Swap(Bytes::copy_from_slice(value.as_bytes()));
        let write = Write { key: Bytes::copy_from_slice(key.as_bytes()), op, request: None, retry: false };
        self.node.write(clock::now(), write, token);
        self.answer(token.index).await
    }

    pub async fn update(&self, key: &str, update: Update) -> Reply {
        let token = self.token();
        let (key, op) = (Bytes::copy_from_slice(key.as_bytes()), WriteOp::Update(update));
        self.node.write(clock::now(), Write { key, op, request: None, retry: false }, token);
        self.answer(token.index).await
    }

    pub async fn lasting(&self, key: &str) -> Reply {
        let token = self.token();
        match self.node.lasting(clock::now(), key.as_bytes(), token) {
            Read::Lasts(lasting) => Reply::Lasts(lasting),
            Read::Refused(refusal) => Reply::Refused(refusal),
            _ => self.answer(token.index).await,
        }
    }

    /// A question about the whole cluster: the reply's first word, and the rest.
    pub async fn ask(&self, whole: Whole<'_>) -> (&'static str, String) {
        let token = self.token();
        self.node.question(&whole, token);
        match self.answer(token.index).await {
            Reply::Told(told) => {
                let text = told.text.map_or(String::new(), |text| String::from_utf8_lossy(&text).into_owned());
                (told.word, text)
            }
            other => panic!("{whole:?}: {other:?}"),
        }
    }

    pub fn client(&self) -> Registered {
        self.replies.register()
    }

    pub async fn put_as(&self, client: &Registered, key: &str, value: &str) -> Reply {
        let token = client.token(self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let op = WriteOp::Put(Bytes::copy_from_slice(value.as_bytes()));
        let write = Write { key: Bytes::copy_from_slice(key.as_bytes()), op, request: None, retry: false };
        self.node.write(clock::now(), write, token);
        let mut arrived = Vec::new();
        std::future::poll_fn(|cx| client.inbox().poll_drain(cx, &mut arrived)).await;
        arrived.remove(0).1
    }

    fn token(&self) -> kvserver::replica::Token {
        self.client.token(self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    async fn answer(&self, index: u64) -> Reply {
        let mut arrived = Vec::new();
        let answer = std::future::poll_fn(|cx| self.client.inbox().poll_drain(cx, &mut arrived));
        tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time");
        assert_eq!(arrived.len(), 1, "one request at a time: {arrived:?}");
        assert_eq!(arrived[0].0, index);
        arrived.remove(0).1
    }
}

/// Waits until the key is gone, at this server.
pub async fn until_missing(server: &Server, key: &str) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while server.get(key).await != Reply::Value(None) {
        assert!(tokio::time::Instant::now() < deadline, "{key} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn value(text: &str) -> Reply {
    Reply::Value(Some(Bytes::copy_from_slice(text.as_bytes())))
}
