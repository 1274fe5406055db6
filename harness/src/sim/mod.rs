//! A whole cluster in one thread, deterministic from one seed.
//!
//! The cores are the real ones (replicas, the ECS, storage recovery, the client port's sessions with the text protocol and
//! Redis's, the relay between servers, the clients' router); sockets, disks, clocks and processes are simulated,
//! and go wrong in all the ways that the product promises to survive. A run has four parts: the cluster forms; faults and
//! client load go on together; everything heals and the cluster must converge in bounded time; every key is read and
//! written everywhere. What clients saw is then checked for linearizability, and the protocol's invariants are checked
//! all along ([`crate::invariants`]).
//!
//! Not simulated: the shells' own code (sockets, tasks, framing); real-process tests cover it.
// `to_` and `from_` name the direction of a message here; events are handed over whole, as the network does.
#![allow(clippy::wrong_self_convention, clippy::needless_pass_by_value)]

mod aim;
mod ambush;
mod amnesia;
mod client;
mod clock;
mod conns;
mod control;
mod converge;
mod directories;
mod disk;
mod ecs_host;
mod faults;
mod net;
mod operator;
mod plan;
mod port;
mod questions;
mod queue;
mod redis;
mod relays;
mod rot;
mod routed;
mod server;
mod stats;
mod syncs;
mod trace;
mod walls;
mod wire;
mod world;

pub use faults::must_happen;
pub use plan::Plan;
pub use stats::Stats;
use world::World;

/// How a run is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print everything that happens,
    pub trace: bool,
    /// or only what concerns this slot, or none in particular.
    pub slot: Option<common::Slot>,
    /// A rule that is turned off, to see whether it is missed.
    pub switches: common::Switches,
    /// A rule whose absence this run's mix is made to show.
    pub aim: Option<common::Rule>,
    /// From one server to all and back, whatever the seed says.
    pub tour: bool,
    /// No clients that speak Redis's protocol, and no keys with deadlines: what seeds drew before there were any.
    pub plain: bool,
}

/// How one seed went.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was exercised.
    pub stats: Stats,
    /// What went wrong, readably; None if nothing did.
    pub violation: Option<String>,
}

/// Runs one seed to its end or its first violation. A panic inside a core is a violation.
#[must_use]
pub fn run(seed: u64, options: Options) -> Outcome {
    let world = std::cell::RefCell::new(World::new(seed, options));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.borrow_mut().run()));
    let mut world = world.into_inner();
    let violation = match result {
        Ok(()) => world.take_violation(),
        Err(panic) => Some(format!("panic at {}: {}", world.time(), panic_text(panic.as_ref()))),
    };
    Outcome { seed, stats: world.into_stats(), violation }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "no message".to_string())
}
