//! The shell's commands: what a line means, and what each command is for. No line is ever executed here.

use bytes::Bytes;
use clap::Parser;
use log::LevelFilter;

use crate::address::Address;
use crate::cli::args::{self, Export, Import};
use crate::cli::job::Job;
use crate::cli::membership::{Membership, Wanted};
use crate::cli::questions::Question;

/// What a line asks for.
#[derive(Debug)]
pub(super) enum Word {
    /// An empty line, or a comment.
    Nothing,
    Connect(Address),
    Disconnect,
    Job(Job),
    /// None: say which level is in force.
    LogLevel(Option<LevelFilter>),
    Help(Option<String>),
    Quit,
}

/// One command, for help, completion and hints.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) arguments: &'static str,
    pub(super) text: &'static str,
}

const fn entry(name: &'static str, arguments: &'static str, text: &'static str) -> Entry {
    Entry { name, arguments, text }
}

/// Every command.
pub(super) const ENTRIES: &[Entry] = &[
    entry("connect", "<host> <port>", "use the cluster that this server belongs to"),
    entry("disconnect", "", "close all connections"),
    entry(
        "put",
        "<key> <value>",
        "set a value: the rest of the line, blanks included. Without a value, or with `null`, remove the key",
    ),
    entry("getset", "<key> <value>", "set a value and print the one before"),
    entry("get", "<key>", "print a value, from any server that holds it"),
    entry("delete", "<key>", "remove a key"),
    entry("keyrange", "", "which server coordinates which part of the ring"),
    entry("keyrange_read", "", "which server may answer reads for which part of the ring"),
    entry("ring", "", "the ring as a table: server, arc, share, copies"),
    entry("status", "", "how each server stands"),
    entry("num_keys", "", "how many records the cluster holds"),
    entry("first_key", "", "the first key of all, in the order of bytes"),
    entry("last_key", "", "the last key of all"),
    entry("node_list", "", "the servers: address, id, state"),
    entry("explain", "<key>", "where a key lies, who holds it in which version, who would answer for it, and why"),
    entry("timeline", "[--last N]", "what happened: accusations, probes, verdicts, decisions"),
    entry("leave", "<host:port> [force]", "make this server hand its copies over and leave the cluster"),
    entry("remove", "<host:port or id> [force | accept-data-loss]", "make a server leave, whether or not it answers"),
    entry("change", "", "how far the change in progress is: a join, a leave, a rebalancing"),
    entry("plan", "[without <host:port or id>]", "what evening out would move, or what a server's death would mean"),
    entry("rebalance", "", "even out the load"),
    entry("cancel", "", "undo the change in progress"),
    entry("import", "<file> [--format json|tsv] [--raw] [--resume]", "store every record of a file"),
    entry("export", "[<file>] [--format json|tsv]", "write every record of the cluster to a file, or print them"),
    entry("logLevel", "[<level>]", "how much is logged: ALL, TRACE, DEBUG, INFO, WARN, ERROR, OFF"),
    entry("help", "[<command>]", "what the commands are, or one of them"),
    entry("quit", "", "leave (also: exit, Ctrl-D)"),
];

/// The command of this name, in any case.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    let name = if name.eq_ignore_ascii_case("exit") { "quit" } else { name };
    ENTRIES.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
}

/// Understands a line.
///
/// # Errors
/// What is wrong with it, and how it should look.
pub(super) fn parse(line: &[u8]) -> Result<Word, String> {
    let line = line.trim_ascii_start();
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.trim_ascii().is_empty() || line.starts_with(b"#") {
        return Ok(Word::Nothing);
    }
    let (name, rest) = split(line);
    let name = String::from_utf8_lossy(name).into_owned();
    let Some(entry) = find(&name) else {
        return Err(format!("unknown command `{name}`; `help` lists the commands"));
    };
    let word = match entry.name {
        "connect" => connect(rest),
        "disconnect" => nothing_after(rest, Word::Disconnect),
        "put" => put(rest),
        "get" => key(rest).map(|key| Word::Job(Job::Get(key))),
        "delete" => key(rest).map(|key| Word::Job(Job::Delete(key))),
        "keyrange" => nothing_after(rest, Word::Job(Job::Keyrange)),
        "keyrange_read" => nothing_after(rest, Word::Job(Job::KeyrangeRead)),
        "ring" => nothing_after(rest, Word::Job(Job::Ring)),
        "getset" => getset(rest),
        "explain" | "timeline" | "num_keys" | "first_key" | "last_key" | "node_list" => question(entry.name, rest),
        "status" => nothing_after(rest, Word::Job(Job::Status)),
        "leave" | "remove" => goes(entry.name, rest),
        "plan" => plan(rest),
        "change" => nothing_after(rest, membership(Wanted::Change, false)),
        "rebalance" => nothing_after(rest, membership(Wanted::Rebalance, false)),
        "cancel" => nothing_after(rest, membership(Wanted::Cancel, false)),
        "import" => with_clap::<ImportLine>(rest).and_then(import),
        "export" => with_clap::<ExportLine>(rest).map(|line| Word::Job(Job::Export(line.export))),
        "logLevel" => log_level(rest),
        "help" => Ok(Word::Help(words(rest).first().cloned())),
        _ => nothing_after(rest, Word::Quit),
    };
    word.map_err(|why| format!("{why}; write `{} {}`", entry.name, entry.arguments).trim_end().to_owned())
}

