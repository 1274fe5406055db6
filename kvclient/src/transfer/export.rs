//! `export`.
use crate::cli::args::Export;
use crate::cli::out::{Out, Problem};
use crate::client::Client;

/// Exports all records.
///
/// # Errors
/// Always, for now.
pub async fn run(_client: &Client, _args: &Export, _out: Out) -> Result<(), Problem> {
    Err(Problem::usage("not yet"))
}
