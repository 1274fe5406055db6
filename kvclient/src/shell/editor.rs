//! The line editor on a terminal: history, completion, hints.

use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::words::{self, ENTRIES};

/// Lines kept in the history file.
const HISTORY: usize = 1000;

/// What a person typed.
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C: the line is thrown away.
    Cancelled,
    /// Ctrl-D, or the terminal has gone.
    End,
}

pub(super) struct Prompt {
    editor: Editor<Assistant, FileHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    pub(super) fn new() -> rustyline::Result<Prompt> {
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        editor.set_helper(Some(Assistant { hinter: HistoryHinter::new(), color }));
        let history = history_file();
        if let Some(history) = &history {
            // The first time there is none.
            drop(editor.load_history(history));
        }
        Ok(Prompt { editor, history })
    }

    pub(super) fn read(&mut self) -> Typed {
        match self.editor.readline("annulus> ") {
            Ok(line) => {
                if !line.trim().is_empty() {
                    // Without a history the shell works all the same.
                    drop(self.editor.add_history_entry(&line));
                }
                Typed::Line(line)
            }
            Err(ReadlineError::Interrupted) => Typed::Cancelled,
            Err(ReadlineError::Eof) => Typed::End,
            Err(error) => {
                log::warn!("the terminal cannot be read: {error}");
                Typed::End
            }
        }
    }

    /// Keeps the history. The editor writes the file readable for its owner alone.
    pub(super) fn save(&mut self) {
        let Some(history) = &self.history else { return };
        let made = history
            .parent()
            .map_or(Ok(()), |directory| fs::DirBuilder::new().recursive(true).mode(0o700).create(directory));
        let saved = made.map_err(ReadlineError::from).and_then(|()| self.editor.save_history(history));
        if let Err(error) = saved {
            log::warn!("cannot keep the history in {}: {error}", history.display());
        }
    }
}

/// `annulus/kvclient_history` under the XDG state directory.
fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("annulus").join("kvclient_history"))
}

struct Assistant {
    hinter: HistoryHinter,
    color: bool,
}

impl Helper for Assistant {}
impl Validator for Assistant {}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete(&line[..at]))
    }
}

/// Where the word to complete begins, and what it can become.
fn complete(typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(' ').map_or(0, |blank| blank + 1);
    let (before, word) = (typed[..start].trim(), &typed[start..]);
    let candidates: Vec<&str> = match before.to_ascii_lowercase().as_str() {
        "" | "help" => ENTRIES.iter().map(|entry| entry.name).collect(),
        "loglevel" => common::logging::NAMES.split(", ").collect(),
        _ => Vec::new(),
    };
    let fits =
        |candidate: &&str| candidate.get(..word.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(word));
    let end = if before.is_empty() { " " } else { "" };
    (start, candidates.into_iter().filter(fits).map(|candidate| format!("{candidate}{end}")).collect())
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, at: usize, context: &Context<'_>) -> Option<String> {
        if at < line.len() {
            return None;
        }
        // The arguments of a command that is typed; else what was typed before.
        match line.strip_suffix(' ').and_then(words::find) {
            Some(entry) if !entry.arguments.is_empty() => Some(entry.arguments.to_owned()),
            _ => self.hinter.hint(line, at, context),
        }
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        if self.color { Cow::Owned(format!("\x1b[2m{hint}\x1b[0m")) } else { Cow::Borrowed(hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_levels_are_completed() {
        assert_eq!(complete("ke"), (0, vec!["keyrange ".to_owned(), "keyrange_read ".to_owned()]));
        assert_eq!(complete("help dis"), (5, vec!["disconnect".to_owned()]));
        assert_eq!(complete("logLevel war"), (9, vec!["WARN".to_owned()]));
        assert_eq!(complete("put k").1, Vec::<String>::new());
    }
}
