//! Journal lines: records sealed with their checksum, as JSON that a person can read.
//!
//! A segment begins with a head line that names it and says how long the one before it is, so that a segment that was
//! cut short by other hands is noticed. A group of records that was written at once ends with a line that says where it
//! began: everything before was synced by then, which tells a write that power loss left half done from damage. Every
//! other line is a [`Record`]. Puts and deletes are written by hand, byte for
//! byte as the serializer would: they are nearly all of the lines, and the writer holds a slot's lock. Puts are read by
//! hand too.

use common::{Entry, Op, Outcome, RequestId, sealed};
use serde::{Deserialize, Serialize};

use super::json;
use super::record::{Change, Record};
use super::scan;

/// The first line of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentHead {
    /// Which segment this is.
    pub segment: u64,
    /// The length in bytes of the segment before it, which was complete before this one was begun.
    pub after: u64,
}

/// Appends a record's line.
pub fn put_record(out: &mut Vec<u8>, record: &Record) {
    sealed::seal(out, |out| match &record.change {
        Change::Append(entry) => put_append(out, record, entry),
        _ => json::value(out, record),
    });
}

/// Appends the line that begins a segment.
pub fn put_head(out: &mut Vec<u8>, head: &SegmentHead) {
    sealed::seal(out, |out| json::value(out, head));
}

/// What a line is that does not begin a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A change of a slot.
    Record(Record),
    /// Everything before this offset of the segment was synced before this line was written.
    Synced(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Synced {
    synced: u64,
}

/// Appends the line that ends a group which begins at this offset.
pub fn put_synced(out: &mut Vec<u8>, offset: u64) {
    sealed::seal(out, |out| json::value(out, &Synced { synced: offset }));
}

/// Reads any line but a segment's first one.
///
/// # Errors
/// A sentence saying what is wrong with the line.
pub fn take_line(line: &[u8]) -> Result<Line, String> {
    match sealed::open(line).map(serde_json::from_slice) {
        Some(Ok(Synced { synced })) => Ok(Line::Synced(synced)),
        _ => take_record(line).map(Line::Record),
    }
}

/// Reads a record's line, with or without its line feed.
///
/// # Errors
/// A sentence saying what is wrong with the line.
pub fn take_record(line: &[u8]) -> Result<Record, String> {
    let payload = sealed::open(line).ok_or("the line's checksum is wrong")?;
    if let Some(record) = scan::append_of_put(payload) {
        return Ok(record);
    }
    serde_json::from_slice(payload).map_err(|e| format!("the line is whole but is no journal record: {e}"))
}

/// Reads the line that begins a segment.
///
/// # Errors
/// A sentence saying what is wrong with the line.
pub fn take_head(line: &[u8]) -> Result<SegmentHead, String> {
    let payload = sealed::open(line).ok_or("the line's checksum is wrong")?;
    serde_json::from_slice(payload).map_err(|e| format!("the line is whole but does not begin a segment: {e}"))
}

fn put_append(out: &mut Vec<u8>, record: &Record, entry: &Entry) {
    out.extend_from_slice(b"{\"slot\":");
    json::number(out, u64::from(record.slot.0));
    out.extend_from_slice(b",\"mark\":");
    json::number(out, record.mark);
    out.extend_from_slice(b",\"append\":");
    put_entry(out, entry);
    out.push(b'}');
}

/// Appends an entry as JSON.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(b"{\"id\":{\"epoch\":");
    json::number(out, entry.id.epoch.0);
    out.extend_from_slice(b",\"seq\":");
    json::number(out, entry.id.seq.0);
    out.extend_from_slice(b"},\"op\":");
    put_op(out, &entry.op);
    out.extend_from_slice(b",\"outcome\":");
    put_outcome(out, entry.outcome);
    out.extend_from_slice(b",\"request\":");
    match &entry.request {
        Some(request) => put_request(out, request),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
}

fn put_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Put { key, value } => {
            out.extend_from_slice(b"{\"put\":{\"key\":");
            json::bytes(out, key);
            out.extend_from_slice(b",\"value\":");
            json::bytes(out, value);
            out.extend_from_slice(b"}}");
        }
        Op::Delete { key } => {
            out.extend_from_slice(b"{\"delete\":{\"key\":");
            json::bytes(out, key);
            out.extend_from_slice(b"}}");
        }
        Op::Swap { .. } | Op::Update { .. } => json::value(out, op),
        Op::Noop => out.extend_from_slice(b"\"noop\""),
    }
}

