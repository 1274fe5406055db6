//! The slot of a key. Each thread remembers the last one: a Redis client's write asks twice, and MD5 is worth a comparison. Whoever
//! has found positions together (`client_port/together.rs`) says them before they are asked for.

use std::cell::RefCell;

use common::Slot;
use common::position::Position;

/// Longer keys are not remembered, and gain nothing by being found together.
pub(crate) const LONGEST: usize = 55;
/// The most slots that a ring can have.
const MOST_SLOTS: u16 = 1 << 15;

struct Last {
    key: [u8; LONGEST],
    length: usize,
    /// In a ring of [`MOST_SLOTS`].
    slot: u16,
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last { key: [0; LONGEST], length: usize::MAX, slot: 0 }) };
}

/// The slot of `key` in a ring of `slots` slots (a power of two from 1 to 32,768).
pub(crate) fn slot_of(key: &[u8], slots: u16) -> Slot {
    debug_assert!(slots.is_power_of_two() && slots <= MOST_SLOTS);
    if key.len() > LONGEST {
        return Position::of(key).slot(slots);
    }
    LAST.with_borrow_mut(|last| {
        if last.length != key.len() || last.key[..key.len()] != *key {
            last.set(key, Position::of(key));
        }
        Slot(last.slot >> (MOST_SLOTS.trailing_zeros() - slots.trailing_zeros()))
    })
}

/// Where `key` lies, for whoever asks next.
pub(crate) fn remember(key: &[u8], position: Position) {
    if key.len() <= LONGEST {
        LAST.with_borrow_mut(|last| last.set(key, position));
    }
}

impl Last {
    fn set(&mut self, key: &[u8], position: Position) {
        (self.length, self.slot) = (key.len(), position.slot(MOST_SLOTS).0);
        self.key[..key.len()].copy_from_slice(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_slot_of_the_position_whatever_was_asked_before() {
        let keys = ["", "a", "ab", "ab", "a", "", &"x".repeat(LONGEST), &"x".repeat(LONGEST + 1), "b"];
        for slots in [1, 256, 32_768] {
            for key in keys.map(str::as_bytes) {
                assert_eq!(slot_of(key, slots), Position::of(key).slot(slots), "{key:?}");
            }
            // What was said is believed, but for keys that are too long.
            let (last, long) = (Position(u128::MAX), "x".repeat(LONGEST + 1));
            remember(b"a", last);
            remember(long.as_bytes(), last);
            assert_eq!(slot_of(long.as_bytes(), slots), Position::of(long.as_bytes()).slot(slots));
            assert_eq!(slot_of(b"a", slots), Slot(slots - 1));
            assert_eq!(slot_of(b"b", slots), Position::of(b"b").slot(slots));
        }
    }
}
