//! `just bench`: Annulus and its peers in turn. `just growth`: what things cost as they grow.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a report is what it is for

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use harness::bench::against::{self, Against};
use harness::bench::lines::{self, Options};
use harness::bench::report::Report;
use harness::bench::{Protocol, echo, growth, plot};
use serde::Serialize;

/// Measures Annulus and its peers (redis, etcd) alternately on this machine, and tells the ratios.
#[derive(Parser, Debug)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How often each comparison alternates [default: 5, quick: 2].
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one side runs in a round, in seconds [default: 3, quick: 0.5].
    #[arg(long)]
    seconds: Option<f64>,
    /// How many coordinators are killed [default: 20, quick: 3].
    #[arg(long)]
    failovers: Option<usize>,
    /// Keys of the lines about memory, restarts and moving [default: 1000000, quick: 100000].
    #[arg(long)]
    keys: Option<usize>,
    /// About two minutes instead of a quarter of an hour: enough to see that everything works, not to quote it.
    #[arg(long)]
    quick: bool,
    /// Only these sections, with commas between: get, put, tools, scaling, idle, memory, restart, moving, failover.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The ratios as a picture [default: storage-dirs/results/bench.svg].
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// What keys, values, connections and servers cost as they grow: Annulus alone.
    Growth(Growth),
    /// One load against servers that run already. Puts its keys (key:000000000000 and so on) first.
    Load(OneLoad),
}

#[derive(clap::Args, Debug)]
struct Growth {
    /// How long one load runs, in seconds [default: 3, quick: 0.5].
    #[arg(long)]
    seconds: Option<f64>,
    /// Ten million keys as well: needs 4 GB of memory and some minutes.
    #[arg(long)]
    big: bool,
    /// Not beyond 100,000 keys, 1,000 connections and 5 servers.
    #[arg(long, conflicts_with = "big")]
    quick: bool,
    /// Only these sections, with commas between: keys, values, connections, servers.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    places: Places,
}

#[derive(clap::Args, Debug)]
struct OneLoad {
    /// Servers, with commas between. Of a text cluster one is enough: it knows who coordinates what.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    at: Vec<String>,
    /// What is spoken.
    #[arg(long, default_value = "text", value_parser = ["text", "redis"])]
    protocol: String,
    /// Connections.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Requests at a time on each of them.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// How many keys.
    #[arg(long, default_value_t = 10_000)]
    keys: usize,
    /// The length of values, in bytes.
    #[arg(long, default_value_t = 100)]
    value: usize,
    /// Puts instead of gets.
    #[arg(long)]
    put: bool,
    /// How long, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Processes whose processor time is told, with commas between: the servers, if they are on this machine.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Where things go.
#[derive(clap::Args, Debug)]
struct Places {
    /// Data of all systems; each section empties its own part. On the disk that is to be measured.
    #[arg(long, default_value = "storage-dirs/bench")]
    folder: PathBuf,
    /// The numbers as JSON, with the machine's description [default: storage-dirs/results/NAME.json].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The tables as Markdown [default: storage-dirs/results/NAME.md].
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = playground::node::dispatch(&args).or_else(|| echo::dispatch(&args)) {
        return code;
    }
    if cfg!(debug_assertions) {
        eprintln!("bench: these are not optimised binaries; use `cargo run --release`");
    }
    let args = Args::parse_from(args);
    let done = match args.command {
        Some(Command::Growth(growth)) => grow(growth),
        Some(Command::Load(one)) => load(one),
        None => measure(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: Args) -> anyhow::Result<()> {
    let or = |given: Option<usize>, quick, full| given.unwrap_or(if args.quick { quick } else { full });
    let keys = or(args.keys, 100_000, 1_000_000);
    let options = Options {
        program: std::env::current_exe()?.to_string_lossy().into_owned(),
        folder: std::path::absolute(&args.places.folder)?,
        rounds: or(args.rounds, 2, 5).max(1),
        length: Duration::try_from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.5 } else { 3.0 }))?,
        failovers: or(args.failovers, 3, 20),
        keys,
        moved: keys,
        idle: Duration::from_secs(if args.quick { 5 } else { 20 }),
        check_perf: !args.quick,
        only: args.only,
    };
    let picture = args.plot.unwrap_or_else(|| Path::new(RESULTS).join("bench.svg"));
    let save = |report: &Report| {
        args.places.write("bench", report, &report.markdown())?;
        write(&picture, &plot::svg(report))
    };
    let report = lines::run(&options, &|what| eprintln!("measuring: {what}"), &save)?;
    println!("{}", report.table());
    eprintln!("written: {}, and more beside it", picture.display());
    Ok(())
}

fn load(one: OneLoad) -> anyhow::Result<()> {
    let OneLoad { at, protocol, clients, pipeline, keys, value, put, seconds, pids, json } = one;
    let protocol = if protocol == "text" { Protocol::Text } else { Protocol::Redis { wait: false } };
    let length = Duration::try_from_secs_f64(seconds)?;
    let outcome = against::run(&Against { servers: at, protocol, clients, pipeline, keys, value, put, length, pids })?;
    println!("{}", if json { serde_json::to_string(&outcome)? } else { outcome.line() });
    Ok(())
}

fn grow(growth: Growth) -> anyhow::Result<()> {
    let Growth { seconds, big, quick, only, places } = growth;
    let or = |small, usual, large| {
        if quick {
            small
        } else if big {
            large
        } else {
            usual
        }
    };
    let options = growth::Options {
        program: std::env::current_exe()?.to_string_lossy().into_owned(),
        folder: std::path::absolute(&places.folder)?,
        length: Duration::try_from_secs_f64(seconds.unwrap_or(if quick { 0.5 } else { 3.0 }))?,
        keys: or(100_000, 1_000_000, 10_000_000),
        connections: or(1_000, 10_000, 10_000),
        servers: or(5, 20, 20),
        only,
    };
    let growth = growth::run(&options, &|what| eprintln!("measuring: {what}"))?;
    println!("{}", growth.markdown());
    places.write("growth", &growth, &growth.markdown())
}

const RESULTS: &str = "storage-dirs/results";

impl Places {
    fn write(&self, name: &str, numbers: &impl Serialize, tables: &str) -> anyhow::Result<()> {
        let place = |given: &Option<PathBuf>, end: &str| {
            given.clone().unwrap_or_else(|| Path::new(RESULTS).join(format!("{name}.{end}")))
        };
        write(&place(&self.json, "json"), &(serde_json::to_string_pretty(numbers)? + "\n"))?;
        write(&place(&self.markdown, "md"), &(tables.to_owned() + "\n"))
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
