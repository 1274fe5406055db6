//! What every program of Annulus shares.
//!
//! Plain data (ids, views, entries, messages), the pure ring, and the codecs. Nothing in here opens a socket, starts a
//! task or reads a clock, with named exceptions, which shells call and cores never do: [`clock`], [`admin`] (the HTTP
//! port of both servers, with its gRPC health checks), [`lobby`] (connections that wait to be known), [`disk`] (the files of a
//! data directory), [`files`] and [`logging`].

pub mod admin;
pub mod blob;
pub mod clock;
pub mod control;
pub mod disk;
pub mod entry;
pub mod extended;
pub mod files;
pub mod forward;
pub mod frame;
#[cfg(feature = "health")]
mod health;
pub mod ids;
mod lanes;
pub mod lineage;
pub mod lobby;
pub mod logging;
pub mod mem_disk;
pub mod peer;
pub mod position;
pub mod priority;
pub mod question;
pub mod resp;
pub mod retry;
pub mod ring;
pub mod sealed;
pub mod sessions;
pub mod switches;
pub mod text;
pub mod throttle;
pub mod time;
pub mod update;
pub mod view;

pub use entry::{Entry, LogId, Op, Outcome, RequestId};
pub use ids::{BootId, ClientId, ClusterId, Epoch, NodeId, Seq, Slot, StoreUuid};
pub use lineage::Lineage;
pub use switches::{Rule, Switches};
pub use time::{Time, Timing, Wall};
pub use view::{ClusterRecord, Meta, NodeInfo, NodeState, View};
