//! The codec against tables, against itself, and against every way of cutting a stream.

use bytes::{Buf, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::entry::Outcome;
use crate::ids::ClientId;

const DIALECTS: [Dialect; 2] = [Dialect::Uoft, Dialect::Tum];

/// Everything found in `pieces`, each fed as it arrives, as text.
fn parse(dialect: Dialect, limits: Limits, pieces: &[&[u8]]) -> Vec<String> {
    let mut parser = RequestParser::new(dialect, limits);
    let (mut input, mut found) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let (used, parsed) = parser.next(&input);
            let more = parsed == Parsed::More;
            if !more && parsed != Parsed::Skipped {
                found.push(show(&parsed));
            }
            input.advance(used);
            if more {
                break;
            }
        }
        assert!(input.len() <= limits.longest_request() + 2, "{} bytes are kept", input.len());
    }
    found
}

fn show(parsed: &Parsed<'_>) -> String {
    let form = |form: &Form| if *form == Form::Text { "" } else { "b" };
    match parsed {
        Parsed::More | Parsed::Skipped => "nothing".into(),
        Parsed::Close => "close".into(),
        Parsed::Mistake(mistake) => format!("mistake: {mistake}"),
        Parsed::Request(Request::Get { key, form: f }) => format!("get{} [{}]", form(f), key.escape_ascii()),
        Parsed::Request(Request::Write(write)) => {
            let value = write.value.map_or("gone".into(), |value| format!("[{}]", value.escape_ascii()));
            let once = write.once.map_or(String::new(), |once| {
                let retry = if once.retry { " again" } else { "" };
                format!(" as {:x}/{}/{}{retry}", once.id.client.0, once.id.seq, once.id.lowest_unacked)
            });
            let word = if write.swap { "swap" } else { "set" };
            format!("{word}{} [{}] {value}{once}", form(&write.form), write.key.escape_ascii())
        }
        Parsed::Request(other) => format!("{other:?}"),
    }
}

fn one(dialect: Dialect, line: &[u8]) -> String {
    let found = parse(dialect, Limits::default(), &[line]);
    assert_eq!(found.len(), 1, "{found:?} in {}", line.escape_ascii());
    found.into_iter().next().unwrap()
}

#[test]
fn requests_both_dialects_agree_on() {
    let table: &[(&[u8], &str)] = &[
        (b"put k v\r\n", "set [k] [v]"),
        (b"put k v\n", "set [k] [v]"),
        (b"put k v\n\r", "set [k] [v]"),
        (b"\r\n\n\r  \tPuT k v\r\r\n", "set [k] [v]"),
        (b"put k a  b \r\n", "set [k] [a  b ]"),
        (b"put k  \r\n", "set [k] [ ]"),
        (b"put k null and more\n", "set [k] [null and more]"),
        (b"put \xff\x00 \xfe\x00\n", "set [\\xff\\x00] [\\xfe\\x00]"),
        (b"get k\r\n", "get [k]"),
        (b"GET k \r\n", "get [k]"),
        (b"get an unset value\n", "get [an unset value]"),
        (b"delete k\n", "set [k] gone"),
        (b"keyrange\r\n", "Keyrange"),
        (b"KEYRANGE_READ \r\n", "KeyrangeRead"),
        (b"ecs\n", "Ecs"),
        (b"status\n", "Status"),
        (b"leave\n", "Admin(AdminRequest { token: None, wish: Leave { force: false } })"),
        (b"LEAVE Force\r\n", "Admin(AdminRequest { token: None, wish: Leave { force: true } })"),
        (b"change\n", "Admin(AdminRequest { token: None, wish: Progress })"),
        (b"remove h:1 accept-data-loss\n", "Admin(AdminRequest { token: None, wish: GiveUp { node: \"h:1\" } })"),
        (b"remove h:1\n", "Admin(AdminRequest { token: None, wish: Remove { node: \"h:1\", force: false } })"),
        (b"plan without 00ab\n", "Admin(AdminRequest { token: None, wish: PlanWithout { node: \"00ab\" } })"),
        (b"admin xy cancel\n", "Admin(AdminRequest { token: Some([120, 121]), wish: Cancel })"),
        (b"getb 3\r\na\nb", "getb [a\\nb]"),
        (b"putb 1 0\nk", "setb [k] []"),
        (b"putb 2 4\r\n\r\n\n\nxy\r\n", "setb [\\r\\n] [\\n\\nxy]"),
        (b"deleteb 1\nk\n", "setb [k] gone"),
        (b"scan 0\r\n", "Scan { at: Position(0), after: None }"),
        (b"SCAN fF 2\nk\n\n", "Scan { at: Position(255), after: Some([107, 10]) }"),
        (b"req 0aF 7 5 put k v w\n", "set [k] [v w] as af/7/5"),
        (b"REQ 1 7 5 RETRY delete k\n", "set [k] gone as 1/7/5 again"),
        (b"req 1 7 5 retry putb 1 2\nkvv", "setb [k] [vv] as 1/7/5 again"),
        (b"getset k v  w\n", "swap [k] [v  w]"),
        (b"GETSET k null\n", "swap [k] [null]"),
        (b"getsetb 1 0\nk", "swapb [k] []"),
        (b"req 1 7 5 retry getset k v\n", "swap [k] [v] as 1/7/5 again"),
        (b"num_keys\n", "Whole(NumKeys)"),
        (b"First_Key \n", "Whole(FirstKey(Text))"),
        (b"last_keyb\n", "Whole(LastKey(Binary))"),
        (b"node_list\n", "Whole(NodeList)"),
        (b"timeline\n", "Whole(Timeline)"),
        (b"status  CLUSTER \n", "Whole(Cluster)"),
        (b"explain a b\n", "Whole(Explain([97, 32, 98]))"),
        (b"explainb 2\n\n\n", "Whole(Explain([10, 10]))"),
        (b"POST / HTTP/1.1\r\n", "close"),
        (b"Host:localhost\r\n", "close"),
    ];
    for dialect in DIALECTS {
        for (line, expected) in table {
            assert_eq!(one(dialect, line), *expected, "{dialect}: {}", line.escape_ascii());
        }
    }
}

