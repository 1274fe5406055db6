//! `just nemesis`: what the table of faults promises, on real processes; see `harness::nemesis`.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // telling is what it is for

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use harness::nemesis::play::Stage;
use harness::nemesis::run::{Outcome, Scenario, all, named, run};
use harness::nemesis::{mounts, table};

/// Starts clusters of real processes, does to them what the table of faults says, and judges what clients saw.
#[derive(Parser, Debug)]
#[command(name = "nemesis")]
struct Args {
    /// Which scenarios; see --list.
    names: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// Shows their names, by line of the table, and stops.
    #[arg(long)]
    list: bool,
    /// Short pauses and sweeps, as the tests have them.
    #[arg(long)]
    short: bool,
    /// One JSON object a scenario.
    #[arg(long)]
    json: bool,
    /// The binary with the product's roles, if not this one.
    #[arg(long)]
    program: Option<PathBuf>,
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(code) = playground::node::dispatch(&words) {
        return code;
    }
    match play(&Args::parse_from(words)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nemesis: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Gives how many failed.
fn play(args: &Args) -> anyhow::Result<usize> {
    if args.list || (args.names.is_empty() && !args.all) {
        print!("{}", table::listing());
        return Ok(0);
    }
    let chosen: Vec<Scenario> = if args.all {
        all()
    } else {
        let find = |name: &String| named(name).ok_or_else(|| anyhow::anyhow!("no scenario is called {name}: see --list"));
        args.names.iter().map(find).collect::<anyhow::Result<_>>()?
    };
    let program = args.program.clone().map_or_else(std::env::current_exe, Ok)?;
    let stage = Stage { program, long: !args.short };
    mounts::sweep();
    let began = Instant::now();
    let outcomes: Vec<Outcome> = chosen.iter().map(|scenario| one(scenario, &stage, args.json)).collect();
    let count = |verdict: &str| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    if !args.json {
        println!(
            "{} passed, {} failed, {} skipped in {:.0} s",
            count("passed"),
            count("FAILED"),
            count("SKIPPED"),
            began.elapsed().as_secs_f32()
        );
        for outcome in outcomes.iter().filter(|outcome| outcome.verdict != "passed") {
            println!("  {} {}: {}", outcome.verdict, outcome.name, outcome.what.lines().next().unwrap_or_default());
        }
    }
    Ok(count("FAILED"))
}

fn one(scenario: &Scenario, stage: &Stage, json: bool) -> Outcome {
    let outcome = run(scenario, stage);
    if json {
        println!("{}", serde_json::to_string(&outcome).unwrap_or_default());
    } else {
        println!("{}", outcome.line());
    }
    outcome
}
