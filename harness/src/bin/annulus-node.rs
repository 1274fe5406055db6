//! The whole product in one binary, for tests and benchmarks: the same hidden sub-commands as the playground's.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    playground::node::dispatch(&args).unwrap_or(ExitCode::from(2))
}
