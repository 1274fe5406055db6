//! Numbers as Redis reads them.

/// A decimal integer of 64 bits, written as it would be written back.
pub(in crate::client_port) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_written_back_is_a_number() {
        for (text, number) in
            [("0", Some(0)), ("-1", Some(-1)), ("9223372036854775807", Some(i64::MAX)), ("10", Some(10))]
        {
            assert_eq!(integer(text.as_bytes()), number, "{text}");
        }
        for text in ["", "-", "-0", "+1", "01", " 1", "1 ", "9223372036854775808", "1.0", "x"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }
}
