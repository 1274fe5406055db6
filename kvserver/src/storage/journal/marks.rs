//! How far each slot has come, by the records of one group. Pure.
//!
//! Slots stand in the order of their first records. In slot order, who was answered early asked again early, and was
//! answered late by the next sync: latencies of clients that come back with each sync were spread over two syncs
//! (docs/performance.md, "The tail of PUT").

use common::Slot;

/// See the module. One for all groups, so that its memory is allocated once.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// For each slot its place in the group at hand, if that is where the slot is; else what a group before has left.
    places: Vec<usize>,
}

impl Marks {
    /// Leaves each slot once, where it came first, with its highest mark: each slot's marks rise.
    pub(super) fn condense(&mut self, marks: &mut Vec<(Slot, u64)>) {
        let mut kept = 0;
        for next in 0..marks.len() {
            let (slot, mark) = marks[next];
            let index = usize::from(slot.0);
            if index >= self.places.len() {
                self.places.resize(index + 1, 0);
            }
            let place = self.places[index];
            if place < kept && marks[place].0 == slot {
                debug_assert!(mark > marks[place].1, "slot {slot}: mark {mark} after {}", marks[place].1);
                marks[place].1 = mark;
            } else {
                self.places[index] = kept;
                marks[kept] = (slot, mark);
                kept += 1;
            }
        }
        marks.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reports_each_slot_once_in_the_order_in_which_they_came() {
        let mut marks = Marks::default();
        let mut group = vec![(Slot(2), 5), (Slot(1), 9), (Slot(2), 6), (Slot(1), 10), (Slot(0), 1), (Slot(2), 7)];
        marks.condense(&mut group);
        assert_eq!(group, [(Slot(2), 7), (Slot(1), 10), (Slot(0), 1)]);
        // What the last group has left does no harm to the next one.
        let mut group = vec![(Slot(0), 2), (Slot(300), 1), (Slot(2), 8), (Slot(0), 3), (Slot(1), 11)];
        marks.condense(&mut group);
        assert_eq!(group, [(Slot(0), 3), (Slot(300), 1), (Slot(2), 8), (Slot(1), 11)]);
        let mut none = Vec::new();
        marks.condense(&mut none);
        assert!(none.is_empty());
    }
}
