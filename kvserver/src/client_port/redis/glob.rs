//! Redis's patterns: `*`, `?`, `[abc]`, `[^a-z]`, and a backslash before what is meant as it stands.

/// Whether all of `text` matches. Takes at most the product of both lengths, whatever the pattern: only the last `*` is ever
/// tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if p < pattern.len()
            && let Some(byte) = text.get(t)
        {
            let (fits, next) = one(pattern, p, *byte);
            if fits {
                (p, t) = (next, t + 1);
                continue;
            }
        }
        match star {
            Some((after, from)) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the part of the pattern at `at` fits a byte, and where the next part is.
fn one(pattern: &[u8], at: usize, byte: u8) -> (bool, usize) {
    match pattern[at] {
        b'?' => (true, at + 1),
        b'[' => class(pattern, at + 1, byte),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte, at + 2),
        other => (other == byte, at + 1),
    }
}

fn class(pattern: &[u8], mut at: usize, byte: u8) -> (bool, usize) {
    let not = pattern.get(at) == Some(&b'^');
    at += usize::from(not);
    let mut found = false;
    loop {
        match pattern[at..] {
            // As in Redis, a class that is not closed ends with the pattern.
            [] => return (found != not, at),
            [b']', ..] => return (found != not, at + 1),
            [b'\\', other, ..] => {
                found |= other == byte;
                at += 2;
            }
            [from, b'-', to, ..] if to != b']' => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [other, ..] => {
                found |= other == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_redis() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("h?llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("user:*:name", "user:1:2:name", true),
            ("user:*:name", "user:1:nam", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("", "", true),
            ("", "x", false),
            ("**x", "yyx", true),
            ("[z-a]", "m", true),
            ("[ab", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let (pattern, text) = ("a*".repeat(200), "a".repeat(5_000) + "b");
        assert!(!matches((pattern + "c").as_bytes(), text.as_bytes()));
    }
}
