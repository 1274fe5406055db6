//! Commands about the server: INFO, CONFIG, COMMAND and their like; and the arguments of those that walk.

use std::borrow::Cow;
use std::fmt::Write as _;

use common::forward::Job;
use common::resp::{Args, Out};

use super::connection::REDIS_VERSION;
use super::numbers::integer;
use super::owed::Shape;
use super::scan::Scan;
use super::table::{COMMANDS, Command, Run};
use super::{Call, docs, glob, wrong_arity};
use crate::client_port::backend::{Facts, Serves};

/// Places on the ring end below this.
const LONGEST_COUNT: usize = 10_000;

/// What needs neither a key nor the connection.
pub(super) fn at_once<B: Serves>(run: Run, call: &Call<'_, B>, max_connections: usize, out: &mut Out<'_>) {
    let args = &call.args;
    match run {
        Run::Info => out.verbatim(&info(args, &call.backend.facts(), max_connections)),
        Run::Config => config(args, &call.backend.facts(), max_connections, out),
        Run::Command => command(args, out),
        Run::Time => {
            let micros = call.backend.wall_micros();
            out.array(2);
            out.bulk((micros / 1_000_000).to_string().as_bytes());
            out.bulk((micros % 1_000_000).to_string().as_bytes());
        }
        Run::Wait => wait(args, call.backend.in_sync(), out),
        Run::Cluster => out.error("ERR This instance has cluster support disabled"),
        _ => out.error("ERR not possible here"),
    }
}

/// All that was acknowledged is on every copy that is in sync: there is nothing to wait for.
fn wait(args: &Args<'_>, in_sync: usize, out: &mut Out<'_>) {
    match (integer(args.get(1)), integer(args.get(2))) {
        (Some(_), Some(timeout)) if timeout < 0 => out.error("ERR timeout is negative"),
        (Some(_), Some(_)) => out.count(in_sync),
        (None, _) => out.error("ERR value is not an integer or out of range"),
        (_, None) => out.error("ERR timeout is not an integer or out of range"),
    }
}

/// SCAN's arguments. None: the answer is known to be empty.
pub(super) fn scan(args: &Args<'_>, slots: u16) -> Result<Option<(Scan, Job)>, Cow<'static, str>> {
    let cursor = std::str::from_utf8(args.get(1)).ok().and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or("ERR invalid cursor")?;
    let (mut at, mut count, mut pattern, mut strings) = (2, 10, None, true);
    while at < args.len() {
        let (option, value) = (args.get(at).to_ascii_lowercase(), args.get(at + 1));
        if at + 1 == args.len() {
            return Err("ERR syntax error".into());
        }
        match &option[..] {
            b"match" => pattern = Some(value),
            b"type" => strings = value.eq_ignore_ascii_case(b"string"),
            b"count" => {
                let number = integer(value).ok_or("ERR value is not an integer or out of range")?;
                count = usize::try_from(number).ok().filter(|count| *count > 0).ok_or("ERR syntax error")?;
            }
            _ => return Err("ERR syntax error".into()),
        }
        at += 2;
    }
    // There are only strings: of another type there is nothing, wherever one looks.
    let pattern = if strings { pattern } else { Some(&b"[]"[..]) };
    Ok(Some(Scan::walk(cursor, count.min(LONGEST_COUNT), pattern, slots)))
}

/// The key of OBJECT and MEMORY, and what is told about it.
pub(super) fn about<'a>(command: &Command, args: &Args<'a>) -> Result<(&'a [u8], Shape), Vec<u8>> {
    let word = args.get(1).to_ascii_lowercase();
    let shape = match (command.run, &word[..]) {
        (Run::Object, b"encoding") => Shape::Encoding,
        (Run::Object, b"refcount") => Shape::Constant(1),
        (Run::Memory, b"usage") => Shape::Usage,
        _ => return Err(unknown_subcommand(args.get(1), &command.name.to_ascii_uppercase())),
    };
    let enough = if matches!(shape, Shape::Usage) { args.len() == 3 || args.len() == 5 } else { args.len() == 3 };
    if !enough || args.get(2).is_empty() {
        let name = format!("{}|{}", command.name, String::from_utf8_lossy(&word));
        return Err(wrong_arity(&name).into_bytes());
    }
    Ok((args.get(2), shape))
}

