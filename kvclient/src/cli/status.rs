//! How each server stands, asked one by one.

use std::time::Duration;

use serde_json::{Value, json};

use super::out::{Out, Problem};
use crate::address::Address;
use crate::client::Client;
use crate::ring::Ring;
use crate::router::{Answer, Reply};

/// How long one server may take. They are asked at the same time.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn print(client: &Client, out: Out) -> Result<(), Problem> {
    let ring = Ring::new(&client.keyrange().await?, &client.keyrange_read().await?);
    let mut asked = tokio::task::JoinSet::new();
    for server in ring.servers().to_vec() {
        let client = client.clone();
        asked.spawn(async move {
            let answer = client.ask_server(&server, "status", PATIENCE).await;
            (server, answer)
        });
    }
    let mut answers: Vec<(Address, Result<Value, String>)> = Vec::new();
    while let Some(Ok((server, answer))) = asked.join_next().await {
        answers.push((server, understood(answer)));
    }
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    let json: Vec<Value> = answers
        .iter()
        .map(|(server, answer)| match answer {
            Ok(status) => json!({ "server": server.as_str(), "status": status }),
            Err(why) => json!({ "server": server.as_str(), "error": why }),
        })
        .collect();
    let lines: Vec<String> = answers
        .iter()
        .map(|(server, answer)| match answer {
            Ok(status) => format!("{server}  {}", summary(status)),
            Err(why) => format!("{server}  {why}"),
        })
        .collect();
    out.say(lines.join("\n"), &json!({ "ok": true, "servers": json }))
}

fn understood(answer: Result<Reply, String>) -> Result<Value, String> {
    match answer? {
        Reply::Done(Answer::Text(text)) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        Reply::Failed(why) => Err(why),
        Reply::Stopped(why) => Err(format!("stopped {why}")),
        other => Err(format!("answers {other:?}")),
    }
}

/// The plain fields of a status, without its lists: one line for a person.
fn summary(status: &Value) -> String {
    let Value::Object(fields) = status else { return status.to_string() };
    let shown = fields.iter().filter_map(|(name, value)| match value {
        Value::Array(list) => Some(format!("{name}={}", list.len())),
        Value::Object(_) | Value::Null => None,
        Value::String(text) => Some(format!("{name}={text}")),
        other => Some(format!("{name}={other}")),
    });
    shown.collect::<Vec<_>>().join(" ")
}
