//! Example data of the shape of Debian's `unicode-data`: a code point and its line of fifteen fields.

use std::fmt::Write as _;

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// A code point in hexadecimal.
    pub key: String,
    /// Its line.
    pub value: String,
}

const WORDS: &[&str] = &[
    "LATIN",
    "GREEK",
    "SMALL",
    "CAPITAL",
    "LETTER",
    "SIGN",
    "WITH",
    "ACUTE",
    "GRAVE",
    "ABOVE",
    "BELOW",
    "DIGIT",
    "ARROW",
    "RIGHTWARDS",
    "SYLLABLE",
    "IDEOGRAPH",
    "TURNED",
    "REVERSED",
    "DOUBLE",
    "COMBINING",
];
const CATEGORIES: &[&str] = &["Lu", "Ll", "Lo", "Mn", "Nd", "Po", "Sm", "So"];

/// `count` records, the same for the same seed and no two with one key.
#[must_use]
pub fn records(count: usize, seed: u64) -> Vec<Record> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|index| record(index, &mut random)).collect()
}

fn record(index: usize, random: &mut fastrand::Rng) -> Record {
    let key = format!("{:04X}", 0x20 + index * 7);
    let mut value = String::new();
    for part in 0..random.usize(2..7) {
        if part > 0 {
            value.push(' ');
        }
        value.push_str(WORDS[random.usize(..WORDS.len())]);
    }
    let category = CATEGORIES[random.usize(..CATEGORIES.len())];
    // Writing to a string cannot fail.
    let _ = write!(value, " {index};{category};{};L;;;;;N;;;{:04X};;{:04X}", random.u8(..5), index, random.u16(..));
    Record { key, value }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn records_are_repeatable_and_their_keys_differ() {
        let made = records(3_000, 7);
        assert_eq!(made, records(3_000, 7));
        assert_eq!(made.iter().map(|record| &record.key).collect::<BTreeSet<_>>().len(), 3_000);
        assert!(made.iter().all(|record| record.key.len() <= 20 && !record.value.contains(['\r', '\n'])));
    }
}
