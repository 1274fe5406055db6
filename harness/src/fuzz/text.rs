//! The client protocol, both halves.

use bytes::{Bytes, BytesMut};
use common::Outcome;
use common::position::Position;
use common::text::{
    Answer, Dialect, Form, Limits, Parsed, ReplyError, ReplyParser, Request, RequestParser, Word, decode_page, encode,
    encode_page, encode_request,
};

use super::choice;

/// Streams up to this long are also fed byte by byte.
const BYTEWISE: usize = 2048;
/// Limits that a short input can exceed.
const TIGHT: Limits = Limits { text_key: 4, text_value: 16, line: 48, key: 8, value: 32 };

fn dialect(bits: u8) -> Dialect {
    if bits & 1 == 0 { Dialect::Uoft } else { Dialect::Tum }
}

/// What a parser made of a stream, without its borrows.
#[derive(PartialEq, Eq, Debug)]
enum Seen {
    Request(BytesMut),
    Mistake(String),
    Close,
}

pub(super) fn requests(data: &[u8]) {
    let Some((bits, stream)) = choice(data) else { return };
    let limits = if bits & 2 == 0 { Limits::default() } else { TIGHT };
    let whole = parse(dialect(bits), limits, stream, stream.len().max(1));
    if stream.len() <= BYTEWISE {
        assert_eq!(whole, parse(dialect(bits), limits, stream, 1), "byte by byte");
    }
    assert_eq!(whole, parse(dialect(bits), limits, stream, 7), "in sevens");
    for seen in &whole {
        if let Seen::Request(canonical) = seen {
            assert_eq!(
                parse(dialect(bits), Limits::default(), canonical, canonical.len())[..],
                [Seen::Request(canonical.clone())],
                "a request that was written again"
            );
        }
    }
}

fn parse(dialect: Dialect, limits: Limits, stream: &[u8], step: usize) -> Vec<Seen> {
    let mut parser = RequestParser::new(dialect, limits);
    let (mut input, mut seen, mut looks) = (Vec::new(), Vec::new(), 0_usize);
    for chunk in stream.chunks(step) {
        input.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            looks += 1;
            let (used, parsed) = parser.next(&input[at..]);
            at += used;
            match parsed {
                Parsed::More => break,
                Parsed::Skipped => {}
                Parsed::Request(request) => seen.push(Seen::Request(again(&request))),
                Parsed::Mistake(mistake) => seen.push(Seen::Mistake(mistake.to_string())),
                Parsed::Close => {
                    seen.push(Seen::Close);
                    return seen;
                }
            }
        }
        input.drain(..at);
        assert!(input.len() <= limits.longest_request() + 2, "{} bytes are kept", input.len());
    }
    assert!(looks <= 2 * stream.len() + 2, "{looks} looks at {} bytes", stream.len());
    seen
}

fn again(request: &Request<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    encode_request(&mut out, request);
    out
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    let lines: &[&[u8]] = &[
        b"put k v\r\nget k\r\ndelete k\r\n",
        b"put k null\nput k\nPUT key  two blanks \n\rget a b\n",
        b"getb 3\r\nk\r\nputb 1 4\r\nka\r\nbdeleteb 2\nkk",
        b"scan 0\r\nscan ffffffffffffffffffffffffffffffff 1\r\nk",
        b"req 0000019a00000000 7 5 put k v\r\nreq 1 2 1 retry putb 1 2\r\nkvv",
        b"req 1 18446744073709551615 18446744073709551615 delete k\r\n",
        b"keyrange\r\nkeyrange_read\r\necs\r\nstatus\r\n",
        b"num_keys\r\nfirst_key\r\nlast_keyb\r\nnode_list\r\nstatus cluster\r\nexplain k\r\nexplainb 2\r\nk\ntimeline\r\n",
        b"getset k v w\r\nreq 1 2 1 retry getsetb 1 2\r\nkvv\r\ngetset k\r\n",
        b"leave\r\nremove h:1\r\nadmin token leave force\r\nchange\r\nplan h:1\r\nrebalance\r\ncancel\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
        b"putb 5 99\r\nkkkkkvvvvvget k\r\n",
        b"put toolongakey v\r\nput k vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\r\nget k\r\n",
    ];
    (0..4).flat_map(|bits| lines.iter().map(move |line| [&[bits], *line].concat())).collect()
}

pub(super) fn replies(data: &[u8]) {
    let whole = parse_replies(data, data.len().max(1));
    if data.len() <= BYTEWISE {
        assert_eq!(whole, parse_replies(data, 1), "byte by byte");
    }
    assert_eq!(whole, parse_replies(data, 5), "in fives");
}

type Replies = (Vec<(Word, Vec<u8>, bool)>, Option<ReplyError>);

fn parse_replies(stream: &[u8], step: usize) -> Replies {
    let mut parser = ReplyParser::new();
    let (mut input, mut seen) = (Vec::new(), Vec::new());
    for chunk in stream.chunks(step) {
        input.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            match parser.next(&input[at..]) {
                Ok((used, None)) => {
                    at += used;
                    break;
                }
                Ok((used, Some(response))) => {
                    at += used;
                    let of_key = response.value_of(b"k").is_some();
                    seen.push((response.word, response.rest.to_vec(), response.outcome_unknown() && !of_key));
                }
                Err(error) => return (seen, Some(error)),
            }
        }
        input.drain(..at);
    }
    (seen, None)
}

