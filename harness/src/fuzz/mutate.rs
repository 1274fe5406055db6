//! Small damage to valid inputs, from a seed: what a parser meets when somebody is careless or means harm.
//!
//! Knows nothing of the formats but what their tokens look like: numbers, quotes, brackets, lengths.

use fastrand::Rng;

/// The longest input that is made.
const LONGEST: usize = 8 << 10;
/// Numbers that parsers stumble over.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "255",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "00000000000000000000000000000001",
    "1e9",
    "1.5",
];
/// Words and signs of the formats.
const TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\n\r",
    " ",
    "  ",
    "\t",
    "\0",
    "null",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    ";",
    "{\"b64\":\"/w==\"}",
    "\\u0000",
    "put ",
    "get ",
    "getb ",
    "putb ",
    "req ",
    "retry ",
    "scan ",
    "POST ",
    "Host:",
    "*",
    "SUCCESS",
    "\u{fffd}",
];

/// A damaged copy of one of `corpus`, or of two of them.
#[must_use]
pub fn mutate(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut data = match random.choice(corpus) {
        Some(seed) if random.u8(..16) > 0 => seed.clone(),
        _ => (0..random.usize(..200)).map(|_| random.u8(..)).collect(),
    };
    if random.u8(..8) == 0
        && let Some(other) = random.choice(corpus)
    {
        splice(&mut data, other, random);
    }
    for _ in 0..=random.u8(..4) {
        once(&mut data, random);
    }
    data.truncate(LONGEST);
    data
}

fn splice(data: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    data.truncate(random.usize(..=data.len()));
    data.extend_from_slice(&other[random.usize(..=other.len())..]);
}

fn once(data: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..=data.len());
    let end = (at + random.usize(..32)).min(data.len());
    match random.u8(..11) {
        0 => data.truncate(at),
        1 => drop(data.drain(at..end)),
        2 => insert(data, at, &[random.u8(..)]),
        3 => insert(data, at, random.choice(TOKENS).unwrap_or(&"").as_bytes()),
        4 => {
            let copy = data[at..end].to_vec();
            insert(data, at, &copy);
        }
        5 => {
            let bytes = vec![random.u8(..); random.usize(..300)];
            insert(data, at, &bytes);
        }
        6 => number(data, at, random),
        7 => data[at..end].reverse(),
        8 => data[at..end].fill(random.choice([0, 0xff, b' ', b'9']).unwrap_or(0)),
        _ if at < data.len() => data[at] ^= 1 << random.u8(..8),
        _ => data.push(random.u8(..)),
    }
}

fn insert(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    data.splice(at..at, bytes.iter().copied());
}

/// Another number in place of the next one.
fn number(data: &mut Vec<u8>, from: usize, random: &mut Rng) {
    let Some(begin) = data[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let length = data[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let other = random.choice(NUMBERS).unwrap_or(&"0").bytes();
    data.splice(begin..begin + length, other);
}
