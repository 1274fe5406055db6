//! `--print-config`: every setting, its value, and where it comes from.

use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Config;

/// Settings that only concern this one call.
const NOT_SETTINGS: &[&str] = &["help", "version", "print_config"];

/// Settings whose value is nobody's business.
const SECRETS: &[&str] = &["admin_token"];

/// One line a setting, then what follows from them together.
pub(super) fn table(config: &Config, command: &Command, matches: &ArgMatches) -> String {
    let mut text = String::from("setting              value                          from\n");
    for arg in command.get_arguments().filter(|arg| !NOT_SETTINGS.contains(&arg.get_id().as_str())) {
        let name = arg.get_long().unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<20} {:<30} {}", value(arg, matches), source(arg, matches));
    }
    let mode = if config.bootstrap.is_empty() { "a ring of one" } else { "a server of a cluster" };
    let _ = write!(
        text,
        "\nThis is {mode}, listening on {}, known to others as {}; lines up to {} bytes.\n",
        config.listen, config.host, config.limits.line
    );
    text
}

fn value(arg: &Arg, matches: &ArgMatches) -> String {
    let id = arg.get_id().as_str();
    if SECRETS.contains(&id) && matches.contains_id(id) {
        return "set, and not shown".to_owned();
    }
    match arg.get_action() {
        ArgAction::Count => matches.get_count(id).to_string(),
        ArgAction::SetTrue => matches.get_flag(id).to_string(),
        _ => {
            let values: Vec<String> =
                matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
            if values.is_empty() { "none".to_owned() } else { values.join(",") }
        }
    }
}

fn source(arg: &Arg, matches: &ArgMatches) -> String {
    match matches.value_source(arg.get_id().as_str()) {
        Some(ValueSource::CommandLine) => "flag".to_owned(),
        Some(ValueSource::EnvVariable) => {
            format!("environment ({})", arg.get_env().unwrap_or_default().to_string_lossy())
        }
        _ => "default".to_owned(),
    }
}
