//! `just survive`: the main promise on real data; see `harness::real::survive`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // telling is what it is for

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use harness::real::{Record, records, survive};

/// Loads a file into five servers, kills them one after another down to two while writes go on, brings all back, and
/// reads every record from every server that may answer after each step.
#[derive(Parser, Debug)]
#[command(name = "survive")]
struct Args {
    /// One record a line: what stands before the first `;` or tab is the key, the whole line the value (as in Debian's
    /// /usr/share/unicode/UnicodeData.txt). Without it, 30,000 records are made up.
    file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = playground::node::dispatch(&args) {
        return code;
    }
    match play(&Args::parse_from(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("survive: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &Args) -> anyhow::Result<()> {
    let records = match &args.file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            text.lines().filter(|line| !line.is_empty()).map(record).collect()
        }
        None => records(30_000, 1),
    };
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    survive(&program, &records, &|step| println!("{step}"))
}

fn record(line: &str) -> Record {
    let key = line.split([';', '\t']).next().unwrap_or_default();
    Record { key: key.to_owned(), value: line.replace('\t', " ") }
}
