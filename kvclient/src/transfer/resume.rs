//! The state file of an import: how many leading lines are stored for certain.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::out::Problem;

/// What the file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// All lines up to this one are stored.
    pub(super) lines: u64,
    /// The input's size, to notice that it is another one.
    pub(super) size: u64,
}

/// Beside the input: `FILE.import-state`.
#[derive(Debug)]
pub(super) struct StateFile(PathBuf);

impl StateFile {
    pub(super) fn beside(input: &Path) -> StateFile {
        let mut name = input.as_os_str().to_owned();
        name.push(".import-state");
        StateFile(name.into())
    }

    /// How many lines an earlier run stored; 0 if there was none.
    pub(super) fn load(&self, size: u64) -> Result<u64, Problem> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(super::problem("read", &self.0, &error)),
        };
        let file = self.0.display();
        let state: State = serde_json::from_slice(&text)
            .map_err(|error| Problem::file(format!("{file} is damaged ({error}): remove it to start over")))?;
        if state.size != size {
            return Err(Problem::file(format!(
                "the input has {size} bytes, but had {} when {file} was written: remove that file to start over",
                state.size
            )));
        }
        Ok(state.lines)
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new one.
    pub(super) fn save(&self, state: State) -> Result<(), Problem> {
        let write = || -> io::Result<()> {
            let mut temporary = self.0.as_os_str().to_owned();
            temporary.push(".new");
            let mut file = fs::File::create(&temporary)?;
            serde_json::to_writer(&mut file, &state)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &self.0)
        };
        write().map_err(|error| super::problem("write", &self.0, &error))
    }

    /// All is stored: nothing to continue.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
