//! Changes of the cluster's membership: asks for one, waits while another is in progress, and shows how far it is.
//!
//! What is asked is idempotent, so it is asked again after a lost answer. Ctrl-C stops the waiting, not the change.

use std::time::Duration;

use common::clock;
use serde_json::{Value, json};

use super::out::{Out, Problem};
use crate::address::Address;
use crate::client::Client;
use crate::error::Error;
use crate::exit;
use crate::router::{Answer, Reply};

/// How long a server may take to answer what only it can be asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first and the longest pause while another change is in progress.
const BUSY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often it is looked how far the change is, on a terminal and elsewhere.
const LOOK: Duration = Duration::from_millis(250);
/// How often that is said where nobody watches.
const SAY: Duration = Duration::from_secs(2);
/// The variable that holds the token for servers on other machines.
pub const TOKEN: &str = "ANNULUS_ADMIN_TOKEN";

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// This server is to leave.
    Leave(Address),
    /// This server (`host:port` or id) is to go, whether or not it answers.
    Remove(String),
    /// How far is the change in progress?
    Change,
    /// The change in progress is to be undone.
    Cancel,
    /// What would evening out move?
    Plan,
    /// What would become of the records if this server died now?
    PlanWithout(String),
    /// Even out the load.
    Rebalance,
}

/// What is wanted, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// What.
    pub wanted: Wanted,
    /// Even if records are given up.
    pub force: bool,
    /// Do not wait for the end.
    pub no_wait: bool,
    /// What shows a server on another machine that we may ask.
    pub token: Option<String>,
}

impl Membership {
    /// As a shell has it: the token from the environment.
    #[must_use]
    pub fn new(wanted: Wanted, force: bool) -> Membership {
        Membership { wanted, force, no_wait: false, token: std::env::var(TOKEN).ok() }
    }

    fn line(&self) -> String {
        let force = if self.force { " force" } else { "" };
        let words = match &self.wanted {
            Wanted::Leave(_) => format!("leave{force}"),
            Wanted::Remove(node) => format!("remove {node}{force}"),
            Wanted::Change => "change".to_owned(),
            Wanted::Cancel => "cancel".to_owned(),
            Wanted::Plan => "plan".to_owned(),
            Wanted::PlanWithout(node) => format!("plan without {node}"),
            Wanted::Rebalance => "rebalance".to_owned(),
        };
        self.token.as_ref().map_or(words.clone(), |token| format!("admin {token} {words}"))
    }

    /// Whether something begins with it whose end can be waited for.
    fn begins(&self) -> bool {
        matches!(self.wanted, Wanted::Leave(_) | Wanted::Remove(_) | Wanted::Rebalance)
    }
}

/// Asks, waits and tells.
///
/// # Errors
/// Why it is not done.
pub async fn run(client: &Client, wish: &Membership, out: Out) -> Result<(), Problem> {
    let answer = ask_until_free(client, wish, out).await?;
    if !wish.begins() || wish.no_wait {
        return out.say(&answer, &json!({ "ok": true, "answer": parsed(&answer) }));
    }
    if !out.json {
        out.note(&answer);
    }
    let text = wait(client, out).await?;
    out.say(&text, &json!({ "ok": true, "answer": answer, "result": text }))
}

fn parsed(answer: &str) -> Value {
    serde_json::from_str(answer).unwrap_or_else(|_| Value::String(answer.to_owned()))
}

/// One change at a time: while another is in progress it is asked again, after growing pauses.
async fn ask_until_free(client: &Client, wish: &Membership, out: Out) -> Result<String, Problem> {
    let mut pause = BUSY.0;
    loop {
        let busy = match ask(client, wish).await? {
            Ok(answer) => return Ok(answer),
            Err(why) => why.strip_prefix("busy: ").map(str::to_owned).ok_or(why),
        };
        match busy {
            Ok(busy) if !out.json => out.note(&format!("waiting: {busy}")),
            Ok(_) => {}
            Err(why) => return Err(Problem { code: exit::SERVER, kind: "rejected", message: why }),
        }
        tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        pause = (pause * 2).min(BUSY.1);
    }
}

