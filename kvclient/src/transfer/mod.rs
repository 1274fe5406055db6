//! Records in files: import and export.

pub mod export;
pub mod import;
mod lines;
mod progress;
pub mod records;
mod resume;

use std::path::Path;

use crate::cli::args::Format;
use crate::cli::out::Problem;

/// The format that was asked for, or that the file's name ends in. None: the name says nothing.
fn format_of(asked: Option<Format>, file: &Path) -> Option<Format> {
    let by_name = || match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "json" | "jsonl" | "ndjson" => Some(Format::Json),
        "tsv" | "tab" => Some(Format::Tsv),
        _ => None,
    };
    asked.or_else(by_name)
}

fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn problem(what: &str, file: &Path, error: &std::io::Error) -> Problem {
    Problem::file(format!("cannot {what} {}: {error}", file.display()))
}
