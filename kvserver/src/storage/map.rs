//! The committed records of one slot, and their hash tree.
//!
//! A record may have a deadline, which is part of it as its value is: checksum and digests cover it. What is held is held,
//! past its deadline too, until an entry of the log removes it; the map knows no time.
//!
//! The hash tree has one level: [`LEAVES`] leaves, by key hash, below a root. Digests are computed when asked for (a catch-up,
//! an anti-entropy round), so that writes pay nothing for them; a slot is small enough to be hashed in milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bytes::Bytes;
use common::Op;
use common::blob::Blob;
use common::forward::{Keys, PLACES, place};
use common::peer::Leaf;
use common::update::Becomes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::packed::Packed;
use super::records::{PLACES_OF_A_TAG, Records};

/// Leaves per slot.
pub const LEAVES: u16 = 1024;

/// Committed records, in an order that depends on nothing but their keys: about that of their [`place`]s.
#[derive(Clone, Debug, Default)]
pub struct SlotMap {
    records: Records,
    bytes: u64,
    /// How many records have a deadline.
    dated: usize,
    /// The deadlines in order, while somebody must know which is next.
    due: Option<BTreeSet<(u64, Box<[u8]>)>>,
    /// The smallest and the greatest key, once somebody has asked for them, until one of them goes.
    ends: OnceLock<Option<Ends>>,
}

type Ends = (Box<[u8]>, Box<[u8]>);

/// Whether the deadlines are watched makes no difference to what is held.
impl PartialEq for SlotMap {
    fn eq(&self, other: &SlotMap) -> bool {
        self.records.len() == other.records.len() && self.all().eq(other.all())
    }
}

impl Eq for SlotMap {}

/// A record as it is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The deadline, if it has one, in milliseconds since the Unix epoch.
    pub until: Option<u64>,
}

/// A record on its way into a map: key, value, deadline.
pub type Loose = (Box<[u8]>, Box<[u8]>, Option<u64>);

impl FromIterator<Loose> for SlotMap {
    /// Builds the tree in one go: faster and denser than one by one.
    fn from_iter<I: IntoIterator<Item = Loose>>(records: I) -> SlotMap {
        let packed = records.into_iter().map(|(key, value, until)| Packed::new(&key, &value, until));
        let mut map = SlotMap { records: packed.collect(), ..SlotMap::default() };
        map.count();
        map
    }
}

