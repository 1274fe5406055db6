//! Flags and environment, parsed and then validated into a [`Config`]: flag over environment over default.
//!
//! `docs/configuration.md` lists every flag; a test keeps it complete.

mod defaults;
mod print;
mod raw;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use common::logging;
use common::text::{Dialect, Limits};
use log::LevelFilter;

pub use self::defaults::threads as default_threads;
use self::raw::Raw;
use crate::client_port::Bounds;

/// What a server was told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen for clients; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where to listen for peers, likewise.
    pub peer_listen: SocketAddr,
    /// Where to listen for HTTP, if at all.
    pub admin_listen: Option<SocketAddr>,
    /// The host that others are told.
    pub host: String,
    /// The ECS, or servers that know it. Empty: standalone.
    pub bootstrap: Vec<String>,
    /// The data directory.
    pub dir: PathBuf,
    /// The log's file, if not stderr.
    pub log_file: Option<PathBuf>,
    /// The log's level, if a flag says so.
    pub log_level: Option<LevelFilter>,
    /// Words of the text protocol.
    pub dialect: Dialect,
    /// A line sent before anything is asked.
    pub greeting: Option<String>,
    /// How large requests may be.
    pub limits: Limits,
    /// What one connection may keep busy.
    pub bounds: Bounds,
    /// How many connections there may be.
    pub max_connections: usize,
    /// How many bytes all of them together may hold.
    pub max_client_memory: usize,
    /// How many threads serve clients and peers.
    pub threads: usize,
    /// Ask every replica before a read is answered.
    pub confirm_reads: bool,
    /// The longest time from one checkpoint to the next.
    pub checkpoint_every: Duration,
    /// How long a round of comparing all copies takes, if they are compared.
    pub audit_every: Option<Duration>,
    /// Bytes a second that go into copies being made while clients are served; 0: as many as can.
    pub move_rate: u64,
    /// How large its share is to be, against the others'.
    pub weight: u16,
    /// Leave the cluster on SIGTERM, and how long that may take.
    pub leave: Option<Duration>,
    /// Take part again even if removed.
    pub rejoin: bool,
    /// What lets clients from elsewhere ask for changes of membership.
    pub admin_token: Option<String>,
    /// Start on a damaged directory.
    pub salvage: bool,
    /// A cache size or strategy was given, which changes nothing.
    pub cache_flags: bool,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A server.
    Serve(Box<Config>),
    /// Only this text on stdout: help, version, or the settings.
    Print(String),
}

/// Why there is no config.
#[derive(Debug)]
pub enum Wrong {
    /// The flags cannot be parsed; it prints itself, in colour on a terminal.
    Flags(clap::Error),
    /// They can, and do not fit together: what, which limit, what to try.
    Together(String),
}

impl Config {
    /// Reads the arguments (the program's name first) and the environment.
    ///
    /// # Errors
    /// They are wrong; nothing was done.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Wanted, Wrong> {
        let mut command = Raw::command();
        let matches = match command.try_get_matches_from_mut(logging::spell_out_ll(args)) {
            Ok(matches) => matches,
            Err(error) if !error.use_stderr() => return Ok(Wanted::Print(error.render().to_string())),
            Err(error) => return Err(Wrong::Flags(error)),
        };
        let raw = Raw::from_arg_matches(&matches).map_err(|error| Wrong::Flags(error.format(&mut command)))?;
        let print = raw.print_config;
        let config = validate(raw).map_err(Wrong::Together)?;
        Ok(if print {
            Wanted::Print(print::table(&config, &command, &matches))
        } else {
            Wanted::Serve(Box::new(config))
        })
    }

    /// Whether anyone but this machine can connect.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.listen.ip().is_loopback()
    }
}

fn validate(raw: Raw) -> Result<Config, String> {
    let ip = resolve(&raw.address)?;
    let limits = limits(&raw)?;
    let max_client_memory = client_memory(&raw, &limits)?;
    Ok(Config {
        listen: SocketAddr::new(ip, raw.port),
        peer_listen: SocketAddr::new(ip, raw.peer_port),
        admin_listen: raw.admin_port.map(|port| SocketAddr::new(ip, port)),
        host: host(&raw, ip)?,
        greeting: greeting(&raw)?,
        bootstrap: raw.bootstrap,
        dir: raw.dir,
        log_file: raw.log_file,
        log_level: raw.log_level.or(logging::verbose(raw.verbose)),
        dialect: raw.dialect,
        limits,
        bounds: Bounds { pending: raw.max_pending, bytes: raw.max_pending_bytes },
        max_connections: raw.max_connections,
        max_client_memory,
        threads: raw.threads.unwrap_or_else(defaults::threads),
        confirm_reads: raw.reads == "confirm",
        checkpoint_every: Duration::from_secs(raw.checkpoint_seconds),
        audit_every: (raw.audit_seconds > 0).then(|| Duration::from_secs(raw.audit_seconds)),
        move_rate: raw.move_rate,
        weight: raw.weight,
        leave: raw.leave.then(|| Duration::from_secs(raw.leave_seconds)),
        rejoin: raw.rejoin,
        admin_token: raw.admin_token,
        salvage: raw.salvage,
        cache_flags: raw.cache_size.is_some() || raw.cache_strategy.is_some(),
    })
}

