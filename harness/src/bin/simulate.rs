//! `simulate`: runs seeds of the simulation, or replays one of them readably.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool: its output is its purpose
#![allow(clippy::disallowed_methods)] // it runs seeds on threads and measures how long that takes

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use common::Rule;
use harness::sim::{Options, Outcome, Stats, must_happen, run};

/// Runs simulated clusters through faults and checks what their clients saw.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// How many seeds to run; with --mutants, at most how many for each rule
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
    /// Of what happens print only what concerns this slot, and what concerns no slot in particular
    #[arg(long, requires = "trace")]
    slot: Option<u16>,
    /// Seeds run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Go on after a violation, and list them all
    #[arg(long)]
    keep_going: bool,
    /// Bend every seed's mix towards what this rule of docs/replication.md is needed for; `all`: one rule after the other
    #[arg(long, value_name = "RULE")]
    aim: Option<String>,
    /// Every seed grows from one server to five and shrinks back to one (as one seed in twenty does anyhow)
    #[arg(long, conflicts_with = "aim")]
    tour: bool,
    /// Without clients that speak Redis's protocol and without deadlines: what seeds drew before there were any
    #[arg(long)]
    plain: bool,
    /// Turn this rule off (needs the feature `switches`)
    #[arg(long, value_name = "RULE")]
    without: Option<String>,
    /// Turn each rule off in turn: each must be missed within --seeds (needs the feature `switches`)
    #[arg(long, conflicts_with_all = ["seed", "aim", "without", "tour"])]
    mutants: bool,
    /// Of the rules take only these (with --mutants), separated by commas
    #[arg(long, requires = "mutants", value_delimiter = ',', value_name = "RULES")]
    rules: Vec<String>,
}

/// What all seeds together came to.
#[derive(Default)]
struct Totals {
    stats: Stats,
    seeds: u64,
    failed: Vec<u64>,
}

/// Where a run's mixes are bent to.
#[derive(Clone, Copy)]
enum Aim {
    None,
    At(Rule),
    All,
}

