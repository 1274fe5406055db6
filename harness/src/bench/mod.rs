//! Benchmarks against peers: all sides run in turn on the same machine in the same minute, and only ratios count.
//!
//! Absolute figures of one machine say little, and move by a factor of two from hour to hour; a ratio of two systems
//! measured alternately says something, if its spread is told with it. `lines` says what is compared and what is wanted;
//! everything around it is how.
//!
//! These are shells: they read the clock, wait, and have threads and tasks.
#![allow(clippy::disallowed_methods)]

pub mod against;
mod contest;
mod core_to_core;
mod dialect;
mod disk;
pub mod growth;
mod histogram;
pub mod lines;
mod load;
mod machine;
pub mod moving;
mod peers;
pub mod plot;
mod quota;
pub mod report;
mod setup;
mod tools;
mod usage;

pub use dialect::Protocol;
pub use histogram::Histogram;
pub use load::{Latency, Load, Measured, Target};
pub use machine::Machine;
pub use peers::echo;