fn resolve(host: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let mut found = (host, 0).to_socket_addrs().map_err(|error| {
        format!("--address: `{host}` is no address of this machine ({error}): try 127.0.0.1, localhost or 0.0.0.0")
    })?;
    let first = found.next().ok_or_else(|| format!("--address: `{host}` has no address: try 127.0.0.1"))?;
    Ok(first.ip())
}

/// What others are told: the host as it was typed, since they may resolve it as we did.
fn host(raw: &Raw, ip: IpAddr) -> Result<String, String> {
    let host = match &raw.advertise {
        Some(host) => host.clone(),
        None if ip.is_unspecified() && !raw.bootstrap.is_empty() => {
            return Err(format!(
                "--address {ip} says where to listen but not how others reach this server: add --advertise HOST"
            ));
        }
        None if ip.is_unspecified() => defaults::ADDRESS.to_owned(),
        None => raw.address.clone(),
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | ';' | '/');
    if host.is_empty() || host.contains(odd) {
        return Err(format!(
            "--advertise: `{host}` is no host name: it stands in keyranges, so no blanks, `,`, `;` or `/`"
        ));
    }
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    Ok(if bare_v6 { format!("[{host}]") } else { host })
}

fn greeting(raw: &Raw) -> Result<Option<String>, String> {
    let greeting = match (&raw.greeting, raw.dialect) {
        (Some(text), _) => text.clone(),
        (None, Dialect::Tum) => defaults::TUM_GREETING.to_owned(),
        (None, Dialect::Uoft) => return Ok(None),
    };
    if greeting.contains(['\r', '\n']) {
        return Err("--greeting: a greeting is one line: leave out the line ends".to_owned());
    }
    Ok(Some(greeting))
}

fn limits(raw: &Raw) -> Result<Limits, String> {
    let fits = |flag: &str, text: usize, all_flag: &str, all: usize| {
        if text <= all {
            return Ok(());
        }
        Err(format!(
            "--{flag} {text} is over --{all_flag} {all}, which holds for every request: lower it, or raise that"
        ))
    };
    fits("text-max-key", raw.text_max_key, "max-key-bytes", raw.max_key_bytes)?;
    fits("text-max-value", raw.text_max_value, "max-value-bytes", raw.max_value_bytes)?;
    Ok(Limits::new(raw.text_max_key, raw.text_max_value, raw.max_key_bytes, raw.max_value_bytes))
}

