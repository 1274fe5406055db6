//! Log levels by the courses' names, `-v`, `RUST_LOG`, and where the log goes.
//!
//! Flags beat the environment, the environment beats the default ([`DEFAULT`]).

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use env_logger::{Builder, Target, WriteStyle};
use log::LevelFilter;

/// Without flags: what an operator wants to see of a healthy server is a few lines at its start.
pub const DEFAULT: LevelFilter = LevelFilter::Info;
/// The variable that is read when no flag says anything.
pub const VARIABLE: &str = "RUST_LOG";
/// The level names, for help texts.
pub const NAMES: &str = "ALL, TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF";

/// A level by any name the courses' programs use: ours, log4j's, and java.util.logging's.
///
/// # Errors
/// A sentence with the known names.
pub fn level(name: &str) -> Result<LevelFilter, String> {
    Ok(match name.to_ascii_uppercase().as_str() {
        "ALL" | "TRACE" | "FINEST" | "FINER" => LevelFilter::Trace,
        "DEBUG" | "FINE" | "CONFIG" => LevelFilter::Debug,
        "INFO" => LevelFilter::Info,
        "WARN" | "WARNING" => LevelFilter::Warn,
        "ERROR" | "SEVERE" | "FATAL" => LevelFilter::Error,
        "OFF" => LevelFilter::Off,
        _ => return Err(format!("unknown log level `{name}`: known are {NAMES}")),
    })
}

/// A level for a count of `-v`: debug for one, everything for more.
#[must_use]
pub fn verbose(count: u8) -> Option<LevelFilter> {
    match count {
        0 => None,
        1 => Some(LevelFilter::Debug),
        _ => Some(LevelFilter::Trace),
    }
}

/// Makes the courses' `-ll LEVEL` (and `-ll=LEVEL`), which no usual parser takes for one option, `--log-level`. What follows
/// a `--` is left alone.
pub fn spell_out_ll(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut options = true;
    let spell = |arg: OsString| {
        options &= arg != "--";
        match arg.to_str() {
            Some("-ll") if options => "--log-level".into(),
            Some(text) if options && text.starts_with("-ll=") => format!("--log-level={}", &text[4..]).into(),
            _ => arg,
        }
    };
    args.into_iter().map(spell).collect()
}

/// Starts logging for this process: `level` if a flag gave one, else `RUST_LOG`, else [`DEFAULT`]; to `file` (appended,
/// made with its directory if missing), else to stderr. Later calls in one process change nothing.
///
/// # Errors
/// The file cannot be opened.
pub fn start(level: Option<LevelFilter>, file: Option<&Path>) -> io::Result<()> {
    let mut builder = Builder::new();
    builder.filter_level(DEFAULT);
    match level {
        Some(level) => {
            builder.filter_level(level);
        }
        None => {
            if let Ok(filters) = std::env::var(VARIABLE) {
                builder.parse_filters(&filters);
            }
        }
    }
    builder.format_timestamp_millis();
    if let Some(file) = file {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(file)?;
        builder.target(Target::Pipe(Box::new(file))).write_style(WriteStyle::Never);
    }
    // An error means that this process logs already: tests, and programs that run several servers.
    let _ = builder.try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_courses_level_names_are_known() {
        assert_eq!(level("ALL"), Ok(LevelFilter::Trace));
        assert_eq!(level("debug"), Ok(LevelFilter::Debug));
        assert_eq!(level("Fatal"), Ok(LevelFilter::Error));
        assert_eq!(level("OFF"), Ok(LevelFilter::Off));
        assert_eq!(level("loud").unwrap_err(), format!("unknown log level `loud`: known are {NAMES}"));
        for name in NAMES.split(", ") {
            assert!(level(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn ll_becomes_an_option_and_other_words_stay() {
        let spelt = |args: &[&str]| {
            spell_out_ll(args.iter().map(OsString::from))
                .into_iter()
                .map(|arg| arg.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(spelt(&["x", "-ll", "DEBUG", "-l", "f"]), ["x", "--log-level", "DEBUG", "-l", "f"]);
        assert_eq!(spelt(&["x", "-ll=OFF", "--", "-ll"]), ["x", "--log-level=OFF", "--", "-ll"]);
    }
}
