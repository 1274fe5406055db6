//! What COMMAND tells about a command: its entry, and its arguments as clients show them while one types.

use common::resp::{Args, Out};

use super::table::{self, Command};

/// An argument of a command's syntax.
#[derive(Debug, Default, PartialEq, Eq)]
struct Argument {
    /// What is given, or the word itself if there is nothing to give.
    name: String,
    kind: Kind,
    /// The word before it.
    token: Option<String>,
    optional: bool,
    multiple: bool,
    parts: Vec<Argument>,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Kind {
    #[default]
    Text,
    Key,
    Number,
    Token,
    OneOf,
    Block,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Key => "key",
            Kind::Number => "integer",
            Kind::Token => "pure-token",
            Kind::OneOf => "oneof",
            Kind::Block => "block",
        }
    }
}

/// An entry of COMMAND and COMMAND INFO.
pub(super) fn info(command: &Command, out: &mut Out<'_>) {
    out.array(10);
    out.bulk(command.name.as_bytes());
    out.integer(command.arity);
    out.set(command.flags.len());
    command.flags.iter().for_each(|flag| out.simple(flag));
    let (first, last, step) = command.keys;
    [first, last, step].into_iter().for_each(|number| out.integer(number));
    out.set(2);
    out.simple(if command.is_write() { "@write" } else { "@read" });
    out.simple(&format!("@{}", if command.group == "generic" { "keyspace" } else { command.group }));
    // Tips, key specifications and subcommands.
    (0..3).for_each(|_| out.array(0));
}

/// An entry of COMMAND DOCS.
pub(super) fn docs(command: &Command, out: &mut Out<'_>) {
    let arguments = parse(command.syntax);
    out.bulk(command.name.as_bytes());
    out.map(if arguments.is_empty() { 3 } else { 4 });
    for (name, value) in [("summary", command.summary), ("since", command.since), ("group", command.group)] {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    if !arguments.is_empty() {
        out.bulk(b"arguments");
        list(&arguments, out);
    }
}

fn list(arguments: &[Argument], out: &mut Out<'_>) {
    out.array(arguments.len());
    for argument in arguments {
        let flags = usize::from(argument.optional) + usize::from(argument.multiple);
        let holds = usize::from(!argument.parts.is_empty());
        let shown = usize::from(argument.parts.is_empty());
        out.map(2 + shown + usize::from(argument.token.is_some()) + usize::from(flags > 0) + holds);
        let mut pair = |name: &str, value: &str| {
            out.bulk(name.as_bytes());
            out.bulk(value.as_bytes());
        };
        pair("name", &argument.name);
        pair("type", argument.kind.word());
        if shown > 0 {
            pair("display_text", &argument.name);
        }
        if let Some(token) = &argument.token {
            pair("token", token);
        }
        if flags > 0 {
            out.bulk(b"flags");
            out.set(flags);
            [(argument.optional, "optional"), (argument.multiple, "multiple")]
                .into_iter()
                .filter(|(is, _)| *is)
                .for_each(|(_, flag)| out.simple(flag));
        }
        if holds > 0 {
            out.bulk(b"arguments");
            list(&argument.parts, out);
        }
    }
}

/// COMMAND GETKEYS.
pub(super) fn keys(args: &Args<'_>, out: &mut Out<'_>) {
    let Some(command) = table::find(args.get(0)) else { return out.error("ERR Invalid command specified") };
    if !command.takes(args.len()) {
        return out.error("ERR Invalid number of arguments specified for command");
    }
    let (Ok(first), Ok(step)) = (usize::try_from(command.keys.0), usize::try_from(command.keys.2)) else { return };
    if first == 0 {
        return out.error("ERR The command has no key arguments");
    }
    let end = if command.keys.1 < 0 { args.len() } else { first + 1 };
    let keys: Vec<&[u8]> = (first..end).step_by(step).map(|at| args.get(at)).collect();
    out.array(keys.len());
    keys.into_iter().for_each(|key| out.bulk(key));
}

/// Reads a syntax as Redis's documents write it.
fn parse(syntax: &str) -> Vec<Argument> {
    let mut arguments: Vec<Argument> = Vec::new();
    let mut rest = syntax.trim();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner);
            let (inside, behind) = (&inner[..end], inner[end + 1..].trim_start());
            if inside.contains("...") && !arguments.is_empty() {
                repeated(inside, &mut arguments);
            } else {
                arguments.push(optional(inside));
            }
            rest = behind;
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            arguments.push(word(&rest[..end]));
            rest = rest[end..].trim_start();
        }
    }
    arguments
}