pub(super) fn reply_seeds() -> Vec<Vec<u8>> {
    let lines: &[&[u8]] = &[
        b"GET_SUCCESS k v\r\nget_error k no such key\r\nPUT_ERROR k v\r\n",
        b"GETB_SUCCESS 4\r\na\r\nb\r\nGETB_ERROR\r\n",
        b"PUTB_SUCCESS\r\nPUTB_UPDATE\r\nPUTB_ERROR too late\r\nDELETEB_SUCCESS\r\nDELETEB_ERROR\r\n",
        b"SERVER_STOPPED why\r\nSERVER_WRITE_LOCK\r\nserver_not_responsible\r\nFAILED unknown outcome: x\r\n",
        b"KEYRANGE_SUCCESS 0,f,h:1;\r\nECS_SUCCESS h:1\r\nSTATUS_SUCCESS {}\r\nhello\r\n",
        b"SCAN_SUCCESS 38\r\n00000000000000000000000000000001 done\n\r\n",
        b"GETSETB_UPDATE 3\r\na\nb\r\nGETSETB_SUCCESS\r\nGETSET_ERROR k v\r\nFIRST_KEYB_SUCCESS 1\r\n\n\r\nNUM_KEYS_SUCCESS 7\r\n",
        b"GETB_SUCCESS 1073741825\r\n",
    ];
    lines.iter().map(|line| line.to_vec()).collect()
}

/// Whatever a server answers, the client understands as just that.
pub(super) fn answers(data: &[u8]) {
    let Some((bits, rest)) = choice(data) else { return };
    let (dialect, form) = (dialect(bits), if bits & 2 == 0 { Form::Text } else { Form::Binary });
    let (key, value) = rest.split_at(usize::from(bits >> 4).min(rest.len()));
    // Keys and values of text requests are parts of lines.
    let line = |part: &[u8]| !part.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    if form == Form::Text && !(line(key) && line(value)) {
        return;
    }
    let outcome = if bits & 4 == 0 { Outcome::Created } else { Outcome::Missing };
    let text = String::from_utf8_lossy(value).replace(['\r', '\n'], " ");
    for answer in [
        Answer::Value { key, value },
        Answer::Missing { key },
        Answer::Written { key, value: (bits & 8 == 0).then_some(value), outcome },
        Answer::Unknown { key, value: (bits & 8 == 0).then_some(value), why: "late" },
        Answer::Swapped { key, old: (bits & 8 == 0).then_some(value) },
        Answer::SwapUnknown { key, value, why: "late" },
        Answer::Told { word: "LAST_KEYB_SUCCESS", text: Some(value), counted: true },
        Answer::Keyrange(&text),
        Answer::Page(value),
        Answer::Stopped(Some(&text)),
        Answer::Failed(&text),
    ] {
        let mut out = BytesMut::new();
        encode(&mut out, dialect, form, &answer);
        // A value of length-prefixed form is followed by its own line end.
        let (seen, error) = parse_replies(&out, out.len());
        assert_eq!((seen.len(), error), (1, None), "{answer:?} is one reply: {seen:?}");
        match answer {
            Answer::Value { value, .. } if seen[0].0 == Word::GetbSuccess => assert_eq!(seen[0].1, value),
            Answer::Page(page) => assert_eq!(seen[0].1, page),
            Answer::Told { text: Some(text), .. } => assert_eq!(seen[0].1, text),
            Answer::Unknown { .. } | Answer::SwapUnknown { .. } => {
                assert!(seen[0].2, "unknown stays unknown: {seen:?}");
            }
            Answer::Failed(text) if !text.starts_with("unknown outcome") => assert!(!seen[0].2),
            _ => {}
        }
    }
}

pub(super) fn answer_seeds() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 4] = [b"kvalue", b"k\xff\x00\xfe", b"", b"unknown outcome"];
    [0x10, 0x12, 0x11, 0x13, 0x1c, 0x06].iter().flat_map(|bits| bodies.map(|body| [&[*bits], body].concat())).collect()
}

pub(super) fn pages(data: &[u8]) {
    let Some(page) = decode_page(data) else { return };
    let bytes: usize = page.records.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes <= data.len(), "{bytes} bytes out of {}", data.len());
    let again = encode_page(page.last, page.records.iter().map(|(key, value)| (&key[..], &value[..])));
    let found = decode_page(&again).expect("what was just written");
    assert_eq!((found.last, found.records), (page.last, page.records));
}

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    let page = |records: &[(&[u8], &[u8])]| encode_page(Position(77), records.iter().copied());
    let pages: [Bytes; 3] =
        [page(&[]), page(&[(b"k", b"v")]), page(&[(b"a", b""), (b"b\n", b"1 2\n"), (b"c", b"\xff")])];
    pages.iter().map(|page| page.to_vec()).collect()
}
