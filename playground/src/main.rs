//! `cargo run --release --bin playground`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = playground::node::dispatch(&args) {
        return code;
    }
    playground::run(&playground::args::Args::parse_from(args))
}
