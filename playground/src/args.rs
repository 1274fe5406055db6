//! The playground's command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The most servers that one machine is asked to run.
const MOST: u16 = 32;

/// Starts one ecs and some kvservers as real processes, and opens a client shell on them.
///
/// On a pipe the commands are read from it, and the exit code is that of the first that failed.
#[derive(Parser, Debug, Clone)]
#[command(name = "playground", version)]
pub struct Args {
    /// How many servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST)))]
    pub servers: u16,

    /// Import this file (JSON lines or TSV) before the shell opens.
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,

    /// Keep the data in storage-dirs/playground and go on with what is there. Otherwise each run begins empty, in a
    /// folder of its own.
    #[arg(long)]
    pub keep: bool,

    /// The ecs listens on BASE and the servers on the ports after it. Otherwise on free ports.
    #[arg(long, value_name = "BASE")]
    pub port: Option<u16>,

    /// The words the servers answer with.
    #[arg(long, value_enum, default_value_t = Dialect::Uoft)]
    pub dialect: Dialect,

    /// How long the servers may take until all serve, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub patience: u64,
}

/// See `docs/protocol.md`.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Upper-case words; a put without a value deletes.
    Uoft,
    /// Lower-case words and a greeting.
    Tum,
}

impl Dialect {
    /// As the server's flag spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Uoft => "uoft",
            Dialect::Tum => "tum",
        }
    }
}
