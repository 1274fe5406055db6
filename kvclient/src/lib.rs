//! The client of Annulus.
//!
//! [`router`] is the pure core: what to do on each answer.

pub mod address;
pub mod error;
pub mod exit;
pub mod ring;
pub mod router;
pub mod sessions;

pub use address::Address;
pub use error::{Error, Trouble};
