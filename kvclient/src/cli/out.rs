//! What the program says: text for people or JSON for scripts, and how a command ends.

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use crate::error::Error;
use crate::exit;

/// How a command fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The exit code.
    pub code: u8,
    /// One word for scripts.
    pub kind: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Problem {
    /// The command is not understood.
    pub fn usage(message: impl Into<String>) -> Problem {
        Problem { code: exit::USAGE, kind: "usage", message: message.into() }
    }

    /// A file cannot be read or written.
    pub fn file(message: impl Into<String>) -> Problem {
        Problem { code: exit::SERVER, kind: "file", message: message.into() }
    }

    /// The reader of our output has gone. Not worth a word: whoever closed the pipe has what they wanted.
    #[must_use]
    pub fn closed_pipe() -> Problem {
        Problem { code: exit::OK, kind: "closed_pipe", message: String::new() }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem { code: error.exit_code(), kind: error.kind(), message: error.to_string() }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Problem::closed_pipe();
        }
        Problem::file(format!("cannot write the output: {error}"))
    }
}

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// One JSON object a line.
    pub json: bool,
}

impl Out {
    /// Prints a result: `text`, or `json`.
    ///
    /// # Errors
    /// The output is closed or full.
    pub fn say(self, text: impl AsRef<[u8]>, json: &Value) -> Result<(), Problem> {
        let mut stdout = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut stdout, json).map_err(io::Error::from)?;
        } else {
            stdout.write_all(text.as_ref())?;
        }
        stdout.write_all(b"\n")?;
        stdout.flush()?;
        Ok(())
    }

    /// Prints why a command failed: for people on stderr; for scripts as the command's one line on stdout.
    pub fn fail(self, before: &str, problem: &Problem) {
        if problem.message.is_empty() {
            return;
        }
        if self.json {
            let error = json!({ "ok": false, "error": problem.kind, "message": problem.message, "exit": problem.code });
            // If even that cannot be printed, the exit code still says it.
            drop(self.say("", &error));
        } else {
            self.note(&format!("{before}{}", problem.message));
        }
    }

    /// Tells a person something that is no result.
    pub fn note(self, text: &str) {
        // A closed stderr is no reason to fail.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// Shows a person a line in place of the one shown before.
    pub fn show(self, line: &str) {
        drop(write!(io::stderr().lock(), "\r\x1b[2K{line}"));
    }

    /// Whether a person watches the progress.
    #[must_use]
    pub fn watched(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}
