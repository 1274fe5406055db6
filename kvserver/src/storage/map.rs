//! The committed records of one slot, and their hash tree.
//!
//! The tree has one level: [`LEAVES`] leaves, by key hash, below a root. Digests are computed when asked for (a catch-up,
//! an anti-entropy round), so that writes pay nothing for them; a slot is small enough to be hashed in milliseconds.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use common::Op;
use common::blob::Blob;
use common::forward::{Keys, PLACES, place};
use common::peer::Leaf;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Leaves per slot.
pub const LEAVES: u16 = 1024;

/// In at most about so many pieces all keys are listed.
const PIECES: usize = 64;

/// Committed records, ordered by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotMap {
    records: BTreeMap<Box<[u8]>, Summed>,
    bytes: u64,
}

/// A value and, behind it, the checksum of its record: one allocation, four bytes more.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Summed(Box<[u8]>);

/// The length of the checksum.
const SUM: usize = 4;

impl Summed {
    fn new(key: &[u8], value: &[u8]) -> Summed {
        let mut bytes = Vec::with_capacity(value.len() + SUM);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(&sum(key, value));
        Summed(bytes.into_boxed_slice())
    }

    fn value(&self) -> &[u8] {
        &self.0[..self.0.len() - SUM]
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.0[self.0.len() - SUM..] == sum(key, self.value())
    }
}

fn sum(key: &[u8], value: &[u8]) -> [u8; SUM] {
    let mut sum = crc32fast::Hasher::new();
    sum.update(key);
    sum.update(value);
    sum.finalize().to_le_bytes()
}

impl FromIterator<(Box<[u8]>, Box<[u8]>)> for SlotMap {
    /// Builds the tree in one go from records that are (nearly) in key order: faster and denser than one by one.
    fn from_iter<I: IntoIterator<Item = (Box<[u8]>, Box<[u8]>)>>(records: I) -> SlotMap {
        let summed = records.into_iter().map(|(key, value)| {
            let value = Summed::new(&key, &value);
            (key, value)
        });
        let mut map = SlotMap { records: summed.collect(), bytes: 0 };
        map.count_bytes();
        map
    }
}

impl SlotMap {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.get(key).map(Summed::value)
    }

    /// Sets a value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += value.len() as u64;
        let summed = Summed::new(key, value);
        if let Some(old) = self.records.get_mut(key) {
            self.bytes -= old.value().len() as u64;
            *old = summed;
        } else {
            self.bytes += key.len() as u64;
            self.records.insert(key.into(), summed);
        }
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.records.remove(key) {
            self.bytes -= (key.len() + old.value().len()) as u64;
        }
    }

    /// Applies a committed operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Put { key, value } | Op::Swap { key, value, .. } => self.put(key, value),
            Op::Delete { key } => self.delete(key),
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

    /// All records in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().map(|(key, value)| (&**key, value.value()))
    }

    /// The records whose keys are greater than `after`, or all, in key order.
    pub fn after(&self, after: Option<&[u8]>) -> impl Iterator<Item = (&[u8], &[u8])> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.records.range::<[u8], _>((start, Bound::Unbounded)).map(|(key, value)| (&**key, value.value()))
    }

    /// The first key, in the order of bytes.
    #[must_use]
    pub fn first(&self) -> Option<&[u8]> {
        self.records.first_key_value().map(|(key, _)| &**key)
    }

    /// The last key.
    #[must_use]
    pub fn last(&self) -> Option<&[u8]> {
        self.records.last_key_value().map(|(key, _)| &**key)
    }

    /// About `count` keys from this place on, in the order of places. All keys of one place are told together.
    ///
    /// The records are not kept in that order, so all keys are looked at. Therefore a long list is told in few pieces
    /// whatever `count` says.
    #[must_use]
    pub fn keys_from(&self, from: u64, count: usize) -> Keys {
        let count = count.max(self.records.len() / PIECES).max(1);
        let mut found: Vec<(u64, &[u8])> = self.records.keys().map(|key| (place(key), &**key)).collect();
        found.retain(|(place, _)| *place >= from);
        if found.len() > count {
            found.select_nth_unstable(count - 1);
            let last = found[..count].iter().map(|(place, _)| *place).max().unwrap_or(PLACES);
            found.retain(|(place, _)| *place <= last);
            let next = Some(last + 1).filter(|next| *next < PLACES);
            return Keys { keys: found.into_iter().map(|(_, key)| Blob(Bytes::copy_from_slice(key))).collect(), next };
        }
        Keys { keys: found.into_iter().map(|(_, key)| Blob(Bytes::copy_from_slice(key))).collect(), next: None }
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
        for (key, value) in self.iter() {
            let digest = &mut digests[usize::from(Self::leaf_of(key))];
            *digest = digest.wrapping_add(digest_of(key, value));
        }
        digests
    }

    /// The same, after a look at every record's checksum.
    ///
    /// # Errors
    /// The key of a record that is not what it was when it arrived.
    pub fn verified(&self) -> Result<Vec<u64>, Vec<u8>> {
        match self.records.iter().find(|(key, value)| !value.holds(key)) {
            Some((key, _)) => Err(key.to_vec()),
            None => Ok(self.digests()),
        }
    }

    /// The key and digest of every record of these leaves, in key order.
    #[must_use]
    pub fn records_of(&self, leaves: &[u16]) -> Vec<(Blob, u64)> {
        let wanted = self.iter().filter(|(key, _)| leaves.contains(&Self::leaf_of(key)));
        wanted.map(|(key, value)| (Blob(Bytes::copy_from_slice(key)), digest_of(key, value))).collect()
    }

    /// Damages a record in place, as a failing memory would: its checksum is left as it was. For tests.
    pub fn flip(&mut self, key: &[u8]) -> bool {
        let byte = self.records.get_mut(key).and_then(|value| value.0.first_mut());
        byte.map(|byte| *byte ^= 0x20).is_some()
    }

    fn count_bytes(&mut self) {
        self.bytes = self.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
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

    /// The records of the given leaves (`wanted[leaf]`), grouped by leaf.
    #[must_use]
    pub fn leaves(&self, wanted: &[bool]) -> BTreeMap<u16, Vec<(Blob, Blob)>> {
        let mut leaves: BTreeMap<u16, Vec<(Blob, Blob)>> = BTreeMap::new();
        for (leaf, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            leaves.insert(u16::try_from(leaf).unwrap_or(u16::MAX), Vec::new());
        }
        for (key, value) in self.iter() {
            if let Some(records) = leaves.get_mut(&Self::leaf_of(key)) {
                records.push((Blob(Bytes::copy_from_slice(key)), Blob(Bytes::copy_from_slice(value))));
            }
        }
        leaves
    }

    /// Replaces leaves by content.
    pub fn fill(&mut self, leaves: &[Leaf]) {
        if leaves.iter().any(|leaf| leaf.clear) {
            let cleared: std::collections::BTreeSet<u16> =
                leaves.iter().filter(|leaf| leaf.clear).map(|leaf| leaf.leaf).collect();
            self.records.retain(|key, _| !cleared.contains(&Self::leaf_of(key)));
            self.count_bytes();
        }
        for (key, value) in leaves.iter().flat_map(|leaf| &leaf.records) {
            self.put(&key.0, &value.0);
        }
    }
}

fn digest_of(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}
