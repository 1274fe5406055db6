//! The client of Annulus.
//!
//! [`Client`] is for programs; [`router`] is its pure core: what to do on each answer. [`cli()`] is the `kvclient` program,
//! [`shell`] its shell, [`transfer`] its way with files.

pub mod address;
pub mod cli;
pub mod client;
mod connection;
pub mod error;
pub mod exit;
pub mod questions;
mod report;
pub mod ring;
pub mod router;
pub mod shell;
pub mod transfer;
pub mod wire;

pub use address::Address;
pub use cli::cli;
pub use client::Client;
pub use error::{Error, Trouble};
pub use router::Settings;
