//! A whole cluster with one command: real processes, real directories, and the client's shell on top.
//!
//! The harness uses the same pieces ([`process`], [`cluster`], [`status`]) to test the system as it is really run.

pub mod args;
pub mod cluster;
mod folder;
pub mod node;
pub mod process;
mod run;
mod shell;
pub mod status;

pub use run::run;
