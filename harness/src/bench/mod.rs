//! Benchmarks against peers: both run in turn on the same machine in the same minute, and only ratios count.
//!
//! Absolute figures of one machine say little, and move by a factor of two from hour to hour; a ratio of two systems
//! measured alternately says something, if its spread is told with it.
//!
//! These are shells: they read the clock, wait, and have threads and tasks.
#![allow(clippy::disallowed_methods)]

pub mod cells;
mod disk;
mod failover;
mod histogram;
mod load;
pub mod moving;
mod peers;
pub mod report;

pub use histogram::Histogram;
pub use load::{Load, Measured, Protocol, Target};
