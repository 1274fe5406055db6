//! Checkpoints and records that stop anywhere, with the power lost in every way.

use common::Slot;
use proptest::prelude::*;

use super::super::disk::Disk;
use super::super::recovery::recover;
use super::world::{Step, World, assert_same};

/// The world just before a second checkpoint, everything synced.
fn before() -> World {
    let mut world = World::new();
    for i in 0..6u16 {
        world.put(i % 3, &format!("key{i}"), "first");
        world.step(Slot(i % 3), &Step::Commit(1));
    }
    assert!(world.checkpoint());
    for i in 0..9u16 {
        world.put(i % 3, &format!("key{i}"), "second");
    }
    world.step(Slot(2), &Step::View);
    world.step(Slot(1), &Step::Commit(2));
    world.sync();
    world
}

/// How many operations a checkpoint takes.
fn operations() -> u64 {
    let mut world = before();
    world.disk.operations_left = Some(1000);
    assert!(world.checkpoint());
    1000 - world.disk.operations_left.unwrap()
}

fn plain_files_are_json(world: &World) {
    for name in ["coordinator.json", "replica1.json", "replica2.json", "logs.json"] {
        let bytes = world.disk.get(name).unwrap();
        serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Recovery, its chores, and a start after that.
fn restart(world: &mut World) {
    let recovered = recover(&world.disk).unwrap_or_else(|e| panic!("{e}"));
    assert_same(&recovered.images, &world.images);
    (world.segment, world.generation) = (recovered.next_segment - 1, recovered.generation);
    for chore in recovered.chores {
        world.disk.perform(chore).unwrap();
    }
    plain_files_are_json(world);
    world.rotate();
    world.put(1, "after", "restart");
    world.sync();
    world.assert_recovers();
    assert!(world.checkpoint());
    world.assert_recovers();
    let names = world.disk.names().unwrap();
    assert_eq!(names.len(), 6, "five files of the checkpoint and one segment: {names:?}");
}

#[test]
fn a_process_killed_between_any_two_operations_of_a_checkpoint_loses_nothing() {
    for stop in 0..=operations() {
        let mut world = before();
        world.disk.operations_left = Some(stop);
        assert_eq!(world.checkpoint(), stop == operations());
        world.disk.operations_left = None;
        plain_files_are_json(&world);
        restart(&mut world);
    }
}

#[test]
fn a_power_loss_between_any_two_operations_of_a_checkpoint_loses_nothing() {
    for stop in 0..=operations() {
        for kept in 0..12 {
            let mut world = before();
            world.disk.operations_left = Some(stop);
            world.checkpoint();
            world.disk.lose_power(|of| of * kept / 11);
            plain_files_are_json(&world);
            restart(&mut world);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Synced records survive a power loss; of the others a prefix does.
    #[test]
    fn a_power_loss_takes_only_what_was_not_synced(
        steps in proptest::collection::vec((0u16..3, super::world::step(), 0u8..8), 1..30),
        keep in 0usize..200,
    ) {
        let mut world = World::new();
        let mut synced = 0;
        for (slot, step, dice) in &steps {
            world.step(Slot(*slot), step);
            if *dice == 0 {
                world.sync();
            }
            if *dice == 1 {
                prop_assert!(world.checkpoint());
            }
            if *dice < 2 {
                synced = world.history.len() - 1;
            }
        }
        world.disk.lose_power(|of| of.min(keep));
        let found = recover(&world.disk).unwrap().images;
        // Commits are not written down: compare what each slot's log says, not how much of it was known to be committed.
        let marks = |images: &std::collections::BTreeMap<Slot, super::super::SlotImage>| {
            let written = images.iter().filter(|(_, image)| image.mark > 0);
            written.map(|(slot, image)| (*slot, image.mark, image.end(), image.view.clone())).collect::<Vec<_>>()
        };
        let found = marks(&found);
        prop_assert!(world.history[synced..].iter().any(|state| marks(state) == found), "{found:?}");
    }

    /// Slots are encoded one after another while records go on: each image says by its mark what it contains.
    #[test]
    fn records_written_during_a_checkpoint_are_neither_lost_nor_doubled(
        steps in proptest::collection::vec((0u16..4, super::world::step()), 4..60),
        cut in 0usize..8,
    ) {
        use super::super::checkpoint::{CheckpointWriter, Label};
        use super::super::section::{Role, SlotEncoder};
        let mut world = World::new();
        let (before, during) = steps.split_at(steps.len() / 2);
        for (slot, step) in before {
            world.step(Slot(*slot), step);
        }
        world.rotate();
        let label = Label { generation: 1, first_segment: world.segment, store: super::world::STORE };
        // The checkpoint's own disk, so that both can be written in turn.
        let mut own = super::super::mem_disk::MemDisk::default();
        let mut writer = CheckpointWriter::begin(&mut own, label).unwrap();
        let mut encoder = SlotEncoder::default();
        for (i, (slot, step)) in during.iter().enumerate() {
            if i % 8 == cut {
                let slot = Slot(u16::try_from(i / 8).unwrap());
                if let Some(image) = world.images.get(&slot) {
                    encoder.encode(slot, Role::Replica1, &image.parts());
                    writer.add(&encoder).unwrap();
                }
            }
            world.step(Slot(*slot), step);
        }
        for slot in 0..4u16 {
            // Those whose turn did not come yet.
            if (0..during.len()).any(|i| i % 8 == cut && i / 8 == usize::from(slot)) {
                continue;
            }
            if let Some(image) = world.images.get(&Slot(slot)) {
                encoder.encode(Slot(slot), Role::Coordinator, &image.parts());
                writer.add(&encoder).unwrap();
            }
        }
        writer.commit().unwrap();
        for name in own.names().unwrap() {
            world.disk.put(&name, own.get(&name).unwrap());
        }
        // Slots that were first written after their turn are in the journal alone.
        world.trim();
        world.assert_recovers();
    }
}
