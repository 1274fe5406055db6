//! Reads the usual journal line, an appended put, by hand: a start after a crash reads hundreds of thousands of them.
//!
//! Accepts only lines that are exactly as [`super::codec`] writes them and need no unescaping. Everything else, and
//! everything doubtful, is left to the general reader: a None says nothing about the line.

use bytes::Bytes;
use common::{ClientId, Entry, Epoch, LogId, Op, Outcome, RequestId, Seq, Slot};

use super::record::{Change, Record};

/// The record, if the line is of the usual kind.
pub(super) fn append_of_put(payload: &[u8]) -> Option<Record> {
    let mut scan = Scan(payload);
    scan.token(b"{\"slot\":")?;
    let slot = Slot(scan.number()?.try_into().ok()?);
    scan.token(b",\"mark\":")?;
    let mark = scan.number()?;
    scan.token(b",\"append\":{\"id\":{\"epoch\":")?;
    let epoch = Epoch(scan.number()?);
    scan.token(b",\"seq\":")?;
    let id = LogId { epoch, seq: Seq(scan.number()?) };
    scan.token(b"},\"op\":{\"put\":{\"key\":")?;
    let key = scan.text()?;
    scan.token(b",\"value\":")?;
    let value = scan.text()?;
    scan.token(b"}},\"outcome\":")?;
    let outcome = scan.outcome()?;
    scan.token(b",\"request\":")?;
    let request = scan.request()?;
    scan.token(b"}}")?;
    let op = Op::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) };
    scan.0.is_empty().then_some(Record { slot, mark, change: Change::Append(Entry { id, op, outcome, request }) })
}

/// What is left of the line.
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    fn token(&mut self, token: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    fn number(&mut self) -> Option<u64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(digits)?;
        if digits.first() == Some(&b'0') && digits.len() > 1 {
            return None;
        }
        self.0 = rest;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// A text without escapes.
    fn text(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(b"\"")?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        let (text, rest) = rest.split_at_checked(end)?;
        self.0 = rest.strip_prefix(b"\"")?;
        let plain = !text.iter().fold(false, |any, byte| any | (*byte < 0x20));
        (plain && std::str::from_utf8(text).is_ok()).then_some(text)
    }

    fn outcome(&mut self) -> Option<Outcome> {
        match self.text()? {
            b"created" => Some(Outcome::Created),
            b"updated" => Some(Outcome::Updated),
            _ => None,
        }
    }

    fn request(&mut self) -> Option<Option<RequestId>> {
        if self.token(b"null").is_some() {
            return Some(None);
        }
        self.token(b"{\"client\":")?;
        let client = self.text()?;
        let plain = client.len() == 32 && client.iter().all(u8::is_ascii_hexdigit);
        let client = ClientId(u128::from_str_radix(std::str::from_utf8(client).ok().filter(|_| plain)?, 16).ok()?);
        self.token(b",\"seq\":")?;
        let seq = self.number()?;
        self.token(b",\"lowest_unacked\":")?;
        let lowest_unacked = self.number()?;
        self.token(b"}")?;
        Some(Some(RequestId { client, seq, lowest_unacked }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::{record, request, some_bytes};
    use super::super::json;
    use super::*;

    proptest! {
        /// What it reads, the general reader reads too, and alike; damaged in any way as well.
        #[test]
        fn it_agrees_with_the_general_reader(record in record(), at: usize, byte: u8, cut: bool) {
            let mut payload = Vec::new();
            json::value(&mut payload, &record);
            if let Some(found) = append_of_put(&payload) {
                prop_assert_eq!(found, record);
            }
            let at = at % payload.len();
            payload[at] = byte;
            payload.truncate(if cut { at } else { payload.len() });
            if let Some(found) = append_of_put(&payload) {
                prop_assert_eq!(found, serde_json::from_slice(&payload).unwrap());
            }
        }

        #[test]
        fn it_reads_every_plain_put(
            slot: u16, mark: u64, epoch: u64, seq: u64,
            key in "[a-zäöü ]{0,9}", value in "[^\"\\\\\\p{Cc}]{0,9}", request in proptest::option::of(request()),
        ) {
            let op = Op::Put { key: key.into(), value: value.into() };
            let id = LogId { epoch: Epoch(epoch), seq: Seq(seq) };
            let change = Change::Append(Entry { id, op, outcome: Outcome::Updated, request });
            let record = Record { slot: Slot(slot), mark, change };
            let mut payload = Vec::new();
            json::value(&mut payload, &record);
            prop_assert_eq!(append_of_put(&payload), Some(record));
        }

        #[test]
        fn it_survives_anything(bytes in some_bytes()) {
            prop_assert_eq!(append_of_put(&bytes), None);
        }
    }
}
