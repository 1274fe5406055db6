//! The `kvclient` program: its command line, one-shot commands, and the way into the shell.

pub mod args;
pub mod job;
pub mod membership;
pub mod out;
pub mod questions;
mod ring_table;
mod status;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use args::{Args, Command, DEFAULT_SERVER};
use bytes::Bytes;
use clap::Parser;
use job::Job;
use out::{Out, Problem};

use crate::address::Address;
use crate::client::Client;
use crate::router::Settings;
use crate::shell;
use crate::{exit, shell::Options};

/// Runs the program; `args` begin with its name.
#[must_use]
pub fn cli(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(common::logging::spell_out_ll(args)) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no mistakes; a closed pipe is none either.
            let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let out = Out { json: args.json };
    ExitCode::from(run(args, out).unwrap_or_else(|problem| {
        out.fail("kvclient: ", &problem);
        problem.code
    }))
}

fn run(args: Args, out: Out) -> Result<u8, Problem> {
    start_log(&args)?;
    let seeds = seeds(&args.servers)?;
    let settings = Settings { total: args.timeout, ..Settings::default() };
    let Some(command) = args.command else { return Ok(open_shell(seeds, settings, out)) };
    let job = match command {
        Command::Shell => return Ok(open_shell(seeds, settings, out)),
        Command::Get { key } => Job::Get(key.into()),
        Command::Put { key, value } => Job::Put(key.into(), value_of(value)?),
        Command::Getset { key, value } => Job::Getset(key.into(), value_of(value)?),
        Command::Delete { key } => Job::Delete(key.into()),
        Command::Keyrange => Job::Keyrange,
        Command::KeyrangeRead => Job::KeyrangeRead,
        Command::Ring => Job::Ring,
        Command::Status => Job::Status,
        Command::Question(question) => Job::Question(question),
        Command::Membership(change) => Job::Membership(change.wish(&seeds, args.admin_token).map_err(Problem::usage)?),
        Command::Import(import) => Job::Import(import),
        Command::Export(export) => Job::Export(export),
    };
    let seeds = if seeds.is_empty() { vec![Address::from(DEFAULT_SERVER)] } else { seeds };
    one_shot(seeds, settings, job, out)?;
    Ok(exit::OK)
}

/// Does one job and prints its result. Must not be called from inside an asynchronous runtime: it brings its own.
///
/// # Errors
/// Why it failed; that is not printed yet.
pub fn one_shot(seeds: Vec<Address>, settings: Settings, job: Job, out: Out) -> Result<(), Problem> {
    runtime()?.block_on(async {
        let work = async {
            let client = Client::new(seeds, settings);
            job::run(&client, job, out).await
        };
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(interrupted()),
        }
    })
}

fn open_shell(seeds: Vec<Address>, settings: Settings, out: Out) -> u8 {
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    // A person who gives no address is tried at the usual one; a script should say what it means.
    let seeds = if seeds.is_empty() && interactive { vec![Address::from(DEFAULT_SERVER)] } else { seeds };
    shell::run(Options { seeds, settings, out, interactive })
}

pub(crate) fn interrupted() -> Problem {
    Problem { code: exit::INTERRUPTED, kind: "interrupted", message: "interrupted".to_owned() }
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // A client mostly waits; two threads keep the shell's background work going while a prompt is open.
    let runtime = builder.worker_threads(2).enable_all().build();
    runtime.map_err(|error| Problem::file(format!("cannot start: {error}")))
}

fn seeds(servers: &[String]) -> Result<Vec<Address>, Problem> {
    servers.iter().map(|text| args::address(text).map_err(Problem::usage)).collect()
}

fn value_of(value: String) -> Result<Bytes, Problem> {
    if value != "-" {
        return Ok(value.into());
    }
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::file(format!("cannot read the value from stdin: {error}")))?;
    Ok(bytes.into())
}

/// The log is for finding out why; a client is quiet by default. The level can be raised later (`logLevel`), so the
/// logger itself takes everything and the global level decides.
fn start_log(args: &Args) -> Result<(), Problem> {
    let asked = args.log_level.or(common::logging::verbose(args.verbose));
    let by_variable = asked.is_none() && std::env::var_os(common::logging::VARIABLE).is_some();
    let level = if by_variable { None } else { Some(log::LevelFilter::Trace) };
    common::logging::start(level, args.log_file.as_deref()).map_err(|error| {
        let file = args.log_file.as_deref().unwrap_or("".as_ref()).display();
        Problem::file(format!("cannot open the log file {file}: {error}"))
    })?;
    if !by_variable {
        log::set_max_level(asked.unwrap_or(log::LevelFilter::Warn));
    }
    Ok(())
}
