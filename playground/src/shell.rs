//! The client's importer and shell, on the playground's servers.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::node;

/// Imports `file` in a process of its own, which shows its progress here.
pub(crate) fn load(addresses: &[String], file: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut client = Command::new(program);
    client.args([node::KVCLIENT, "--servers", &addresses.join(","), "import"]).arg(file);
    let status = client.status().context("cannot start the import")?;
    if !status.success() {
        bail!("the import of {} failed ({})", file.display(), crate::process::describe(status));
    }
    Ok(())
}

/// Opens the shell; on a pipe it runs what comes from there.
pub(crate) fn open(addresses: &[String]) -> ExitCode {
    let args = ["kvclient".to_owned(), "--servers".to_owned(), addresses.join(",")];
    kvclient::cli(args.map(OsString::from))
}
