//! The server's tests: one program, because linking one takes longer than running them.

mod cluster;
mod peer_port;
mod process;
mod questions;
mod replica_scripts;
mod restart;
mod support;