/// The first word, and what follows the one blank after it.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| matches!(byte, b' ' | b'\t')) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

fn words(rest: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(rest).split_whitespace().map(str::to_owned).collect()
}

fn nothing_after(rest: &[u8], word: Word) -> Result<Word, String> {
    if rest.trim_ascii().is_empty() { Ok(word) } else { Err("nothing is expected after the command".to_owned()) }
}

fn connect(rest: &[u8]) -> Result<Word, String> {
    match words(rest).as_slice() {
        [host, port] => args::address(&format!("{host}:{port}")).map(Word::Connect),
        [both] => args::address(both).map(Word::Connect),
        _ => Err("a host and a port are needed".to_owned()),
    }
}

fn key(rest: &[u8]) -> Result<Bytes, String> {
    match split(rest.trim_ascii()) {
        (b"", _) => Err("a key is missing".to_owned()),
        (key, b"") => Ok(Bytes::copy_from_slice(key)),
        _ => Err("one key is expected, without blanks".to_owned()),
    }
}

fn put(rest: &[u8]) -> Result<Word, String> {
    let (key, value) = split(rest.trim_ascii_start());
    if key.is_empty() {
        return Err("a key is missing".to_owned());
    }
    let key = Bytes::copy_from_slice(key);
    // As the protocol's default dialect has it.
    if value.is_empty() || value == b"null" {
        return Ok(Word::Job(Job::Delete(key)));
    }
    Ok(Word::Job(Job::Put(key, Bytes::copy_from_slice(value))))
}

/// Stores what it is given: nothing is removed by a value.
fn getset(rest: &[u8]) -> Result<Word, String> {
    match split(rest.trim_ascii_start()) {
        (b"", _) => Err("a key is missing".to_owned()),
        (_, b"") => Err("a value is missing".to_owned()),
        (key, value) => Ok(Word::Job(Job::Getset(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))),
    }
}

fn question(name: &str, rest: &[u8]) -> Result<Word, String> {
    let line = [name.as_bytes(), b" ", rest].concat();
    with_clap::<QuestionLine>(&line).map(|line| Word::Job(Job::Question(line.question)))
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct QuestionLine {
    #[command(subcommand)]
    question: Question,
}

fn membership(wanted: Wanted, force: bool) -> Word {
    Word::Job(Job::Membership(Membership::new(wanted, force)))
}

fn goes(name: &str, rest: &[u8]) -> Result<Word, String> {
    let words = words(rest);
    let (node, force) = match words.as_slice() {
        [node] => (node, false),
        [node, force] if force.eq_ignore_ascii_case("force") => (node, true),
        [node, loss] if name == "remove" && loss.eq_ignore_ascii_case("accept-data-loss") => {
            return Ok(membership(Wanted::GiveUp(node.clone()), false));
        }
        _ => return Err("a server is needed".to_owned()),
    };
    let wanted = if name == "leave" { Wanted::Leave(args::address(node)?) } else { Wanted::Remove(node.clone()) };
    Ok(membership(wanted, force))
}

fn plan(rest: &[u8]) -> Result<Word, String> {
    match words(rest).as_slice() {
        [] => Ok(membership(Wanted::Plan, false)),
        [without, node] if without == "without" => Ok(membership(Wanted::PlanWithout(node.clone()), false)),
        _ => Err("nothing, or `without` and a server, is expected".to_owned()),
    }
}

fn log_level(rest: &[u8]) -> Result<Word, String> {
    match words(rest).as_slice() {
        [] => Ok(Word::LogLevel(None)),
        [level] => common::logging::level(level).map(|level| Word::LogLevel(Some(level))),
        _ => Err("one level is expected".to_owned()),
    }
}

fn import(line: ImportLine) -> Result<Word, String> {
    if line.import.file.as_os_str() == "-" {
        return Err("the shell itself reads stdin; a file is needed".to_owned());
    }
    Ok(Word::Job(Job::Import(line.import)))
}

#[derive(Parser)]
#[command(no_binary_name = true, name = "import")]
struct ImportLine {
    #[command(flatten)]
    import: Import,
}

#[derive(Parser)]
#[command(no_binary_name = true, name = "export")]
struct ExportLine {
    #[command(flatten)]
    export: Export,
}

fn with_clap<P: Parser>(rest: &[u8]) -> Result<P, String> {
    P::try_parse_from(words(rest)).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or("").trim_start_matches("error: ");
        first.to_owned()
    })
}