impl SlotMap {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.get(key).map(Packed::value)
    }

    /// The value and the deadline of `key`.
    #[must_use]
    pub fn held(&self, key: &[u8]) -> Option<Held<'_>> {
        self.records.get(key).map(Packed::held)
    }

    /// Sets a value that lasts.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.set(key, value, None);
    }

    /// Sets a value and a deadline.
    pub fn set(&mut self, key: &[u8], value: &[u8], until: Option<u64>) {
        self.bytes += value.len() as u64;
        let old = self.records.set(key, value, until);
        match old {
            Some((length, _)) => self.bytes -= length as u64,
            None => {
                self.bytes += key.len() as u64;
                self.widen(key);
            }
        }
        self.redate(key, old.and_then(|(_, until)| until), until);
    }

    /// Gives a key another deadline; nothing if there is no such key.
    pub fn lasting(&mut self, key: &[u8], until: Option<u64>) {
        let Some(old) = self.records.get(key) else { return };
        let (before, new) = (old.until(), Packed::new(key, old.value(), until));
        self.records.replace(new);
        self.redate(key, before, until);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.records.take(key) {
            self.bytes -= (key.len() + old.value().len()) as u64;
            self.redate(key, old.until(), None);
            if self.ends.get().is_some_and(|ends| ends.as_ref().is_some_and(|(a, b)| **a == *key || **b == *key)) {
                self.ends.take();
            }
        }
    }

    /// A key has come.
    fn widen(&mut self, key: &[u8]) {
        match self.ends.get_mut() {
            None => {}
            Some(None) => drop(self.ends.take()),
            Some(Some((first, _))) if key < &**first => *first = key.into(),
            Some(Some((_, last))) if key > &**last => *last = key.into(),
            Some(Some(_)) => {}
        }
    }

    /// The smallest and the greatest of the keys of which `there` says so. As a rule they are known.
    #[must_use]
    pub fn outermost(&self, there: impl Fn(&Held<'_>) -> bool) -> Option<(&[u8], &[u8])> {
        let ends = self.ends.get_or_init(|| {
            let (first, last) = self.outermost_of(|_| true)?;
            Some((first.into(), last.into()))
        });
        let (first, last) = ends.as_ref()?;
        if [first, last].into_iter().all(|key| self.held(key).is_some_and(|held| there(&held))) {
            return Some((first, last));
        }
        self.outermost_of(there)
    }

    fn outermost_of(&self, there: impl Fn(&Held<'_>) -> bool) -> Option<(&[u8], &[u8])> {
        let keys = self.all().filter(|(_, held)| there(held)).map(|(key, _)| key);
        keys.fold(None, |ends, key| {
            let (first, last) = ends.unwrap_or((key, key));
            Some((key.min(first), key.max(last)))
        })
    }

    /// Keeps count of deadlines, and their order if that is wanted.
    fn redate(&mut self, key: &[u8], before: Option<u64>, after: Option<u64>) {
        if before.is_none() && after.is_none() {
            return;
        }
        self.dated = self.dated + usize::from(after.is_some()) - usize::from(before.is_some());
        let Some(due) = &mut self.due else { return };
        if let Some(before) = before {
            due.remove(&(before, key.into()));
        }
        if let Some(after) = after {
            due.insert((after, key.into()));
        }
    }

    /// From now on, [`SlotMap::due`] is to be known, or need not be.
    pub fn watch_deadlines(&mut self, watch: bool) {
        let dated = self.records.iter().filter_map(|record| Some((record.until()?, record.key().into())));
        self.due = match watch {
            true if self.dated > 0 => Some(dated.collect()),
            true => Some(BTreeSet::new()),
            false => None,
        };
    }

    /// Deadlines and their keys, the next one first; nothing unless they are watched.
    pub fn due(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.due.iter().flatten().map(|(until, key)| (*until, &**key))
    }

    /// How many records have a deadline.
    #[must_use]
    pub fn dated(&self) -> usize {
        self.dated
    }

    /// Applies a committed operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Put { key, value } | Op::Swap { key, value, .. } => self.put(key, value),
            Op::Delete { key } => self.delete(key),
            Op::Update { key, becomes, .. } => match becomes {
                Becomes::Same => {}
                Becomes::Gone | Becomes::Expired { .. } => self.delete(key),
                Becomes::Value { value, until } => self.set(key, value, *until),
                Becomes::Lasting { until } => self.lasting(key, *until),
            },
            Op::Noop => {}
        }
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().map(|record| (record.key(), record.value()))
    }

    /// All records.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], Held<'_>)> {
        self.records.iter().map(|record| (record.key(), record.held()))
    }

    /// The records behind the one with this key, whether or not there is one, or all.
    pub fn after(&self, after: Option<&[u8]>) -> impl Iterator<Item = (&[u8], Held<'_>)> {
        let all = after.is_none().then(|| self.records.iter()).into_iter().flatten();
        let rest = after.map(|key| self.records.after(key)).into_iter().flatten();
        all.chain(rest).map(|record| (record.key(), record.held()))
    }

    /// About `count` keys from this place on, in the order of places. All keys of one place are told together, and
    /// only those of which `there` says so.
    #[must_use]
    pub fn keys_from(&self, from: u64, count: usize, there: impl Fn(&Held<'_>) -> bool) -> Keys {
        let (mut keys, mut end) = (Vec::new(), PLACES);
        for record in self.records.at_place(from) {
            let at = place(record.key());
            if at >= end {
                return Keys { keys, next: Some(end) };
            }
            if at >= from && there(&record.held()) {
                keys.push(Blob(Bytes::copy_from_slice(record.key())));
                if keys.len() == count.max(1) {
                    end = (at / PLACES_OF_A_TAG + 1) * PLACES_OF_A_TAG;
                }
            }
        }
        Keys { keys, next: None }
    }

    /// The leaf a key belongs to.
    #[must_use]
    pub fn leaf_of(key: &[u8]) -> u16 {
        u16::try_from(xxh3_64(key) % u64::from(LEAVES)).unwrap_or(0)
    }

    /// One digest per leaf: the wrapping sum of its records' hashes, 0 for an empty leaf.
    #[must_use]
    pub fn digests(&self) -> Vec<u64> {
        let mut digests = vec![0u64; usize::from(LEAVES)];
        for (key, held) in self.all() {
            let digest = &mut digests[usize::from(Self::leaf_of(key))];
            *digest = digest.wrapping_add(digest_of(key, held));
        }
        digests
    }

    /// The same, after a look at every record's checksum.
    ///
    /// # Errors
    /// The key of a record that is not what it was when it arrived.
    pub fn verified(&self) -> Result<Vec<u64>, Vec<u8>> {
        match self.records.iter().find(|record| !record.is_sound()) {
            Some(record) => Err(record.key().to_vec()),
            None => Ok(self.digests()),
        }
    }

    /// The key and digest of every record of these leaves.
    #[must_use]
    pub fn records_of(&self, leaves: &[u16]) -> Vec<(Blob, u64)> {
        let wanted = self.all().filter(|(key, _)| leaves.contains(&Self::leaf_of(key)));
        wanted.map(|(key, held)| (Blob(Bytes::copy_from_slice(key)), digest_of(key, held))).collect()
    }

    /// Damages a record in place, as a failing memory would: its checksum is left as it was. For tests.
    pub fn flip(&mut self, key: &[u8]) -> bool {
        let Some(mut record) = self.records.take(key) else { return false };
        record.flip();
        self.records.replace(record).is_none()
    }

    fn count(&mut self) {
        self.bytes = self.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        self.dated = self.records.iter().filter(|record| record.until().is_some()).count();
        if self.due.is_some() {
            self.watch_deadlines(true);
        }
    }

    /// One digest for everything.
    #[must_use]
    pub fn root(&self) -> u64 {
        Self::root_of(&self.digests())
    }

    /// The root above these leaves.
    #[must_use]
    pub fn root_of(digests: &[u64]) -> u64 {
        let mut bytes = Vec::with_capacity(digests.len() * 8);
        for digest in digests {
            bytes.extend_from_slice(&digest.to_le_bytes());
        }
        xxh3_64(&bytes)
    }

    /// The records of the given leaves (`wanted[leaf]`), one piece for each leaf.
    #[must_use]
    pub fn leaves(&self, wanted: &[bool]) -> BTreeMap<u16, Leaf> {
        let mut leaves = BTreeMap::new();
        for (leaf, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            let leaf = u16::try_from(leaf).unwrap_or(u16::MAX);
            leaves.insert(leaf, Leaf::new(leaf, true));
        }
        for (key, held) in self.all() {
            if let Some(piece) = leaves.get_mut(&Self::leaf_of(key)) {
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(held.value));
                piece.push(Blob(key), Blob(value), held.until);
            }
        }
        leaves
    }

    /// Replaces leaves by content.
    pub fn fill(&mut self, leaves: &[Leaf]) {
        if leaves.iter().any(|leaf| leaf.clear) {
            let cleared: BTreeSet<u16> = leaves.iter().filter(|leaf| leaf.clear).map(|leaf| leaf.leaf).collect();
            self.records.retain(|record| !cleared.contains(&Self::leaf_of(record.key())));
            self.ends.take();
            self.count();
        }
        for leaf in leaves {
            leaf.records.iter().for_each(|(key, value)| self.put(&key.0, &value.0));
            leaf.dated.iter().for_each(|(key, value, until)| self.set(&key.0, &value.0, Some(*until)));
        }
    }
}

