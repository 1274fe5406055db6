//! How Annulus is tested: a deterministic simulation of whole clusters, and a checker of what clients saw in it.

pub mod bench;
pub mod history;
pub mod invariants;
pub mod nemesis;
pub mod real;
pub mod sim;
