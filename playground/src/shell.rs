//! The client's shell and importer, on the playground's servers.

use std::path::Path;
use std::process::ExitCode;

/// Imports `file`.
pub(crate) fn load(_addresses: &[String], _file: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// Opens the shell; on a pipe it runs what comes from it.
pub(crate) fn open(_addresses: &[String]) -> ExitCode {
    ExitCode::SUCCESS
}
