//! `import`: stores every record of a file, many at a time.
//!
//! Records of one key are stored in the order of their lines; all others in any order. Lines that cannot be stored are
//! told by number, with the reason; when the cluster does not serve, the import ends instead of failing line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use common::{Outcome, Time, clock};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::lines::{self, Line};
use super::progress::{Progress, rate};
use super::records::{Record, Syntax};
use super::resume::{State, StateFile};
use super::{format_of, is_standard, problem};
use crate::cli::args::{Format, Import};
use crate::cli::out::{Out, Problem};
use crate::client::Client;
use crate::error::Error;
use crate::exit;

/// Failures that are told one by one; the rest is counted.
const TOLD: usize = 20;
/// After so many records that nobody served (each was tried for the whole time limit) the import ends.
const HOPELESS: u64 = 8;
/// How often the state file is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Imports a file.
///
/// # Errors
/// Nothing could be read, or not all of it could be stored.
pub async fn run(client: &Client, args: &Import, out: Out) -> Result<(), Problem> {
    let syntax = syntax(args)?;
    let size = lines::size(&args.file).map_err(|error| problem("read", &args.file, &error))?;
    let state = match (args.resume, size) {
        (false, _) => None,
        (true, Some(size)) => Some((StateFile::beside(&args.file), size)),
        (true, None) => return Err(Problem::usage("--resume needs a regular file")),
    };
    let skip = state.as_ref().map_or(Ok(0), |(file, size)| file.load(*size))?;
    if skip > 0 {
        out.note(&format!("continuing after line {skip}"));
    }
    let mut input = lines::read(&args.file).map_err(|error| problem("read", &args.file, &error))?;
    let mut import = Running {
        client: client.clone(),
        tasks: JoinSet::new(),
        keys: BTreeSet::new(),
        tally: Tally::new(skip),
        progress: Progress::new(out, "import", size),
        in_flight: usize::from(args.in_flight),
        state,
        saved: clock::now(),
    };
    while let Some(line) = input.recv().await {
        let line = line.map_err(|error| problem("read", &args.file, &error))?;
        if line.number <= skip {
            continue;
        }
        import.take(line, syntax).await?;
        if import.tally.unserved >= HOPELESS {
            import.tally.stopped = true;
            break;
        }
    }
    import.drain(0).await?;
    import.finish(out)
}

fn syntax(args: &Import) -> Result<Syntax, Problem> {
    let format = format_of(args.format, &args.file).ok_or_else(|| {
        let what = if is_standard(&args.file) { "stdin".to_owned() } else { args.file.display().to_string() };
        Problem::usage(format!("the format of {what} is not clear from its name: add --format json or --format tsv"))
    })?;
    if args.raw && format != Format::Tsv {
        return Err(Problem::usage("--raw is for TSV only"));
    }
    Ok(Syntax { format, raw: args.raw })
}

/// What came of one line.
struct Stored {
    line: u64,
    end: u64,
    key: Bytes,
    result: Result<Outcome, Error>,
}

struct Running {
    client: Client,
    tasks: JoinSet<Stored>,
    /// The keys on their way.
    keys: BTreeSet<Bytes>,
    tally: Tally,
    progress: Progress,
    in_flight: usize,
    state: Option<(StateFile, u64)>,
    saved: Time,
}

impl Running {
    async fn take(&mut self, line: Line, syntax: Syntax) -> Result<(), Problem> {
        let record = line.text.as_deref().ok_or_else(|| "the line is too long".to_owned());
        match record.and_then(|text| syntax.read(text)) {
            Ok(None) => self.tally.settled(line.number, line.end),
            Ok(Some(record)) => self.start(line.number, line.end, record).await?,
            Err(why) => self.tally.fail(line.number, None, &why),
        }
        Ok(())
    }

    async fn start(&mut self, line: u64, end: u64, record: Record) -> Result<(), Problem> {
        let Record { key, value } = record;
        self.drain(self.in_flight - 1).await?;
        // The same key again: its earlier value must be stored first.
        while self.keys.contains(&key.0) {
            self.one().await?;
        }
        self.keys.insert(key.0.clone());
        let client = self.client.clone();
        self.tasks.spawn(async move {
            let result = client.put(key.0.clone(), value.0).await;
            Stored { line, end, key: key.0, result }
        });
        Ok(())
    }

    /// Waits until at most `left` records are on their way.
    async fn drain(&mut self, left: usize) -> Result<(), Problem> {
        while let Some(done) = self.tasks.try_join_next() {
            self.done(done)?;
        }
        while self.tasks.len() > left {
            self.one().await?;
        }
        Ok(())
    }

