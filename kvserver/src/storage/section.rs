//! One slot's part of a checkpoint: its records as lines of one of the three maps, its log as lines of `logs.json`.
//!
//! ```json
//! {"slot":3,"records":{
//! "apple":"red",
//! "pear":{"b64":"/wA="},
//! "plum":{"value":"ripe","until":1795258800000}
//! },"binary_keys":{
//! "/v8=":"a value whose key is not UTF-8, so the key is base64"
//! }}
//! ```
//!
//! `until` is a record's deadline in milliseconds since the Unix epoch. It stands beside the value, so that damage which
//! takes one takes both: a key that was to go must not come back from a salvage to stay.
//!
//! Encoding happens under the slot's lock and is nothing but copying into two buffers; checksums and files come later.

use std::fmt;

use common::retry::RetryTable;
use common::{Entry, Lineage, LogId, NodeId, Slot, View, blob};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::codec::put_entry;
use super::image::SlotImage;
use super::json;
use super::map::{Held, Loose, SlotMap};

/// Which of the three maps a slot's records are written to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `coordinator.json`: slots this server coordinates.
    Coordinator,
    /// `replica1.json`: slots of which it is the first replica,
    Replica1,
    /// `replica2.json`: or the second one, or a further one for a while.
    Replica2,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::Coordinator, Role::Replica1, Role::Replica2];

    /// The role that `node` has, or is to have, in this view. Without any view it serves alone.
    #[must_use]
    pub fn of(view: Option<&View>, node: NodeId) -> Role {
        let Some(view) = view.filter(|view| view.coordinator != node) else { return Role::Coordinator };
        let mut replicas = view.targets.iter().filter(|target| **target != view.coordinator);
        if replicas.next() == Some(&node) { Role::Replica1 } else { Role::Replica2 }
    }

    /// The map's name, without ending.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Replica1 => "replica1",
            Role::Replica2 => "replica2",
        }
    }
}

/// What a slot consists of, borrowed from wherever it lives.
#[derive(Clone, Debug)]
pub struct SlotParts<'a> {
    /// The number of the last record that is contained.
    pub mark: u64,
    /// The latest adopted view.
    pub view: Option<&'a View>,
    /// See [`SlotImage::base`].
    pub base: Option<LogId>,
    /// The records at `base`.
    pub map: &'a SlotMap,
    /// The results at `base`.
    pub retries: &'a RetryTable,
    /// The epochs of the log up to the end of the tail.
    pub lineage: &'a Lineage,
    /// The log after `base`.
    pub tail: Vec<&'a Entry>,
}

impl SlotImage {
    /// The image's parts.
    #[must_use]
    pub fn parts(&self) -> SlotParts<'_> {
        SlotParts {
            mark: self.mark,
            view: self.view.as_ref(),
            base: self.base,
            map: &self.map,
            retries: &self.retries,
            lineage: &self.lineage,
            tail: self.tail.iter().collect(),
        }
    }
}

/// One slot, encoded. Reused from slot to slot.
#[derive(Clone, Debug, Default)]
pub struct SlotEncoder {
    pub(super) summary: Option<Summary>,
    pub(super) records: Vec<u8>,
    /// Empty if there is neither a tail nor any result.
    pub(super) log: Vec<u8>,
}

/// What the manifest says of a slot, beside where its pieces are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) slot: Slot,
    pub(super) file: Role,
    /// How many records the map has.
    pub(super) count: u64,
    pub(super) mark: u64,
    pub(super) base: Option<LogId>,
    pub(super) view: Option<View>,
    pub(super) lineage: Lineage,
}

impl SlotEncoder {
    /// Encodes one slot in place of the last one. Call it with the slot locked; nothing in here waits.
    pub fn encode(&mut self, slot: Slot, role: Role, parts: &SlotParts<'_>) {
        self.summary = Some(Summary {
            slot,
            file: role,
            count: parts.map.len() as u64,
            mark: parts.mark,
            base: parts.base,
            view: parts.view.cloned(),
            lineage: parts.lineage.clone(),
        });
        self.records.clear();
        self.records.reserve(usize::try_from(parts.map.bytes()).unwrap_or(0) + parts.map.len() * 8);
        put_records(&mut self.records, slot, parts.map);
        self.log.clear();
        if !parts.tail.is_empty() || !parts.retries.is_empty() {
            put_log(&mut self.log, slot, parts.retries, &parts.tail);
        }
    }
}

/// An encoder's memory above this is given back before the next slot.
const KEPT: usize = 256 << 10;

impl SlotEncoder {
    /// Forgets the last slot.
    pub(super) fn clear(&mut self) {
        self.summary = None;
        self.records.clear();
        self.records.shrink_to(KEPT);
        self.log.clear();
        self.log.shrink_to(KEPT);
    }

