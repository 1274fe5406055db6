//! The client's shell and importer, on the playground's servers.

use std::io::{IsTerminal as _, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use kvclient::cli::args::Import;
use kvclient::cli::job::Job;
use kvclient::cli::out::Out;
use kvclient::shell::Options;
use kvclient::{Address, Settings};

/// Results are for people: scripts that want JSON use `kvclient` itself.
const OUT: Out = Out { json: false };

/// Imports `file`.
pub(crate) fn load(addresses: &[String], file: &Path) -> anyhow::Result<()> {
    let job = Job::Import(Import::of(file.to_path_buf()));
    kvclient::cli::one_shot(seeds(addresses), Settings::default(), job, OUT)
        .map_err(|problem| anyhow::anyhow!("--load {}: {}", file.display(), problem.message))
}

/// Opens the shell; on a pipe it runs what comes from it.
pub(crate) fn open(addresses: &[String]) -> ExitCode {
    let interactive = stdin().is_terminal() && stdout().is_terminal();
    let options = Options { seeds: seeds(addresses), settings: Settings::default(), out: OUT, interactive };
    ExitCode::from(kvclient::shell::run(options))
}

fn seeds(addresses: &[String]) -> Vec<Address> {
    addresses.iter().map(|address| Address::from(address.as_str())).collect()
}
