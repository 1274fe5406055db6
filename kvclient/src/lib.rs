//! The client of Annulus.
//!
//! [`Client`] is for programs; [`router`] is its pure core: what to do on each answer.

pub mod address;
pub mod client;
mod connection;
pub mod error;
pub mod exit;
mod report;
pub mod ring;
pub mod router;
pub mod sessions;
mod wire;

pub use address::Address;
pub use client::Client;
pub use error::{Error, Trouble};
pub use router::Settings;
