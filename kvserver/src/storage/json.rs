//! The few JSON tokens that are written on hot paths, byte for byte as `serde_json` writes them.
//!
//! Everything that is written rarely goes through [`value`] instead.

use common::blob;
use memchr::memchr2_iter;
use serde::Serialize;

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an identity: 32 hexadecimal digits in quotes.
pub(super) fn identity(out: &mut Vec<u8>, id: u128) {
    out.push(b'"');
    out.extend((0..32).rev().map(|i| b"0123456789abcdef"[(id >> (4 * i)) as usize & 15]));
    out.push(b'"');
}

/// Appends a text.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    if bytes.iter().fold(false, |any, byte| any | (*byte < b' ')) {
        return value(out, text);
    }
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut copied = 0;
    for at in memchr2_iter(b'"', b'\\', bytes) {
        out.extend_from_slice(&bytes[copied..at]);
        out.push(b'\\');
        copied = at;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// Appends any bytes: text where they are UTF-8, `{"b64": "..."}` where they are not.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => string(out, text),
        Err(_) => {
            out.extend_from_slice(b"{\"b64\":\"");
            out.extend_from_slice(blob::to_base64(bytes).as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
}

/// Appends anything that serializes.
pub(super) fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(out, value);
    assert!(written.is_ok(), "durable shapes always serialize, and a Vec always takes them: {written:?}");
}

#[cfg(test)]
mod tests {
    use common::blob::Blob;
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_escaped_as_serde_json_does_it() {
        let texts =
            ["", "\"", "\\", "\\\"", "a\"", "\"a", "\"\"", "a\\b\"c", "\"\n", "\\\u{1}", "\u{7f}", "\u{2028}\"ä\\"];
        for text in texts.map(str::to_owned).into_iter().chain((0..3).map(|at| "\\".repeat(at) + &"x".repeat(64))) {
            assert_eq!(written(|out| string(out, &text)), serde_json::to_string(&text).unwrap());
        }
    }

    proptest! {
        #[test]
        fn tokens_are_what_serde_json_writes(n: u64, small in 0u64..200, id: u128, text in ".*", raw: Vec<u8>) {
            for n in [n, small] {
                prop_assert_eq!(written(|out| number(out, n)), serde_json::to_string(&n).unwrap());
            }
            prop_assert_eq!(written(|out| identity(out, id)), serde_json::to_string(&common::ClientId(id)).unwrap());
            prop_assert_eq!(written(|out| string(out, &text)), serde_json::to_string(&text).unwrap());
            for any in [raw, text.into_bytes()] {
                let blob = Blob(any.clone().into());
                prop_assert_eq!(written(|out| bytes(out, &any)), serde_json::to_string(&blob).unwrap());
            }
        }
    }
}
