//! How each server stands: all that the cluster knows, asked one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::out::{Out, Problem};
use super::{args, membership, questions};
use crate::address::Address;
use crate::client::Client;
use crate::ring::Ring;
use crate::router::{Answer, Reply};

/// How long one server may take. They are asked at the same time.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a server says of itself, or why it says nothing.
type Said = Result<Value, String>;

pub(super) async fn print(client: &Client, out: Out) -> Result<(), Problem> {
    let mut servers = known(&client.ask("status").await?);
    // A server that has just started answers without knowing the others.
    if let (Ok(coordinators), Ok(readers)) = (client.keyrange().await, client.keyrange_read().await) {
        for server in Ring::new(&coordinators, &readers).servers() {
            servers.entry(server.clone()).or_default();
        }
    }
    let said = ask_all(client, servers.keys().cloned().collect()).await;
    let json: Vec<Value> = said
        .iter()
        .map(|(server, said)| match said {
            Ok(status) => json!({ "server": server.as_str(), "status": status }),
            Err(why) => json!({ "server": server.as_str(), "error": why, "state": servers[server] }),
        })
        .collect();
    let change: Option<Value> = client.ask("change").await.ok().and_then(|text| serde_json::from_str(&text).ok());
    let mut text = draw(&servers, &said);
    match change.as_ref().and_then(membership::describe) {
        Some(line) => text += &format!("\nin progress: {line}"),
        None => text += "\nidle: no change is in progress",
    }
    // What only the servers together know, and a read and a write in every slot.
    let (lines, cluster) = match client.cluster_status().await {
        Ok(told) => (questions::cluster_lines(&told), told),
        Err(error) => (format!("the cluster as a whole: {error}"), json!({ "error": error.to_string() })),
    };
    text += &format!("\n{lines}");
    out.say(text, &json!({ "ok": true, "servers": json, "change": change, "cluster": cluster }))
}

/// The servers that a status names, with the state in which the ECS has each.
pub(super) fn known(status: &str) -> BTreeMap<Address, String> {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let named = nodes.iter().map(|node| (text(node, "client_addr"), text(node, "state")));
    named.filter_map(|(address, state)| Some((args::address(&address).ok()?, state))).collect()
}

async fn ask_all(client: &Client, servers: Vec<Address>) -> BTreeMap<Address, Said> {
    let mut asked = tokio::task::JoinSet::new();
    for server in servers {
        let client = client.clone();
        asked.spawn(async move {
            let answer = client.ask_server(&server, "status", PATIENCE).await;
            (server, understood(answer))
        });
    }
    asked.join_all().await.into_iter().collect()
}

fn understood(answer: Result<Reply, String>) -> Said {
    match answer? {
        Reply::Done(Answer::Text(text)) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        Reply::Failed(why) => Err(why),
        Reply::Stopped(why) => Err(format!("stopped {why}")),
        other => Err(format!("answers {other:?}")),
    }
}

/// The counts of a status that are worth a column, with its heading.
const COLUMNS: [(&str, &str); 5] = [
    ("coordinates", "coordinating"),
    ("replica of", "member"),
    ("catching up", "learner"),
    ("copies short", "copies_short"),
    ("records", "records"),
];

fn draw(states: &BTreeMap<Address, String>, said: &BTreeMap<Address, Said>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let headings = COLUMNS.iter().map(|(heading, _)| (*heading).to_owned());
    table.set_header(["server".to_owned()].into_iter().chain(headings).chain(["state".to_owned()]));
    for (server, said) in said {
        let empty = Value::Null;
        let counts = said.as_ref().map_or(&empty, |status| &status["counts"]);
        let count = |name: &str| counts[name].as_u64().map_or("-".to_owned(), |count| count.to_string());
        let counted = COLUMNS.iter().map(|(_, name)| count(name));
        table.add_row([server.to_string()].into_iter().chain(counted).chain([state(&states[server], said)]));
    }
    table.trim_fmt()
}

fn state(listed: &str, said: &Said) -> String {
    match said {
        Ok(status) if status["ready"] == true => "ready".to_owned(),
        Ok(status) => status["waiting_for"].as_str().unwrap_or("not ready").to_owned(),
        Err(why) if listed.is_empty() => why.clone(),
        Err(why) => format!("{listed}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_a_row_whether_or_not_it_answers() {
        let status = r#"{"nodes":[{"client_addr":"a:1","state":"up"},{"client_addr":"b:1","state":"down"},{"x":1}]}"#;
        let states = known(status);
        let up = json!({ "ready": true, "counts": { "coordinating": 7, "records": 30_000 } });
        let said =
            BTreeMap::from([(Address::from("a:1"), Ok(up)), (Address::from("b:1"), Err("cannot connect".into()))]);
        let table = draw(&states, &said);
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        assert!(lines[0].starts_with("server") && lines[0].contains("copies short"), "{table}");
        assert!(lines[1].starts_with("a:1") && lines[1].contains("30000") && lines[1].ends_with("ready"), "{table}");
        assert!(lines[2].starts_with("b:1") && lines[2].ends_with("down: cannot connect"), "{table}");
    }
}
