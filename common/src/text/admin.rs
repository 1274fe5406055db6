//! The words about the cluster's membership: how they are written, and read.

use bytes::BytesMut;

use super::request::split;
use super::{AdminRequest, Mistake};
use crate::control::Wish;

/// How each word is written, for those who wrote it differently.
const LEAVE: &str = "leave [force]";
const REMOVE: &str = "remove <host:port or id> [force | accept-data-loss]";
/// What must be said to give up on the only copies: nothing that one says by habit.
const LOSS: &str = "accept-data-loss";
const PLAN: &str = "plan [without <host:port or id>]";

/// Reads a request whose first word is `word`; None if that is none of these words.
pub(super) fn parse<'a>(word: &[u8], rest: &'a [u8]) -> Option<Result<AdminRequest<'a>, Mistake>> {
    if !word.eq_ignore_ascii_case(b"admin") {
        return wish(word, rest).map(|wish| wish.map(|wish| AdminRequest { token: None, wish }));
    }
    let (token, rest) = split(rest);
    let (inner, rest) = split(rest.unwrap_or_default());
    let wish = wish(inner, rest.unwrap_or_default()).unwrap_or(Err(Mistake::Admin));
    Some(wish.map(|wish| AdminRequest { token: Some(token), wish }))
}

fn wish(word: &[u8], rest: &[u8]) -> Option<Result<Wish, Mistake>> {
    let words: Vec<&[u8]> = rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let named = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let bare =
        |wish: Wish, word| if words.is_empty() { Ok(wish) } else { Err(Mistake::TooMuch(word, "nothing after it")) };
    Some(match words[..] {
        _ if is("change") => bare(Wish::Progress, "change"),
        _ if is("rebalance") => bare(Wish::Rebalance, "rebalance"),
        _ if is("cancel") => bare(Wish::Cancel, "cancel"),
        [] if is("leave") => Ok(Wish::Leave { force: false }),
        [force] if is("leave") && named(force, "force") => Ok(Wish::Leave { force: true }),
        _ if is("leave") => Err(Mistake::Form("leave", LEAVE)),
        [node] if is("remove") => Ok(Wish::Remove { node: text(node), force: false }),
        [node, force] if is("remove") && named(force, "force") => Ok(Wish::Remove { node: text(node), force: true }),
        [node, loss] if is("remove") && named(loss, LOSS) => Ok(Wish::GiveUp { node: text(node) }),
        _ if is("remove") => Err(Mistake::Form("remove", REMOVE)),
        [] if is("plan") => Ok(Wish::Plan),
        [without, node] if is("plan") && named(without, "without") => Ok(Wish::PlanWithout { node: text(node) }),
        _ if is("plan") => Err(Mistake::Form("plan", PLAN)),
        _ => return None,
    })
}

/// Writes a request.
pub(super) fn encode(out: &mut BytesMut, request: &AdminRequest<'_>) {
    let mut put = |word: &[u8]| {
        out.extend_from_slice(word);
        out.extend_from_slice(b" ");
    };
    if let Some(token) = request.token {
        put(b"admin");
        put(token);
    }
    let force = |force: bool| if force { " force" } else { "" };
    let text = match &request.wish {
        Wish::Leave { force: by } => format!("leave{}", force(*by)),
        Wish::Remove { node, force: by } => format!("remove {node}{}", force(*by)),
        Wish::GiveUp { node } => format!("remove {node} {LOSS}"),
        Wish::Progress => "change".to_owned(),
        Wish::Plan => "plan".to_owned(),
        Wish::PlanWithout { node } => format!("plan without {node}"),
        Wish::Rebalance => "rebalance".to_owned(),
        Wish::Cancel => "cancel".to_owned(),
    };
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}