    async fn one(&mut self) -> Result<(), Problem> {
        match self.tasks.join_next().await {
            Some(done) => self.done(done),
            None => Ok(()),
        }
    }

    fn done(&mut self, done: Result<Stored, tokio::task::JoinError>) -> Result<(), Problem> {
        let stored = done.map_err(|error| Problem::file(format!("a part of the import broke down: {error}")))?;
        self.keys.remove(&stored.key);
        self.tally.add(&stored);
        self.progress.update(self.tally.position, self.tally.stored, self.tally.failed);
        if clock::now().since(self.saved) >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Problem> {
        self.saved = clock::now();
        match &self.state {
            Some((file, size)) => file.save(State { lines: self.tally.prefix, size: *size }),
            None => Ok(()),
        }
    }

    fn finish(mut self, out: Out) -> Result<(), Problem> {
        let took = self.progress.finish();
        let complete = self.tally.failed == 0;
        match &self.state {
            Some((file, _)) if complete => file.remove(),
            _ => self.save()?,
        }
        let tally = &self.tally;
        for (line, key, why) in &tally.told {
            let key = key.as_ref().map_or(String::new(), |key| format!(" (key {})", key.escape_ascii()));
            out.note(&format!("line {line}{key}: {why}"));
        }
        let more = tally.failed.saturating_sub(tally.told.len() as u64);
        if more > 0 {
            out.note(&format!("and {more} more"));
        }
        let text = format!(
            "imported {} records in {:.1} s ({} a second): {} new, {} updated, {} failed",
            tally.stored,
            took.as_secs_f64(),
            rate(tally.stored, took),
            tally.created,
            tally.stored - tally.created,
            tally.failed
        );
        out.say(text, &tally.json(took))?;
        if complete { Ok(()) } else { Err(self.failure()) }
    }

    fn failure(&self) -> Problem {
        let Tally { prefix, failed, .. } = &self.tally;
        let again = if self.state.is_some() {
            format!("run it again to continue after line {prefix}, up to which everything is stored")
        } else {
            "running it again does no harm; with --resume it would continue where it failed".to_owned()
        };
        let message = if self.tally.stopped {
            format!("the cluster does not serve, so the import ended early; {again}")
        } else {
            format!("{failed} of the lines could not be stored; {again}")
        };
        Problem { code: self.tally.code, kind: "import", message }
    }
}

/// What came of everything so far.
struct Tally {
    /// All lines up to this one are stored.
    prefix: u64,
    /// Lines after that which are.
    beyond: BTreeMap<u64, u64>,
    /// How far into the input that is, in bytes.
    position: u64,
    stored: u64,
    created: u64,
    failed: u64,
    /// Failures because nobody served.
    unserved: u64,
    stopped: bool,
    told: Vec<(u64, Option<Bytes>, String)>,
    code: u8,
}

impl Tally {
    fn new(prefix: u64) -> Tally {
        Tally {
            prefix,
            beyond: BTreeMap::new(),
            position: 0,
            stored: 0,
            created: 0,
            failed: 0,
            unserved: 0,
            stopped: false,
            told: Vec::new(),
            code: exit::SERVER,
        }
    }

    fn add(&mut self, stored: &Stored) {
        match &stored.result {
            Ok(outcome) => {
                self.stored += 1;
                self.created += u64::from(*outcome == Outcome::Created);
                self.settled(stored.line, stored.end);
            }
            Err(error) => {
                if !matches!(error, Error::Rejected { .. }) {
                    self.unserved += 1;
                    self.code = error.exit_code();
                }
                self.fail(stored.line, Some(stored.key.clone()), &error.to_string());
            }
        }
    }

    /// The line needs nothing more.
    fn settled(&mut self, line: u64, end: u64) {
        self.position = self.position.max(end);
        self.beyond.insert(line, end);
        // A failed line is never in the list, so the prefix ends before the first of them; what follows it is bounded
        // by the records in flight plus the lines after a failure.
        while self.beyond.remove(&(self.prefix + 1)).is_some() {
            self.prefix += 1;
        }
    }

    fn fail(&mut self, line: u64, key: Option<Bytes>, why: &str) {
        self.failed += 1;
        if self.told.len() < TOLD {
            self.told.push((line, key, why.to_owned()));
        }
    }

    fn json(&self, took: Duration) -> Value {
        let failures: Vec<Value> = self
            .told
            .iter()
            .map(|(line, key, why)| json!({ "line": line, "key": key.clone().map(common::blob::Blob), "why": why }))
            .collect();
        json!({
            "ok": self.failed == 0,
            "stored": self.stored,
            "created": self.created,
            "failed": self.failed,
            "failures": failures,
            "stored_up_to_line": self.prefix,
            "seconds": took.as_secs_f64(),
        })
    }
}
