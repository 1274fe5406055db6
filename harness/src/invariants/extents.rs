//! Answers about all keys (`num_keys`, `first_key`, `last_key`): linearizable slot by slot. Each slot is counted at some
//! moment of the question, so what is told must be put together from what each slot held at some moment of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::update::Becomes;
use common::{Entry, Op, Slot};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// How many keys there are,
    Number,
    /// which is the first,
    First,
    /// which is the last.
    Last,
}

/// What each slot holds, committed, and what it held while somebody was asking.
#[derive(Debug)]
pub(super) struct Extents {
    keys: Vec<BTreeSet<Bytes>>,
    watches: BTreeMap<u32, Vec<Held>>,
    next: u32,
}

/// What one slot held during a question.
#[derive(Clone, Debug)]
struct Held {
    least: u64,
    most: u64,
    firsts: BTreeSet<Option<Bytes>>,
    lasts: BTreeSet<Option<Bytes>>,
}

impl Held {
    fn of(keys: &BTreeSet<Bytes>) -> Held {
        let number = keys.len() as u64;
        let (first, last) = (keys.first().cloned(), keys.last().cloned());
        Held { least: number, most: number, firsts: BTreeSet::from([first]), lasts: BTreeSet::from([last]) }
    }

    fn also(&mut self, keys: &BTreeSet<Bytes>) {
        let number = keys.len() as u64;
        (self.least, self.most) = (self.least.min(number), self.most.max(number));
        self.firsts.insert(keys.first().cloned());
        self.lasts.insert(keys.last().cloned());
    }
}

impl Extents {
    pub(super) fn new(slots: u16) -> Extents {
        Extents { keys: vec![BTreeSet::new(); usize::from(slots)], watches: BTreeMap::new(), next: 0 }
    }

    /// An entry is committed.
    pub(super) fn committed(&mut self, slot: Slot, entry: &Entry) {
        let keys = &mut self.keys[usize::from(slot.0)];
        let changed = match &entry.op {
            Op::Put { key, .. } | Op::Swap { key, .. } => keys.insert(key.clone()),
            Op::Update { key, becomes: Becomes::Value { .. }, .. } => keys.insert(key.clone()),
            Op::Update { key, becomes: Becomes::Gone | Becomes::Expired { .. }, .. } | Op::Delete { key } => {
                keys.remove(key)
            }
            Op::Update { .. } | Op::Noop => false,
        };
        if changed {
            self.watches.values_mut().for_each(|held| held[usize::from(slot.0)].also(keys));
        }
    }

    /// Somebody asks.
    pub(super) fn watch(&mut self) -> u32 {
        self.next += 1;
        self.watches.insert(self.next, self.keys.iter().map(Held::of).collect());
        self.next
    }

    pub(super) fn unwatch(&mut self, watch: u32) {
        self.watches.remove(&watch);
    }

    pub(super) fn counted(&self, watch: u32, number: u64) -> Result<(), String> {
        let Some(held) = self.watches.get(&watch) else { return Ok(()) };
        let (least, most): (u64, u64) = (held.iter().map(|h| h.least).sum(), held.iter().map(|h| h.most).sum());
        if (least..=most).contains(&number) {
            return Ok(());
        }
        Err(format!("num_keys is {number}, while there were {least} to {most} keys"))
    }

    pub(super) fn outermost(&self, watch: u32, count: Count, told: Option<&Bytes>) -> Result<(), String> {
        let Some(held) = self.watches.get(&watch) else { return Ok(()) };
        let of = |held: &Held| if count == Count::First { held.firsts.clone() } else { held.lasts.clone() };
        let all: Vec<BTreeSet<Option<Bytes>>> = held.iter().map(of).collect();
        let beyond = |key: &Bytes, told: &Bytes| if count == Count::First { key > told } else { key < told };
        let possible = match told {
            None => all.iter().all(|ends| ends.contains(&None)),
            Some(told) => {
                let gives = |ends: &BTreeSet<Option<Bytes>>| ends.iter().any(|end| end.as_ref() == Some(told));
                let allows = |end: &Option<Bytes>| end.as_ref().is_none_or(|key| beyond(key, told));
                all.iter().any(gives) && all.iter().all(|ends| gives(ends) || ends.iter().any(allows))
            }
        };
        if possible { Ok(()) } else { Err(format!("{count:?} key is {told:?}, while the slots' were {all:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use common::{LogId, Outcome};

    use super::*;

    fn write(extents: &mut Extents, slot: u16, op: Op) {
        let entry = Entry { id: LogId::default(), op, outcome: Outcome::Created, request: None };
        extents.committed(Slot(slot), &entry);
    }

    fn put(key: &'static str) -> Op {
        Op::Put { key: key.into(), value: Bytes::new() }
    }

    #[test]
    fn what_no_moment_shows_is_wrong() {
        let mut extents = Extents::new(2);
        write(&mut extents, 0, put("b"));
        write(&mut extents, 1, put("m"));
        let watch = extents.watch();
        write(&mut extents, 0, Op::Delete { key: "b".into() });
        write(&mut extents, 0, put("c"));
        let first = |key: Option<&'static str>| extents.outermost(watch, Count::First, key.map(Bytes::from).as_ref());
        assert!((1..=2).all(|n| extents.counted(watch, n).is_ok()));
        assert!(extents.counted(watch, 0).is_err() && extents.counted(watch, 3).is_err());
        assert!(["b", "c", "m"].into_iter().all(|key| first(Some(key)).is_ok()));
        assert!(first(Some("d")).is_err() && first(None).is_err());
        let last = |key: &'static str| extents.outermost(watch, Count::Last, Some(&Bytes::from(key)));
        assert!(last("m").is_ok() && last("b").is_err());
    }
}
