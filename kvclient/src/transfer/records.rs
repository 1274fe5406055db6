//! One record a line: JSON or TSV. Pure, and exact: every key and value survives the way out and back in.

use std::borrow::Cow;

use bytes::Bytes;
use common::blob::Blob;
use serde::{Deserialize, Serialize};

use crate::cli::args::Format;

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The key.
    pub key: Blob,
    /// The value.
    pub value: Blob,
}

/// How lines are read and written.
#[derive(Clone, Copy, Debug)]
pub struct Syntax {
    /// The format.
    pub format: Format,
    /// TSV without escapes.
    pub raw: bool,
}

impl Syntax {
    /// Reads a line, its end not included. None: the line is empty.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(self, line: &[u8]) -> Result<Option<Record>, String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || (self.format == Format::Json && line.trim_ascii().is_empty()) {
            return Ok(None);
        }
        let record = match self.format {
            Format::Json => serde_json::from_slice(line).map_err(|error| {
                // The position is within the line; "line 1" would only confuse.
                let text = error.to_string();
                let what = text.split(" at line ").next().unwrap_or(&text).to_owned();
                format!(r#"not a record: {what} (column {}); expected {{"key": ..., "value": ...}}"#, error.column())
            })?,
            Format::Tsv => self.read_tsv(line)?,
        };
        if record.key.0.is_empty() { Err("the key is empty".to_owned()) } else { Ok(Some(record)) }
    }

    fn read_tsv(self, line: &[u8]) -> Result<Record, String> {
        let tab = line.iter().position(|byte| *byte == b'\t').ok_or("no TAB between key and value")?;
        let part = |bytes: &[u8]| -> Result<Blob, String> {
            if self.raw {
                return Ok(Blob(Bytes::copy_from_slice(bytes)));
            }
            unescape(bytes).map(|bytes| Blob(Bytes::copy_from_slice(&bytes)))
        };
        Ok(Record { key: part(&line[..tab])?, value: part(&line[tab + 1..])? })
    }

    /// Appends a line, its end included.
    ///
    /// # Errors
    /// Only what serialization reports.
    pub fn write(self, out: &mut Vec<u8>, record: &Record) -> serde_json::Result<()> {
        match self.format {
            Format::Json => serde_json::to_writer(&mut *out, record)?,
            Format::Tsv => {
                escape(out, &record.key.0);
                out.push(b'\t');
                escape(out, &record.value.0);
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

/// Backslash, TAB, LF, CR and what is not UTF-8 are escaped; everything else stays readable.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

fn unescape(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if !bytes.contains(&b'\\') {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut found = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            found.push(byte);
            continue;
        }
        let (byte, length) = match tail {
            [b'\\', ..] => (b'\\', 1),
            [b't', ..] => (b'\t', 1),
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b'x', high, low, ..] => (hex(*high, *low).ok_or_else(bad_escape)?, 3),
            _ => return Err(bad_escape()),
        };
        found.push(byte);
        rest = &tail[length..];
    }
    Ok(Cow::Owned(found))
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn bad_escape() -> String {
    r"a backslash that begins none of \\ \t \n \r \xHH; with --raw bytes are taken as they are".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JSON: Syntax = Syntax { format: Format::Json, raw: false };
    const TSV: Syntax = Syntax { format: Format::Tsv, raw: false };
    const RAW: Syntax = Syntax { format: Format::Tsv, raw: true };

    fn record(key: &[u8], value: &[u8]) -> Record {
        Record { key: Blob(Bytes::copy_from_slice(key)), value: Blob(Bytes::copy_from_slice(value)) }
    }

    #[test]
    fn lines_of_both_formats() {
        assert_eq!(JSON.read(br#"{"key":"k","value":{"b64":"/w=="}}"#), Ok(Some(record(b"k", b"\xff"))));
        assert_eq!(TSV.read(b"k\tv\tw\r"), Ok(Some(record(b"k", b"v\tw"))));
        assert_eq!(TSV.read(br"a\tb	c\n\x00\\"), Ok(Some(record(b"a\tb", b"c\n\x00\\"))));
        assert_eq!(RAW.read(br"k	C:\new"), Ok(Some(record(b"k", br"C:\new"))));
        assert_eq!(TSV.read(b""), Ok(None));
        assert_eq!(JSON.read(b"  "), Ok(None));
        assert_eq!(TSV.read(b"k\t"), Ok(Some(record(b"k", b""))));
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (syntax, line, expected) in [
            (JSON, &b"hello"[..], "not a record: expected value (column 1)"),
            (JSON, br#"{"key":"k"}"#, "missing field `value`"),
            (JSON, br#"{"key":"","value":""}"#, "the key is empty"),
            (TSV, b"no tab", "no TAB"),
            (TSV, br"k	C:\users", "--raw"),
            (TSV, br"k	\xzz", "--raw"),
            (TSV, br"k	\", "--raw"),
            (TSV, b"\tv", "the key is empty"),
        ] {
            let error = syntax.read(line).unwrap_err();
            assert!(error.contains(expected), "{error} for {}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_record_survives(key in proptest::collection::vec(any::<u8>(), 1..20), value: Vec<u8>) {
            let record = record(&key, &value);
            for syntax in [JSON, TSV] {
                let mut line = Vec::new();
                syntax.write(&mut line, &record).unwrap();
                prop_assert_eq!(line.pop(), Some(b'\n'));
                prop_assert!(!line.contains(&b'\n'));
                prop_assert_eq!(syntax.read(&line), Ok(Some(record.clone())));
            }
        }
    }
}