    /// Whether there is a slot, and anything ever happened to it.
    pub(super) fn is_worth_writing(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| summary.mark > 0)
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.records.len() + self.log.len()) as u64
    }
}

fn put_slot(out: &mut Vec<u8>, slot: Slot) {
    out.extend_from_slice(b"{\"slot\":");
    json::number(out, u64::from(slot.0));
}

fn put_records(out: &mut Vec<u8>, slot: Slot, map: &SlotMap) {
    put_slot(out, slot);
    out.extend_from_slice(b",\"records\":{");
    let mut binary = Vec::new();
    let mut separator = "\n";
    for (key, held) in map.all() {
        let Ok(text) = std::str::from_utf8(key) else {
            binary.push((blob::to_base64(key), held));
            continue;
        };
        put_line(out, &mut separator, text, held);
    }
    out.extend_from_slice(b"\n}");
    if !binary.is_empty() {
        out.extend_from_slice(b",\"binary_keys\":{");
        let mut separator = "\n";
        for (key, held) in binary {
            put_line(out, &mut separator, &key, held);
        }
        out.extend_from_slice(b"\n}");
    }
    out.push(b'}');
}

fn put_line(out: &mut Vec<u8>, separator: &mut &'static str, key: &str, held: Held<'_>) {
    out.extend_from_slice(separator.as_bytes());
    *separator = ",\n";
    json::string(out, key);
    out.push(b':');
    let Some(until) = held.until else { return json::bytes(out, held.value) };
    out.extend_from_slice(b"{\"value\":");
    json::bytes(out, held.value);
    out.extend_from_slice(b",\"until\":");
    json::number(out, until);
    out.push(b'}');
}

fn put_log(out: &mut Vec<u8>, slot: Slot, retries: &RetryTable, tail: &[&Entry]) {
    put_slot(out, slot);
    out.extend_from_slice(b",\"retries\":");
    json::value(out, retries);
    out.extend_from_slice(b",\"tail\":[");
    for (i, entry) in tail.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
        put_entry(out, entry);
    }
    out.extend_from_slice(b"\n]}");
}

/// A slot's log piece as it is read.
#[derive(Deserialize)]
pub(super) struct LogPiece {
    slot: Slot,
    pub(super) retries: RetryTable,
    pub(super) tail: Vec<Entry>,
}

impl LogPiece {
    /// Reads a slot's piece of `logs.json`.
    pub(super) fn read(slot: Slot, piece: &[u8]) -> Result<LogPiece, String> {
        let log: LogPiece = serde_json::from_slice(piece).map_err(|e| e.to_string())?;
        if log.slot != slot {
            return Err(format!("the log is slot {}'s", log.slot));
        }
        Ok(log)
    }
}

/// Reads a slot's piece of one of the three maps.
pub(super) fn read_records(slot: Slot, piece: &[u8]) -> Result<SlotMap, String> {
    let piece: RecordsPiece = serde_json::from_slice(piece).map_err(|e| e.to_string())?;
    if piece.slot != slot {
        return Err(format!("the records are slot {}'s", piece.slot));
    }
    let mut records = piece.records.0;
    for (key, value, until) in piece.binary_keys.0 {
        records.push((decode_key(&key)?, value, until));
    }
    Ok(records.into_iter().collect())
}

fn decode_key(text: &[u8]) -> Result<Box<[u8]>, String> {
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    blob::from_base64(text).map(Vec::into_boxed_slice).map_err(|e| format!("the key {text:?} is not base64: {e}"))
}

/// The slots' pieces in a map's file, found by how they begin: each with its slot and offset.
pub(super) fn salvage_pieces(file: &[u8]) -> Vec<(Slot, usize, &[u8])> {
    let mut begins = Vec::new();
    let mut at = 0;
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let slot = line.strip_prefix(b"{\"slot\":").and_then(|rest| rest.split(|byte| *byte == b',').next());
        let slot = slot.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        begins.extend(slot.map(|slot| (Slot(slot), at)));
        at += line.len();
    }
    let ends = begins.iter().skip(1).map(|(_, at)| *at).chain([file.len()]);
    begins.iter().zip(ends).map(|((slot, at), end)| (*slot, *at, &file[*at..end])).collect()
}

/// Whatever can still be read of a slot's damaged piece: the records, and how many lines are no records any more.
pub(super) fn salvage_records(piece: &[u8]) -> (SlotMap, u64) {
    let (mut records, mut lost, mut binary) = (Vec::new(), 0, false);
    for line in piece.split(|byte| *byte == b'\n') {
        if matches!(line.first(), Some(b'{' | b'}' | b']')) {
            binary = line.starts_with(b"},\"binary_keys\"");
            continue;
        }
        match salvage_line(line, binary) {
            Some(record) => records.push(record),
            None => lost += u64::from(!line.is_empty()),
        }
    }
    (records.into_iter().collect(), lost)
}

