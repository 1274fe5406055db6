//! Sealed lines: JSON lines that carry their own checksum, for everything that is written once and read after a crash.
//!
//! `{"crc":"89abcdef","e":<json>}` and a line feed. The checksum is CRC-32 over the bytes of `<json>`, so a line can be
//! checked without parsing it, read with `jq .e`, and made by hand if need be.

const HEAD: &[u8] = b"{\"crc\":\"";
const MIDDLE: &[u8] = b"\",\"e\":";
/// Bytes before the payload.
const PAYLOAD: usize = HEAD.len() + 8 + MIDDLE.len();

/// Appends one sealed line to `out`; `write` appends the JSON payload, which must not contain a line feed.
pub fn seal(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(HEAD);
    out.extend_from_slice(b"00000000");
    out.extend_from_slice(MIDDLE);
    let payload = out.len();
    write(out);
    debug_assert!(!out[payload..].contains(&b'\n'), "a sealed payload is one line");
    let crc = crc32fast::hash(&out[payload..]);
    let at = start + HEAD.len();
    for (i, digit) in out[at..at + 8].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(crc >> (28 - 4 * i)) as usize & 15];
    }
    out.extend_from_slice(b"}\n");
}

/// The payload of one line (with or without its line feed), if the line is whole and its checksum right.
#[must_use]
pub fn open(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let rest = line.strip_prefix(HEAD)?;
    let crc = u32::from_str_radix(std::str::from_utf8(rest.get(..8)?).ok()?, 16).ok()?;
    rest.get(8..)?.strip_prefix(MIDDLE)?;
    let payload = line.get(PAYLOAD..)?.strip_suffix(b"}")?;
    (crc32fast::hash(payload) == crc).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_line_opens_and_no_damaged_one_does() {
        let mut line = Vec::new();
        seal(&mut line, |out| out.extend_from_slice(br#"{"a":1}"#));
        assert_eq!(open(&line), Some(&br#"{"a":1}"#[..]));
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
        for at in 0..line.len() - 1 {
            assert_eq!(open(&line[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut bad = line.clone();
                bad[at] ^= 1 << bit;
                let opened = open(&bad);
                // Upper-case hex digits mean the same number; everything else must be caught.
                assert!(opened.is_none() || bad[at].eq_ignore_ascii_case(&line[at]), "bit {bit} at {at}");
            }
        }
    }
}
