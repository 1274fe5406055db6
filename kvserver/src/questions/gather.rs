//! Putting together what the slots hold from what their coordinators say. Pure.
//!
//! Invariant: every slot is in the sum once at most; it stays missing until somebody who may answer for it has.

use std::collections::BTreeMap;

use common::question::{Extents, Say};
use common::{NodeId, Slot};

/// See the module.
#[derive(Debug)]
pub struct Gather {
    all: Extents,
    /// What was said last about each slot that is not in the sum.
    missing: BTreeMap<Slot, String>,
}

impl Gather {
    /// All of a ring's slots are missing.
    #[must_use]
    pub fn new(slots: u16) -> Gather {
        let nobody = || "no view of it is known".to_owned();
        Gather { all: Extents::default(), missing: (0..slots).map(|slot| (Slot(slot), nobody())).collect() }
    }

    /// Whom to ask about what next.
    pub fn round(&self, coordinator: impl Fn(Slot) -> Option<NodeId>) -> BTreeMap<NodeId, Vec<Slot>> {
        let mut round: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
        for slot in self.missing.keys() {
            if let Some(node) = coordinator(*slot) {
                round.entry(node).or_default().push(*slot);
            }
        }
        round
    }

    /// Takes what was said to a question about these slots.
    pub fn take(&mut self, asked: &[Slot], said: Result<Say, String>) {
        match said {
            Ok(Say::Extents(mut extents)) => {
                let refused: BTreeMap<Slot, String> = std::mem::take(&mut extents.refused).into_iter().collect();
                for slot in asked {
                    match refused.get(slot) {
                        Some(why) => drop(self.missing.insert(*slot, why.clone())),
                        None => drop(self.missing.remove(slot)),
                    }
                }
                self.all.add(extents.records, extents.first, extents.last);
            }
            Ok(Say::Refused(why)) | Err(why) => {
                for slot in asked {
                    self.missing.insert(*slot, why.clone());
                }
            }
            Ok(Say::Standing(_) | Say::Holding(_)) => {}
        }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.missing.is_empty()
    }

    /// The sum; or the first slot that is not in it, and why.
    ///
    /// # Errors
    /// That slot.
    pub fn end(mut self) -> Result<Extents, (Slot, String)> {
        match self.missing.pop_first() {
            None => Ok(self.all),
            Some(missing) => Err(missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::blob::Blob;

    use super::*;

    fn says(records: u64, key: &'static str, refused: &[u16]) -> Result<Say, String> {
        let key = Some(Blob(key.into()));
        let refused = refused.iter().map(|slot| (Slot(*slot), "no lease".to_owned())).collect();
        Ok(Say::Extents(Extents { records, first: key.clone(), last: key, refused }))
    }

    #[test]
    fn what_was_refused_is_asked_again_and_nothing_twice() {
        let mut gather = Gather::new(4);
        let round = gather.round(|slot| Some(NodeId(u64::from(slot.0 % 2))));
        assert_eq!(round[&NodeId(1)], [Slot(1), Slot(3)]);
        gather.take(&round[&NodeId(0)], says(5, "m", &[]));
        gather.take(&round[&NodeId(1)], says(2, "k", &[3]));
        assert!(!gather.is_done());

        let round = gather.round(|_| Some(NodeId(7)));
        assert_eq!(round, BTreeMap::from([(NodeId(7), vec![Slot(3)])]));
        gather.take(&round[&NodeId(7)], Err("nobody listens".into()));
        gather.take(&round[&NodeId(7)], says(1, "z", &[]));
        let all = gather.end().unwrap();
        assert_eq!((all.records, all.first, all.last), (8, Some(Blob("k".into())), Some(Blob("z".into()))));
    }

    #[test]
    fn a_slot_that_nobody_answers_for_is_named_with_the_last_reason() {
        let mut gather = Gather::new(2);
        gather.take(&[Slot(0)], says(0, "a", &[]));
        assert_eq!(gather.round(|_| None), BTreeMap::new());
        gather.take(&[Slot(1)], Ok(Say::Refused("busy".into())));
        assert_eq!(gather.end().unwrap_err(), (Slot(1), "busy".to_owned()));
    }
}
