//! SCAN, KEYS and RANDOMKEY: walking through the keys of the whole cluster.
//!
//! A cursor is a place on the ring: the slot above, the place within the slot below (see `common::forward::place`). Neither
//! changes with servers, views or other keys, so a walk can go on at any server, and a key that is there from its
//! beginning to its end is told. A call looks at no more than [`SLOTS`] slots, so it may bring fewer keys than asked for, or
//! none, and still not be the last; clients of Redis know that.

use bytes::Bytes;
use common::Slot;
use common::forward::{Job, Keys, PLACES};
use common::resp::Out;

use super::glob;

/// Slots that one SCAN looks at.
const SLOTS: u16 = 64;
/// Bytes of keys that KEYS may bring.
const MOST: usize = 8 << 20;
/// The most keys that are asked of a slot at once.
const PAGE: u32 = 10_000;

/// A walk that is under way.
#[derive(Debug)]
pub(in crate::client_port) struct Scan {
    kind: Kind,
    slots: u16,
    /// The slot that is asked, and where it began.
    at: Slot,
    left: u16,
    count: usize,
    pattern: Option<Bytes>,
    found: Vec<Bytes>,
    /// Keys looked at: a page of those that do not match is work, too.
    seen: usize,
    bytes: usize,
    /// Where the next call goes on; 0: nowhere.
    cursor: u64,
    overflown: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Scan,
    Keys,
    Random,
}

/// What comes next.
#[derive(Debug)]
pub(in crate::client_port) enum Step {
    /// This.
    Go { job: Job },
    /// Nothing: all is found.
    Done,
}

impl Scan {
    /// SCAN from a cursor.
    pub(super) fn walk(cursor: u64, count: usize, pattern: Option<&[u8]>, slots: u16) -> (Scan, Job) {
        let slot = u16::try_from(cursor / PLACES).unwrap_or(u16::MAX);
        Scan::new(Kind::Scan, slot.min(slots - 1), cursor % PLACES, SLOTS, count, pattern, slots)
    }

    /// KEYS.
    pub(super) fn keys(pattern: &[u8], slots: u16) -> (Scan, Job) {
        Scan::new(Kind::Keys, 0, 0, slots, usize::MAX, Some(pattern), slots)
    }

    /// RANDOMKEY: the first key from a place on that `random` names.
    pub(super) fn random(random: u64, slots: u16) -> (Scan, Job) {
        let slot = u16::try_from((random >> 48) % u64::from(slots)).unwrap_or(0);
        // The slot it begins in is looked at once more in the end, for what lies before that place.
        Scan::new(Kind::Random, slot, random % PLACES, slots + 1, 1, None, slots)
    }

    fn new(
        kind: Kind,
        slot: u16,
        from: u64,
        left: u16,
        count: usize,
        pattern: Option<&[u8]>,
        slots: u16,
    ) -> (Scan, Job) {
        let pattern = pattern.filter(|pattern| *pattern != b"*").map(Bytes::copy_from_slice);
        let (at, found) = (Slot(slot), Vec::new());
        let scan =
            Scan { kind, slots, at, left, count, pattern, found, seen: 0, bytes: 0, cursor: 0, overflown: false };
        let job = scan.job(from);
        (scan, job)
    }

    fn job(&self, from: u64) -> Job {
        let missing = self.count.saturating_sub(self.seen);
        Job::Keys { slot: self.at, from, count: u32::try_from(missing).unwrap_or(PAGE).clamp(1, PAGE) }
    }

