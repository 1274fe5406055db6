//! An inline command: words with blanks between them, quoted as in a shell, by Redis's rules.

use super::parse::Span;

/// Splits a line into words, whose bytes go to `bytes`. False: a quote is not closed, or something follows one at once.
pub(super) fn split(line: &[u8], bytes: &mut Vec<u8>, spans: &mut Vec<Span>) -> bool {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return true;
        }
        let from = bytes.len();
        let Some(behind) = word(rest, bytes) else { return false };
        rest = behind;
        // A line has at most 64 KiB.
        spans.push((u32::try_from(from).unwrap_or(u32::MAX), u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    }
}

/// Takes the first word off.
fn word<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return Some(rest),
            [blank, ..] if blank.is_ascii_whitespace() || *blank == 0 => return Some(&rest[1..]),
            [quote @ (b'"' | b'\''), behind @ ..] => {
                let behind = if *quote == b'"' { double(behind, bytes)? } else { single(behind, bytes)? };
                return match behind.first() {
                    Some(next) if !next.is_ascii_whitespace() => None,
                    _ => Some(behind),
                };
            }
            [byte, behind @ ..] => {
                bytes.push(*byte);
                rest = behind;
            }
        }
    }
}

fn double<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'x', high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(digit(*high) << 4 | digit(*low));
                behind
            }
            [b'\\', byte, behind @ ..] => {
                bytes.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                behind
            }
            [byte, behind @ ..] => {
                bytes.push(*byte);
                behind
            }
            [] => return None,
        };
    }
}

fn single<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\'', behind @ ..] => return Some(behind),
            [b'\\', b'\'', behind @ ..] => {
                bytes.push(b'\'');
                behind
            }
            [byte, behind @ ..] => {
                bytes.push(*byte);
                behind
            }
            [] => return None,
        };
    }
}

fn digit(hex: u8) -> u8 {
    match hex {
        b'0'..=b'9' => hex - b'0',
        b'a'..=b'f' => hex - b'a' + 10,
        _ => hex - b'A' + 10,
    }
}
