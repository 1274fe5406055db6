//! What a [`Node`](super::Node) needs to know to start, and how it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a node is to run. Client and admin ports are bound by the caller, so that their real numbers are known here.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// Addresses of the ECS, tried in turn. Empty: standalone, a ring of one.
    pub ecs: Vec<String>,
    /// Where clients reach this server, `host:port` with the real port: what KEYRANGE says.
    pub client_addr: String,
    /// Where to listen for peers; port 0 lets the system choose.
    pub peer_bind: SocketAddr,
    /// The host under which peers reach this server.
    pub peer_host: String,
    /// The HTTP port's `host:port`, if there is one.
    pub admin_addr: Option<String>,
    /// Ask every member before a read is answered, instead of trusting the lease (R3).
    pub confirm_reads: bool,
    /// How long a value may become, in bytes.
    pub longest_value: usize,
    /// The longest time from one checkpoint to the next, while there is anything new.
    pub checkpoint_every: Duration,
    /// How long a round of comparing all copies takes; None: they are not compared.
    pub audit_every: Option<Duration>,
    /// Bytes a second that go into catch-ups while clients are served; 0: as many as can.
    pub move_rate: u64,
    /// How large its share is to be, against the others'.
    pub weight: u16,
    /// Open a directory whose journal or checkpoint is damaged even if no other copy is known.
    pub salvage: bool,
    /// Take part again even if this server was removed from its cluster.
    pub rejoin: bool,
}

impl NodeOptions {
    /// A standalone server in `data_dir` that calls itself `client_addr`.
    #[must_use]
    pub fn standalone(data_dir: PathBuf, client_addr: String) -> NodeOptions {
        NodeOptions {
            data_dir,
            ecs: Vec::new(),
            client_addr,
            peer_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            peer_host: "127.0.0.1".into(),
            admin_addr: None,
            confirm_reads: false,
            longest_value: common::text::Limits::VALUE,
            checkpoint_every: crate::storage::store::DUE_AFTER,
            audit_every: None,
            move_rate: 0,
            weight: common::view::WEIGHT,
            salvage: false,
            rejoin: false,
        }
    }
}

/// Why a node cannot go on: the process is to say so and exit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fatal {
    /// What happened and what to try.
    pub reason: String,
    /// The process's exit code; never 0.
    pub code: u8,
}

impl Fatal {
    /// The disk failed: going on could lose what was acknowledged.
    pub const DISK: u8 = 70;
    /// The cluster refuses this server: wrong directory, wrong cluster, a second process with the same identity.
    pub const REFUSED: u8 = 71;
    /// A bug was met: state can no longer be trusted.
    pub const BUG: u8 = 72;
}
