//! The lines of the comparison: what is measured, against whom, under which load, and what it is to come to.

mod failover;
mod get;
mod idle;
mod memory;
mod moving;
mod put;
mod restart;
mod scaling;
mod tools;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::machine::Machine;
use super::report::Report;
use super::setup::fresh;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which is also the servers'.
    pub program: String,
    /// Data of everyone; on the disk that is to be measured.
    pub folder: PathBuf,
    /// How often each comparison alternates.
    pub rounds: usize,
    /// How long one side runs in a round.
    pub length: Duration,
    /// How many coordinators are killed.
    pub failovers: usize,
    /// Records of the lines about memory and restarts.
    pub keys: usize,
    /// Records that are moved.
    pub moved: usize,
    /// For how long idle servers are watched.
    pub idle: Duration,
    /// Whether etcd's own tool has its minute.
    pub check_perf: bool,
    /// The sections wanted; none: all.
    pub only: Vec<String>,
}

/// One run: what is wanted, and what came of it so far.
struct Bench<'a> {
    options: &'a Options,
    report: Report,
    tell: &'a dyn Fn(&str),
}

type Section = fn(&mut Bench<'_>, &Path) -> anyhow::Result<()>;

/// In the order in which they are measured: what suffers most from a machine that has been busy comes first.
const SECTIONS: &[(&str, Section)] = &[
    ("get", get::measure),
    ("put", put::measure),
    ("tools", tools::measure),
    ("scaling", scaling::measure),
    ("idle", idle::measure),
    ("memory", memory::measure),
    ("restart", restart::measure),
    ("moving", moving::measure),
    ("failover", failover::measure),
];

/// The names for [`Options::only`].
#[must_use]
pub fn sections() -> Vec<&'static str> {
    SECTIONS.iter().map(|(name, _)| *name).collect()
}

/// Measures everything that is wanted and possible. What there is so far is saved after each section: nobody measures for a
/// quarter of an hour to lose it all in the last minute.
///
/// # Errors
/// A system does not start, or answers wrongly, or nothing can be saved.
pub fn run(
    options: &Options,
    tell: &dyn Fn(&str),
    save: &dyn Fn(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    if let Some(unknown) = options.only.iter().find(|name| !sections().contains(&name.as_str())) {
        bail!("there is no section {unknown:?}; there are {}", sections().join(", "));
    }
    let mut bench = Bench { options, report: Report { machine: Machine::here(), ..Report::default() }, tell };
    for (name, section) in SECTIONS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            tell(name);
            let folder = options.folder.join(name);
            fresh(&folder)?;
            // After a failure the folder stays: it has the logs.
            section(&mut bench, &folder).map_err(|error| error.context(*name))?;
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
            save(&bench.report)?;
        }
    }
    Ok(bench.report)
}

impl Bench<'_> {
    /// What `start` gives if the program is installed; else the report says that it is not.
    fn if_installed<T>(
        &mut self,
        installed: Result<(), String>,
        start: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        match installed {
            Ok(()) => start().map(Some),
            Err(why) => {
                self.skip(why);
                Ok(None)
            }
        }
    }

    fn skip(&mut self, why: String) {
        if !self.report.skipped.contains(&why) {
            (self.tell)(&why);
            self.report.skipped.push(why);
        }
    }
}
