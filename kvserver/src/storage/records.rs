//! The records of a slot, found by a hash of their keys.
//!
//! A tree by key would have to look at a dozen keys, each in a place of its own in memory, to find one. Here the tree's nodes
//! hold [`Tag`]s, a part of the key's [`place`], beside each other, and as a rule one record is looked at: the right one. Two
//! keys with one tag are rare (one pair in a slot of ninety thousand records) unless somebody looks for such keys; the smaller
//! of them is in the tree, the others are its twins, in a tree by key, so that no choice of keys makes a search long.
//!
//! The order of the records is that of their tags, and of their keys where those are the same. It depends on nothing but
//! the keys, so that whoever goes through the records can go on anywhere, at any server and at any time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use common::forward::{PLACES, place};

use super::packed::Packed;

/// The upper 32 bits of a place.
type Tag = u32;

/// The places that one tag stands for.
pub(super) const PLACES_OF_A_TAG: u64 = PLACES >> Tag::BITS;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    /// Of each tag the record with the smallest key.
    first: BTreeMap<Tag, Packed>,
    /// All others with their tag. Invariant: no set is empty.
    twins: BTreeMap<Tag, BTreeSet<Packed>>,
}

fn tag_of(key: &[u8]) -> Tag {
    tag_at(place(key))
}

fn tag_at(place: u64) -> Tag {
    Tag::try_from(place / PLACES_OF_A_TAG).unwrap_or(Tag::MAX)
}

/// Of records with one key the last one counts.
impl FromIterator<Packed> for Records {
    fn from_iter<I: IntoIterator<Item = Packed>>(records: I) -> Records {
        let mut all: Vec<(Tag, Packed)> = records.into_iter().map(|record| (tag_of(record.key()), record)).collect();
        // Nothing to do for records that come in this order, as those of a checkpoint do.
        all.sort_by(|(tag, record), (other, than)| tag.cmp(other).then_with(|| record.key().cmp(than.key())));
        let mut this = Records::default();
        let mut last: Option<Tag> = None;
        let mut left_over = Vec::new();
        let firsts = all.into_iter().filter_map(|(tag, record)| {
            if last.replace(tag) == Some(tag) {
                left_over.push(record);
                return None;
            }
            Some((tag, record))
        });
        this.first = firsts.collect();
        for record in left_over {
            this.replace(record);
        }
        this
    }
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.twins.values().map(BTreeSet::len).sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Packed> {
        let tag = tag_of(key);
        let first = self.first.get(&tag)?;
        if first.key() == key { Some(first) } else { self.twins.get(&tag)?.get(key) }
    }

