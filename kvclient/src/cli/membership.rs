//! Changes of the cluster's membership: asks for one, waits while another is in progress, and shows how far it is.
//!
//! What is asked is idempotent, so it is asked again after a lost answer. Ctrl-C stops the waiting, not the change.

use std::time::Duration;

use common::clock;
use serde_json::{Value, json};

use super::out::{Out, Problem};
use super::status;
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
/// Looks in a row at which nobody answers before one gives up.
const SILENT: u32 = 120;
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
    /// This server is down, and is given up with what only it has.
    GiveUp(String),
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
            Wanted::GiveUp(node) => format!("remove {node} accept-data-loss"),
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
    let others = if wish.begins() && !wish.no_wait { others(client, wish).await } else { Vec::new() };
    let answer = ask_until_free(client, wish, out).await?;
    if others.is_empty() {
        let parsed = parsed(&answer);
        let text = describe(&parsed).or_else(|| explain(&parsed)).or_else(|| idle(&answer)).unwrap_or(answer);
        return out.say(&text, &json!({ "ok": true, "answer": parsed }));
    }
    if !out.json {
        out.note(&answer);
    }
    let text = wait(client, &others, out).await?;
    out.say(&text, &json!({ "ok": true, "answer": answer, "result": text }))
}

/// Whom to ask how far it is: those who stay. They are known now, and the one that leaves may not be there to be asked.
async fn others(client: &Client, wish: &Membership) -> Vec<Address> {
    let status = match &wish.wanted {
        Wanted::Leave(server) => match client.ask_server(server, "status", PATIENCE).await {
            Ok(Reply::Done(Answer::Text(text))) => text,
            _ => String::new(),
        },
        _ => client.ask("status").await.unwrap_or_default(),
    };
    let goes = |server: &Address| match &wish.wanted {
        Wanted::Leave(leaver) => server == leaver,
        Wanted::Remove(node) => server.as_str() == node,
        _ => false,
    };
    status::known(&status).into_keys().filter(|server| !goes(server)).collect()
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
async fn wait(client: &Client, servers: &[Address], out: Out) -> Result<String, Problem> {
    let (mut said, mut shown, mut silent) = (clock::now(), false, 0);
    let result = loop {
        tokio::time::sleep(LOOK).await;
        // Servers may be busy with coming and going; the next answer does as well.
        let Some(text) = change(client, servers).await else {
            silent += 1;
            if silent > SILENT {
                let message = "no server says how far it is; the change goes on: see `change`".to_owned();
                return Err(Problem { code: exit::UNAVAILABLE, kind: "refused", message });
            }
            continue;
        };
        silent = 0;
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

/// What the first server that answers says of the change in progress.
async fn change(client: &Client, servers: &[Address]) -> Option<String> {
    for server in servers {
        if let Ok(Reply::Done(Answer::Text(text))) = client.ask_server(server, "change", PATIENCE).await {
            return Some(text);
        }
    }
    None
}

/// That nothing is in progress, and how the last change ended.
fn idle(answer: &str) -> Option<String> {
    let last = answer.strip_prefix("none")?;
    Some(format!("idle: no change is in progress{last}"))
}

/// A change in progress in a line.
pub(super) fn describe(change: &Value) -> Option<String> {
    let number = |name: &str| change[name].as_u64();
    let (slots, done) = (number("slots")?, number("done")?);
    let watched = number("done_since").unwrap_or(done);
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
        line += &format!(", {:.0} slots a second for {}", watched as f64 * 1000.0 / since as f64, seconds(since));
    }
    if let Some(eta) = number("eta_ms") {
        line += &format!(", {} to go", seconds(eta));
    }
    if let Some(still) = number("still_ms").filter(|still| *still >= 2000) {
        line += &format!("; nothing has moved for {}", seconds(still));
    }
    Some(line)
}

/// A plan in lines: its moves, or what a death would leave.
fn explain(plan: &Value) -> Option<String> {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or("?").to_owned();
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap_or(0);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let mut lines = Vec::new();
    if let Some(moves) = plan["moves"].as_array() {
        let (slots, bytes) = (number(plan, "slots"), megabytes(number(plan, "bytes")));
        lines.push(if moves.is_empty() {
            "nothing to move".to_owned()
        } else {
            format!("{slots} slots move, {bytes}:")
        });
        for row in moves {
            let (from, to, bytes) = (text(row, "from"), text(row, "to"), megabytes(number(row, "bytes")));
            let (slots, records) = (number(row, "slots"), number(row, "records"));
            lines.push(format!("  {from} -> {to}: {slots} slots, {records} records, {bytes}"));
        }
        for row in plan["servers"].as_array()? {
            let (before, then) = (number(row, "slots"), number(row, "then"));
            let weight = row["weight"].as_u64().filter(|weight| *weight != u64::from(common::view::WEIGHT));
            let weight = weight.map_or_else(String::new, |weight| format!(" (weight {weight})"));
            lines.push(format!("  {}{weight} is home of {before} slots, then of {then}", text(row, "server")));
        }
    } else {
        let without = plan["without"].as_str()?;
        let (slots, bytes) = (number(plan, "fails_over"), megabytes(number(plan, "bytes_to_copy")));
        lines.push(format!("if {without} died now, {slots} slots would fail over, and there would be"));
        for row in plan["left"].as_array()? {
            let (copies, slots, records) = (number(row, "copies"), number(row, "slots"), number(row, "records"));
            let ranges: Vec<&str> = row["ranges"].as_array()?.iter().filter_map(Value::as_str).collect();
            let ranges = ranges.join(", ");
            lines
                .push(format!("  {copies} copies of {slots} slots ({records} records): keys whose MD5 is in {ranges}"));
        }
        lines.push(format!("until {bytes} are copied"));
    }
    lines.push(format!("why: {}", text(plan, "why")));
    Some(lines.join("\n"))
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

    #[test]
    fn a_plan_is_told_in_lines() {
        let plan = json!({ "slots": 2, "bytes": 3_000_000, "why": "w", "servers": [{ "server": "a:1", "slots": 4, "then": 2, "weight": 50 }],
            "moves": [{ "from": "a:1", "to": "b:1", "slots": 2, "records": 9, "bytes": 3_000_000 }] });
        let expected = "2 slots move, 3.0 MB:\n  a:1 -> b:1: 2 slots, 9 records, 3.0 MB\n  a:1 (weight 50) is home of 4 slots, then of 2\nwhy: w";
        assert_eq!(explain(&plan).as_deref(), Some(expected));
        let without = json!({ "without": "a:1", "fails_over": 1, "bytes_to_copy": 0, "why": "w",
            "left": [{ "copies": 2, "slots": 3, "records": 7, "ranges": ["00..1f", "40..4f"] }] });
        let left = "\n  2 copies of 3 slots (7 records): keys whose MD5 is in 00..1f, 40..4f\n";
        assert!(explain(&without).unwrap().contains(left));
        assert_eq!(explain(&json!("none")), None);
    }
}
