//! Bytes that are cut off, added or changed.

use common::Slot;
use proptest::prelude::*;

use super::super::damage::Failure;
use super::super::disk::Disk;
use super::super::image::SlotImage;
use super::super::manifest::segment_name;
use super::super::mem_disk::MemDisk;
use super::super::recovery::{recover, salvage, sole_copies};
use super::super::scrub::scrub;
use super::world::{ME, STORE, Step, World, assert_same, step, view};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Steps on three slots with checkpoints anywhere among them: everything comes back.
    #[test]
    fn what_was_written_comes_back(steps in proptest::collection::vec((0u16..3, step(), 0u8..12), 0..40)) {
        let mut world = World::new();
        for (slot, step, dice) in steps {
            world.step(Slot(slot), &step);
            if dice == 0 {
                prop_assert!(world.checkpoint());
                world.assert_recovers();
            }
        }
        let recovered = world.assert_recovers();
        prop_assert_eq!(recovered.next_segment, world.segment + 1);
        prop_assert_eq!(recovered.report.torn_bytes, 0);
        // A salvage of intact files finds nothing to complain about.
        let salvaged = salvage(&world.disk).unwrap();
        prop_assert_eq!(&salvaged, &recovered);
    }
}

/// Two slots, a checkpoint, some records after it.
fn small() -> World {
    let mut world = World::new();
    world.put(1, "apple", "red");
    world.step(Slot(1), &Step::Commit(1));
    world.put(1, "pear", "green");
    world.step(Slot(2), &Step::Put(vec![0xff, 0xfe].into(), vec![0x80].into()));
    world.step(Slot(2), &Step::View);
    world.put(2, "quoted \"\n", "ünï");
    world.put(2, "third", "");
    world.step(Slot(2), &Step::Commit(3));
    assert!(world.checkpoint());
    world.put(1, "plum", "blue");
    world.put(2, "fig", "violet");
    world.put(1, "last", "one");
    world
}

fn last_line(bytes: &[u8]) -> usize {
    bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1
}

#[test]
fn a_record_cut_anywhere_is_a_torn_tail() {
    let world = small();
    let name = segment_name(world.segment);
    let whole = world.disk.get(&name).unwrap().to_vec();
    let keep = last_line(&whole);
    let mut without = small();
    without.disk.put(&name, &whole[..keep]);
    let expected = recover(&without.disk).unwrap();
    for cut in keep..whole.len() {
        let mut world = world.clone();
        world.disk.put(&name, &whole[..cut]);
        let found = recover(&world.disk).unwrap();
        assert_eq!(found.images, expected.images, "cut at {cut}");
        assert_eq!(found.report.torn_bytes, (cut - keep) as u64);
        assert_eq!((found.next_segment, found.after), (world.segment + 1, keep as u64));
        for chore in found.chores {
            world.disk.perform(chore).unwrap();
        }
        assert_eq!(world.disk.get(&name), Some(&whole[..keep]));
        world.rotate();
        world.disk.lose_power(|_| 0);
        assert_eq!(recover(&world.disk).unwrap().images, expected.images);
    }
}

#[test]
fn a_segment_that_was_hardly_begun_is_begun_again() {
    let mut world = small();
    let (name, before) = (segment_name(world.segment), world.segment);
    world.rotate();
    let head = world.disk.get(&segment_name(world.segment)).unwrap().to_vec();
    for cut in 0..head.len() {
        world.disk.put(&segment_name(world.segment), &head[..cut]);
        let found = world.assert_recovers();
        assert_eq!((found.next_segment, found.after), (before + 1, world.disk.length(&name).unwrap()));
    }
}

