//! `just bench`: Annulus and its peers in turn.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a report is what it is for

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use harness::bench::cells::{self, Options};

/// Measures Annulus and its peers (redis, etcd) alternately on this machine, and tells the ratios.
#[derive(Parser, Debug)]
#[command(name = "bench")]
struct Args {
    /// How often each comparison alternates.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one side runs in a round, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many coordinators are killed.
    #[arg(long, default_value_t = 20)]
    failovers: usize,
    /// Only get, put or failover.
    #[arg(long)]
    only: Option<String>,
    /// Data of all systems; emptied first. On the disk that is to be measured.
    #[arg(long, default_value = "storage-dirs/bench")]
    folder: PathBuf,
    /// Also write the numbers as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = playground::node::dispatch(&args) {
        return code;
    }
    match measure(Args::parse_from(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: Args) -> anyhow::Result<()> {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let options = Options {
        program,
        folder: std::path::absolute(args.folder)?,
        rounds: args.rounds.max(1),
        length: Duration::from_secs_f64(args.seconds),
        failovers: args.failovers,
        only: args.only,
    };
    if cfg!(debug_assertions) {
        eprintln!("bench: these are not optimised binaries; use `cargo run --release`");
    }
    let report = cells::run(&options, &|what| eprintln!("measuring: {what}"))?;
    println!("{}", report.table());
    if let Some(file) = args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