/// The answer, or why not.
async fn ask(client: &Client, wish: &Membership) -> Result<Result<String, String>, Problem> {
    if let Wanted::Leave(server) = &wish.wanted {
        return match client.ask_server(server, &wish.line(), PATIENCE).await {
            Ok(Reply::Done(Answer::Text(text))) => Ok(Ok(text)),
            Ok(Reply::Failed(why) | Reply::Stopped(why)) => Ok(Err(why)),
            Ok(other) => Ok(Err(format!("{server} answers {other:?}"))),
            Err(why) => {
                Err(Problem { code: exit::UNREACHABLE, kind: "unreachable", message: format!("{server}: {why}") })
            }
        };
    }
    match client.ask(&wish.line()).await {
        Ok(text) => Ok(Ok(text)),
        Err(Error::Rejected { reason, .. }) => Ok(Err(reason)),
        Err(error) => Err(error.into()),
    }
}

/// Until nothing is in progress: how the last change ended.
async fn wait(client: &Client, out: Out) -> Result<String, Problem> {
    let (mut said, mut shown) = (clock::now(), false);
    let result = loop {
        tokio::time::sleep(LOOK).await;
        // Servers may be busy with coming and going; the next answer does as well.
        let Ok(text) = client.ask("change").await else { continue };
        if let Some(rest) = text.strip_prefix("none") {
            break rest.strip_prefix("; last: ").unwrap_or("done").to_owned();
        }
        let line = describe(&parsed(&text)).unwrap_or(text);
        if out.watched() {
            shown = true;
            out.show(&line);
        } else if !out.json && clock::now().since(said) >= SAY {
            said = clock::now();
            out.note(&line);
        }
    };
    if shown {
        out.show("");
    }
    if result.contains(" is undone") {
        return Err(Problem { code: exit::SERVER, kind: "undone", message: result });
    }
    Ok(result)
}

/// A change in progress in a line.
pub(super) fn describe(change: &Value) -> Option<String> {
    let number = |name: &str| change[name].as_u64();
    let (slots, done) = (number("slots")?, number("done")?);
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    let mut line = change["kind"].as_str()?.to_owned();
    if let Some(address) = change["address"].as_str() {
        line += &format!(" of {address}");
    }
    line += &format!(": {}, {done} of {slots} slots done", change["step"].as_str()?);
    if let Some(bytes) = number("bytes_left").filter(|bytes| *bytes > 0) {
        line += &format!(", {:.1} MB to copy", bytes as f64 / 1e6);
    }
    if let Some(since) = number("since_ms").filter(|since| *since > 0) {
        line += &format!(", {:.0} slots a second for {}", done as f64 * 1000.0 / since as f64, seconds(since));
    }
    if let Some(eta) = number("eta_ms") {
        line += &format!(", {} to go", seconds(eta));
    }
    if let Some(still) = number("still_ms").filter(|still| *still >= 2000) {
        line += &format!("; nothing has moved for {}", seconds(still));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_written_as_the_protocol_has_it() {
        let mut wish = Membership { token: None, ..Membership::new(Wanted::Remove("a:1".into()), true) };
        assert_eq!(wish.line(), "remove a:1 force");
        (wish.token, wish.wanted) = (Some("12345678".into()), Wanted::Leave(Address::from("b:1")));
        assert_eq!(wish.line(), "admin 12345678 leave force");
    }

    #[test]
    fn a_change_is_told_in_a_line() {
        let change = json!({ "kind": "leave", "address": "a:1", "step": "copying", "slots": 100, "done": 25,
            "bytes_left": 2_500_000, "since_ms": 5000, "eta_ms": 15_000, "still_ms": 2500 });
        let line = "leave of a:1: copying, 25 of 100 slots done, 2.5 MB to copy, 5 slots a second for 5.0 s, 15.0 s to go; \
                    nothing has moved for 2.5 s";
        assert_eq!(describe(&change).as_deref(), Some(line));
        assert_eq!(describe(&json!({ "x": 1 })), None);
    }
}
