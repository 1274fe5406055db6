//! How Annulus is tested: a deterministic simulation of whole clusters, a checker of what clients saw in it,
//! real processes, and hostile bytes.

pub mod balance;
pub mod bench;
pub mod fuzz;
pub mod history;
pub mod invariants;
pub mod nemesis;
pub mod real;
pub mod sim;