fn put_outcome(out: &mut Vec<u8>, outcome: Outcome) {
    let word: &[u8] = match outcome {
        Outcome::Created => b"\"created\"",
        Outcome::Updated => b"\"updated\"",
        Outcome::Deleted => b"\"deleted\"",
        Outcome::Missing => b"\"missing\"",
        Outcome::Came(_) => return json::value(out, &outcome),
    };
    out.extend_from_slice(word);
}

fn put_request(out: &mut Vec<u8>, request: &RequestId) {
    out.extend_from_slice(b"{\"client\":");
    json::identity(out, request.client.0);
    out.extend_from_slice(b",\"seq\":");
    json::number(out, request.seq);
    out.extend_from_slice(b",\"lowest_unacked\":");
    json::number(out, request.lowest_unacked);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::record;
    use super::*;

    proptest! {
        #[test]
        fn a_record_survives_its_line_and_the_line_is_what_serde_writes(record in record()) {
            let mut line = Vec::new();
            put_record(&mut line, &record);
            prop_assert_eq!(&take_record(&line).unwrap(), &record);
            let mut generic = Vec::new();
            sealed::seal(&mut generic, |out| json::value(out, &record));
            prop_assert_eq!(String::from_utf8(line).unwrap(), String::from_utf8(generic).unwrap());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert!(take_record(&bytes).is_err());
            let mut line = Vec::new();
            sealed::seal(&mut line, |out| out.extend(bytes.iter().filter(|b| **b != b'\n')));
            prop_assert!(take_record(&line).is_err());
        }
    }

    #[test]
    fn a_put_reads_like_this() {
        let op = Op::Put { key: "pear".into(), value: "gr\u{fc}n \"und\" reif".into() };
        let id = common::LogId { epoch: common::Epoch(7), seq: common::Seq(9) };
        let entry = Entry { id, op, outcome: Outcome::Created, request: None };
        let mut line = Vec::new();
        put_record(&mut line, &Record { slot: common::Slot(3), mark: 12, change: Change::Append(entry) });
        let line = String::from_utf8(line).unwrap();
        let expected = concat!(
            r#","e":{"slot":3,"mark":12,"append":{"id":{"epoch":7,"seq":9},"#,
            r#""op":{"put":{"key":"pear","value":"grün \"und\" reif"}},"outcome":"created","request":null}}}"#,
            "\n"
        );
        assert!(line.ends_with(expected), "{line}");
    }

    #[test]
    fn what_has_a_deadline_reads_like_this() {
        let becomes = common::update::Becomes::Value { value: "green".into(), until: Some(1_795_258_800_000) };
        let op = Op::Update { key: "pear".into(), becomes, told: None };
        let id = common::LogId { epoch: common::Epoch(7), seq: common::Seq(9) };
        let mut line = Vec::new();
        put_entry(&mut line, &Entry { id, op, outcome: Outcome::Updated, request: None });
        let expected = concat!(
            r#"{"id":{"epoch":7,"seq":9},"op":{"update":{"key":"pear","#,
            r#""becomes":{"value":{"value":"green","until":1795258800000}},"told":null}},"outcome":"updated","request":null}"#,
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    /// Lines that versions before deadlines have written.
    #[test]
    fn older_lines_are_read() {
        let read = |text: &str| {
            let mut line = Vec::new();
            sealed::seal(&mut line, |out| out.extend_from_slice(text.as_bytes()));
            take_record(&line).unwrap().change
        };
        let leaves = r#"[{"leaf":7,"clear":true,"records":[["k","v"]]}]"#;
        let Change::Fill { leaves } = read(&format!(r#"{{"slot":3,"mark":12,"fill":{{"leaves":{leaves}}}}}"#)) else {
            panic!("a fill")
        };
        assert_eq!((leaves[0].records.len(), leaves[0].dated.len()), (1, 0));
        let retries = r#"{"horizon":null,"clients":{}}"#;
        let end = r#""entries":[],"at":{"epoch":1,"seq":2},"lineage":[]"#;
        let line = format!(r#"{{"slot":3,"mark":12,"walk_end":{{{end},"retries":{retries}}}}}"#);
        assert!(matches!(read(&line), Change::WalkEnd { .. }));
    }

    #[test]
    fn a_head_survives_its_line() {
        let head = SegmentHead { segment: 4, after: 1234 };
        let mut line = Vec::new();
        put_head(&mut line, &head);
        assert_eq!(take_head(&line), Ok(head));
        assert!(take_record(&line).is_err());
    }
}
