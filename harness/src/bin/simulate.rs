//! `simulate`: runs seeds of the simulation, or replays one of them readably.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool: its output is its purpose
#![allow(clippy::disallowed_methods)] // it runs seeds on threads and measures how long that takes

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use harness::sim::{Options, Outcome, Stats, run};

/// Runs simulated clusters through faults and checks what their clients saw.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// How many seeds to run
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens (with --seed)
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Seeds run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Go on after a violation, and list them all
    #[arg(long)]
    keep_going: bool,
}

/// What all seeds together came to.
#[derive(Default)]
struct Totals {
    stats: Stats,
    seeds: u64,
    failed: Vec<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let begun = Instant::now();
    let (from, count) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let options = Options { trace: args.trace, ..Options::default() };
    let totals = Mutex::new(Totals::default());
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    let failed = take(run(seed, options), &totals, count, begun);
                    if failed && !args.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_default();
    summary(&totals, begun, args.jobs);
    if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds one outcome; true if it is a violation.
fn take(outcome: Outcome, totals: &Mutex<Totals>, count: u64, begun: Instant) -> bool {
    let Ok(mut totals) = totals.lock() else { return true };
    totals.stats.merge(&outcome.stats);
    totals.seeds += 1;
    if totals.seeds.is_multiple_of(100) && totals.seeds < count {
        eprintln!(
            "{} of {count} seeds, {:.0} s, {} violated",
            totals.seeds,
            begun.elapsed().as_secs_f64(),
            totals.failed.len()
        );
    }
    let Some(text) = outcome.violation else { return false };
    println!("seed {}: VIOLATION {text}", outcome.seed);
    println!("  replay: cargo run -p harness --bin simulate -- --seed {} --trace\n", outcome.seed);
    totals.failed.push(outcome.seed);
    true
}

fn summary(totals: &Totals, begun: Instant, jobs: u64) {
    let (seconds, simulated) = (begun.elapsed().as_secs_f64(), totals.stats.simulated / 1_000_000);
    println!("{} seeds in {seconds:.1} s, {} violated: {:?}", totals.seeds, totals.failed.len(), totals.failed);
    print!("{}", totals.stats);
    let each = seconds * f64::from(u32::try_from(jobs.min(totals.seeds).max(1)).unwrap_or(1));
    println!(
        "  {:<34}{:>12.0}",
        "simulated seconds per CPU second",
        f64::from(u32::try_from(simulated).unwrap_or(u32::MAX)) / each
    );
}