impl Aim {
    fn of(self, seed: u64) -> Option<Rule> {
        match self {
            Aim::None => None,
            Aim::At(rule) => Some(rule),
            Aim::All => usize::try_from(seed).ok().map(|seed| Rule::ALL[seed % Rule::ALL.len()]),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match chosen(&args) {
        Ok((aim, switches)) if !args.mutants => simulate(&args, aim, switches),
        Ok(_) => mutants(&args),
        Err(why) => {
            eprintln!("simulate: {why}");
            ExitCode::from(2)
        }
    }
}

fn chosen(args: &Args) -> Result<(Aim, common::Switches), String> {
    let aim = match args.aim.as_deref() {
        None => Aim::None,
        Some("all") => Aim::All,
        Some(name) => Aim::At(rule(name)?),
    };
    let switches = args.without.as_deref().map_or(Ok(common::Switches::default()), |name| without(rule(name)?))?;
    args.rules.iter().try_for_each(|name| rule(name).map(|_| ()))?;
    Ok((aim, switches))
}

fn rule(name: &str) -> Result<Rule, String> {
    let all = || Rule::ALL.map(Rule::name).join(", ");
    Rule::named(name).ok_or_else(|| format!("there is no rule {name:?}; there are: {}", all()))
}

#[cfg(feature = "switches")]
#[allow(clippy::unnecessary_wraps)] // as the build without switches has it
fn without(rule: Rule) -> Result<common::Switches, String> {
    Ok(common::Switches::without(rule))
}

#[cfg(not(feature = "switches"))]
fn without(_rule: Rule) -> Result<common::Switches, String> {
    Err("this build has all rules for good: build with --features switches to turn some off".to_string())
}

fn simulate(args: &Args, aim: Aim, switches: common::Switches) -> ExitCode {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let begun = Instant::now();
    let (from, count) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let totals = Mutex::new(Totals::default());
    let options = Options {
        trace: args.trace,
        slot: args.slot.map(common::Slot),
        switches,
        aim: None,
        tour: args.tour,
        plain: args.plain,
    };
    let with = |seed| Options { aim: aim.of(seed), ..options };
    each(from, count, args.jobs, with, |outcome| {
        let hint = replay(&outcome, aim.of(outcome.seed), args);
        take(outcome, &hint, &totals, count, begun) && !args.keep_going
    });
    let totals = totals.into_inner().unwrap_or_default();
    summary(&totals, begun);
    // A handful of seeds need not have seen everything, and an aimed run does not want to.
    let idle = if totals.seeds >= 1000 && matches!(aim, Aim::None) && !args.tour && !args.plain {
        missing(&totals.stats)
    } else {
        Vec::new()
    };
    if !idle.is_empty() {
        println!("NOTHING happened of: {}", idle.join(", "));
    }
    if totals.failed.is_empty() && idle.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn missing(stats: &Stats) -> Vec<&'static str> {
    must_happen().into_iter().filter(|what| stats.count(what) == 0).collect()
}

/// How the same run is had again.
fn replay(outcome: &Outcome, aim: Option<Rule>, args: &Args) -> String {
    let tour = if args.tour { " --tour" } else { "" };
    let plain = if args.plain { " --plain" } else { "" };
    let aim = aim.map_or(String::new(), |rule| format!(" --aim {}", rule.name()));
    let without = args.without.as_ref().map_or(String::new(), |name| format!(" --without {name}"));
    format!("simulate --seed {}{aim}{tour}{plain}{without} --trace", outcome.seed)
}

/// Runs seeds on `jobs` threads until `done` says that it is enough.
fn each(
    from: u64,
    count: u64,
    jobs: u64,
    options: impl Fn(u64) -> Options + Sync,
    done: impl Fn(Outcome) -> bool + Sync,
) {
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    if done(run(seed, options(seed))) {
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
    let begun = Instant::now();
    let wanted = |rule: &Rule| args.rules.is_empty() || args.rules.contains(&rule.name());
    let rules: Vec<Rule> = Rule::ALL.into_iter().filter(wanted).collect();
    let missed: Vec<String> = rules.iter().filter(|rule| !caught(**rule, args)).map(|rule| rule.name()).collect();
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} of {} rules are missed when they are off, {seconds:.0} s", rules.len() - missed.len(), rules.len());
    if !missed.is_empty() {
        println!("NOT CAUGHT: {}", missed.join(", "));
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds aimed at `rule` without it until one goes wrong, and says which.
#[cfg(feature = "switches")]
fn caught(rule: Rule, args: &Args) -> bool {
    let (ran, begun) = (AtomicU64::new(0), Instant::now());
    let caught: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let options = Options { switches: common::Switches::without(rule), aim: Some(rule), ..Options::default() };
    each(
        args.from,
        args.seeds,
        args.jobs,
        |_| options,
        |outcome| {
            ran.fetch_add(1, Ordering::Relaxed);
            let Some(text) = outcome.violation else { return false };
            // A run that came to nothing shows nothing, and what goes wrong with the rule as well says nothing about it.
            if text.contains("exercises too little") {
                return false;
            }
            let with = Options { switches: common::Switches::default(), ..options };
            if let Some(text) = run(outcome.seed, with).violation {
                println!("seed {} --aim {}: VIOLATION with all rules: {text}", outcome.seed, rule.name());
                return false;
            }
            let Ok(mut caught) = caught.lock() else { return true };
            caught.get_or_insert((outcome.seed, text));
            true
        },
    );
    let (ran, name, seconds) = (ran.into_inner(), rule.name(), begun.elapsed().as_secs_f64());
    match caught.into_inner().unwrap_or_default() {
        Some((seed, text)) => {
            let text: String = text.lines().next().unwrap_or_default().chars().take(160).collect();
            println!("{name:<18} caught by seed {seed}, after {ran} seeds, {seconds:.1} s: {text}");
            true
        }
        None => {
            println!("{name:<18} NOT CAUGHT in {ran} seeds, {seconds:.1} s");
            false
        }
    }
}

/// Adds one outcome; true if it is a violation.
fn take(outcome: Outcome, hint: &str, totals: &Mutex<Totals>, count: u64, begun: Instant) -> bool {
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
    println!("  replay: {hint}\n");
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
