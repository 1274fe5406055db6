//! Requests and replies of the router as bytes of the text protocol.
//!
//! Everything with a key or value goes out in the length-prefixed forms: one way for all bytes, and the store's limits
//! instead of the courses'.

use bytes::{Bytes, BytesMut};
use common::Outcome;
use common::retry::FORGOTTEN;
use common::text::{Form, Once, Request as Line, Response, Whole, Word, WriteRequest, decode_page, encode_request};

use crate::ring::{self, Arc};
use crate::router::{Answer, Command, NoRing, Reply, Request};

/// Which replies make sense: what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// To a get.
    Value,
    /// To a put or delete.
    Written,
    /// To a scan.
    Page,
    /// To any other line.
    Text,
}

/// Appends the request; says what to expect.
pub fn encode(out: &mut BytesMut, request: &Request) -> Expect {
    let form = Form::Binary;
    let once = request.id.map(|id| Once { id, retry: request.retry });
    match &request.command {
        Command::Get { key } => get(out, key),
        Command::Put { key, value } => {
            encode_request(out, &Line::Write(WriteRequest { key, value: Some(value), swap: false, form, once }));
            Expect::Written
        }
        Command::Swap { key, value } => {
            encode_request(out, &Line::Write(WriteRequest { key, value: Some(value), swap: true, form, once }));
            Expect::Written
        }
        Command::Delete { key } => {
            encode_request(out, &Line::Write(WriteRequest { key, value: None, swap: false, form, once }));
            Expect::Written
        }
        Command::Scan { at, after } => {
            encode_request(out, &Line::Scan { at: *at, after: after.as_deref() });
            Expect::Page
        }
        Command::Explain { key } => {
            encode_request(out, &Line::Whole(Whole::Explain(key)));
            Expect::Text
        }
        Command::Ask(line) => ask(out, line),
        // Never sent: the router answers it itself.
        Command::Connect => ask(out, "keyrange"),
    }
}

/// Appends a read.
pub fn get(out: &mut BytesMut, key: &[u8]) -> Expect {
    encode_request(out, &Line::Get { key, form: Form::Binary });
    Expect::Value
}

/// Appends a line of words.
pub fn ask(out: &mut BytesMut, line: &str) -> Expect {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
    Expect::Text
}

/// The reply, if it makes sense as an answer to what was asked.
pub fn decode(expect: Expect, response: &Response<'_>) -> Option<Reply> {
    let rest = || String::from_utf8_lossy(response.rest).into_owned();
    if response.outcome_unknown() {
        let why = rest();
        let forgotten = why.contains(FORGOTTEN);
        return Some(Reply::Unknown { why, forgotten });
    }
    match response.word {
        Word::ServerStopped => return Some(Reply::Stopped(rest())),
        Word::ServerWriteLock => return Some(Reply::WriteLocked),
        Word::ServerNotResponsible => return Some(Reply::NotResponsible),
        Word::Failed | Word::EcsError | Word::AdminError | Word::NotTold => return Some(Reply::Failed(rest())),
        _ => {}
    }
    let answer = match expect {
        Expect::Value => Answer::Value(value(response)?),
        Expect::Written => match response.word {
            Word::GetsetbSuccess => Answer::Swapped(None),
            Word::GetsetbUpdate => Answer::Swapped(Some(Bytes::copy_from_slice(response.rest))),
            word => Answer::Written(outcome(word)?),
        },
        Expect::Page if response.word == Word::ScanSuccess => Answer::Page(decode_page(response.rest)?),
        Expect::Page => return None,
        Expect::Text => match response.word {
            Word::FirstKeybSuccess | Word::LastKeybSuccess => {
                Answer::Value(Some(Bytes::copy_from_slice(response.rest)))
            }
            Word::NoKey => Answer::Value(None),
            _ => Answer::Text(rest()),
        },
    };
    Some(Reply::Done(answer))
}

fn value(response: &Response<'_>) -> Option<Option<Bytes>> {
    match response.word {
        Word::GetbSuccess => Some(Some(Bytes::copy_from_slice(response.rest))),
        Word::GetbError => Some(None),
        _ => None,
    }
}

fn outcome(word: Word) -> Option<Outcome> {
    match word {
        Word::PutbSuccess => Some(Outcome::Created),
        Word::PutbUpdate => Some(Outcome::Updated),
        Word::DeletebSuccess => Some(Outcome::Deleted),
        Word::DeletebError => Some(Outcome::Missing),
        _ => None,
    }
}

/// The arcs in the reply to a keyrange question.
pub fn arcs(response: &Response<'_>) -> Result<Vec<Arc>, NoRing> {
    let rest = String::from_utf8_lossy(response.rest);
    match response.word {
        Word::KeyrangeSuccess | Word::KeyrangeReadSuccess => ring::parse(&rest).map_err(NoRing::NotServing),
        Word::ServerStopped if rest.is_empty() => Err(NoRing::NotServing("does not serve at the moment".to_owned())),
        Word::ServerStopped => Err(NoRing::NotServing(rest.into_owned())),
        _ => Err(NoRing::NotServing(format!("answers keyrange with {rest:?}: is it an Annulus server?"))),
    }
}

