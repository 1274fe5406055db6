//! The command line as clap reads it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::membership::{Membership, TOKEN, Wanted};
use super::questions::Question;
use crate::address::Address;

/// Where a client looks when nobody says: the port of the README's first server.
pub const DEFAULT_SERVER: &str = "localhost:5001";

/// The client of Annulus. Without a command it opens a shell; on a pipe the shell reads its commands from stdin.
#[derive(Parser, Debug)]
#[command(name = "kvclient", version, args_override_self = true, after_help = EXIT_CODES)]
pub struct Args {
    /// Any servers of the cluster; one that answers is enough to find the others.
    #[arg(short, long, value_name = "HOST:PORT", value_delimiter = ',', env = "ANNULUS_SERVERS", global = true)]
    pub servers: Vec<String>,
    /// One JSON object a line instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    /// The longest that one operation may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, global = true)]
    pub timeout: Duration,
    /// Log more: once for debug, twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// The log level (-ll): ALL, TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF.
    #[arg(long, value_name = "LEVEL", value_parser = common::logging::level, global = true)]
    pub log_level: Option<log::LevelFilter>,
    /// Log to this file instead of stderr.
    #[arg(short, long, value_name = "FILE", global = true)]
    pub log_file: Option<PathBuf>,
    /// Shows a server on another machine that you may change the cluster's membership: its own --admin-token.
    #[arg(long, value_name = "TOKEN", env = TOKEN, global = true, hide_env_values = true)]
    pub admin_token: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 server or file error, 2 usage, 3 not found, 4 cannot connect, \
5 timeout or unavailable (or the outcome is unknown), 6 conflict, 130 Ctrl-C.";

/// One command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print the value of a key, as it is.
    Get {
        /// The key.
        key: String,
    },
    /// Set the value of a key.
    Put {
        /// The key.
        key: String,
        /// The value; `-` reads it from stdin, every byte of it.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Set the value of a key and print the one before.
    Getset {
        /// The key.
        key: String,
        /// The value; `-` reads it from stdin, every byte of it.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Which server coordinates which part of the ring.
    Keyrange,
    /// Which server may answer reads for which part of the ring.
    #[command(name = "keyrange_read", alias = "keyrange-read")]
    KeyrangeRead,
    /// The ring as a table: server, arc, share, copies.
    Ring,
    /// How each server stands.
    Status,
    /// Questions about the whole cluster.
    #[command(flatten)]
    Question(Question),
    /// Changes of the membership.
    #[command(flatten)]
    Membership(Change),
    /// Store every record of a file.
    Import(Import),
    /// Write every record of the cluster to a file or stdout.
    Export(Export),
    /// Open the shell (what happens without a command, too).
    Shell,
}

/// The commands about the membership.
#[derive(Subcommand, Debug)]
pub enum Change {
    /// Make a server hand its copies over and leave; waits and shows how far it is.
    Leave {
        /// Which server: by default the one of --servers.
        #[arg(long, value_name = "HOST:PORT")]
        server: Option<String>,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// Make a server leave, whether or not it answers.
    Remove {
        /// Its HOST:PORT, or its id.
        node: String,
        /// It is down and will never come back: give up what only it has.
        #[arg(long)]
        accept_data_loss: bool,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// How far the change in progress is.
    Change,
    /// Undo the change in progress.
    Cancel,
    /// What evening out the load would move; or what would become of the records without a server.
    Plan {
        /// The server's HOST:PORT, or its id.
        #[arg(long, value_name = "NODE")]
        without: Option<String>,
    },
    /// Even out the load.
    Rebalance {
        /// Only say what would move, and why.
        #[arg(long, conflicts_with_all = ["apply", "cancel"])]
        plan: bool,
        /// Do it.
        #[arg(long, conflicts_with = "cancel")]
        apply: bool,
        /// Undo what a running one has not finished.
        #[arg(long)]
        cancel: bool,
        /// Return when it has begun.
        #[arg(long)]
        no_wait: bool,
    },
}

/// How a server goes.
#[derive(ClapArgs, Clone, Copy, Debug)]
pub struct How {
    /// Even if it is the last server, and all records go with it.
    #[arg(long)]
    pub force: bool,
    /// Return when it has begun.
    #[arg(long)]
    pub no_wait: bool,
}

impl Change {
    /// What is wanted of the cluster.
    ///
    /// # Errors
    /// Which server is not said.
    pub fn wish(self, seeds: &[Address], token: Option<String>) -> Result<Membership, String> {
        let quick = How { force: false, no_wait: true };
        let (wanted, how) = match self {
            Change::Leave { server: Some(server), how } => (Wanted::Leave(address(&server)?), how),
            Change::Leave { server: None, how } => match seeds {
                [one] => (Wanted::Leave(one.clone()), how),
                _ => return Err("which server is to leave? Say --server HOST:PORT".to_owned()),
            },
            Change::Remove { node, accept_data_loss: true, how } => (Wanted::GiveUp(node), how),
            Change::Remove { node, accept_data_loss: false, how } => (Wanted::Remove(node), how),
            Change::Change => (Wanted::Change, quick),
            Change::Cancel | Change::Rebalance { cancel: true, .. } => (Wanted::Cancel, quick),
            Change::Plan { without: Some(node) } => (Wanted::PlanWithout(node), quick),
            Change::Rebalance { apply: true, no_wait, .. } => (Wanted::Rebalance, How { force: false, no_wait }),
            Change::Plan { without: None } | Change::Rebalance { .. } => (Wanted::Plan, quick),
        };
        Ok(Membership { wanted, force: how.force, no_wait: how.no_wait, token })
    }
}

/// `import`.
#[derive(ClapArgs, Debug)]
pub struct Import {
    /// The file; `-` is stdin.
    pub file: PathBuf,
    /// How the records are written; by default what the file's name ends in.
    #[arg(long)]
    pub format: Option<Format>,
    /// TSV only: take every byte as it is, backslashes too.
    #[arg(long)]
    pub raw: bool,
    /// Keep a small state file beside the input and continue where an earlier run with --resume ended.
    #[arg(long)]
    pub resume: bool,
    /// How many records may be on their way at a time.
    #[arg(long, value_name = "N", default_value_t = IN_FLIGHT, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
}

/// Enough to keep a few servers' group commits full; more only waits in their queues.
const IN_FLIGHT: u16 = 128;

impl Import {
    /// The import of a file without further flags.
    #[must_use]
    pub fn of(file: PathBuf) -> Import {
        Import { file, format: None, raw: false, resume: false, in_flight: IN_FLIGHT }
    }
}

/// `export`.
#[derive(ClapArgs, Debug)]
pub struct Export {
    /// The file; without one, or with `-`, stdout. It appears under its name only when it is complete.
    pub file: Option<PathBuf>,
    /// How to write the records; by default what the file's name ends in, or JSON lines.
    #[arg(long)]
    pub format: Option<Format>,
}

/// How records are written in a file.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One object a line: {"key": ..., "value": ...}; what is not UTF-8 is {"b64": ...}.
    #[value(alias = "jsonl")]
    Json,
    /// key, TAB, value; backslash, TAB, LF, CR and other bytes are written \\, \t, \n, \r, \xHH.
    Tsv,
}

/// A server's address as a person may write it: without a port it is the default one.
///
/// # Errors
/// What is wrong with it.
pub fn address(text: &str) -> Result<Address, String> {
    let text = text.trim();
    match text.rsplit_once(':') {
        _ if text.is_empty() => Err("an empty server address: write HOST:PORT".to_owned()),
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(Address::from(text))
        }
        _ => Err(format!("{text:?} is not a server address: write HOST:PORT, such as {DEFAULT_SERVER}")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a number of seconds from 0.1 to 3600");
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| wrong())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn addresses_and_seconds_say_what_is_wrong() {
        assert_eq!(address("h:1").unwrap().as_str(), "h:1");
        assert_eq!(address("[::1]:5001").unwrap().as_str(), "[::1]:5001");
        for wrong in ["", "h", "h:", ":1", "h:0", "h:70000"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").unwrap_err().contains("3600"));
        assert!(seconds("NaN").is_err());
    }
}
