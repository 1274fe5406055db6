//! The flags as they are typed. What they mean together is decided in the parent module.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgAction, Parser};
use common::logging;
use common::text::Dialect;
use log::LevelFilter;

use super::defaults as d;

/// A server of Annulus. Without --bootstrap it is a ring of one and serves at once.
#[derive(Parser, Clone, Debug)]
#[command(name = "kvserver", version, max_term_width = 120)]
#[command(after_help = "Each flag can be set by the variable named with it; a flag on the command line wins. \
    Exit codes: 0 stopped in order, 1 could not start, 2 wrong flags, 70 disk failed, 71 refused by the cluster, \
    72 stopped on a bug, 73 stopped without having left (--leave), 130 second signal.")]
pub(super) struct Raw {
    /// Port for clients; 0 lets the system choose
    #[arg(short, long, env = "ANNULUS_PORT", default_value_t = d::PORT, value_name = "PORT")]
    pub(super) port: u16,

    /// Addresses of the ECS, or of any server of the cluster; several with commas
    #[arg(short, long, env = "ANNULUS_BOOTSTRAP", value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = host_port)]
    pub(super) bootstrap: Vec<String>,

    /// Data directory; made if it is not there
    #[arg(short, long, env = "ANNULUS_DIR", default_value = d::DIR, value_name = "DIR")]
    pub(super) dir: PathBuf,

    /// Address to listen on
    #[arg(short, long, env = "ANNULUS_ADDRESS", default_value = d::ADDRESS, value_name = "HOST")]
    pub(super) address: String,

    /// Host under which clients and other servers reach this one; needed if --address is 0.0.0.0 or ::
    #[arg(long, env = "ANNULUS_ADVERTISE", value_name = "HOST")]
    pub(super) advertise: Option<String>,

    /// File to append the log to, instead of stderr
    #[arg(short, long, env = "ANNULUS_LOG_FILE", value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,

    /// Log level, also as -ll: ALL, TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF [default: RUST_LOG, or INFO]
    #[arg(long, env = "ANNULUS_LOG_LEVEL", value_name = "LEVEL", value_parser = logging::level)]
    pub(super) log_level: Option<LevelFilter>,

    /// More log: -v debug, -vv everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(super) verbose: u8,

    /// Records in the cache: accepted for the courses' scripts, all data is in memory
    #[arg(short, long, env = "ANNULUS_CACHE_SIZE", value_name = "RECORDS")]
    pub(super) cache_size: Option<u64>,

    /// What the cache forgets first: accepted for the courses' scripts, all data is in memory
    #[arg(short = 's', long, env = "ANNULUS_CACHE_STRATEGY", value_name = "FIFO|LRU|LFU|NONE", value_parser = strategy)]
    pub(super) cache_strategy: Option<String>,

    /// Words of the text protocol
    #[arg(long, env = "ANNULUS_DIALECT", default_value_t = Dialect::Uoft, value_name = "uoft|tum")]
    pub(super) dialect: Dialect,

    /// One line sent to each client before it asks anything; Redis clients are not served then [default: none in uoft]
    #[arg(long, env = "ANNULUS_GREETING", value_name = "TEXT")]
    pub(super) greeting: Option<String>,

    /// Port for other servers; 0 lets the system choose
    #[arg(long, env = "ANNULUS_PEER_PORT", default_value_t = d::PEER_PORT, value_name = "PORT")]
    pub(super) peer_port: u16,

    /// Port for /healthz, /readyz, /status and /metrics over HTTP; 0 lets the system choose [default: none]
    #[arg(long, env = "ANNULUS_ADMIN_PORT", value_name = "PORT")]
    pub(super) admin_port: Option<u16>,

    /// Longest key of a text put, in bytes
    #[arg(long, env = "ANNULUS_TEXT_MAX_KEY", default_value_t = d::TEXT_MAX_KEY, value_name = "BYTES", value_parser = up_to(d::HIGHEST_KEY))]
    pub(super) text_max_key: usize,

    /// Longest value of a text put, in bytes
    #[arg(long, env = "ANNULUS_TEXT_MAX_VALUE", default_value_t = d::TEXT_MAX_VALUE, value_name = "BYTES", value_parser = up_to(d::HIGHEST_VALUE))]
    pub(super) text_max_value: usize,

    /// Longest key of all, in bytes
    #[arg(long, env = "ANNULUS_MAX_KEY_BYTES", default_value_t = d::MAX_KEY, value_name = "BYTES", value_parser = up_to(d::HIGHEST_KEY))]
    pub(super) max_key_bytes: usize,

    /// Longest value of all, in bytes
    #[arg(long, env = "ANNULUS_MAX_VALUE_BYTES", default_value_t = d::MAX_VALUE, value_name = "BYTES", value_parser = up_to(d::HIGHEST_VALUE))]
    pub(super) max_value_bytes: usize,

    /// Client connections at a time; more are told so and closed
    #[arg(long, env = "ANNULUS_MAX_CONNECTIONS", default_value_t = d::MAX_CONNECTIONS, value_name = "COUNT", value_parser = up_to(d::HIGHEST_COUNT))]
    pub(super) max_connections: usize,