/// The text of `help`.
pub(super) fn help(of: Option<&str>) -> Result<String, String> {
    let Some(name) = of else {
        let width = ENTRIES.iter().map(|entry| entry.name.len() + entry.arguments.len() + 1).max().unwrap_or(0).min(24);
        let line = |entry: &Entry| format!("{:width$}  {}", format!("{} {}", entry.name, entry.arguments), entry.text);
        return Ok(ENTRIES.iter().map(line).collect::<Vec<_>>().join("\n"));
    };
    match find(name) {
        Some(entry) => Ok(format!("{} {}\n{}", entry.name, entry.arguments, entry.text)),
        None => Err(format!("unknown command `{name}`; `help` lists the commands")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        match parse(line.as_bytes()) {
            Ok(word) => format!("{word:?}"),
            Err(why) => format!("error: {why}"),
        }
    }

    #[test]
    fn lines_are_understood() {
        for (line, expected) in [
            ("", "Nothing"),
            ("  # a remark\n", "Nothing"),
            ("put k v", r#"Job(Put(b"k", b"v"))"#),
            ("PUT k  two  blanks \r\n", r#"Job(Put(b"k", b" two  blanks "))"#),
            ("put k", r#"Job(Delete(b"k"))"#),
            ("put k null", r#"Job(Delete(b"k"))"#),
            ("put k null and more", r#"Job(Put(b"k", b"null and more"))"#),
            ("get k ", r#"Job(Get(b"k"))"#),
            ("getset k  a b ", r#"Job(Getset(b"k", b" a b "))"#),
            ("NUM_KEYS", "Job(Question(NumKeys))"),
            ("explain k", r#"Job(Question(Explain { key: "k" }))"#),
            ("timeline --last 5", "Job(Question(Timeline { last: 5 }))"),
            ("delete k", r#"Job(Delete(b"k"))"#),
            ("connect localhost 5001", "Connect(localhost:5001)"),
            ("connect localhost:5001", "Connect(localhost:5001)"),
            ("loglevel debug", "LogLevel(Some(Debug))"),
            ("logLevel", "LogLevel(None)"),
            ("help put", r#"Help(Some("put"))"#),
            ("exit", "Quit"),
        ] {
            assert_eq!(shown(line), expected, "{line:?}");
        }
    }

    #[test]
    fn mistakes_say_how_the_line_should_look() {
        for (line, expected) in [
            ("fetch k", "unknown command `fetch`; `help` lists the commands"),
            ("get", "a key is missing; write `get <key>`"),
            ("get a b", "one key is expected, without blanks; write `get <key>`"),
            ("put", "a key is missing; write `put <key> <value>`"),
            ("ring now", "nothing is expected after the command; write `ring"),
            ("connect here", "write HOST:PORT, such as localhost:5001; write `connect <host> <port>`"),
            ("logLevel loud", "unknown log level `loud`"),
            ("import", "write `import <file>"),
        ] {
            let found = shown(line);
            assert!(found.starts_with("error: ") && found.contains(expected), "{line:?}: {found}");
        }
    }

    #[test]
    fn every_command_is_known_and_explained() {
        let all = help(None).unwrap();
        for entry in ENTRIES {
            assert!(all.contains(entry.text));
            assert!(help(Some(entry.name)).unwrap().contains(entry.text));
            assert!(!shown(entry.name).contains("unknown command"), "{}", entry.name);
        }
        assert!(help(Some("fly")).is_err());
    }
}
