//! `export`: writes every record of the cluster.
//!
//! Walks the circle slot by slot, a few parts of it at a time. Each page is linearizable; the whole is not a snapshot: what
//! is written while the export runs may or may not be in it. A file appears under its name only when it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::blob::Blob;
use common::position::Position;
use common::text::Page;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::progress::{Progress, rate};
use super::records::{Record, Syntax};
use super::{format_of, is_standard, problem};
use crate::cli::args::{Export, Format};
use crate::cli::out::{Out, Problem};
use crate::client::Client;
use crate::error::Error;

/// The circle is walked in up to so many equal parts at a time: enough to keep a few servers and the disk busy.
const PARTS: u128 = 8;
/// Pages that wait to be written; then the walkers wait.
const AHEAD: usize = 16;

/// Exports all records.
///
/// # Errors
/// Not all could be read or written; then no file is left.
pub async fn run(client: &Client, args: &Export, out: Out) -> Result<(), Problem> {
    let file = args.file.as_deref().filter(|file| !is_standard(file));
    let format = file.map_or(args.format, |file| format_of(args.format, file)).unwrap_or(Format::Json);
    let syntax = Syntax { format, raw: false };
    let mut target = Target::open(file)?;
    // All slots are of one size, so the first one tells how many there are.
    let first = client.scan(Position(0), None).await?.last;
    let slots = (u128::MAX - first.0) / (first.0.saturating_add(1)) + 1;
    let parts = slots.min(PARTS);
    let mut progress = Progress::new(out, "export", u64::try_from(slots).ok());
    let (sender, mut pages) = mpsc::channel(AHEAD);
    let mut walkers = JoinSet::new();
    for part in 0..parts {
        // The bounds of a part are bounds of slots: both numbers are powers of two.
        let length = u128::MAX / parts;
        let from = Position(part * (length + u128::from(parts > 1)));
        walkers.spawn(walk(client.clone(), from, Position(from.0.saturating_add(length)), sender.clone()));
    }
    drop(sender);
    let (mut records, mut walked, mut lines) = (0, 0, Vec::new());
    while let Some(page) = pages.recv().await {
        walked += u64::from(!page.more);
        lines.clear();
        for (key, value) in page.records {
            let record = Record { key: Blob(key), value: Blob(value) };
            syntax.write(&mut lines, &record).map_err(|error| Problem::file(error.to_string()))?;
            records += 1;
        }
        target.write(&lines)?;
        progress.update(walked, records, 0);
    }
    while let Some(ended) = walkers.join_next().await {
        ended.map_err(|error| Problem::file(format!("a part of the export broke down: {error}")))??;
    }
    target.complete()?;
    let took = progress.finish();
    let Some(file) = file else { return Ok(()) };
    let text = format!(
        "exported {records} records to {} in {:.1} s ({} a second)",
        file.display(),
        took.as_secs_f64(),
        rate(records, took)
    );
    let json =
        json!({ "ok": true, "records": records, "file": file.display().to_string(), "seconds": took.as_secs_f64() });
    out.say(text, &json)
}

/// Walks through one part of the circle, from the first position of a slot to the last of another.
async fn walk(client: Client, from: Position, to: Position, pages: mpsc::Sender<Page>) -> Result<(), Error> {
    let mut at = from;
    let mut after: Option<Bytes> = None;
    loop {
        let page = client.scan(at, after.take()).await?;
        let (last, more) = (page.last, page.more);
        after = page.records.last().map(|(key, _)| key.clone()).filter(|_| more);
        if pages.send(page).await.is_err() {
            return Ok(());
        }
        if !more && last >= to {
            return Ok(());
        }
        if !more {
            at = Position(last.0 + 1);
        }
    }
}

/// Where the records go.
enum Target {
    Standard(BufWriter<io::Stdout>),
    File { temporary: PathBuf, name: PathBuf, file: BufWriter<File>, complete: bool },
}

impl Target {
    fn open(file: Option<&Path>) -> Result<Target, Problem> {
        let Some(name) = file else { return Ok(Target::Standard(BufWriter::new(io::stdout()))) };
        let mut temporary = name.as_os_str().to_owned();
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| problem("create", &temporary, &error))?;
        let file = BufWriter::with_capacity(256 * 1024, file);
        Ok(Target::File { temporary, name: name.to_path_buf(), file, complete: false })
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Problem> {
        match self {
            Target::Standard(out) => out.write_all(lines).map_err(Problem::from),
            Target::File { temporary, file, .. } => {
                file.write_all(lines).map_err(|error| problem("write", temporary, &error))
            }
        }
    }

    fn complete(&mut self) -> Result<(), Problem> {
        match self {
            Target::Standard(out) => out.flush().map_err(Problem::from),
            Target::File { temporary, name, file, complete } => {
                let mut finish = || -> io::Result<()> {
                    file.flush()?;
                    file.get_ref().sync_all()?;
                    fs::rename(&temporary, &name)
                };
                finish().map_err(|error| problem("complete", name, &error))?;
                *complete = true;
                Ok(())
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Target::File { temporary, complete: false, .. } = self {
            // Nothing half-done is left; if it cannot be removed, its name says what it is.
            drop(fs::remove_file(temporary));
        }
    }
}
