//! The commands that the shell and the one-shot command line share.

use std::time::Duration;

use bytes::Bytes;
use common::Outcome;
use common::blob::Blob;
use serde_json::{Value, json};

use super::args::{Export, Import};
use super::membership::{self, Membership};
use super::out::{Out, Problem};
use super::questions::{self, Question};
use super::{ring_table, status};
use crate::client::Client;
use crate::exit;
use crate::ring::Arc;
use crate::transfer;

/// Something to do at a cluster.
#[derive(Debug)]
pub enum Job {
    /// Print a value.
    Get(Bytes),
    /// Set a value.
    Put(Bytes, Bytes),
    /// Set a value and print the one before.
    Getset(Bytes, Bytes),
    /// Remove a key.
    Delete(Bytes),
    /// Print who coordinates what.
    Keyrange,
    /// Print who may answer reads for what.
    KeyrangeRead,
    /// Print the ring as a table.
    Ring,
    /// Print how each server stands.
    Status,
    /// Ask about the whole cluster.
    Question(Question),
    /// Change the membership, or ask about it.
    Membership(Membership),
    /// Store a file's records.
    Import(Import),
    /// Write all records to a file.
    Export(Export),
}

/// After this long without an answer a person is told that it still goes on.
const SILENCE: Duration = Duration::from_secs(2);

/// Does it and prints the result.
///
/// # Errors
/// Why it failed; nothing of that is printed yet.
pub async fn run(client: &Client, job: Job, out: Out) -> Result<(), Problem> {
    match job {
        Job::Import(import) => return transfer::import::run(client, &import, out).await,
        Job::Export(export) => return transfer::export::run(client, &export, out).await,
        Job::Membership(wish) => return membership::run(client, &wish, out).await,
        _ => {}
    }
    let work = run_short(client, job, out);
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = tokio::time::sleep(SILENCE) => {}
    }
    out.note("no answer yet, still trying (Ctrl-C stops it) ...");
    work.await
}

async fn run_short(client: &Client, job: Job, out: Out) -> Result<(), Problem> {
    match job {
        Job::Get(key) => get(client, key, out).await,
        Job::Put(key, value) => {
            let outcome = client.put(key.clone(), value).await?;
            written(&key, outcome, out)
        }
        Job::Getset(key, value) => getset(client, key, value, out).await,
        Job::Question(question) => questions::run(client, &question, out).await,
        Job::Delete(key) => {
            let outcome = client.delete(key.clone()).await?;
            written(&key, outcome, out)
        }
        Job::Keyrange => arcs(&client.keyrange().await?, out),
        Job::KeyrangeRead => arcs(&client.keyrange_read().await?, out),
        Job::Ring => ring_table::print(&client.keyrange().await?, &client.keyrange_read().await?, out),
        Job::Status => status::print(client, out).await,
        Job::Import(_) | Job::Export(_) | Job::Membership(_) => Ok(()),
    }
}

async fn get(client: &Client, key: Bytes, out: Out) -> Result<(), Problem> {
    let Some(value) = client.get(key.clone()).await? else { return Err(not_found(&key)) };
    let json = json!({ "ok": true, "key": Blob(key), "value": Blob(value.clone()) });
    out.say(value, &json)
}

/// The old value is the result; that there was none is no failure, since the new one is stored.
async fn getset(client: &Client, key: Bytes, value: Bytes, out: Out) -> Result<(), Problem> {
    let old = client.getset(key.clone(), value).await?;
    let word = if old.is_some() { "updated" } else { "created" };
    let json = json!({ "ok": true, "key": Blob(key.clone()), "outcome": word, "old": old.clone().map(Blob) });
    match old {
        Some(old) => out.say(old, &json),
        None => out.say(format!("created {}", shown(&key)), &json),
    }
}

fn written(key: &Bytes, outcome: Outcome, out: Out) -> Result<(), Problem> {
    let word = match outcome {
        Outcome::Created => "created",
        Outcome::Updated | Outcome::Came(_) => "updated",
        Outcome::Deleted => "deleted",
        Outcome::Missing => return Err(not_found(key)),
    };
    let json = json!({ "ok": true, "key": Blob(key.clone()), "outcome": word });
    out.say(format!("{word} {}", shown(key)), &json)
}

fn not_found(key: &Bytes) -> Problem {
    Problem { code: exit::NOT_FOUND, kind: "not_found", message: format!("no value under {}", shown(key)) }
}

/// A key as a message may show it.
fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}

fn arcs(arcs: &[Arc], out: Out) -> Result<(), Problem> {
    let json: Vec<Value> = arcs
        .iter()
        .map(|arc| json!({ "from": arc.from.to_string(), "to": arc.to.to_string(), "server": arc.address.as_str() }))
        .collect();
    let text: Vec<String> = arcs.iter().map(|arc| format!("{},{},{}", arc.from, arc.to, arc.address)).collect();
    out.say(text.join("\n"), &json!({ "ok": true, "arcs": json }))
}
