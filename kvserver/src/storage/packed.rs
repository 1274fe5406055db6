//! A record as it lies in memory: one allocation of checksum, the key's length, key, value and, if there is one, deadline.
//!
//! What a record costs beside its bytes is what decides how many fit: the tree's nodes hold nothing but a pointer and a
//! length, and whoever compares keys finds the key's length where the key is.

use std::borrow::Borrow;
use std::cmp::Ordering;

use super::map::Held;

/// Ordered by key.
#[derive(Clone)]
pub(super) struct Packed(Box<[u8]>);

const _: () = assert!(size_of::<Packed>() == 16, "what a record takes in a node of the tree");

/// The checksum, which covers all that follows it.
const SUM: usize = 4;
/// The checksum and the key's length.
const HEAD: usize = SUM + 4;
/// In the field of the key's length: there is a deadline.
const DATED: u32 = 1 << 31;
/// The length of a deadline.
const UNTIL: usize = 8;

impl Packed {
    pub(super) fn new(key: &[u8], value: &[u8], until: Option<u64>) -> Packed {
        let mut bytes = Vec::with_capacity(HEAD + key.len() + value.len() + until.map_or(0, |_| UNTIL));
        // Limits on keys, and on frames and lines before them, are far below.
        let length = u32::try_from(key.len()).unwrap_or(DATED - 1) | if until.is_some() { DATED } else { 0 };
        bytes.extend_from_slice(&[0; SUM]);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        until.inspect(|until| bytes.extend_from_slice(&until.to_le_bytes()));
        let sum = crc32fast::hash(&bytes[SUM..]);
        bytes[..SUM].copy_from_slice(&sum.to_le_bytes());
        Packed(bytes.into_boxed_slice())
    }

    /// Gives it another value and deadline where it lies. False, and it stays as it is: what [`Packed::new`] makes of them has
    /// another length.
    pub(super) fn rewrite(&mut self, value: &[u8], until: Option<u64>) -> bool {
        let (end, whole) = (self.ends().0, self.0.len());
        if end + value.len() + until.map_or(0, |_| UNTIL) != whole {
            return false;
        }
        // From where the key ends, and not from the old one, which may be damaged.
        let length = u32::try_from(end - HEAD).unwrap_or(DATED - 1) | until.map_or(0, |_| DATED);
        self.0[SUM..HEAD].copy_from_slice(&length.to_le_bytes());
        let (value_place, until_place) = self.0[end..].split_at_mut(value.len());
        value_place.copy_from_slice(value);
        until.inspect(|until| until_place.copy_from_slice(&until.to_le_bytes()));
        let sum = crc32fast::hash(&self.0[SUM..]);
        self.0[..SUM].copy_from_slice(&sum.to_le_bytes());
        true
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.0[HEAD..self.ends().0]
    }

    pub(super) fn value(&self) -> &[u8] {
        let (key, value) = self.ends();
        &self.0[key..value]
    }

    pub(super) fn until(&self) -> Option<u64> {
        let last = self.0[HEAD..].last_chunk().filter(|_| self.length() & DATED != 0);
        last.map(|bytes| u64::from_le_bytes(*bytes))
    }

    pub(super) fn held(&self) -> Held<'_> {
        Held { value: self.value(), until: self.until() }
    }

    /// Whether it is what it was when it arrived.
    pub(super) fn is_sound(&self) -> bool {
        self.field(0) == crc32fast::hash(&self.0[SUM..])
    }

    /// Damages the first byte behind the key, or else the checksum.
    pub(super) fn flip(&mut self) {
        let (key, _) = self.ends();
        let at = if key < self.0.len() { key } else { 0 };
        self.0[at] ^= 0x20;
    }

    /// Sets the deadline of a record that has one, as a failing memory would.
    #[cfg(test)]
    pub(super) fn falsify_deadline(&mut self, until: u64) {
        let at = self.0.len() - UNTIL;
        self.0[at..].copy_from_slice(&until.to_le_bytes());
    }

    /// Where the key and the value end. A damaged length must not end the process before it is found.
    fn ends(&self) -> (usize, usize) {
        let length = self.length();
        let dated = if length & DATED == 0 { 0 } else { UNTIL };
        let value = self.0.len().saturating_sub(dated).max(HEAD);
        ((HEAD + (length & !DATED) as usize).min(value), value)
    }

    fn length(&self) -> u32 {
        self.field(SUM)
    }

    fn field(&self, at: usize) -> u32 {
        self.0[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

impl Borrow<[u8]> for Packed {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Packed) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Packed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Packed) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Packed {}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Packed").field(&self.key()).field(&self.held()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_is_as_if_it_were_new() {
        let dates = [None, Some(0), Some(u64::MAX)];
        let values = ["", "a", "12345678", "123456789", "abcdefghi"];
        let all = || dates.iter().flat_map(|until| values.map(|value| (value.as_bytes(), *until)));
        for (before, until) in all() {
            for (value, new_until) in all() {
                let (mut old, new) = (Packed::new(b"key", before, until), Packed::new(b"key", value, new_until));
                let (untouched, fits) = (old.0.clone(), old.0.len() == new.0.len());
                assert_eq!(old.rewrite(value, new_until), fits);
                assert_eq!(old.0, if fits { new.0 } else { untouched });
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_seen_and_none_ends_the_process() {
        for (key, value, until) in [("", "", None), ("k", "", Some(7)), ("key", "value", None), ("", "v", Some(0))] {
            let whole = Packed::new(key.as_bytes(), value.as_bytes(), until);
            assert_eq!((whole.key(), whole.value(), whole.until()), (key.as_bytes(), value.as_bytes(), until));
            assert!(whole.is_sound());
            for bit in 0..whole.0.len() * 8 {
                let mut damaged = whole.clone();
                damaged.0[bit / 8] ^= 1 << (bit % 8);
                assert!(!damaged.is_sound(), "bit {bit}");
                let (key, held) = (damaged.key().len(), damaged.held());
                assert!(key + held.value.len() + HEAD <= damaged.0.len());
                for (value, until) in [(value, until), ("12345678", None), ("", Some(9))] {
                    let mut again = damaged.clone();
                    if again.key() == whole.key() && again.rewrite(value.as_bytes(), until) {
                        assert_eq!(again.0, Packed::new(whole.key(), value.as_bytes(), until).0, "bit {bit}");
                    }
                }
            }
        }
    }
}