/// As Redis says it.
pub(super) fn unknown_subcommand(word: &[u8], of: &str) -> Vec<u8> {
    let word = &word[..word.len().min(128)];
    [b"ERR unknown subcommand '", word, b"'. Try ", of.as_bytes(), b" HELP."].concat()
}

/// The settings that clients ask for, as Redis names them.
fn settings(facts: &Facts, max_connections: usize) -> Vec<(&'static str, String)> {
    let (host, port) = facts.addr.rsplit_once(':').unwrap_or((&facts.addr, "0"));
    vec![
        ("appendfsync", "always".into()),
        ("appendonly", "yes".into()),
        ("bind", host.to_owned()),
        ("databases", "1".into()),
        ("maxclients", max_connections.to_string()),
        ("maxmemory", "0".into()),
        ("maxmemory-policy", "noeviction".into()),
        ("notify-keyspace-events", String::new()),
        ("port", port.to_owned()),
        ("proto-max-bulk-len", facts.longest_value.to_string()),
        ("requirepass", String::new()),
        ("save", String::new()),
        ("tcp-keepalive", "60".into()),
        ("timeout", "0".into()),
    ]
}

fn config(args: &Args<'_>, facts: &Facts, max_connections: usize, out: &mut Out<'_>) {
    let settings = settings(facts, max_connections);
    match args.get(1).to_ascii_lowercase().as_slice() {
        b"get" if args.len() > 2 => {
            let asked =
                |name: &str| args.from(2).any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
            let told: Vec<_> = settings.iter().filter(|(name, _)| asked(name)).collect();
            out.map(told.len());
            for (name, value) in told {
                out.bulk(name.as_bytes());
                out.bulk(value.as_bytes());
            }
        }
        b"set" if args.len() > 2 && args.len().is_multiple_of(2) => config_set(args, &settings, out),
        word @ (b"get" | b"set") => {
            out.error(&wrong_arity(&format!("config|{}", String::from_utf8_lossy(word))));
        }
        b"resetstat" | b"rewrite" => {
            out.error("ERR not supported: settings are flags, told by kvserver --print-config");
        }
        _ => out.error_bytes(&unknown_subcommand(args.get(1), "CONFIG")),
    }
}

/// A setting may be set to what it is.
fn config_set(args: &Args<'_>, settings: &[(&'static str, String)], out: &mut Out<'_>) {
    for at in (2..args.len()).step_by(2) {
        let (name, value) = (args.get(at), args.get(at + 1));
        let known = settings.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
        match known {
            None => {
                let why = [b"ERR Unknown option or number of arguments for CONFIG SET - '", name, b"'"].concat();
                return out.error_bytes(&why);
            }
            Some((_, now)) if now.as_bytes() == value => {}
            Some((name, _)) => {
                return out.error(&format!(
                    "ERR CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config"
                ));
            }
        }
    }
    out.ok();
}

