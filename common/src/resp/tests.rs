//! Tests of both ways.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { argument: 1000, whole: 5000 };

/// Everything that a stream says, in the words of the tests, however it is cut.
fn read(parser: &mut CommandParser, pieces: &[&[u8]]) -> Vec<String> {
    let (mut input, mut said) = (Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let (used, parsed) = parser.next(&input);
            match parsed {
                Parsed::More => {
                    input.drain(..used);
                    break;
                }
                Parsed::Skipped => {}
                Parsed::Command => {
                    let args = parser.args(&input);
                    said.push(
                        args.from(0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>().join("|"),
                    );
                }
                Parsed::TooLarge(what) => said.push(format!("{what:?}")),
                Parsed::Broken(what) => {
                    said.push(what);
                    return said;
                }
            }
            input.drain(..used);
        }
    }
    said
}

fn all(stream: &[u8]) -> Vec<String> {
    let whole = read(&mut CommandParser::new(LIMITS), &[stream]);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(&mut CommandParser::new(LIMITS), &bytes), whole, "byte by byte");
    whole
}

#[test]
fn commands_of_both_forms_and_empty_ones() {
    let stream =
        b"*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n\r\nset  k\t'a \\'b'\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\nECHO \"\\x41\\n\\q\"\n";
    assert_eq!(all(stream), ["PING", "set|k|a 'b", "GET|", "ECHO|A\nq"]);
}

#[test]
fn what_is_no_protocol_is_told_in_rediss_words() {
    for (stream, expected) in [
        (&b"*x\r\n"[..], "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*2000000\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$99999999999999999999\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$1x\r\n", "Protocol error: invalid bulk length"),
        (b"SET \"a\r\n", "Protocol error: unbalanced quotes in request"),
        (b"SET 'a'b\r\n", "Protocol error: unbalanced quotes in request"),
    ] {
        assert_eq!(all(stream), [expected]);
    }
    let long = vec![b'a'; 70_000];
    assert_eq!(all(&long), ["Protocol error: too big inline request"]);
    let digits = [b"*", &vec![b'0'; 70_000][..]].concat();
    assert_eq!(all(&digits), ["Protocol error: too big mbulk count string"]);
}

#[test]
fn what_is_too_large_is_skipped_and_the_stream_goes_on() {
    let mut stream = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1001\r\n".to_vec();
    stream.extend_from_slice(&[b'*'; 1003]);
    stream.extend_from_slice(b"*1\r\n$4\r\nPING\r\n*8\r\n$4\r\nMSET\r\n");
    for _ in 0..7 {
        stream.extend_from_slice(b"$900\r\n");
        stream.extend_from_slice(&[b'$'; 902]);
    }
    stream.extend_from_slice(b"*1\r\n$4\r\nTIME\r\n");
    let expected = ["Argument(1001)", "PING", "Whole", "TIME"];
    assert_eq!(all(&stream), expected);
}

#[test]
fn a_command_that_is_not_taken_is_found_again() {
    let mut parser = CommandParser::new(LIMITS);
    let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    for _ in 0..3 {
        assert_eq!(parser.next(input), (input.len(), Parsed::Command));
        assert_eq!(parser.args(input).get(1), b"k");
    }
}

#[test]
fn what_is_announced_is_not_allocated() {
    let mut parser = CommandParser::new(Limits { argument: 1 << 20, whole: 4 << 20 });
    assert_eq!(parser.next(b"*1000000\r\n$1000000\r\n"), (0, Parsed::More));
    assert!(parser.memory() < 1000);
}

#[test]
fn every_type_in_both_versions() {
    let say = |proto| {
        let mut bytes = BytesMut::new();
        let mut out = Out::new(&mut bytes, proto);
        out.ok();
        out.error("ERR a\r\nb");
        out.integer(i64::MIN);
        out.bulk(b"x");
        out.null();
        out.null_array();
        out.array(1);
        out.map(2);
        out.set(3);
        out.verbatim("hi");
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let head = "+OK\r\n-ERR a  b\r\n:-9223372036854775808\r\n$1\r\nx\r\n";
    assert_eq!(say(Proto::Two), format!("{head}$-1\r\n*-1\r\n*1\r\n*4\r\n*3\r\n$2\r\nhi\r\n"));
    assert_eq!(say(Proto::Three), format!("{head}_\r\n_\r\n*1\r\n%2\r\n~3\r\n=6\r\ntxt:hi\r\n"));
}

proptest! {
    #[test]
    fn any_arguments_survive_however_they_are_cut(
        args in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
        cut in any::<usize>(),
    ) {
        let mut bytes = BytesMut::new();
        let mut out = Out::new(&mut bytes, Proto::Two);
        out.array(args.len());
        args.iter().for_each(|arg| out.bulk(arg));
        let cut = cut % bytes.len();
        let mut parser = CommandParser::new(LIMITS);
        prop_assert_eq!(parser.next(&bytes[..cut]), (0, Parsed::More));
        prop_assert_eq!(parser.next(&bytes), (bytes.len(), Parsed::Command));
        let found: Vec<Vec<u8>> = parser.args(&bytes).from(0).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(found, args);
    }

    #[test]
    fn integers_are_told_as_rust_tells_them(value: i64) {
        let (mut room, expected) = ([0; 20], value.to_string());
        prop_assert_eq!(integer_text(value, &mut room), expected.as_bytes());
    }
}