#[cfg(test)]
mod tests {
    use common::text::{Answer as Said, Dialect, Limits, Parsed, ReplyParser, RequestParser, encode as say};
    use common::{ClientId, RequestId};

    use super::*;

    fn reply(dialect: Dialect, said: &Said<'_>, expect: Expect) -> Option<Reply> {
        let mut bytes = BytesMut::new();
        say(&mut bytes, dialect, Form::Binary, said);
        bytes.extend_from_slice(b"\r\n");
        let (_, response) = ReplyParser::new().next(&bytes).unwrap();
        decode(expect, &response.unwrap())
    }

    #[test]
    fn writes_carry_their_id_and_the_retry_mark() {
        let id = RequestId { client: ClientId(0xa), seq: 7, lowest_unacked: 5 };
        let command = Command::Put { key: "k\n".into(), value: Bytes::from_static(b"\xff\r\n") };
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &Request { command, id: Some(id), retry: true });
        let mut parser = RequestParser::new(Dialect::Uoft, Limits::default());
        let (_, Parsed::Request(Line::Write(write))) = parser.next(&bytes) else { panic!("no write") };
        assert_eq!((write.key, write.value), (&b"k\n"[..], Some(&b"\xff\r\n"[..])));
        assert_eq!(write.once, Some(Once { id, retry: true }));
    }

    #[test]
    fn every_answer_of_a_server_is_understood() {
        let key = b"k".as_slice();
        for dialect in [Dialect::Uoft, Dialect::Tum] {
            let of = |said: &Said<'_>, expect| reply(dialect, said, expect).unwrap();
            assert_eq!(
                of(&Said::Value { key, value: b"a\nb" }, Expect::Value),
                Reply::Done(Answer::Value(Some("a\nb".into())))
            );
            assert_eq!(of(&Said::Missing { key }, Expect::Value), Reply::Done(Answer::Value(None)));
            for (outcome, value) in [
                (Outcome::Created, Some(key)),
                (Outcome::Updated, Some(key)),
                (Outcome::Deleted, None),
                (Outcome::Missing, None),
            ] {
                let said = Said::Written { key, value, outcome };
                assert_eq!(of(&said, Expect::Written), Reply::Done(Answer::Written(outcome)));
            }
            for old in [None, Some(&b"a\nb"[..])] {
                let swapped = Answer::Swapped(old.map(Bytes::copy_from_slice));
                assert_eq!(of(&Said::Swapped { key, old }, Expect::Written), Reply::Done(swapped));
            }
            let open = of(&Said::SwapUnknown { key, value: key, why: "too late" }, Expect::Written);
            assert!(matches!(open, Reply::Unknown { forgotten: false, .. }), "{open:?}");
            let told = |word, text, counted| Said::Told { word, text, counted };
            let first = of(&told("FIRST_KEYB_SUCCESS", Some(b"a\nb"), true), Expect::Text);
            assert_eq!(first, Reply::Done(Answer::Value(Some("a\nb".into()))));
            assert_eq!(of(&told("LAST_KEYB_ERROR", None, false), Expect::Text), Reply::Done(Answer::Value(None)));
            let count = of(&told("NUM_KEYS_SUCCESS", Some(b"7"), false), Expect::Text);
            assert_eq!(count, Reply::Done(Answer::Text("7".into())));
            let why = of(&told("TIMELINE_ERROR", Some(b"no ECS"), false), Expect::Text);
            assert_eq!(why, Reply::Failed("no ECS".into()));
            assert_eq!(of(&Said::NotResponsible, Expect::Value), Reply::NotResponsible);
            assert_eq!(of(&Said::WriteLock, Expect::Written), Reply::WriteLocked);
            assert!(matches!(of(&Said::Stopped(None), Expect::Value), Reply::Stopped(_)));
            assert!(matches!(of(&Said::Failed("no"), Expect::Value), Reply::Failed(_)));
            for value in [None, Some(key)] {
                let forgotten = of(&Said::Unknown { key, value, why: FORGOTTEN }, Expect::Written);
                assert!(matches!(forgotten, Reply::Unknown { forgotten: true, .. }), "{forgotten:?}");
                let open = of(&Said::Unknown { key, value, why: "too late" }, Expect::Written);
                assert!(matches!(open, Reply::Unknown { forgotten: false, .. }), "{open:?}");
            }
        }
    }

    #[test]
    fn an_answer_to_something_else_is_no_answer() {
        assert_eq!(reply(Dialect::Uoft, &Said::Missing { key: b"k" }, Expect::Written), None);
    }
}
