//! A server of Annulus.
//!
//! Pure cores: [`replica`] (one slot's replication protocol) and [`storage`] down to its file shell. Everything else in
//! this crate moves bytes and time between them and the world.

mod auditor;
mod checkpointer;
mod cli;
pub mod client_port;
pub mod config;
mod courtesy;
mod farewell;
mod links;
pub mod node;
mod pulse;
pub mod questions;
mod quota;
mod registrar;
pub mod relay;
pub mod replica;
pub mod replies;
mod slot_of;
pub mod storage;

pub use cli::cli;

/// Of every program that a server can run in.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
