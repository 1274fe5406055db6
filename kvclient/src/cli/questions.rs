//! Questions about the whole cluster, printed: one value a line for scripts and eyes, tables for what is more.

use bytes::Bytes;
use clap::Subcommand;
use comfy_table::{Table, presets};
use common::blob::Blob;
use serde_json::{Value, json};

use super::out::{Out, Problem};
use crate::client::Client;
use crate::exit;

/// What can be asked.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// How many records the cluster holds.
    #[command(name = "num_keys", alias = "num-keys")]
    NumKeys,
    /// The first key of all, in the order of bytes.
    #[command(name = "first_key", alias = "first-key")]
    FirstKey,
    /// The last key of all.
    #[command(name = "last_key", alias = "last-key")]
    LastKey,
    /// The servers: address, id, state.
    #[command(name = "node_list", alias = "node-list")]
    NodeList,
    /// Where a key lies, who holds it in which version, who would answer for it, and why.
    Explain {
        /// The key.
        key: String,
    },
    /// What happened: who accused whom, what the probe said, what was decided, and when.
    Timeline {
        /// Only so many of the newest lines.
        #[arg(long, value_name = "N", default_value_t = 50)]
        last: usize,
    },
}

/// Asks and prints.
pub(super) async fn run(client: &Client, question: &Question, out: Out) -> Result<(), Problem> {
    match question {
        Question::NumKeys => {
            let count = client.num_keys().await?;
            out.say(count.to_string(), &json!({ "ok": true, "num_keys": count }))
        }
        Question::FirstKey => key(client.first_key().await?, out),
        Question::LastKey => key(client.last_key().await?, out),
        Question::NodeList => {
            let nodes = client.node_list().await?;
            let mut table = plain(["server", "node", "state"].map(str::to_owned));
            nodes.iter().for_each(|node| {
                table.add_row([&node.address, &node.id, &node.state]);
            });
            let rows = nodes.iter().map(|n| json!({ "server": n.address, "node": n.id, "state": n.state }));
            out.say(table.trim_fmt(), &json!({ "ok": true, "nodes": rows.collect::<Vec<_>>() }))
        }
        Question::Explain { key } => {
            let told = client.explain(key.clone()).await?;
            out.say(explained(&told), &json!({ "ok": true, "explain": told }))
        }
        Question::Timeline { last } => {
            let told = client.timeline().await?;
            out.say(happened(&told, *last), &json!({ "ok": true, "timeline": told }))
        }
    }
}

fn key(key: Option<Bytes>, out: Out) -> Result<(), Problem> {
    let Some(key) = key else {
        return Err(Problem { code: exit::NOT_FOUND, kind: "not_found", message: "there are no records".to_owned() });
    };
    out.say(&key, &json!({ "ok": true, "key": Blob(key.clone()) }))
}