fn salvage_line(line: &[u8], binary: bool) -> Option<Loose> {
    let object = [b"{", line.strip_suffix(b",").unwrap_or(line), b"}"].concat();
    let (key, value, until) = serde_json::from_slice::<Records>(&object).ok()?.0.pop()?;
    let key = if binary { decode_key(&key).ok()? } else { key };
    Some((key, value, until))
}

#[derive(Deserialize)]
struct RecordsPiece {
    slot: Slot,
    records: Records,
    #[serde(default)]
    binary_keys: Records,
}

/// The records of a JSON object, in order, copied once: straight from the file's bytes to where they will stay.
#[derive(Default)]
struct Records(Vec<Loose>);

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Records, D::Error> {
        struct RecordsVisitor;
        impl<'de> Visitor<'de> for RecordsVisitor {
            type Value = Records;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of keys and values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Records, A::Error> {
                let mut records = Vec::new();
                while let Some((key, value)) = map.next_entry::<Text, Value>()? {
                    records.push((key.0, value.0, value.1));
                }
                Ok(Records(records))
            }
        }
        d.deserialize_map(RecordsVisitor)
    }
}

struct Text(Box<[u8]>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Text, D::Error> {
        d.deserialize_str(ValueVisitor).map(|value| Text(value.0))
    }
}

/// A value and its deadline.
struct Value(Box<[u8]>, Option<u64>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string, {"b64": "..."} or {"value": ..., "until": ...}"#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value(text.as_bytes().into(), None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let name = map.next_key::<Text>()?.ok_or_else(|| A::Error::missing_field("b64"))?;
        let value = match &*name.0 {
            b"b64" => Value(decode_key(&map.next_value::<Text>()?.0).map_err(A::Error::custom)?, None),
            b"value" => {
                let Value(bytes, None) = map.next_value()? else {
                    return Err(A::Error::custom("a value has one deadline at most"));
                };
                match map.next_entry::<Text, u64>()? {
                    Some((name, until)) if &*name.0 == b"until" => Value(bytes, Some(until)),
                    _ => return Err(A::Error::missing_field("until")),
                }
            }
            _ => {
                return Err(A::Error::custom(
                    "a value is written as {\"b64\": ...} or {\"value\": ..., \"until\": ...}",
                ));
            }
        };
        match map.next_key::<Text>()? {
            None => Ok(value),
            Some(_) => Err(A::Error::custom("there is more than belongs to a value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::some_bytes;
    use super::*;

    fn written(map: &SlotMap) -> Vec<u8> {
        let mut out = Vec::new();
        put_records(&mut out, Slot(3), map);
        out
    }

    #[test]
    fn records_read_like_this() {
        let mut map = SlotMap::default();
        map.put(b"apple", b"red");
        map.set(b"plum", b"ripe", Some(1_795_258_800_000));
        map.set(b"\xff", b"\x80", Some(7));
        let expected = concat!(
            "{\"slot\":3,\"records\":{\n\"apple\":\"red\",\n",
            "\"plum\":{\"value\":\"ripe\",\"until\":1795258800000}\n},\"binary_keys\":{\n",
            "\"/w==\":{\"value\":{\"b64\":\"gA==\"},\"until\":7}\n}}"
        );
        assert_eq!(String::from_utf8(written(&map)).unwrap(), expected);
    }

    #[test]
    fn half_a_deadline_is_none() {
        for value in [
            r#"{"value":"v"}"#,
            r#"{"until":7}"#,
            r#"{"value":"v","until":7,"more":1}"#,
            r#"{"value":"v","until":-7}"#,
            r#"{"value":{"value":"v","until":7},"until":7}"#,
            r#"{"b64":"gA==","until":7}"#,
            "7",
        ] {
            let piece = format!("{{\"slot\":3,\"records\":{{\n\"k\":{value}\n}}}}");
            assert!(read_records(Slot(3), piece.as_bytes()).is_err(), "{value}");
            assert_eq!(salvage_records(piece.as_bytes()), (SlotMap::default(), 1), "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_records_survive(records in proptest::collection::btree_map(some_bytes(), (some_bytes(), any::<Option<u64>>()), 0..8)) {
            let map: SlotMap = records.iter().map(|(k, (v, until))| (k[..].into(), v[..].into(), *until)).collect();
            let piece = written(&map);
            let read = read_records(Slot(3), &piece).unwrap();
            prop_assert!(read == map && read.root() == map.root());
            let (salvaged, lost) = salvage_records(&piece);
            prop_assert!(salvaged == map && lost == 0);
        }
    }
}