#[test]
fn null_and_nothing_delete_in_one_dialect_only() {
    assert_eq!(one(Dialect::Uoft, b"put k null\n"), "set [k] gone");
    assert_eq!(one(Dialect::Uoft, b"put k \n"), "set [k] gone");
    assert_eq!(one(Dialect::Uoft, b"put k\n"), "set [k] gone");
    assert_eq!(one(Dialect::Uoft, b"put k NULL\n"), "set [k] [NULL]");
    assert_eq!(one(Dialect::Tum, b"put k null\n"), "set [k] [null]");
    assert!(one(Dialect::Tum, b"put k\n").contains("`put` without a value: write `put <key> <value>`"));
}

#[test]
fn mistakes_name_the_limit_and_the_way_out() {
    let long_key = [b"put ", &[b'k'; 21][..], b" v\n"].concat();
    let long_value = [b"put k ", &vec![b'v'; 122_881][..], b"\n"].concat();
    let long_line = [b"put k ", &vec![b'v'; 140_000][..], b"\n"].concat();
    let long_delete = [b"delete ", &vec![b'k'; 1025][..], b"\n"].concat();
    let table: &[(&[u8], &str)] = &[
        (b"hello\n", "unknown request `hello`: known are put, get"),
        (b"\x00\xff\n", "unknown request `\\x00\\xff`"),
        (b"put\n", "`put` without a key"),
        (b"getset k\n", "write `getset <key> <value>`"),
        (b"getset\n", "`getset` without a key"),
        (b"explain\n", "`explain` without a key"),
        (b"status now\n", "nothing after it, or `cluster`"),
        (b"num_keys all\n", "`num_keys` takes nothing after it"),
        (b"req 1 7 5 num_keys\n", "takes put, getset"),
        (b"put  v\n", "exactly one space"),
        (b"get\n", "`get` without a key: write `get <key>`"),
        (b"get  k\n", "exactly one space"),
        (b"delete \n", "`delete` without a key"),
        (b"delete a b\n", "`delete` takes one key"),
        (b"keyrange now\n", "`keyrange` takes nothing after it"),
        (b"put k a\rb\n", "carriage return inside"),
        (&long_key, "key of 21 bytes is over the limit of 20"),
        (&long_value, "value of 122881 bytes is over the limit of 122880"),
        (&long_line, "line over the limit of 131072 bytes"),
        (&long_delete, "key of 1025 bytes is over the limit of 1024"),
        (b"putb 1\n", "`putb` needs decimal lengths: write `putb <key bytes> <value bytes>`"),
        (b"getb -1\n", "`getb` needs decimal lengths"),
        (b"getb +1\n", "`getb` needs decimal lengths"),
        (b"deleteb 1 2\n", "`deleteb` needs decimal lengths"),
        (b"getb 0\n", "key of 0 bytes"),
        (b"getb 1025\n", "key of 1025 bytes is over the limit of 1024"),
        (b"putb 1 1048577\n", "value of 1048577 bytes is over the limit of 1048576"),
        (b"putb 1 18446744073709551615\n", "value of 18446744073709551615 bytes"),
        (b"scan\n", "`scan` with a wrong head"),
        (b"scan +1\n", "`scan` with a wrong head"),
        (b"scan 1 2 3\n", "`scan` with a wrong head"),
        (b"scan 1 0\n", "key of 0 bytes"),
        (b"req 1 2 put k v\n", "`req` with a wrong head"),
        (b"req xyz 1 1 put k v\n", "`req` with a wrong head"),
        (b"req 1 1 1 get k\n", "`req` around `get`: it takes put"),
        (b"req 1 1 1 retry\n", "`req` around `retry`"),
    ];
    for dialect in DIALECTS {
        for (line, expected) in table {
            let found = one(dialect, line);
            assert!(found.starts_with("mistake: ") && found.contains(expected), "{found} for {}", line.escape_ascii());
            assert!(!found.contains(['\r', '\n']), "an answer is one line: {found}");
        }
    }
}

