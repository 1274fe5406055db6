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
    /// Turn each rule of the protocol off in turn: each must be missed within --seeds (needs the feature `switches`)
    #[arg(long)]
    mutants: bool,
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
    if args.mutants {
        return mutants(&args);
    }
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let begun = Instant::now();
    let (from, count) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let options = Options { trace: args.trace, ..Options::default() };
    let totals = Mutex::new(Totals::default());
    each(from, count, args.jobs, options, |outcome| take(outcome, &totals, count, begun) && !args.keep_going);
    let totals = totals.into_inner().unwrap_or_default();
    summary(&totals, begun);
    if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds on `jobs` threads until `done` says that it is enough.
fn each(from: u64, count: u64, jobs: u64, options: Options, done: impl Fn(Outcome) -> bool + Sync) {
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    if done(run(seed, options)) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[cfg(not(feature = "switches"))]
fn mutants(_args: &Args) -> ExitCode {
    eprintln!("this build has all rules for good: build with --features switches to turn some off");
    ExitCode::from(2)
}

/// Shows for each rule whether a cluster without it is seen to go wrong.
#[cfg(feature = "switches")]
fn mutants(args: &Args) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    for rule in common::Rule::ALL {
        let (ran, caught) = (AtomicU64::new(0), Mutex::new(None));
        let options = Options { switches: common::Switches::without(rule), ..Options::default() };
        each(args.from, args.seeds, args.jobs, options, |outcome| {
            ran.fetch_add(1, Ordering::Relaxed);
            let Some(text) = outcome.violation else { return false };
            let Ok(mut caught) = caught.lock() else { return true };
            caught.get_or_insert((outcome.seed, text));
            true
        });
        let ran = ran.into_inner();
        match caught.into_inner().unwrap_or_default() {
            Some((seed, text)) => {
                let text: String = text.lines().next().unwrap_or_default().chars().take(140).collect();
                println!("{rule:?}: caught by seed {seed}, the {ran}th: {text}");
            }
            None => {
                missed += 1;
                println!("{rule:?}: NOT CAUGHT in {ran} seeds");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn summary(totals: &Totals, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} seeds in {seconds:.1} s, {} violated: {:?}", totals.seeds, totals.failed.len(), totals.failed);
    print!("{}", totals.stats);
    if let Some(cpu) = cpu_millis() {
        println!("  {:<34}{:>12}", "simulated seconds per CPU second", totals.stats.simulated / 1_000 / cpu.max(1));
    }
}

/// The processor time this process has had, as Linux tells it (in hundredths of a second).
fn cpu_millis() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * 10)
}