    /// Sets what a key holds, where its record lies if that is as long as the new one; returns the length of its value and its
    /// deadline until then, if there was one.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8], until: Option<u64>) -> Option<(usize, Option<u64>)> {
        let old = |record: &Packed| (record.value().len(), record.until());
        match self.first.entry(tag_of(key)) {
            Entry::Vacant(place) => {
                place.insert(Packed::new(key, value, until));
                None
            }
            Entry::Occupied(mut first) if first.get().key() == key => {
                let (old, first) = (Some(old(first.get())), first.get_mut());
                if !first.rewrite(value, until) {
                    *first = Packed::new(key, value, until);
                }
                old
            }
            Entry::Occupied(_) => self.replace(Packed::new(key, value, until)).as_ref().map(old),
        }
    }

    /// Puts a record in; returns the one with its key that was there.
    pub(super) fn replace(&mut self, record: Packed) -> Option<Packed> {
        let tag = tag_of(record.key());
        let mut first = match self.first.entry(tag) {
            Entry::Vacant(place) => {
                place.insert(record);
                return None;
            }
            Entry::Occupied(first) => first,
        };
        match record.cmp(first.get()) {
            std::cmp::Ordering::Equal => Some(first.insert(record)),
            std::cmp::Ordering::Greater => self.twins.entry(tag).or_default().replace(record),
            std::cmp::Ordering::Less => {
                let second = first.insert(record);
                self.twins.entry(tag).or_default().replace(second)
            }
        }
    }

    /// Takes the record with this key out.
    pub(super) fn take(&mut self, key: &[u8]) -> Option<Packed> {
        let tag = tag_of(key);
        if self.first.get(&tag)?.key() != key {
            return self.of_twins(tag, |twins| twins.take(key));
        }
        match self.of_twins(tag, BTreeSet::pop_first) {
            Some(second) => self.first.insert(tag, second),
            None => self.first.remove(&tag),
        }
    }

    fn of_twins(&mut self, tag: Tag, f: impl FnOnce(&mut BTreeSet<Packed>) -> Option<Packed>) -> Option<Packed> {
        let twins = self.twins.get_mut(&tag)?;
        let taken = f(twins);
        if twins.is_empty() {
            self.twins.remove(&tag);
        }
        taken
    }

    /// Keeps the records of which `f` says so.
    pub(super) fn retain(&mut self, f: impl Fn(&Packed) -> bool) {
        if self.twins.is_empty() {
            return self.first.retain(|_, record| f(record));
        }
        let (first, twins) = (std::mem::take(&mut self.first), std::mem::take(&mut self.twins));
        *self = first.into_values().chain(twins.into_values().flatten()).filter(f).collect();
    }

    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Packed> {
        self.from(Bound::Unbounded)
    }

    /// Those behind the one with this key, whether or not there is one, in their order.
    pub(super) fn after(&self, key: &[u8]) -> impl Iterator<Item = &Packed> {
        let tag = tag_of(key);
        let rest = self.from(Bound::Excluded(tag));
        self.of_tag(tag).filter(move |record| record.key() > key).chain(rest)
    }

    /// Those whose places are at or behind this one, and perhaps some a little before it, in their order.
    pub(super) fn at_place(&self, place: u64) -> impl Iterator<Item = &Packed> {
        self.from(Bound::Included(tag_at(place)))
    }

    fn from(&self, tag: Bound<Tag>) -> impl Iterator<Item = &Packed> {
        let twins_of =
            |tag: &Tag| (!self.twins.is_empty()).then(|| self.twins.get(tag)).flatten().into_iter().flatten();
        self.first
            .range((tag, Bound::Unbounded))
            .flat_map(move |(tag, first)| std::iter::once(first).chain(twins_of(tag)))
    }

    fn of_tag(&self, tag: Tag) -> impl Iterator<Item = &Packed> {
        self.first.get(&tag).into_iter().chain(self.twins.get(&tag).into_iter().flatten())
    }

    /// What must hold whenever nobody is changing it.
    #[cfg(test)]
    fn check(&self) {
        for (tag, first) in &self.first {
            assert_eq!(tag_of(first.key()), *tag);
        }
        for (tag, twins) in &self.twins {
            assert!(!twins.is_empty() && twins.iter().all(|twin| tag_of(twin.key()) == *tag));
            assert!(twins.first() > self.first.get(tag), "the first of a tag has the smallest key");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys of which some have a tag in common, found by trying.
    fn keys() -> &'static [Vec<u8>] {
        static KEYS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
        KEYS.get_or_init(|| {
            let (mut seen, mut keys) = (HashMap::new(), Vec::new());
            for number in 0..400_000_u32 {
                let key = number.to_string().into_bytes();
                if let Some(twin) = seen.insert(tag_of(&key), key.clone()) {
                    keys.extend([twin, key]);
                }
            }
            assert!(keys.len() >= 8, "{} keys with a twin", keys.len());
            keys.truncate(16);
            keys.extend((0..8_u8).map(|number| vec![number]));
            keys
        })
    }

    fn record(key: &[u8], value: u8) -> Packed {
        Packed::new(key, &[value], None)
    }

    fn in_order(naive: &BTreeMap<Vec<u8>, u8>) -> Vec<(Vec<u8>, u8)> {
        let mut all: Vec<_> = naive.iter().map(|(key, value)| (key.clone(), *value)).collect();
        all.sort_by_key(|(key, _)| (tag_of(key), key.clone()));
        all
    }

    fn shown<'a>(records: impl Iterator<Item = &'a Packed>) -> Vec<(Vec<u8>, u8)> {
        records.map(|record| (record.key().to_vec(), record.value()[0])).collect()
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_whoever_has_the_same_tag(steps: Vec<(u8, u8, u8)>) {
            let keys = keys();
            let (mut records, mut naive) = (Records::default(), BTreeMap::new());
            for (what, which, value) in steps {
                let key = &keys[usize::from(which) % keys.len()];
                match what % 4 {
                    0 => prop_assert_eq!(records.take(key).map(|old| old.value()[0]), naive.remove(key)),
                    1 | 2 if what < 200 => {
                        let until = (what % 3 == 0).then_some(7);
                        let old = records.set(key, &[value], until);
                        prop_assert_eq!(old.is_some(), naive.insert(key.clone(), value).is_some());
                        prop_assert!(old.is_none_or(|(length, _)| length == 1));
                        prop_assert_eq!(records.get(key).and_then(Packed::until), until);
                    }
                    1 if what > 250 => {
                        records.retain(|record| record.value()[0] % 2 == 0);
                        naive.retain(|_, value| *value % 2 == 0);
                    }
                    _ => {
                        let old = records.replace(record(key, value));
                        prop_assert_eq!(old.map(|old| old.value()[0]), naive.insert(key.clone(), value));
                    }
                }
                records.check();
                let all = in_order(&naive);
                prop_assert_eq!(shown(records.iter()), all.clone());
                prop_assert_eq!((records.len(), records.is_empty()), (naive.len(), naive.is_empty()));
                for key in keys {
                    prop_assert_eq!(records.get(key).map(|found| found.value()[0]), naive.get(key).copied());
                    let before = |other: &(Vec<u8>, u8)| (tag_of(&other.0), &other.0) <= (tag_of(key), key);
                    let rest: Vec<_> = all.iter().skip_while(|other| before(other)).cloned().collect();
                    prop_assert_eq!(shown(records.after(key)), rest);
                }
                let again: Records = naive.iter().rev().map(|(key, value)| record(key, *value)).collect();
                again.check();
                prop_assert_eq!(shown(again.iter()), all);
            }
        }
    }

    #[test]
    fn of_records_with_one_key_the_last_counts() {
        let twice = keys().iter().chain(keys()).zip(0..).map(|(key, value)| record(key, value));
        let records: Records = twice.collect();
        records.check();
        assert_eq!(records.len(), keys().len());
        assert!(records.iter().all(|record| usize::from(record.value()[0]) >= keys().len()));
    }

    #[test]
    fn a_list_goes_on_at_any_place() {
        let records: Records = keys().iter().map(|key| record(key, 0)).collect();
        for key in keys() {
            let from: Vec<_> = shown(records.at_place(place(key)));
            for other in keys() {
                let listed = from.iter().any(|(key, _)| key == other);
                assert!(listed || place(other) < place(key));
                assert!(!listed || place(other) / PLACES_OF_A_TAG >= place(key) / PLACES_OF_A_TAG);
            }
        }
    }
}
