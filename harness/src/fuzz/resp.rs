//! Redis's protocol: commands as a server takes them.

use bytes::BytesMut;
use common::resp::{CommandParser, Limits, Out, Parsed, Proto};

use super::choice;

/// Streams up to this long are also fed byte by byte.
const BYTEWISE: usize = 2048;
/// Limits that a short input can exceed.
const TIGHT: Limits = Limits { argument: 32, whole: 128 };
const WIDE: Limits = Limits { argument: 1 << 20, whole: 4 << 20 };

/// What a parser made of a stream.
#[derive(PartialEq, Eq, Debug)]
enum Seen {
    Command(Vec<Vec<u8>>),
    TooLarge,
    Broken(String),
}

pub(super) fn commands(data: &[u8]) {
    let Some((bits, stream)) = choice(data) else { return };
    let limits = if bits & 1 == 0 { WIDE } else { TIGHT };
    let whole = parse(limits, stream, stream.len().max(1));
    if stream.len() <= BYTEWISE {
        assert_eq!(whole, parse(limits, stream, 1), "byte by byte");
    }
    assert_eq!(whole, parse(limits, stream, 7), "in sevens");
    for seen in &whole {
        if let Seen::Command(args) = seen {
            assert!(args.iter().all(|arg| arg.len() <= limits.argument), "an argument over the limit");
            let again = encoded(args);
            assert_eq!(parse(WIDE, &again, again.len())[..], [Seen::Command(args.clone())], "written again");
        }
    }
}

fn parse(limits: Limits, stream: &[u8], step: usize) -> Vec<Seen> {
    let mut parser = CommandParser::new(limits);
    let (mut input, mut seen, mut looks) = (Vec::new(), Vec::new(), 0_usize);
    for chunk in stream.chunks(step) {
        input.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            looks += 1;
            let (used, parsed) = parser.next(&input[at..]);
            match parsed {
                Parsed::More => {
                    at += used;
                    break;
                }
                Parsed::Skipped => {}
                Parsed::Command => {
                    seen.push(Seen::Command(parser.args(&input[at..]).from(0).map(<[u8]>::to_vec).collect()));
                }
                Parsed::TooLarge(_) => seen.push(Seen::TooLarge),
                Parsed::Broken(why) => {
                    assert!(why.starts_with("Protocol error: "), "{why}");
                    seen.push(Seen::Broken(why));
                    return seen;
                }
            }
            at += used;
        }
        input.drain(..at);
        assert!(parser.memory() <= 16 * stream.len() + 4096, "{} bytes for {}", parser.memory(), stream.len());
        assert!(input.len() <= limits.whole + 2 * 64 * 1024 + step, "{} bytes are kept", input.len());
    }
    // Each look finds something, or ends for want of bytes.
    assert!(looks <= 3 * stream.len() + 3, "{looks} looks at {} bytes", stream.len());
    seen
}

fn encoded(args: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let mut out = Out::new(&mut bytes, Proto::Two);
    out.array(args.len());
    args.iter().for_each(|arg| out.bulk(arg));
    bytes.to_vec()
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        &b"PING\r\n"[..],
        b"set k 'a b' ex 10\r\nget k\n",
        b"ECHO \"\\x41\\n\\\"\"\r\n",
        b"*0\r\n*-1\r\n\r\n*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$40\r\n0123456789012345678901234567890123456789\r\n*1\r\n$4\r\nTIME\r\n",
        b"*2\r\n$4\r\nMGET\r\n:1\r\n",
        b"*1048577\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1000000\r\n$1000000\r\nx",
        b"SET \"a\r\n",
    ]
    .into_iter()
    .flat_map(|seed| [0, 1].map(|bits| [&[bits], seed].concat()))
    .collect();
    let words = |words: &[&str]| encoded(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
    seeds.push([&[0][..], &words(&["SET", "k", "v", "PX", "5", "NX"]), &words(&["GET", "k"])].concat());
    seeds.push([&[1][..], &words(&["MSET", "a", "1", "b", "2"]), &words(&["HELLO", "3"])].concat());
    seeds
}
