//! Bytes inside JSON: text where they are UTF-8, `{"b64": "..."}` where they are not. In binary formats: plain bytes.
//!
//! Use as `#[serde(with = "common::blob")]` on a `Bytes` field, or [`Blob`] where a type is needed.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes `bytes`; see the module.
///
/// # Errors
/// Only what the serializer reports.
pub fn serialize<S: Serializer>(bytes: &Bytes, s: S) -> Result<S::Ok, S::Error> {
    if !s.is_human_readable() {
        return s.serialize_bytes(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => s.serialize_str(text),
        Err(_) => {
            let mut map = s.serialize_map(Some(1))?;
            map.serialize_entry("b64", &STANDARD.encode(bytes))?;
            map.end()
        }
    }
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// A shape other than a string or `{"b64": ...}`, or text that is not base64.
pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
    if d.is_human_readable() { d.deserialize_any(BlobVisitor) } else { Bytes::deserialize(d) }
}

/// The text inside `{"b64": "..."}`.
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes that [`to_base64`] was given.
///
/// # Errors
/// Text that is not base64.
pub fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text)
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string or {"b64": "..."}"#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Bytes, E> {
        Ok(Bytes::from(text.into_bytes()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bytes, A::Error> {
        let Some((name, text)) = map.next_entry::<Cow<'de, str>, Cow<'de, str>>()? else {
            return Err(A::Error::missing_field("b64"));
        };
        if name != "b64" {
            return Err(A::Error::unknown_field(&name, &["b64"]));
        }
        if map.next_key::<Cow<'de, str>>()?.is_some() {
            return Err(A::Error::custom("more than one field beside b64"));
        }
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(A::Error::custom)
    }
}

/// A value of its own, for lists and map entries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(pub Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        deserialize(d).map(Blob)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive_json_and_binary(bytes: Vec<u8>) {
            let blob = Blob(Bytes::from(bytes));
            let json = serde_json::to_string(&blob).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Blob>(&json).unwrap(), &blob);
            let frame = postcard::to_stdvec(&blob).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Blob>(&frame).unwrap(), &blob);
        }
    }

    #[test]
    fn text_stays_readable_and_the_rest_is_base64() {
        assert_eq!(serde_json::to_string(&Blob(Bytes::from_static(b"caf\xc3\xa9"))).unwrap(), "\"café\"");
        assert_eq!(serde_json::to_string(&Blob(Bytes::from_static(b"\xff\x00"))).unwrap(), r#"{"b64":"/wA="}"#);
    }
}