    /// Requests of one connection that may wait for their answers; no more are read meanwhile
    #[arg(long, env = "ANNULUS_MAX_PENDING", default_value_t = d::MAX_PENDING, value_name = "COUNT", value_parser = up_to(d::HIGHEST_COUNT))]
    pub(super) max_pending: usize,

    /// Bytes of one connection's waiting requests and unsent answers; no more are read meanwhile
    #[arg(long, env = "ANNULUS_MAX_PENDING_BYTES", default_value_t = d::MAX_PENDING_BYTES, value_name = "BYTES", value_parser = up_to(d::HIGHEST_PENDING_BYTES))]
    pub(super) max_pending_bytes: usize,

    /// Bytes of requests and unsent answers of all connections together; beyond it the biggest that stand still are closed
    #[arg(long, env = "ANNULUS_MAX_CLIENT_MEMORY", default_value_t = d::MAX_CLIENT_MEMORY, value_name = "BYTES", value_parser = up_to(d::HIGHEST_CLIENT_MEMORY))]
    pub(super) max_client_memory: usize,

    /// Threads that serve clients and peers; the journal, the pulse and the ticker have their own [default: one less than the machine has processors]
    #[arg(long, env = "ANNULUS_THREADS", value_name = "COUNT", value_parser = up_to(d::HIGHEST_THREADS))]
    pub(super) threads: Option<usize>,

    /// How a read knows that it is current: by leases, or by asking every replica
    #[arg(long, env = "ANNULUS_READS", default_value = d::READS, value_name = "lease|confirm", value_parser = ["lease", "confirm"])]
    pub(super) reads: String,

    /// The longest time from one checkpoint of the maps to the next, while there is anything new
    #[arg(long, env = "ANNULUS_CHECKPOINT_SECONDS", default_value_t = d::CHECKPOINT_SECONDS, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=d::HIGHEST_CHECKPOINT_SECONDS))]
    pub(super) checkpoint_seconds: u64,

    /// How long a round of comparing the copies of all slots takes, and of reading the files back; 0: never
    #[arg(long, env = "ANNULUS_AUDIT_SECONDS", default_value_t = d::AUDIT_SECONDS, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=d::HIGHEST_CHECKPOINT_SECONDS))]
    pub(super) audit_seconds: u64,

    /// Bytes a second that this server sends into copies being made, while it serves clients; 0: as many as it can
    #[arg(long, env = "ANNULUS_MOVE_RATE", default_value_t = d::MOVE_RATE, value_name = "BYTES")]
    pub(super) move_rate: u64,

    /// How large this server's share is to be, against the others'
    #[arg(long, env = "ANNULUS_WEIGHT", default_value_t = common::view::WEIGHT, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(1..=common::view::HIGHEST_WEIGHT as i64))]
    pub(super) weight: u16,

    /// On SIGTERM leave the cluster in order: hand all copies over, then stop
    #[arg(long, env = "ANNULUS_LEAVE")]
    pub(super) leave: bool,

    /// How long leaving may take; then the server stops where it is
    #[arg(long, env = "ANNULUS_LEAVE_SECONDS", default_value_t = d::LEAVE_SECONDS, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=d::HIGHEST_CHECKPOINT_SECONDS))]
    pub(super) leave_seconds: u64,

    /// Take part again although this server was removed from its cluster, with the data directory as it is
    #[arg(long)]
    pub(super) rejoin: bool,

    /// Lets clients from other machines ask for changes of membership, with `admin TOKEN` before the request
    #[arg(long, env = "ANNULUS_ADMIN_TOKEN", value_name = "TOKEN", value_parser = token)]
    pub(super) admin_token: Option<String>,

    /// Start on a damaged data directory with what can be read of it
    #[arg(long)]
    pub(super) salvage: bool,

    /// Show every setting and where it comes from, and stop
    #[arg(long)]
    pub(super) print_config: bool,
}

fn up_to(highest: usize) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    let parser: RangedU64ValueParser<u64> = RangedU64ValueParser::new().range(1..=highest as u64);
    parser.map(|value| usize::try_from(value).unwrap_or(usize::MAX))
}

fn host_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("an address is HOST:PORT, such as localhost:3000")?;
    match port.parse::<u16>() {
        _ if host.is_empty() => Err("the host is missing: write HOST:PORT, such as localhost:3000".into()),
        Ok(port) if port > 0 => Ok(text.to_owned()),
        _ => Err(format!("`{port}` is no port: a port is a number from 1 to 65535")),
    }
}

fn token(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && text.len() >= 8 {
        Ok(text.to_owned())
    } else {
        Err("a token is 8 or more printable characters without blanks".into())
    }
}

fn strategy(text: &str) -> Result<String, String> {
    let known = ["FIFO", "LRU", "LFU", "NONE"];
    let upper = text.to_ascii_uppercase();
    known.contains(&upper.as_str()).then_some(upper).ok_or_else(|| format!("known are {}", known.join(", ")))
}
