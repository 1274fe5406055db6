//! Leaving the cluster in order, as the process does it on SIGTERM with `--leave`: ask, wait, and say how far it is.
#![allow(clippy::disallowed_methods)] // a shell: it waits

use std::time::Duration;

use common::clock;
use common::control::{Granted, Wish};
use tokio::time::{Instant, sleep, timeout};

use crate::links::Backoff;
use crate::node::Node;

/// How often it is said how far the leave is.
const SAY: Duration = Duration::from_secs(2);
/// The first and the longest pause while another change is in progress.
const BUSY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Leaves the cluster; `say` is told how it goes.
///
/// # Errors
/// Why this server has not left: it goes on being part of the cluster.
pub(crate) async fn leave(node: &Node, patience: Duration, say: impl Fn(&str)) -> Result<String, String> {
    let deadline = Instant::now() + patience;
    ask(node, deadline, &say).await?;
    let begun = clock::now();
    while Instant::now() < deadline {
        if let Ok(reason) = timeout(SAY, node.until_left()).await {
            return Ok(reason);
        }
        match node.own_wish(Wish::Progress).await {
            Granted::Yes(text) if text.starts_with("none") && node.left().is_none() => {
                return Err(node.last_notice().unwrap_or_else(|| "the leave was undone".to_owned()));
            }
            Granted::Yes(text) => say(&format!("leaving for {} s: {text}", clock::now().since(begun).as_secs())),
            // The ECS is away: it goes on with the leave when it is back.
            Granted::Busy(text) | Granted::No(text) => say(&format!("leaving: {text}")),
        }
    }
    Err(format!("not done after {} s (--leave-seconds)", patience.as_secs()))
}

/// Asks until the leave has begun.
async fn ask(node: &Node, deadline: Instant, say: &impl Fn(&str)) -> Result<(), String> {
    let mut backoff = Backoff::new(BUSY.0, BUSY.1);
    loop {
        match node.own_wish(Wish::Leave { force: false }).await {
            Granted::Yes(text) => {
                say(&text);
                return Ok(());
            }
            Granted::No(text) => return Err(text),
            Granted::Busy(text) if Instant::now() >= deadline => return Err(text),
            Granted::Busy(text) => {
                say(&format!("waiting to leave: {text}"));
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Gives up a leave that has begun.
pub(crate) async fn stay(node: &Node) {
    if node.left().is_none() {
        let _given_up = timeout(SAY, node.own_wish(Wish::Cancel)).await;
    }
}
