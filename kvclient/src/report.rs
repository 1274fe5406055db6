//! Tells the ECS about servers that do not answer: a hint that only leads to a probe. In the background, best effort,
//! bounded in number and time; no operation ever waits for it.

use std::time::Duration;

use common::control::Question;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::address::Address;

/// Reports that wait for the ECS; further ones are dropped.
pub(crate) const QUEUE: usize = 8;
/// How long one report may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// More of an answer is not read.
const ANSWER: u64 = 64 * 1024;

/// A server that did not answer.
#[derive(Debug)]
pub(crate) struct Accusation {
    /// Its client address.
    pub(crate) server: Address,
    /// What happened.
    pub(crate) why: &'static str,
}

/// Works the queue off. `ask` asks any server where the ECS is.
pub(crate) async fn run<F>(mut queue: mpsc::Receiver<Accusation>, ask: impl Fn() -> F)
where
    F: Future<Output = Option<String>>,
{
    let mut ecs: Option<String> = None;
    while let Some(accusation) = queue.recv().await {
        if ecs.is_none() {
            ecs = ask().await;
        }
        let Some(addresses) = &ecs else { continue };
        match tell_any(addresses, &accusation).await {
            Ok(()) => log::debug!("told the ECS that {} does not answer ({})", accusation.server, accusation.why),
            Err(error) => {
                log::debug!("cannot tell the ECS at {addresses} about {}: {error}", accusation.server);
                ecs = None;
            }
        }
    }
}

async fn tell_any(addresses: &str, accusation: &Accusation) -> Result<(), String> {
    let mut last = "no address".to_owned();
    for address in addresses.split([',', ' ']).filter(|address| !address.is_empty()) {
        match timeout(PATIENCE, tell(address, accusation)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("no answer within {PATIENCE:?}"),
        }
    }
    Err(last)
}

async fn tell(address: &str, accusation: &Accusation) -> std::io::Result<()> {
    let question = Question::Accuse { addr: accusation.server.to_string(), why: accusation.why.to_owned() };
    let mut line = serde_json::to_vec(&question)?;
    line.push(b'\n');
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&line).await?;
    // The answer says nothing that matters here, but a connection closed before it is written alarms the other side.
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER)).read_line(&mut answer).await?;
    Ok(())
}