    /// Takes keys of the slot.
    pub(super) fn take(&mut self, keys: &Keys) -> Step {
        self.seen += keys.keys.len();
        for key in &keys.keys {
            if self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, &key.0)) {
                self.bytes += key.0.len() + size_of::<Bytes>();
                self.found.push(key.0.clone());
            }
        }
        let next = match keys.next {
            Some(from) => (self.at, from),
            None => {
                self.left -= 1;
                let next = self.at.0 + 1;
                let wraps = next == self.slots && self.kind == Kind::Random;
                (Slot(if wraps { 0 } else { next }), 0)
            }
        };
        self.overflown = self.kind == Kind::Keys && self.bytes > MOST;
        let whole = next.0.0 >= self.slots || self.left == 0 && self.kind != Kind::Scan;
        self.cursor = if whole { 0 } else { u64::from(next.0.0) * PLACES + next.1 };
        let enough = self.seen >= self.count || self.left == 0 || self.overflown;
        if whole || enough {
            return Step::Done;
        }
        self.at = next.0;
        Step::Go { job: self.job(next.1) }
    }

    /// The memory behind it.
    pub(super) fn cost(&self) -> usize {
        self.bytes
    }

    /// The reply.
    pub(super) fn encode(&self, out: &mut Out<'_>) {
        match self.kind {
            Kind::Random => return out.bulk_or_null(self.found.first().map(|key| &key[..])),
            Kind::Keys if self.overflown => {
                return out.error("ERR too many keys for one reply (over 8 MiB of them): use SCAN");
            }
            Kind::Keys => {}
            Kind::Scan => {
                out.array(2);
                out.bulk(self.cursor.to_string().as_bytes());
            }
        }
        out.array(self.found.len());
        self.found.iter().for_each(|key| out.bulk(key));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use common::blob::Blob;
    use common::forward::place;
    use common::position::Position;

    use super::*;

    /// What a slot answers.
    fn answer(all: &[String], job: &Job, slots: u16) -> Keys {
        let Job::Keys { slot, from, count } = job else { panic!("{job:?}") };
        let mut here: Vec<(u64, &String)> = all
            .iter()
            .filter(|key| Position::of(key.as_bytes()).slot(slots) == *slot)
            .map(|key| (place(key.as_bytes()), key))
            .filter(|(place, _)| place >= from)
            .collect();
        here.sort();
        let next = here.get(*count as usize).map(|(place, _)| *place);
        here.truncate(*count as usize);
        Keys { keys: here.into_iter().map(|(_, key)| Blob(Bytes::from(key.clone()))).collect(), next }
    }

    fn finish((mut scan, mut job): (Scan, Job), all: &[String], slots: u16) -> Scan {
        while let Step::Go { job: next } = scan.take(&answer(all, &job, slots)) {
            job = next;
        }
        scan
    }

    #[test]
    fn a_walk_meets_every_key_once_whatever_the_count() {
        let all: Vec<String> = (0..500).map(|n| format!("key{n}")).collect();
        for (count, slots) in [(1, 256), (10, 256), (1000, 256), (7, 1), (50, 2)] {
            let (mut cursor, mut found, mut calls) = (0, Vec::new(), 0);
            loop {
                let scan = finish(Scan::walk(cursor, count, None, slots), &all, slots);
                found.extend(scan.found.iter().cloned());
                cursor = scan.cursor;
                calls += 1;
                assert!(calls < 2000);
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(found.len(), 500, "{count} {slots}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>().len(), 500);
        }
    }

    #[test]
    fn keys_are_filtered_and_bounded() {
        let all: Vec<String> = (0..500).map(|n| format!("key{n}")).collect();
        assert_eq!(finish(Scan::keys(b"key1?", 256), &all, 256).found.len(), 10);
        assert_eq!(finish(Scan::keys(b"*", 256), &all, 256).found.len(), 500);
        let long: Vec<String> = (0..10_000).map(|n| format!("{n:01000}")).collect();
        assert!(finish(Scan::keys(b"*", 256), &long, 256).overflown);
    }

    #[test]
    fn a_random_key_is_found_wherever_it_lies() {
        let all = ["lonely".to_owned()];
        for random in [0, 1 << 40, u64::MAX, 77 << 48, 255 << 48] {
            assert_eq!(finish(Scan::random(random, 256), &all, 256).found.len(), 1);
        }
        assert_eq!(finish(Scan::random(5, 256), &[], 256).found.len(), 0);
    }
}
