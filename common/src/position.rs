//! The MD5 circle: a key's position, and the slot it falls into.
//!
//! MD5 is the courses' protocol, not a protection: positions spread keys, they prove nothing.

use std::fmt;

use md5::{Digest, Md5};

use crate::ids::Slot;
use crate::lanes;

/// Of fewer keys than this each has its position computed by itself: eight lanes take somewhat longer than two keys.
const FEW: usize = 3;

/// A point on the circle: the MD5 of some bytes as a big-endian number. Shown as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u128);

impl Position {
    /// Where `key` lies.
    #[must_use]
    pub fn of(key: &[u8]) -> Position {
        Position(u128::from_be_bytes(Md5::digest(key).into()))
    }

    /// How many keys [`Position::of_each`] takes.
    pub const AT_ONCE: usize = lanes::LANES;

    /// Where each of these keys lies, of which the first [`Position::AT_ONCE`] count; further positions mean nothing. Several
    /// short keys take little longer than one.
    #[must_use]
    pub fn of_each(keys: &[&[u8]]) -> [Position; Self::AT_ONCE] {
        let mut found = [Position(0); Self::AT_ONCE];
        if keys.len() >= FEW && keys.iter().all(|key| key.len() <= lanes::LONGEST) {
            let all = std::array::from_fn(|lane| keys.get(lane).copied().unwrap_or_default());
            return lanes::digests(&all).map(|digest| Position(u128::from_be_bytes(digest)));
        }
        for (position, key) in found.iter_mut().zip(keys) {
            *position = Position::of(key);
        }
        found
    }

    /// The slot of a ring with `slots` slots (a power of two from 1 to 32,768) that this position falls into.
    #[must_use]
    pub fn slot(self, slots: u16) -> Slot {
        debug_assert!(slots.is_power_of_two(), "a ring has a power-of-two number of slots");
        let bits = slots.trailing_zeros();
        if bits == 0 { Slot(0) } else { Slot(u16::try_from(self.0 >> (128 - bits)).unwrap_or(u16::MAX)) }
    }

    /// The first position of `slot`.
    #[must_use]
    pub fn first_of(slot: Slot, slots: u16) -> Position {
        let bits = slots.trailing_zeros();
        if bits == 0 { Position(0) } else { Position(u128::from(slot.0) << (128 - bits)) }
    }

    /// The last position of `slot`.
    #[must_use]
    pub fn last_of(slot: Slot, slots: u16) -> Position {
        if slot.0 + 1 == slots { Position(u128::MAX) } else { Position(Self::first_of(slot.next(), slots).0 - 1) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_is_the_md5_of_the_bytes() {
        assert_eq!(Position::of(b"hello").to_string(), "5d41402abc4b2a76b9719d911017c592");
    }

    #[test]
    fn positions_are_the_same_together_and_alone() {
        let long = [b'x'; 200];
        let keys: Vec<&[u8]> =
            ["", "a", "key:000000000007", "b", "c", "hello", "x", "y"].iter().map(|key| key.as_bytes()).collect();
        for count in 0..=keys.len() {
            for last in [None, Some(&long[..56]), Some(&long[..])] {
                let mut keys = keys[..count].to_vec();
                if let (Some(place), Some(last)) = (keys.last_mut(), last) {
                    *place = last;
                }
                let found = Position::of_each(&keys);
                assert!(keys.iter().zip(found).all(|(key, position)| Position::of(key) == position), "{keys:?}");
            }
        }
    }

    #[test]
    fn slots_tile_the_circle() {
        for slots in [1u16, 2, 8, 256, 32768] {
            for slot in 0..slots {
                let (first, last) = (Position::first_of(Slot(slot), slots), Position::last_of(Slot(slot), slots));
                assert_eq!(first.slot(slots), Slot(slot));
                assert_eq!(last.slot(slots), Slot(slot));
                if slot > 0 {
                    assert_eq!(Position::last_of(Slot(slot - 1), slots).0 + 1, first.0);
                }
            }
            assert_eq!(Position::last_of(Slot(slots - 1), slots).0, u128::MAX);
        }
    }
}