#[test]
fn the_limits_themselves_are_within() {
    let put = [b"put ", &[b'k'; 20][..], b" ", &vec![b'v'; 122_880][..], b"\r\n"].concat();
    assert!(one(Dialect::Uoft, &put).starts_with("set ["));
    let get = [b"get ", &vec![b'k'; 131_068][..], b"\r\n"].concat();
    assert!(one(Dialect::Uoft, &get).starts_with("get ["));
    let raised = Limits::new(20, 500_000, 1024, 1 << 20);
    let put = [b"put k ", &vec![b'v'; 500_000][..], b"\n"].concat();
    assert!(parse(Dialect::Uoft, raised, &[&put])[0].starts_with("set ["));
}

#[test]
fn a_line_over_the_limit_is_refused_at_once_and_skipped_without_being_kept() {
    let mut parser = RequestParser::new(Dialect::Uoft, Limits::default());
    let piece = vec![b'x'; 131_073];
    let (used, parsed) = parser.next(&piece);
    assert!(used == piece.len() && matches!(parsed, Parsed::Mistake(Mistake::Line(131_072))));
    for _ in 0..100 {
        assert_eq!(parser.next(&piece), (piece.len(), Parsed::More));
    }
    assert_eq!(parser.next(b"xx\nget k\n"), (3, Parsed::Skipped));
    for _ in 0..2 {
        assert_eq!(
            parser.next(b"get k\n"),
            (6, Parsed::Request(Request::Get { key: b"k", form: Form::Text })),
            "and again"
        );
    }

    let returns = [b"get k".to_vec(), vec![b'\r'; 200_000]].concat();
    let (used, parsed) = parser.next(&returns);
    assert!(
        used == returns.len() && matches!(parsed, Parsed::Mistake(Mistake::Line(_))),
        "carriage returns are bounded too"
    );
}

#[test]
fn announced_bytes_over_the_limit_are_skipped() {
    let stream = [b"putb 1025 2000000\n".to_vec(), vec![b'\n'; 2_001_025], b"\nget k\n".to_vec()].concat();
    let pieces: Vec<&[u8]> = stream.chunks(1000).collect();
    let found = parse(Dialect::Uoft, Limits::default(), &pieces);
    assert!(found.len() == 2 && found[0].contains("over the limit of 1024") && found[1] == "get [k]", "{found:?}");
}

const MIXED: &[u8] =
    b"\r\nput k v w \r\nget  k\nnope\nputb 3 5\r\na\n\rv\r\n\nw\r\ngetb 2\nxx\n\rreq ab 3 1 retry putb 1 1\n\n\n\
    req ab 4 1 put k null\nput k a\rb\nputb 99999 1\nfoo\n\n";

#[test]
fn a_stream_cut_anywhere_is_the_same_stream() {
    for dialect in DIALECTS {
        let whole = parse(dialect, Limits::default(), &[MIXED]);
        assert_eq!(whole.len(), 9, "{whole:#?}");
        for first in 0..=MIXED.len() {
            let pieces = [&MIXED[..first], &MIXED[first..]];
            assert_eq!(parse(dialect, Limits::default(), &pieces), whole, "cut at {first}");
        }
        let bytes: Vec<&[u8]> = MIXED.chunks(1).collect();
        assert_eq!(parse(dialect, Limits::default(), &bytes), whole, "byte by byte");
    }
}

