//! What things cost as they grow: keys, values, connections, servers. Annulus alone; absolute figures of this machine, of which
//! only the course from row to row is worth anything elsewhere.

mod connections;
mod keys;
mod servers;
mod stalls;
mod table;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

pub use table::Table;

use super::machine::Machine;
use super::setup::fresh;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which is also the servers'.
    pub program: String,
    /// Data of everyone; on the disk that is to be measured.
    pub folder: PathBuf,
    /// How long one load runs.
    pub length: Duration,
    /// Up to how many keys.
    pub keys: usize,
    /// Up to how many connections.
    pub connections: usize,
    /// Up to how many servers.
    pub servers: usize,
    /// The sections wanted; none: all.
    pub only: Vec<String>,
}

/// All tables of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// On what.
    pub machine: Machine,
    /// One for each section.
    pub tables: Vec<Table>,
}

impl Growth {
    /// For documents.
    #[must_use]
    pub fn markdown(&self) -> String {
        let tables: Vec<String> = self.tables.iter().map(Table::markdown).collect();
        format!("{}\n\n{}", self.machine.line(), tables.join("\n"))
    }
}

type Section = fn(&Options, &Path, &dyn Fn(&str)) -> anyhow::Result<Table>;

const SECTIONS: &[(&str, Section)] = &[
    ("keys", keys::measure),
    ("values", values::measure),
    ("connections", connections::measure),
    ("servers", servers::measure),
];

/// Measures every section that is wanted.
///
/// # Errors
/// A server does not start, or answers wrongly.
pub fn run(options: &Options, tell: &dyn Fn(&str)) -> anyhow::Result<Growth> {
    let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = options.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no section {unknown:?}; there are {}", known.join(", "));
    }
    let mut growth = Growth { machine: Machine::here(), tables: Vec::new() };
    for (name, section) in SECTIONS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            let folder = options.folder.join(format!("growth-{name}"));
            fresh(&folder)?;
            growth.tables.push(section(options, &folder, tell).map_err(|error| error.context(*name))?);
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
    }
    Ok(growth)
}

/// Those steps that are not beyond the limit.
fn up_to(limit: usize, steps: &[usize]) -> Vec<usize> {
    steps.iter().copied().filter(|step| *step <= limit).collect()
}
