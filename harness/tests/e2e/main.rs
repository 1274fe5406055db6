//! Real processes: servers, an ECS and clients of all kinds, and what is done to them.
//!
//! One program, so that it is linked once.

mod crowds;
mod failover;
mod growth;
mod hostile;
mod maps;
mod membership;
mod nemesis;
mod questions;
mod redis;
mod repair;
mod strangers;
mod survival;