/// Where the bracket is closed that was opened before `text`.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth == 0 => return at,
            ']' => depth -= 1,
            _ => {}
        }
    }
    text.len().saturating_sub(1)
}

/// `key value [key value ...]`: what came before may come again.
fn repeated(inside: &str, arguments: &mut Vec<Argument>) {
    let names = inside.split_whitespace().filter(|name| *name != "...").count();
    let from = arguments.len().saturating_sub(names.max(1));
    let mut parts: Vec<Argument> = arguments.drain(from..).collect();
    if parts.len() == 1 {
        parts[0].multiple = true;
        arguments.append(&mut parts);
    } else {
        arguments.push(Argument {
            name: "data".into(),
            kind: Kind::Block,
            multiple: true,
            parts,
            ..Argument::default()
        });
    }
}

fn optional(inside: &str) -> Argument {
    let choices: Vec<&str> = inside.split(" | ").collect();
    if choices.len() > 1 {
        let parts = choices.into_iter().map(one).collect();
        return Argument { name: "option".into(), kind: Kind::OneOf, optional: true, parts, ..Argument::default() };
    }
    Argument { optional: true, ..one(inside) }
}

/// One alternative: a word, a word with a value, a value, or several.
fn one(text: &str) -> Argument {
    let parts = parse(text);
    let is_token = |argument: &Argument| argument.kind == Kind::Token;
    match <[Argument; 2]>::try_from(parts) {
        Ok([first, second]) if is_token(&first) && !is_token(&second) => Argument { token: first.token, ..second },
        Ok(both) => Argument { name: "options".into(), kind: Kind::Block, parts: both.into(), ..Argument::default() },
        Err(mut parts) if parts.len() == 1 => parts.remove(0),
        Err(parts) => Argument { name: "options".into(), kind: Kind::Block, parts, ..Argument::default() },
    }
}

fn word(text: &str) -> Argument {
    let name = text.to_ascii_lowercase();
    let kind = match text {
        _ if text.chars().all(|c| c.is_ascii_uppercase()) => Kind::Token,
        "key" => Kind::Key,
        "seconds" | "milliseconds" | "count" | "start" | "end" | "index" | "timeout" | "numreplicas" | "protover" => {
            Kind::Number
        }
        _ => Kind::Text,
    };
    let token = (kind == Kind::Token).then(|| text.to_owned());
    Argument { name, kind, token, ..Argument::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_becomes_arguments() {
        let set = parse("key value [NX | XX] [GET] [EX seconds | KEEPTTL]");
        let shape: Vec<_> = set.iter().map(|a| (a.kind, a.optional, a.parts.len())).collect();
        assert_eq!(
            shape,
            [
                (Kind::Key, false, 0),
                (Kind::Text, false, 0),
                (Kind::OneOf, true, 2),
                (Kind::Token, true, 0),
                (Kind::OneOf, true, 2)
            ]
        );
        assert_eq!((set[4].parts[0].token.as_deref(), set[4].parts[0].kind), (Some("EX"), Kind::Number));
        let mset = parse("key value [key value ...]");
        assert_eq!((mset.len(), mset[0].kind, mset[0].multiple, mset[0].parts.len()), (1, Kind::Block, true, 2));
        let del = parse("key [key ...]");
        assert_eq!((del.len(), del[0].kind, del[0].multiple), (1, Kind::Key, true));
    }

    #[test]
    fn every_command_has_documents_that_can_be_read() {
        for command in table::COMMANDS {
            let (arguments, opened) = (parse(command.syntax), command.syntax.matches('[').count());
            assert_eq!(command.syntax.matches(']').count(), opened, "{}", command.name);
            assert_eq!(arguments.is_empty(), command.syntax.is_empty(), "{}", command.name);
        }
    }
}
