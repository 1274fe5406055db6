//! The external configuration service: who serves which slots, decided in one place and durable before it is told.
//!
//! The cores are pure: [`cluster`] is the durable state and what commands do to it, [`detector`] judges who is alive,
//! [`planner`] says where a newcomer lands, [`director`] says which step comes next, and [`core`] binds them together
//! behind events and actions.

mod admin;
mod asks;
mod border;
pub mod change;
mod cli;
pub mod cluster;
pub mod core;
pub mod detector;
pub mod director;
mod handover;
mod membership;
mod pace;
pub mod planner;
mod progress;
mod recover;
mod register;
pub mod reports;
pub mod server;
mod settle;
pub mod status;
pub mod store;
mod twins;
mod whatif;

pub use cli::cli;
pub use cluster::{Cluster, Command};
pub use core::{Action, Config, Conn, Ecs, Event, Probed};
