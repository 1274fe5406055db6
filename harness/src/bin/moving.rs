//! `just moving`: what it costs to move records to a new server; see `harness::bench::moving`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a report is what it is for

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use harness::bench::moving::{Felt, Memory, Moved, Options, run};

/// Records a second that a move is to reach when nothing else is going on.
const WANTED_RATE: f64 = 150_000.0;
/// How much longer clients may wait on the way, at the 99th percentile.
const WANTED_P99: f64 = 3.0;

/// Moves records (16 B keys, 100 B values) to a new server, of real processes: first with nothing else going on, then
/// under clients.
#[derive(Parser, Debug)]
#[command(name = "moving")]
struct Args {
    /// Records that the new server is to get.
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// How often it is measured with nothing else going on: from one server to a second.
    #[arg(long, default_value_t = 1)]
    idle: usize,
    /// How often under clients: from three servers to a fourth.
    #[arg(long, default_value_t = 1)]
    loaded: usize,
    /// Clients, half of whose requests are puts.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// For how long clients are measured before, in seconds.
    #[arg(long, default_value_t = 5.0)]
    before: f64,
    /// Data; emptied first. On the disk that is to be measured.
    #[arg(long, default_value = "storage-dirs/moving")]
    folder: PathBuf,
    /// Also write the numbers as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// More arguments of every server.
    #[arg(long = "server", allow_hyphen_values = true)]
    server_args: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = playground::node::dispatch(&args) {
        return code;
    }
    match measure(Args::parse_from(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moving: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: Args) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("moving: these are not optimised binaries; use `cargo run --release`");
    }
    let idle = Options {
        program: std::env::current_exe()?.to_string_lossy().into_owned(),
        folder: std::path::absolute(args.folder)?,
        keys: args.keys,
        servers: 1,
        clients: 0,
        before: Duration::from_secs_f64(args.before),
        server_args: args.server_args,
    };
    let loaded = Options { servers: 3, clients: args.clients, ..idle.clone() };
    let mut all = Vec::new();
    for options in std::iter::repeat_n(&idle, args.idle).chain(std::iter::repeat_n(&loaded, args.loaded)) {
        let moved = run(options, &|what| eprintln!("moving: {what}"))?;
        tell(options, &moved);
        all.push(moved);
    }
    if let Some(file) = args.json {
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn tell(options: &Options, moved: &Moved) {
    let megabytes = moved.bytes as f64 / 1e6;
    let load = if options.clients > 0 { format!("{} clients", options.clients) } else { "idle".to_owned() };
    println!(
        "{} to {} servers, {load}: {} records, {megabytes:.0} MB",
        options.servers,
        options.servers + 1,
        moved.records
    );
    let verdict = if options.clients > 0 { "" } else { met(moved.rate() >= WANTED_RATE) };
    println!(
        "  all copies in sync {:.2} s after the process was started ({:.2} s of it copying): {:.0} keys/s, {:.0} MB/s {verdict}",
        moved.seconds,
        moved.copying,
        moved.rate(),
        megabytes / moved.seconds
    );
    println!(
        "  a plain copy of as many bytes to a file, synced: {:.2} s; the move takes {:.1} times that (copying {:.1})",
        moved.file_copy,
        moved.seconds / moved.file_copy,
        moved.copying / moved.file_copy
    );
    let (slots, median, most) = moved.locks;
    println!(
        "  every slot at home after {:.2} s; writes locked in {slots} slots for {median:.1} ms (median), {most:.1} ms (longest)",
        moved.joined
    );
    let sources: Vec<String> = moved.sources.iter().map(memory).collect();
    println!(
        "  memory, MiB before / most / after: old servers {}; new one {}",
        sources.join(", "),
        memory(&moved.target)
    );
    if let (Some(before), Some(during)) = (&moved.before, &moved.during) {
        felt("clients before", before);
        felt("clients during", during);
        let (gets, puts) = (during.get_p99 / before.get_p99, during.put_p99 / before.put_p99);
        println!(
            "  p99 during over before: gets {gets:.2}, puts {puts:.2} (<= {WANTED_P99}) {}",
            met(gets.max(puts) <= WANTED_P99)
        );
    }
}

fn memory(memory: &Memory) -> String {
    format!("{} / {} / {}", memory.before, memory.most, memory.after)
}

fn felt(when: &str, felt: &Felt) {
    println!(
        "  {when}: {:.0}/s, get p50 {:.2} p99 {:.2} ms, put p50 {:.2} p99 {:.2} ms, worst {:.0} ms, {} errors",
        felt.rate, felt.get_p50, felt.get_p99, felt.put_p50, felt.put_p99, felt.worst, felt.errors
    );
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