/// One request in the making, its copy under way and its answer must fit well within half of it, where it begins to be
/// short for everybody.
fn client_memory(raw: &Raw, limits: &Limits) -> Result<usize, String> {
    let (given, least) = (raw.max_client_memory, limits.longest_request().saturating_mul(16));
    if given < least {
        return Err(format!(
            "--max-client-memory {given} is too little for requests of up to {} bytes: make it {least} or more, or lower \
             --max-value-bytes",
            limits.longest_request()
        ));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &str) -> Result<Wanted, String> {
        let args = std::iter::once("kvserver").chain(args.split_ascii_whitespace()).map(OsString::from);
        Config::read(args).map_err(|wrong| match wrong {
            Wrong::Flags(error) => error.render().to_string(),
            Wrong::Together(text) => text,
        })
    }

    fn config(args: &str) -> Config {
        match read(args).unwrap() {
            Wanted::Serve(config) => *config,
            Wanted::Print(text) => panic!("only text: {text}"),
        }
    }

    #[test]
    fn the_courses_command_lines_work_as_typed() {
        let config =
            config("-p 50000 -a localhost -b localhost:3000 -d ./data1 -l ./log.txt -ll ALL -c 100 -s FIFO -v -v");
        assert_eq!(config.listen.port(), 50000);
        assert!(config.listen.ip().is_loopback() && !config.is_exposed());
        assert_eq!((config.host.as_str(), config.bootstrap), ("localhost", vec!["localhost:3000".to_owned()]));
        assert_eq!(config.dir, PathBuf::from("./data1"));
        assert_eq!((config.log_level, config.log_file), (Some(LevelFilter::Trace), Some(PathBuf::from("./log.txt"))));
        assert!(config.cache_flags);
    }

    #[test]
    fn without_flags_it_is_a_standalone_server_on_loopback() {
        let config = config("");
        assert_eq!(config.listen, "127.0.0.1:5001".parse().unwrap());
        assert!(config.bootstrap.is_empty() && config.admin_listen.is_none() && config.greeting.is_none());
        assert_eq!((config.limits, config.dialect), (Limits::default(), Dialect::Uoft));
        assert!(config.log_level.is_none() && !config.confirm_reads && !config.cache_flags);
    }

    #[test]
    fn the_dialect_brings_its_greeting() {
        assert_eq!(config("--dialect tum").greeting.as_deref(), Some(defaults::TUM_GREETING));
        assert_eq!(config("--dialect TUM --greeting hello").greeting.as_deref(), Some("hello"));
        assert_eq!(config("--greeting hello").greeting.as_deref(), Some("hello"));
    }

    #[test]
    fn verbosity_counts_and_a_level_beats_it() {
        assert_eq!(config("-v").log_level, Some(LevelFilter::Debug));
        assert_eq!(config("-vv").log_level, Some(LevelFilter::Trace));
        assert_eq!(config("-vv -ll WARN").log_level, Some(LevelFilter::Warn));
    }

    #[test]
    fn several_bootstrap_addresses_and_hosts_for_others() {
        assert_eq!(config("-b a:1,b:2 -b c:3").bootstrap, ["a:1", "b:2", "c:3"]);
        assert_eq!(config("-a 0.0.0.0 -b a:1 --advertise me").host, "me");
        assert_eq!(config("-a ::1").host, "[::1]");
        assert!(config("-a 0.0.0.0").is_exposed());
    }

    #[test]
    fn wrong_values_say_what_where_and_what_to_try() {
        for (args, expected) in [
            ("-p 70000", "70000"),
            ("-p x", "--port"),
            ("-b localhost", "an address is HOST:PORT, such as localhost:3000"),
            ("-b localhost:0", "a port is a number from 1 to 65535"),
            ("-b :3000", "the host is missing"),
            ("-ll LOUD", "known are ALL, TRACE, DEBUG"),
            ("-s RANDOM", "known are FIFO, LRU, LFU, NONE"),
            ("--dialect french", "known are uoft and tum"),
            ("--reads maybe", "possible values: lease, confirm"),
            ("--max-connections 0", "1..=1000000"),
            ("--max-value-bytes 99999999", "1..=16777216"),
            ("--text-max-key 2000", "--text-max-key 2000 is over --max-key-bytes 1024"),
            ("--text-max-value 2000000", "is over --max-value-bytes 1048576"),
            ("--max-client-memory 1000000", "make it 16"),
            ("-a 0.0.0.0 -b localhost:3000", "add --advertise HOST"),
            ("-a bad..host", "--address: `bad..host`"),
            ("--advertise a;b", "is no host name"),
            ("--unknown", "--unknown"),
        ] {
            let error = read(args).unwrap_err();
            assert!(error.contains(expected), "{args}: {error}");
        }
    }

    #[test]
    fn help_version_and_settings_are_text() {
        for args in ["-h", "--help", "--version", "-p 6000 -ll DEBUG --print-config"] {
            let Wanted::Print(text) = read(args).unwrap() else { panic!("{args} wants a server") };
            assert!(text.contains("kvserver") || text.contains("6000"), "{text}");
        }
        let Wanted::Print(text) = read("-p 6000 -ll DEBUG --print-config").unwrap() else { panic!("no text") };
        let line =
            |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line("port ").contains("6000") && line("port ").ends_with("flag"));
        assert!(line("log-level ").contains("DEBUG") && line("log-level ").ends_with("flag"));
        assert!(line("dir ").contains("./data") && line("dir ").ends_with("default"));
        assert!(line("admin-port ").contains("none"));
    }

    #[test]
    fn every_flag_is_described() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md")).unwrap();
        for arg in Raw::command().get_arguments() {
            let long = format!("`--{}`", arg.get_long().unwrap());
            assert!(text.contains(&long), "docs/configuration.md does not name {long}");
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{long} has no help");
        }
    }
}
