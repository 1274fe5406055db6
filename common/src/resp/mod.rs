//! Redis's protocol as bytes: RESP2 and RESP3, the server's side. Commands come in ([`parse`], [`inline`]), replies go out
//! ([`encode`]).
//!
//! Not here: what a command means. Nothing is copied on the way in: a command is a list of [`Span`]s of the bytes that
//! came. The words of protocol errors are Redis's own, because clients compare them.

mod encode;
mod inline;
mod parse;
#[cfg(test)]
mod tests;

pub use encode::{Out, Proto, integer_text};
pub use parse::{Args, CommandParser, Limits, Parsed, Span, TooLarge};