fn digest_of(key: &[u8], held: Held<'_>) -> u64 {
    let digest = xxh3_64_with_seed(held.value, xxh3_64(key));
    held.until.map_or(digest, |until| xxh3_64_with_seed(&until.to_le_bytes(), digest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(records: &[(&str, &str, Option<u64>)]) -> SlotMap {
        records.iter().map(|(key, value, until)| (key.as_bytes().into(), value.as_bytes().into(), *until)).collect()
    }

    #[test]
    fn a_deadline_is_part_of_a_record() {
        let [without, with, other] = [None, Some(7), Some(8)].map(|until| of(&[("k", "v", until)]));
        assert!(without != with && with != other);
        assert!(without.root() != with.root() && with.root() != other.root());
        let leaf = [SlotMap::leaf_of(b"k")];
        assert!(
            without.records_of(&leaf) != with.records_of(&leaf) && with.records_of(&leaf) != other.records_of(&leaf)
        );
        let mut damaged = with.clone();
        assert!(damaged.flip(b"k"));
        assert_eq!(damaged.verified(), Err(b"k".to_vec()));
        // A deadline that changes by itself is damage, too.
        let mut damaged = with.clone();
        let mut record = damaged.records.take(b"k").unwrap();
        record.falsify_deadline(9);
        damaged.records.replace(record);
        assert_eq!(damaged.held(b"k"), Some(Held { value: b"v", until: Some(9) }));
        assert_eq!(damaged.verified(), Err(b"k".to_vec()));
        assert_eq!((with.bytes(), with.dated(), with.held(b"k").unwrap().until), (2, 1, Some(7)));
    }

    type Step = (u8, u8, Option<u64>);

    /// What the naive map is told, too.
    fn step(map: &mut SlotMap, naive: &mut BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>, (kind, key, until): Step) {
        // Often as long as the one before and another, and as long with a deadline as without.
        let (key, value) = (vec![key % 8], vec![kind; [0, 1, 8, 9, usize::from(kind)][usize::from(kind / 6) % 5]]);
        let blob = |bytes: &[u8]| Blob(Bytes::copy_from_slice(bytes));
        match kind % 6 {
            0 => {
                map.delete(&key);
                naive.remove(&key);
            }
            1 => {
                map.lasting(&key, until);
                naive.entry(key).and_modify(|held| held.1 = until);
            }
            2 => {
                let leaf = SlotMap::leaf_of(&key);
                let mut piece = Leaf::new(leaf, true);
                piece.push(blob(&key), blob(&value), until);
                map.fill(&[piece]);
                naive.retain(|key, _| SlotMap::leaf_of(key) != leaf);
                naive.insert(key, (value, until));
            }
            3 => map.watch_deadlines(until.is_some()),
            _ => {
                map.set(&key, &value, until);
                naive.insert(key, (value, until));
            }
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds(steps: Vec<Step>) {
            let (mut map, mut naive) = (SlotMap::default(), BTreeMap::new());
            map.watch_deadlines(true);
            for one in steps {
                step(&mut map, &mut naive, one);
                let mut held: Vec<_> =
                    map.all().map(|(key, held)| (key.to_vec(), (held.value.to_vec(), held.until))).collect();
                held.sort();
                let ends = held.first().map(|(key, _)| &key[..]).zip(held.last().map(|(key, _)| &key[..]));
                prop_assert_eq!(map.outermost(|_| true), ends);
                prop_assert_eq!(&held, &naive.clone().into_iter().collect::<Vec<_>>());
                let mut due: Vec<_> = naive.iter().filter_map(|(key, held)| Some((held.1?, key.as_slice()))).collect();
                due.sort_unstable();
                prop_assert_eq!(map.dated(), due.len());
                prop_assert!(map.due.is_none() || map.due().collect::<Vec<_>>() == due);
                prop_assert!(map.verified().is_ok());
                prop_assert_eq!(map.bytes(), held.iter().map(|(k, (v, _))| (k.len() + v.len()) as u64).sum::<u64>());
                let again: SlotMap = naive.iter().map(|(k, (v, u))| (k.clone().into(), v.clone().into(), *u)).collect();
                prop_assert!(again == map && again.root() == map.root());
            }
        }
    }
}