/// It was synced before the checkpoint that begins with it: what it held was acknowledged.
#[test]
fn the_first_segment_of_a_checkpoint_without_its_head_is_corruption() {
    let world = small();
    let name = segment_name(world.segment);
    let head = world.disk.get(&name).unwrap().iter().position(|byte| *byte == b'\n').unwrap();
    for content in [vec![], vec![0; 600], b"not a journal".to_vec(), world.disk.get(&name).unwrap()[..head].to_vec()] {
        let mut disk = world.disk.clone();
        disk.put(&name, &content);
        assert!(matches!(recover(&disk), Err(Failure::Corrupt(what)) if what.file == name), "{content:?}");
        assert!(!salvage(&disk).unwrap().losses.is_empty());
    }
}

#[test]
fn garbage_at_the_end_is_cut_off() {
    for garbage in [&b"\0\0\0\0\0\0\0\0"[..], b"\n\n\n", b"{\"crc\":\"00000000\",\"e\":{}}\n", &[0xaa; 5000]] {
        let mut world = small();
        let name = segment_name(world.segment);
        let mut bytes = world.disk.get(&name).unwrap().to_vec();
        bytes.extend_from_slice(garbage);
        world.disk.put(&name, &bytes);
        // Room for what was to come is no loss.
        let told = if garbage.len() < 10 { 0 } else { garbage.len() as u64 };
        assert_eq!(world.assert_recovers().report.torn_bytes, told);
    }
}

/// Every bit of every file: an error, or exactly what was there, or (in the last record alone) what was there before it.
#[test]
fn a_flipped_bit_is_found_or_does_no_harm() {
    let world = small();
    let last = segment_name(world.segment);
    let expected = recover(&world.disk).unwrap().images;
    let mut shorter = small();
    let whole = world.disk.get(&last).unwrap().to_vec();
    shorter.disk.put(&last, &whole[..last_line(&whole)]);
    let shorter = recover(&shorter.disk).unwrap().images;
    for name in world.disk.names().unwrap() {
        let whole = world.disk.get(&name).unwrap().to_vec();
        let mut found_some = false;
        for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let mut world = world.clone();
            world.disk.put(&name, &bytes);
            match recover(&world.disk) {
                Ok(found) => {
                    let torn = name == last && at >= last_line(&whole) && found.images == shorter;
                    assert!(torn || found.images == expected, "{name}: bit {bit} of byte {at}");
                }
                Err(Failure::Corrupt(corruption)) => {
                    found_some = true;
                    assert_eq!(corruption.file, name, "{corruption}");
                }
                Err(Failure::Newer { .. }) => panic!("{name}: bit {bit} of byte {at} passes for another format"),
                Err(other) => panic!("{name}: bit {bit} of byte {at}: {other}"),
            }
            salvage(&world.disk).unwrap();
        }
        let empty = name.starts_with("replica");
        assert_eq!(found_some, !empty, "{name}: only a map without records may be damaged unnoticed");
    }
}

#[test]
fn a_missing_file_is_corruption() {
    let mut world = small();
    world.put(3, "x", "y");
    world.rotate();
    world.put(1, "after", "that");
    for name in world.disk.names().unwrap() {
        let mut world = world.clone();
        world.disk.perform(super::super::FileOp::Remove(name.clone())).unwrap();
        let last = name == segment_name(world.segment);
        match recover(&world.disk) {
            // Without its last segment a journal looks like one that ended there; nothing can tell.
            Ok(_) => assert!(last, "{name}"),
            Err(e) => assert!(matches!(e, Failure::Corrupt(_)) && !last, "{name}: {e}"),
        }
        salvage(&world.disk).unwrap();
    }
}

#[test]
fn a_segment_cut_short_between_two_lines_is_noticed() {
    let mut world = small();
    let name = segment_name(world.segment);
    let whole = world.disk.get(&name).unwrap().to_vec();
    world.rotate();
    world.disk.put(&name, &whole[..last_line(&whole)]);
    let Err(Failure::Corrupt(corruption)) = recover(&world.disk) else { panic!("not noticed") };
    assert!(corruption.what.contains("the segment before"), "{corruption}");
}