fn command(args: &Args<'_>, out: &mut Out<'_>) {
    if args.len() == 1 {
        out.array(COMMANDS.len());
        return COMMANDS.iter().for_each(|command| docs::info(command, out));
    }
    let named = |from: usize| args.from(from).map(super::table::find);
    match args.get(1).to_ascii_lowercase().as_slice() {
        b"count" if args.len() == 2 => out.count(COMMANDS.len()),
        b"list" => {
            out.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| out.bulk(command.name.as_bytes()));
        }
        b"info" if args.len() == 2 => {
            out.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| docs::info(command, out));
        }
        b"info" => {
            out.array(args.len() - 2);
            named(2).for_each(|found| match found {
                Some(command) => docs::info(command, out),
                None => out.null(),
            });
        }
        b"docs" => {
            let told: Vec<&Command> =
                if args.len() == 2 { COMMANDS.iter().collect() } else { named(2).flatten().collect() };
            out.map(told.len());
            told.into_iter().for_each(|command| docs::docs(command, out));
        }
        b"getkeys" if args.len() > 3 => docs::keys(&args.tail(2), out),
        word @ (b"count" | b"getkeys") => {
            out.error(&wrong_arity(&format!("command|{}", String::from_utf8_lossy(word))));
        }
        _ => out.error_bytes(&unknown_subcommand(args.get(1), "COMMAND")),
    }
}

/// INFO: the sections asked for, or all.
fn info(args: &Args<'_>, facts: &Facts, max_connections: usize) -> String {
    let asked = |name: &str| {
        let all =
            |word: &[u8]| [&b"all"[..], b"default", b"everything"].iter().any(|all| word.eq_ignore_ascii_case(all));
        args.len() == 1 || args.from(1).any(|word| all(word) || word.eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut text = String::new();
    for (name, lines) in sections(facts, max_connections) {
        if asked(name) {
            let blank = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{blank}# {name}\r\n");
            for (field, value) in lines {
                let _ = write!(text, "{field}:{value}\r\n");
            }
        }
    }
    text
}

type Section = (&'static str, Vec<(&'static str, String)>);

fn sections(facts: &Facts, max_connections: usize) -> Vec<Section> {
    let port = facts.addr.rsplit_once(':').map_or("0", |(_, port)| port);
    let number = |number: u64| number.to_string();
    let text = |text: &str| text.to_owned();
    vec![
        (
            "Server",
            vec![
                ("redis_version", text(REDIS_VERSION)),
                ("annulus_version", text(env!("CARGO_PKG_VERSION"))),
                ("redis_mode", text("standalone")),
                ("os", text(std::env::consts::OS)),
                ("arch_bits", number(u64::from(usize::BITS))),
                ("process_id", number(u64::from(std::process::id()))),
                ("run_id", facts.node.clone()),
                ("tcp_port", text(port)),
                ("uptime_in_seconds", number(facts.up_ms / 1000)),
                ("uptime_in_days", number(facts.up_ms / 86_400_000)),
            ],
        ),
        (
            "Clients",
            vec![
                ("connected_clients", number(facts.connections)),
                ("maxclients", max_connections.to_string()),
                ("blocked_clients", number(0)),
            ],
        ),
        (
            "Memory",
            vec![
                ("used_memory", number(facts.bytes)),
                ("maxmemory", number(0)),
                ("maxmemory_policy", text("noeviction")),
            ],
        ),
        (
            "Persistence",
            vec![
                ("loading", number(u64::from(!facts.serving))),
                ("async_loading", number(0)),
                ("rdb_bgsave_in_progress", number(0)),
                ("aof_enabled", number(1)),
            ],
        ),
        ("Stats", vec![("total_commands_processed", number(facts.requests)), ("forwarding", number(facts.forwarding))]),
        ("Replication", vec![("role", text("master")), ("connected_slaves", number(facts.in_sync))]),
        ("CPU", Vec::new()),
        ("Modules", Vec::new()),
        ("Errorstats", Vec::new()),
        ("Cluster", vec![("cluster_enabled", number(0))]),
        ("Keyspace", keyspace(facts)),
    ]
}

/// The records that this server has copies of; DBSIZE counts those of the cluster.
fn keyspace(facts: &Facts) -> Vec<(&'static str, String)> {
    if facts.records == 0 {
        return Vec::new();
    }
    vec![("db0", format!("keys={},expires={},avg_ttl=0", facts.records, facts.with_deadline))]
}
