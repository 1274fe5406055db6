//! A page of a slot's records, as `scan` brings it: how a client walks through everything.
//!
//! `<the slot's last position> more|done`, LF, then each record as `<key bytes> <value bytes>`, LF, key, value, LF. Whoever
//! has a slot's last page goes on at the position after its last.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use super::request::{number, split};
use crate::position::Position;

/// A page ends after so many bytes, or after one record if that is larger: it is copied under the slot's lock.
const PAGE: usize = 256 * 1024;
/// The length of the first line: it is written last.
const HEAD: usize = 32 + 1 + 4 + 1;

/// What a page says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The last position of the slot.
    pub last: Position,
    /// Whether the slot has more records after these.
    pub more: bool,
    /// Keys and values, in the order of [`place`](crate::forward::place)s, roughly.
    pub records: Vec<(Bytes, Bytes)>,
}

/// As many records as fit. `last` is the last position of their slot.
#[must_use]
pub fn encode_page<'a>(last: Position, records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Bytes {
    let mut records = records.into_iter();
    let mut out = BytesMut::zeroed(HEAD);
    while out.len() < PAGE {
        let Some((key, value)) = records.next() else { break };
        // Writing to a growing buffer cannot fail.
        let _ = writeln!(out, "{} {}", key.len(), value.len());
        for part in [key, value, b"\n"] {
            out.extend_from_slice(part);
        }
    }
    let state = if out.len() >= PAGE && records.next().is_some() { "more" } else { "done" };
    out[..HEAD].copy_from_slice(format!("{last} {state}\n").as_bytes());
    out.freeze()
}

/// Reads a page. None: it is none.
#[must_use]
pub fn decode_page(page: &[u8]) -> Option<Page> {
    let (head, mut rest) = line(page)?;
    let (last, state) = split(head);
    let last = u128::from_str_radix(std::str::from_utf8(last).ok()?, 16).ok().map(Position)?;
    let more = match state? {
        b"more" => true,
        b"done" => false,
        _ => return None,
    };
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (lengths, body) = line(rest)?;
        let (key, value) = split(lengths);
        let (key, value) = (usize::try_from(number(key)?).ok()?, usize::try_from(number(value?)?).ok()?);
        let end = key.checked_add(value)?;
        if *body.get(end)? != b'\n' {
            return None;
        }
        records.push((Bytes::copy_from_slice(&body[..key]), Bytes::copy_from_slice(&body[key..end])));
        rest = &body[end + 1..];
    }
    Some(Page { last, more, records })
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_records_survive(records: Vec<(Vec<u8>, Vec<u8>)>, last: u128) {
            let page = encode_page(Position(last), records.iter().map(|(key, value)| (&key[..], &value[..])));
            let found = decode_page(&page).unwrap();
            prop_assert_eq!((found.last, found.more), (Position(last), false));
            let expected: Vec<(Bytes, Bytes)> =
                records.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect();
            prop_assert_eq!(found.records, expected);
        }

        #[test]
        fn nonsense_is_no_page(bytes: Vec<u8>) {
            prop_assert_eq!(decode_page(&bytes), None);
        }

        #[test]
        fn a_page_cut_short_within_a_record_is_no_page(cut in 0..200usize) {
            let page = encode_page(Position(7), (0..20).map(|_| (&b"key"[..], &b"value"[..])));
            let whole_records = cut >= HEAD && (cut - HEAD).is_multiple_of(13);
            prop_assert_eq!(decode_page(&page[..cut]).is_some(), whole_records);
        }
    }

    #[test]
    fn a_page_is_bounded_and_says_that_there_is_more() {
        let value = vec![b'v'; PAGE / 3];
        let records = [(&b"a"[..], &value[..]), (b"b", &value), (b"c", &value), (b"d", &value)];
        let page = decode_page(&encode_page(Position(1), records)).unwrap();
        assert_eq!((page.records.len(), page.more), (3, true));
        let page = decode_page(&encode_page(Position(1), records[..3].to_vec())).unwrap();
        assert_eq!((page.records.len(), page.more), (3, false));
    }
}