#[test]
fn a_salvage_keeps_all_but_the_damaged_line() {
    let mut world = small();
    let name = segment_name(world.segment);
    let mut bytes = world.disk.get(&name).unwrap().to_vec();
    let plum = bytes.windows(4).position(|window| window == b"plum").unwrap();
    bytes[plum] = b'q';
    world.disk.put(&name, &bytes);
    assert!(recover(&world.disk).is_err());
    let mut found = salvage(&world.disk).unwrap();
    assert_eq!(found.losses.len(), 2, "{:?}", found.losses);
    let image = found.images.get_mut(&Slot(1)).unwrap();
    image.check();
    image.commit_to(image.end().seq);
    assert_eq!(image.map.get(b"pear"), Some(&b"green"[..]));
    assert_eq!(image.map.get(b"last"), Some(&b"one"[..]));
    assert_eq!(image.map.get(b"plum"), None);
}

#[test]
fn a_salvage_keeps_the_records_of_a_damaged_map() {
    let mut world = small();
    let name = "replica1.json";
    assert!(world.disk.get(name).is_some_and(|bytes| !bytes.is_empty()));
    let name = "coordinator.json";
    let mut bytes = world.disk.get(name).unwrap().to_vec();
    let third = bytes.windows(5).position(|window| window == b"third").unwrap();
    bytes[third - 1] = b'x';
    world.disk.put(name, &bytes);
    assert!(recover(&world.disk).is_err());
    let found = salvage(&world.disk).unwrap();
    assert!(found.losses.iter().all(|loss| loss.slot == Some(Slot(2))), "{:?}", found.losses);
    let map = &found.images[&Slot(2)].map;
    assert_eq!(map.get("quoted \"\n".as_bytes()), Some("ünï".as_bytes()));
    assert_eq!(map.get(&[0xff, 0xfe]), Some(&[0x80][..]));
    assert_eq!(map.get(b"third"), None);
    let mut intact = world.images.clone();
    intact.remove(&Slot(2));
    assert_same(&found.images.into_iter().filter(|(slot, _)| *slot != Slot(2)).collect(), &intact);
}

#[test]
fn a_damaged_copy_among_others_gives_up_its_position_and_a_sole_one_does_not() {
    let mut world = small();
    world.write(Slot(1), super::super::record::Change::View(view(Slot(1), 90, &[ME])));
    let name = segment_name(world.segment);
    let mut bytes = world.disk.get(&name).unwrap().to_vec();
    let at = bytes.windows(3).position(|window| window == b"fig").unwrap();
    bytes[at] = b'p';
    world.disk.put(&name, &bytes);
    let mut found = salvage(&world.disk).unwrap();
    assert_eq!(sole_copies(&found.images, ME, STORE), [Slot(1)]);
    found.demote_damaged(ME, STORE);
    assert!(found.images[&Slot(1)].base.is_some());
    let demoted: &SlotImage = &found.images[&Slot(2)];
    assert_eq!((demoted.base, demoted.tail.len()), (None, 0));
    assert!(!demoted.map.is_empty());
}

/// What would make the next start set the store aside is found before it.
#[test]
fn a_scrub_finds_whatever_a_start_would() {
    let world = small();
    let synced = (world.segment, world.disk.length(&segment_name(world.segment)).unwrap());
    let look = |disk: &MemDisk| scrub(disk, synced, |_| ()).unwrap().unwrap();
    let whole = look(&world.disk);
    assert!(whole.damage.is_none() && whole.bytes > 1_000, "{whole:?}");
    let mut found = 0;
    for name in world.disk.names().unwrap() {
        let content = world.disk.get(&name).unwrap().to_vec();
        for at in 0..content.len() {
            let (mut disk, mut damaged) = (world.disk.clone(), content.clone());
            damaged[at] ^= 4;
            disk.put(&name, &damaged);
            if recover(&disk).is_err() {
                let scrubbed = look(&disk);
                assert!(scrubbed.damage.is_some_and(|what| what.contains(&name)), "{name} at {at}");
                found += 1;
            }
        }
    }
    assert!(found > 1_000, "{found}");
}