/// What each answer looks like: form, uoft, tum.
fn answers() -> Vec<(Answer<'static>, Form, &'static str, &'static str)> {
    use Form::{Binary, Text};
    let written = |value, outcome| Answer::Written { key: b"k", value, outcome };
    let unknown = |value| Answer::Unknown { key: b"k", value, why: "no answer" };
    let told = |word, text: Option<&'static [u8]>, counted| Answer::Told { word, text, counted };
    let some: Option<&'static [u8]> = Some(b"v w");
    let unknown_text = "FAILED unknown outcome: no answer";
    let unknown_lower = "error unknown outcome: no answer";
    vec![
        (Answer::Value { key: b"k", value: b"v w " }, Text, "GET_SUCCESS k v w ", "get_success k v w "),
        (Answer::Value { key: b"k", value: b"a\nb" }, Binary, "GETB_SUCCESS 3\r\na\nb", "getb_success 3\r\na\nb"),
        (Answer::Missing { key: b"k" }, Text, "GET_ERROR k", "get_error k no such key"),
        (Answer::Missing { key: b"k" }, Binary, "GETB_ERROR", "getb_error"),
        (written(some, Outcome::Created), Text, "PUT_SUCCESS k v w", "put_success k"),
        (written(some, Outcome::Updated), Text, "PUT_UPDATE k v w", "put_update k"),
        (written(some, Outcome::Created), Binary, "PUTB_SUCCESS", "putb_success"),
        (written(some, Outcome::Updated), Binary, "PUTB_UPDATE", "putb_update"),
        (Answer::Swapped { key: b"k", old: Some(b"v w") }, Text, "GETSET_UPDATE k v w", "getset_update k v w"),
        (Answer::Swapped { key: b"k", old: Some(b"") }, Text, "GETSET_UPDATE k ", "getset_update k "),
        (Answer::Swapped { key: b"k", old: Some(b"v\nw") }, Text, "GETSET_UPDATE k", "getset_update k"),
        (Answer::Swapped { key: b"k", old: None }, Text, "GETSET_SUCCESS k", "getset_success k"),
        (
            Answer::Swapped { key: b"k", old: Some(b"v\n") },
            Binary,
            "GETSETB_UPDATE 2\r\nv\n",
            "getsetb_update 2\r\nv\n",
        ),
        (Answer::Swapped { key: b"k", old: None }, Binary, "GETSETB_SUCCESS", "getsetb_success"),
        (Answer::SwapUnknown { key: b"k", value: b"v", why: "no" }, Text, "GETSET_ERROR k v", "getset_error k v"),
        (Answer::SwapUnknown { key: b"k", value: b"v", why: "no" }, Binary, "GETSETB_ERROR no", "getsetb_error no"),
        (
            told("FIRST_KEYB_SUCCESS", Some(b"a\nb"), true),
            Binary,
            "FIRST_KEYB_SUCCESS 3\r\na\nb",
            "first_keyb_success 3\r\na\nb",
        ),
        (told("NUM_KEYS_SUCCESS", Some(b"7"), false), Text, "NUM_KEYS_SUCCESS 7", "num_keys_success 7"),
        (told("LAST_KEY_ERROR", None, false), Text, "LAST_KEY_ERROR", "last_key_error"),
        (written(None, Outcome::Deleted), Text, "DELETE_SUCCESS k", "delete_success k"),
        (written(None, Outcome::Missing), Text, "DELETE_ERROR k", "delete_error k"),
        (written(None, Outcome::Deleted), Binary, "DELETEB_SUCCESS", "deleteb_success"),
        (written(None, Outcome::Missing), Binary, "DELETEB_ERROR", "deleteb_error"),
        (unknown(some), Text, "PUT_ERROR k v w", "put_error k v w"),
        (unknown(some), Binary, "PUTB_ERROR no answer", "putb_error no answer"),
        (unknown(None), Text, unknown_text, unknown_lower),
        (unknown(None), Binary, unknown_text, unknown_lower),
        (Answer::Keyrange("0,f,h:1;"), Text, "KEYRANGE_SUCCESS 0,f,h:1;", "keyrange_success 0,f,h:1;"),
        (Answer::KeyrangeRead("0,f,h:1;"), Text, "KEYRANGE_READ_SUCCESS 0,f,h:1;", "keyrange_read_success 0,f,h:1;"),
        (Answer::Page(b"a\nb"), Binary, "SCAN_SUCCESS 3\r\na\nb", "scan_success 3\r\na\nb"),
        (Answer::Ecs("h:3000"), Text, "ECS_SUCCESS h:3000", "ecs_success h:3000"),
        (Answer::NoEcs("alone"), Text, "ECS_ERROR alone", "ecs_error alone"),
        (Answer::Status(r#"{"A":1}"#), Text, r#"STATUS_SUCCESS {"A":1}"#, r#"status_success {"A":1}"#),
        (Answer::Admin { word: "LEAVE", done: true, text: "n" }, Text, "LEAVE_SUCCESS n", "leave_success n"),
        (Answer::Admin { word: "PLAN", done: false, text: "no" }, Text, "PLAN_ERROR no", "plan_error no"),
        (Answer::Stopped(None), Text, "SERVER_STOPPED", "server_stopped"),
        (Answer::Stopped(Some("Why")), Binary, "SERVER_STOPPED Why", "server_stopped Why"),
        (Answer::WriteLock, Text, "SERVER_WRITE_LOCK", "server_write_lock"),
        (Answer::NotResponsible, Text, "SERVER_NOT_RESPONSIBLE", "server_not_responsible"),
        (Answer::Failed("What"), Text, "FAILED What", "error What"),
    ]
}

#[test]
fn answers_look_like_the_table_in_each_dialect() {
    for (answer, form, uoft, tum) in answers() {
        for (dialect, expected) in [(Dialect::Uoft, uoft), (Dialect::Tum, tum)] {
            let mut out = BytesMut::new();
            encode(&mut out, dialect, form, &answer);
            assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{expected}\r\n"));
        }
    }
}

#[test]
fn what_a_line_cannot_carry_is_said_to_be_so() {
    for (key, value) in [(&b"k"[..], &b"a\nb"[..]), (b"k", b"a\r"), (b"a key", b"v")] {
        let mut out = BytesMut::new();
        encode(&mut out, Dialect::Uoft, Form::Text, &Answer::Value { key, value });
        assert!(out.starts_with(b"FAILED the ") && out.ends_with(b"use getb\r\n"), "{out:?}");
    }
}

#[test]
fn the_client_reads_every_answer_however_it_is_cut() {
    for dialect in DIALECTS {
        let mut stream = BytesMut::new();
        for (answer, form, ..) in answers() {
            encode(&mut stream, dialect, form, &answer);
        }
        let whole = replies(&[&stream]);
        assert_eq!(whole.len(), answers().len());
        assert!(whole.iter().all(|(word, _)| *word != Word::Other), "{whole:?}");
        assert_eq!(whole[1], (Word::GetbSuccess, b"a\nb".to_vec()));
        for cut in 0..=stream.len() {
            assert_eq!(replies(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
    }
}

fn replies(pieces: &[&[u8]]) -> Vec<(Word, Vec<u8>)> {
    let mut parser = ReplyParser::new();
    let (mut input, mut found) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let (used, reply) = parser.next(&input).unwrap();
            let more = reply.is_none();
            found.extend(reply.map(|reply| (reply.word, reply.rest.to_vec())));
            input.advance(used);
            if more {
                break;
            }
        }
    }
    found
}

#[test]
fn refused_and_unknown_are_told_apart_by_the_client() {
    for (answer, form, ..) in answers() {
        for dialect in DIALECTS {
            let mut out = BytesMut::new();
            encode(&mut out, dialect, form, &answer);
            let (_, reply) = ReplyParser::new().next(&out).unwrap();
            let unknown = matches!(answer, Answer::Unknown { .. } | Answer::SwapUnknown { .. });
            assert_eq!(reply.unwrap().outcome_unknown(), unknown, "{answer:?}");
        }
    }
    let mut out = BytesMut::new();
    encode(&mut out, Dialect::Tum, Form::Text, &Answer::Value { key: b"k", value: b"v w" });
    let (_, reply) = ReplyParser::new().next(&out).unwrap();
    assert_eq!(reply.unwrap().value_of(b"k"), Some(&b"v w"[..]));
}

#[test]
fn a_stream_that_is_no_server_is_given_up() {
    assert_eq!(ReplyParser::new().next(b"GETB_SUCCESS x\r\n"), Err(ReplyError::Length));
    assert_eq!(ReplyParser::new().next(b"GETB_SUCCESS 9999999999\r\n"), Err(ReplyError::Length));
    let endless = vec![b'x'; (16 << 20) + 1];
    assert_eq!(ReplyParser::new().next(&endless), Err(ReplyError::Line));
    let (used, reply) = ReplyParser::new().next(b"Connection to server established\r\n").unwrap();
    assert_eq!((used, reply.unwrap().word), (34, Word::Other));
}

/// A request as it can be owned, to be made at random.
#[derive(Clone, Debug)]
struct Owned {
    verb: u8,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    binary: bool,
    once: Option<(u128, u64, u64, bool)>,
}

impl Owned {
    fn request(&self) -> Request<'_> {
        let form = if self.binary { Form::Binary } else { Form::Text };
        let once = self.once.map(|(client, seq, lowest_unacked, retry)| Once {
            id: RequestId { client: ClientId(client), seq, lowest_unacked },
            retry,
        });
        match self.verb {
            0 => Request::Keyrange,
            1 => Request::KeyrangeRead,
            2 => Request::Ecs,
            3 => Request::Status,
            4 => Request::Get { key: &self.key, form },
            6 => Request::Admin(AdminRequest {
                token: self.binary.then_some(b"secret"),
                wish: if self.once.is_some() { Wish::Remove { node: "h:1".into(), force: true } } else { Wish::Plan },
            }),
            5 => Request::Scan { at: Position(u128::from(self.binary)), after: self.binary.then_some(&self.key) },
            7 => Request::Whole(Whole::Explain(&self.key)),
            8 => Request::Whole(Whole::ALONE[self.key.len() % Whole::ALONE.len()]),
            verb => {
                let (key, value) = (&self.key[..], self.value.as_deref());
                Request::Write(WriteRequest { key, value, swap: verb == 9 && value.is_some(), form, once })
            }
        }
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    let text_key = vec(any::<u8>().prop_filter("a blank or line end", |b| !b" \r\n\t\x0c".contains(b)), 1..20);
    let text_value = vec(any::<u8>().prop_filter("a line end", |b| !b"\r\n".contains(b)), 1..60)
        .prop_filter("null", |value| value != b"null");
    let once = || proptest::option::of(any::<(u128, u64, u64, bool)>());
    let text = (0..12u8, text_key, proptest::option::of(text_value), Just(false), once());
    let binary = (0..12u8, vec(any::<u8>(), 1..40), proptest::option::of(vec(any::<u8>(), 0..60)), Just(true), once());
    prop_oneof![text, binary].prop_map(|(verb, key, value, binary, once)| Owned { verb, key, value, binary, once })
}

fn cut<'a>(stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let (mut rest, mut pieces) = (stream, Vec::new());
    for length in lengths {
        let (piece, left) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = left;
    }
    pieces.push(rest);
    pieces
}

proptest! {
    #[test]
    fn any_requests_come_out_as_they_went_in(requests in vec(owned(), 1..8), lengths in vec(0usize..50, 0..20), tum: bool) {
        let dialect = DIALECTS[usize::from(tum)];
        let mut stream = BytesMut::new();
        for request in &requests {
            encode_request(&mut stream, &request.request());
        }
        let expected: Vec<String> = requests.iter().map(|owned| show(&Parsed::Request(owned.request()))).collect();
        prop_assert_eq!(parse(dialect, Limits::default(), &cut(&stream, &lengths)), expected);
    }

    #[test]
    fn no_bytes_do_harm(stream in vec(any::<u8>(), 0..400), lengths in vec(0usize..60, 0..20), tum: bool) {
        let limits = Limits::new(5, 20, 10, 30);
        let dialect = DIALECTS[usize::from(tum)];
        let limits = Limits { line: 60, ..limits };
        prop_assert_eq!(parse(dialect, limits, &cut(&stream, &lengths)), parse(dialect, limits, &[&stream]));
    }

    #[test]
    fn any_value_comes_back_length_prefixed(value: Vec<u8>, lengths in vec(0usize..50, 0..20)) {
        let mut stream = BytesMut::new();
        encode(&mut stream, Dialect::Uoft, Form::Binary, &Answer::Value { key: b"k", value: &value });
        encode(&mut stream, Dialect::Uoft, Form::Binary, &Answer::Missing { key: b"k" });
        let found = replies(&cut(&stream, &lengths));
        prop_assert_eq!(found, vec![(Word::GetbSuccess, value), (Word::GetbError, vec![])]);
    }
}
