//! How requests of each system are written, and where its replies end and whether they are the right ones.
//!
//! Pure. Replies are checked by their shape and length, not compared byte by byte with the value: that would cost the load
//! generator more than it costs the servers to answer. What is compared whole is what an echo brings back.

use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// How requests are written and replies are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Annulus's text dialect.
    Text,
    /// Redis; a durable put is a SET and a WAIT for two replicas.
    Redis {
        /// Whether to wait for the replicas. Annulus needs no WAIT: its SET is on three disks when it is answered.
        wait: bool,
    },
    /// etcd's v2 API over HTTP/1.1.
    EtcdV2,
    /// etcd's v3 API: its JSON gateway over HTTP/1.1.
    EtcdV3,
    /// Nothing but bytes that come back: a line as long as a GET's reply.
    Echo,
}

/// Appends one request; with a value a put, else a get.
pub(crate) fn write_request(protocol: Protocol, key: &str, put: Option<&str>, out: &mut Vec<u8>) {
    match (protocol, put) {
        (Protocol::Text, None) => extend(out, &["get ", key, "\r\n"]),
        (Protocol::Text, Some(value)) => extend(out, &["put ", key, " ", value, "\r\n"]),
        (Protocol::Redis { .. }, None) => extend(out, &["*2\r\n$3\r\nGET\r\n", &bulk(key), key, "\r\n"]),
        (Protocol::Redis { wait }, Some(value)) => {
            extend(out, &["*3\r\n$3\r\nSET\r\n", &bulk(key), key, "\r\n", &bulk(value), value, "\r\n"]);
            if wait {
                extend(out, &["*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n"]);
            }
        }
        (Protocol::EtcdV2, None) => extend(out, &["GET /v2/keys/", key, "?quorum=true HTTP/1.1\r\nHost: etcd\r\n\r\n"]),
        (Protocol::EtcdV2, Some(value)) => {
            let head = "HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ";
            let length = (value.len() + 6).to_string();
            extend(out, &["PUT /v2/keys/", key, " ", head, &length, "\r\n\r\nvalue=", value]);
        }
        (Protocol::EtcdV3, None) => post(out, "/v3/kv/range", &format!(r#"{{"key":"{}"}}"#, BASE64.encode(key))),
        (Protocol::EtcdV3, Some(value)) => {
            let body = format!(r#"{{"key":"{}","value":"{}"}}"#, BASE64.encode(key), BASE64.encode(value));
            post(out, "/v3/kv/put", &body);
        }
        (Protocol::Echo, _) => {
            let rest = GET_REPLY - key.len() - 2;
            extend(out, &[key, &"e".repeat(rest), "\r\n"]);
        }
    }
}

/// As long as the text dialect's reply to a get of a 16 B key with a 100 B value.
const GET_REPLY: usize = "GET_SUCCESS ".len() + 16 + 1 + 100 + 2;

fn extend(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

fn bulk(text: &str) -> String {
    format!("${}\r\n", text.len())
}

fn post(out: &mut Vec<u8>, path: &str, body: &str) {
    let length = body.len().to_string();
    extend(out, &["POST ", path, " HTTP/1.1\r\nHost: etcd\r\nContent-Length: ", &length, "\r\n\r\n", body]);
}

/// The length of the reply that `bytes` begin with, once it is whole. `hint`: the length of the last one.
pub(crate) fn reply_length(protocol: Protocol, put: bool, hint: usize, bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let length = match protocol {
        Protocol::EtcdV2 | Protocol::EtcdV3 => http_length(bytes),
        Protocol::Text | Protocol::Echo => line_length(bytes, hint),
        Protocol::Redis { wait } if put => lines_length(bytes, 1 + usize::from(wait)),
        Protocol::Redis { .. } => bulk_length(bytes),
    };
    let Some(length) = length else { return Ok(None) };
    let reply = bytes.get(..length).unwrap_or(bytes);
    let good = match (protocol, put) {
        (Protocol::Text, false) => reply.starts_with(b"GET_SUCCESS "),
        (Protocol::Text, true) => reply.starts_with(b"PUT_UPDATE ") || reply.starts_with(b"PUT_SUCCESS "),
        (Protocol::Redis { .. }, false) => reply.starts_with(b"$") && !reply.starts_with(b"$-"),
        (Protocol::Redis { wait: false }, true) => reply == b"+OK\r\n",
        (Protocol::Redis { wait: true }, true) => reply == b"+OK\r\n:2\r\n",
        (Protocol::EtcdV2, _) => reply.starts_with(b"HTTP/1.1 20"),
        // A range without a hit is a 200, too; only one with a hit has a count.
        (Protocol::EtcdV3, put) => reply.starts_with(b"HTTP/1.1 200") && (put || holds(reply, b"\"count\":\"1\"")),
        (Protocol::Echo, _) => reply.len() == GET_REPLY && reply[16..GET_REPLY - 2].iter().all(|byte| *byte == b'e'),
    };
    if !good {
        bail!("not the expected reply: {:.300}", String::from_utf8_lossy(reply));
    }
    Ok(Some(length))
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The length of a line. The hint saves looking at every byte of replies that are all alike.
fn line_length(bytes: &[u8], hint: usize) -> Option<usize> {
    if hint > 0 && bytes.len() >= hint && bytes[hint - 1] == b'\n' {
        return Some(hint);
    }
    lines_length(bytes, 1)
}

fn lines_length(bytes: &[u8], lines: usize) -> Option<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1)
}

/// `$LENGTH`, that many bytes and an end of line; anything else is as long as its line, and found wrong afterwards.
fn bulk_length(bytes: &[u8]) -> Option<usize> {
    let head = lines_length(bytes, 1)?;
    let text = std::str::from_utf8(&bytes[..head - 1]).ok()?.trim_end();
    match text.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()) {
        Some(length) => (bytes.len() >= head + length + 2).then_some(head + length + 2),
        None => Some(head),
    }
}

fn http_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>().ok()?;
    (bytes.len() >= head + length).then_some(head + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_where_they_end_and_checked() {
        let text = b"PUT_UPDATE k v\r\nPUT_UP";
        assert_eq!(reply_length(Protocol::Text, true, 0, text).unwrap(), Some(16));
        assert_eq!(reply_length(Protocol::Text, true, 16, &text[16..]).unwrap(), None);
        assert!(reply_length(Protocol::Text, true, 0, b"SERVER_STOPPED\r\n").is_err());
        let redis = Protocol::Redis { wait: true };
        assert_eq!(reply_length(redis, true, 0, b"+OK\r\n:2\r\n+OK").unwrap(), Some(9));
        assert!(reply_length(redis, true, 0, b"+OK\r\n:1\r\n").is_err(), "one replica is not two");
        let http = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP";
        assert_eq!(reply_length(Protocol::EtcdV2, true, 0, http).unwrap(), Some(http.len() - 4));
        assert!(reply_length(Protocol::EtcdV2, true, 0, b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(reply_length(Protocol::EtcdV3, false, 0, http).is_err(), "a range without a hit is no get");
    }

    #[test]
    fn values_of_redis_are_taken_by_their_length() {
        let redis = Protocol::Redis { wait: false };
        assert_eq!(reply_length(redis, false, 0, b"$2\r\nhi\r\n$2").unwrap(), Some(8));
        assert_eq!(
            reply_length(redis, false, 0, b"$4\r\na\r\nb\r\n").unwrap(),
            Some(10),
            "a value may hold an end of line"
        );
        assert_eq!(reply_length(redis, false, 0, b"$4\r\na\r\nb\r").unwrap(), None);
        assert!(reply_length(redis, false, 0, b"$-1\r\n").is_err(), "a key that is not there is no hit");
        assert!(reply_length(redis, false, 0, b"-ERR no\r\n").is_err());
    }

    #[test]
    fn an_echo_is_compared() {
        let (mut line, key) = (Vec::new(), "key:000000000001");
        write_request(Protocol::Echo, key, None, &mut line);
        assert_eq!(line.len(), GET_REPLY);
        assert_eq!(reply_length(Protocol::Echo, false, 0, &line).unwrap(), Some(GET_REPLY));
        line[40] = b'x';
        assert!(reply_length(Protocol::Echo, false, 0, &line).is_err());
    }

    #[test]
    fn a_wrong_hint_does_no_harm() {
        assert_eq!(line_length(b"PUT_UPDATE k v\r\n", 5), Some(16));
    }

    #[test]
    fn requests_of_etcd_have_the_length_that_they_say() {
        let mut bytes = Vec::new();
        write_request(Protocol::EtcdV3, "key", Some("value"), &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{text}");
        assert_eq!(body, r#"{"key":"a2V5","value":"dmFsdWU="}"#);
    }
}