fn plain<const N: usize>(header: [String; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `epoch.seq`, as people write versions.
fn version(value: &Value) -> String {
    match value.as_array().map(Vec::as_slice) {
        Some([epoch, seq]) => format!("{epoch}.{seq}"),
        _ => "-".to_owned(),
    }
}

fn explained(told: &Value) -> String {
    let mut lines = vec![
        format!("hash      {}", text(&told["hash"])),
        format!("slot      {} of {}", text(&told["slot"]), text(&told["slots"])),
        format!("range     {}..{}", text(&told["range"]["from"]), text(&told["range"]["to"])),
        format!("epoch     {}", text(&told["view"]["epoch"])),
        format!("asked     {}: {}", text(&told["asked"]["node"]), text(&told["asked"]["why"])),
        String::new(),
    ];
    let header = ["server", "role", "in sync", "version", "newest committed", "value bytes", "answers", "why"];
    let mut table = plain(header.map(str::to_owned));
    for copy in told["copies"].as_array().into_iter().flatten() {
        let why = if copy["error"].is_null() { &copy["why"] } else { &copy["error"] };
        let told = |name: &str| text(&copy[name]);
        table.add_row([
            told("address"),
            told("role"),
            told("in_sync"),
            version(&copy["version"]),
            told("newest_committed"),
            told("value_bytes"),
            told("answers"),
            text(why),
        ]);
    }
    lines.push(table.trim_fmt());
    lines.join("\n")
}

/// The newest lines, with the servers' addresses behind their ids.
fn happened(told: &Value, last: usize) -> String {
    let entries = told["entries"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |what: &str| {
        told["servers"]
            .as_object()
            .into_iter()
            .flatten()
            .fold(what.to_owned(), |what, (id, address)| what.replace(id.as_str(), address.as_str().unwrap_or(id)))
    };
    let line =
        |entry: &Value| format!("{}  {}", when(entry["at_ms"].as_u64().unwrap_or(0)), named(&text(&entry["what"])));
    let newest = &entries[entries.len().saturating_sub(last)..];
    newest.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Milliseconds since 1970 as a date and time in UTC.
fn when(at_ms: u64) -> String {
    let (days, ms) = (at_ms / 86_400_000, at_ms % 86_400_000);
    // Counted in years that begin in March, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carried) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{:04}-{month:02}-{of_month:02}T{h:02}:{m:02}:{s:02}.{:03}Z", era * 400 + year + carried, ms % 1000)
}

/// What `status cluster` adds to the table of servers.
pub(super) fn cluster_lines(told: &Value) -> String {
    let slots = &told["slots"];
    let mut lines = vec![format!(
        "health: {}; {} of {} slots pass a read and a write; {} with fewer than {} copies",
        text(&told["health"]),
        text(&slots["served"]),
        text(&slots["total"]),
        text(&slots["short"]),
        text(&slots["copies_wanted"]),
    )];
    let behind = |server: &Value| server["views_behind"].as_u64().unwrap_or(0) > 0;
    for server in told["servers"].as_array().into_iter().flatten().filter(|server| behind(server)) {
        let (addr, count) = (text(&server["address"]), text(&server["views_behind"]));
        lines.push(format!("{addr}: {count} views older than those of the server that was asked"));
    }
    lines.extend(told["troubles"].as_array().into_iter().flatten().map(text));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_write_them() {
        for (at_ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(when(at_ms), expected);
        }
    }

    #[test]
    fn the_timeline_names_addresses_and_shows_the_newest() {
        let told = json!({ "servers": { "00000000000000aa": "h:1" }, "entries": [
            { "at_ms": 0, "what": "old" }, { "at_ms": 1000, "what": "00000000000000aa: suspected" },
        ]});
        assert_eq!(happened(&told, 1), "1970-01-01T00:00:01.000Z  h:1: suspected");
        assert_eq!(happened(&Value::Null, 5), "");
    }

    #[test]
    fn an_explanation_is_a_table_of_the_copies() {
        let told = json!({ "slot": 3, "slots": 8, "copies": [
            { "address": "a:1", "role": "coordinator", "in_sync": true, "version": [7, 12], "newest_committed": true,
              "value_bytes": 5, "answers": true, "why": "R1: the coordinator" },
            { "address": "b:1", "in_sync": false, "error": "no answer in time" },
        ]});
        let text = explained(&told);
        assert!(text.contains("slot      3 of 8") && text.contains("7.12") && text.contains("R1: the"), "{text}");
        assert!(text.lines().last().unwrap().ends_with("no answer in time"), "{text}");
    }

    #[test]
    fn the_cluster_is_told_in_a_few_lines() {
        let told = json!({ "health": "degraded", "slots": { "served": 7, "total": 8, "short": 2, "copies_wanted": 3 },
            "troubles": ["b:1 is down"], "servers": [{ "address": "a:1", "views_behind": 4 }] });
        let text = cluster_lines(&told);
        assert!(text.starts_with("health: degraded; 7 of 8 slots pass") && text.ends_with("b:1 is down"), "{text}");
        assert!(text.contains("a:1: 4 views older"), "{text}");
    }
}
