//! The journal's thread: what it reports is on the disk, whatever the disk does.

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Entry, Epoch, LogId, Op, Outcome, Seq, Slot};

use super::super::codec::{Line, take_line};
use super::super::disk::{Disk, FileOp, RealDisk};
use super::super::journal::extent::without_room;
use super::super::journal::{Journal, JournalEvent, JournalStart, Limits};
use super::super::manifest::segment_name;
use super::super::mem_disk::SharedDisk;
use super::super::record::{Change, Record};
use super::super::recovery::recover;

const START: JournalStart = JournalStart { segment: 1, after: 0 };
const PATIENCE: Duration = Duration::from_secs(20);

fn put(slot: u16, mark: u64) -> Record {
    let op = Op::Put { key: format!("key{mark}").into(), value: "value".into() };
    let id = LogId { epoch: Epoch(1), seq: Seq(mark) };
    Record {
        slot: Slot(slot),
        mark,
        change: Change::Append(Entry { id, op, outcome: Outcome::Created, request: None }),
    }
}

fn journal(disk: &SharedDisk) -> (Journal, Receiver<JournalEvent>) {
    let (events, received) = channel();
    let listener = Arc::new(move |event| drop(events.send(event)));
    (Journal::start(Box::new(disk.clone()), START, listener).unwrap(), received)
}

fn write(journal: &Journal, record: &Record) {
    journal.append(record);
    journal.begin();
}

fn next(events: &Receiver<JournalEvent>) -> JournalEvent {
    events.recv_timeout(PATIENCE).unwrap()
}

fn wait_durable(events: &Receiver<JournalEvent>, slot: u16, mark: u64) {
    loop {
        match next(events) {
            JournalEvent::Durable { marks, .. } if marks.iter().any(|(s, m)| *s == Slot(slot) && *m >= mark) => return,
            JournalEvent::Durable { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = common::clock::now() + PATIENCE;
    while !condition() {
        assert!(common::clock::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_reported_durable_survives_a_power_loss_at_that_moment() {
    let disk = SharedDisk::default();
    let reports = Arc::new(Mutex::new(0));
    let listener = {
        let (disk, reports) = (disk.clone(), Arc::clone(&reports));
        Arc::new(move |event| {
            let JournalEvent::Durable { marks, .. } = event else { panic!("{event:?}") };
            let mut crashed = disk.lock().clone();
            crashed.lose_power(|_| 0);
            let images = recover(&crashed).unwrap().images;
            for (slot, mark) in marks {
                assert!(images[&slot].mark >= mark, "slot {slot} is reported up to {mark}");
            }
            *reports.lock().unwrap() += 1;
        })
    };
    let journal = Journal::start(Box::new(disk.clone()), START, listener).unwrap();
    std::thread::scope(|scope| {
        for slot in 0..4 {
            let journal = &journal;
            scope.spawn(move || (1..=50).for_each(|mark| write(journal, &put(slot, mark))));
        }
        for expected in 2..=4 {
            assert_eq!(journal.rotate().unwrap(), expected);
        }
    });
    journal.close();
    assert!(*reports.lock().unwrap() > 0);
    let images = recover(&*disk.lock()).unwrap().images;
    assert!((0..4).all(|slot| images[&Slot(slot)].mark == 50));
}

#[test]
fn a_rotation_leaves_everything_before_it_in_older_segments() {
    let disk = SharedDisk::default();
    let (journal, _events) = journal(&disk);
    for mark in 1..=20u64 {
        write(&journal, &put(1, mark));
        if mark.is_multiple_of(5) {
            let segment = journal.rotate().unwrap();
            let disk = disk.lock();
            let older: Vec<u8> = (1..segment).flat_map(|n| disk.get(&segment_name(n)).unwrap().to_vec()).collect();
            assert!(String::from_utf8(older).unwrap().contains(&format!("\"key{mark}\"")));
            assert_eq!((journal.bytes_since_rotation(), disk.get(&segment_name(segment)).map(lines)), (0, Some(1)));
        }
    }
    journal.close();
    assert_eq!(recover(&*disk.lock()).unwrap().images[&Slot(1)].mark, 20);
    assert!(journal.rotate().is_err());
}

#[test]
fn a_group_is_reported_in_the_order_of_its_slots_first_records() {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    {
        let _busy = disk.lock();
        write(&journal, &put(1, 1));
        until("the first group waits for the disk", || journal.sync_pending_since().is_some());
        [put(5, 1), put(2, 1), put(9, 1), put(2, 2)].iter().for_each(|record| write(&journal, record));
    }
    wait_durable(&events, 1, 1);
    let JournalEvent::Durable { marks, .. } = next(&events) else { panic!("not durable") };
    assert_eq!(marks, [(Slot(5), 1), (Slot(2), 2), (Slot(9), 1)]);
}

/// A disk whose syncs take a while.
struct Slow(SharedDisk);

impl Disk for Slow {
    fn perform(&mut self, op: FileOp<'_>) -> std::io::Result<()> {
        if matches!(op, FileOp::Sync(_)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.0.perform(op)
    }

    fn names(&self) -> std::io::Result<Vec<String>> {
        self.0.names()
    }

    fn length(&self, name: &str) -> std::io::Result<u64> {
        self.0.length(name)
    }

    fn read(&self, name: &str, from: u64, length: u64) -> std::io::Result<Vec<u8>> {
        self.0.read(name, from, length)
    }
}

#[test]
fn groups_that_wait_for_each_other_are_written_whoever_comes() {
    let (events, received) = channel();
    let listener = Arc::new(move |event| drop(events.send(event)));
    let disk = SharedDisk::default();
    let journal = Journal::start(Box::new(Slow(disk.clone())), START, listener).unwrap();
    let mut mark = 0;
    let mut append = |count: u64| {
        (0..count).for_each(|_| {
            mark += 1;
            write(&journal, &put(1, mark));
        });
        mark
    };
    for round in 0..10 {
        // All at once, then as many, then fewer, which are waited for in vain, and fewer with a rotation behind them.
        for count in [20, 20, 3] {
            wait_durable(&received, 1, append(count));
        }
        wait_durable(&received, 1, append(20));
        append(2);
        assert_eq!(journal.rotate().unwrap(), round + 2);
    }
    wait_durable(&received, 1, append(20));
    let last = append(1);
    journal.close();
    assert_eq!(recover(&*disk.lock()).unwrap().images[&Slot(1)].mark, last);
}

#[test]
fn a_full_disk_is_waited_for_and_leaves_no_torn_line() {
    for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem] {
        let disk = SharedDisk::default();
        let (journal, events) = journal(&disk);
        write(&journal, &put(1, 1));
        wait_durable(&events, 1, 1);
        disk.lock().failing.append = Some(kind);
        write(&journal, &put(1, 2));
        assert_eq!(next(&events), JournalEvent::Writable(false));
        write(&journal, &put(1, 3));
        assert_eq!(journal.rotate().unwrap_err().kind(), kind);
        assert!(events.try_recv().is_err(), "nothing is durable, and nothing is said twice");
        disk.lock().failing.append = None;
        assert_eq!(next(&events), JournalEvent::Writable(true));
        wait_durable(&events, 1, 3);
        assert_eq!(journal.waiting_bytes(), 0);
        let recovered = recover(&*disk.lock()).unwrap();
        assert_eq!((recovered.images[&Slot(1)].mark, recovered.report.torn_bytes), (3, 0));
        assert_eq!(journal.rotate().unwrap(), 2);
    }
}

#[test]
fn a_full_disk_does_not_keep_a_journal_from_closing() {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    disk.lock().failing.append = Some(ErrorKind::StorageFull);
    write(&journal, &put(1, 1));
    assert_eq!(next(&events), JournalEvent::Writable(false));
    journal.close();
    assert!(events.try_recv().is_err());
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    disk.lock().failing.sync = Some(ErrorKind::Other);
    write(&journal, &put(1, 1));
    assert!(matches!(next(&events), JournalEvent::Fatal(_)));
    disk.lock().failing.sync = None;
    write(&journal, &put(1, 2));
    assert!(journal.rotate().is_err());
    journal.close();
    assert!(events.try_recv().is_err(), "nothing is reported after that");
}

#[test]
fn an_unknown_write_error_stops_the_process_too() {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    disk.lock().failing.append = Some(ErrorKind::Other);
    write(&journal, &put(1, 1));
    let JournalEvent::Fatal(why) = next(&events) else { panic!("not fatal") };
    assert!(why.contains("journal-1.jsonl"), "{why}");
}

#[test]
fn a_stuck_disk_is_seen_and_bounds_what_waits_for_it() {
    let disk = SharedDisk::default();
    let (events, received) = channel();
    let limits = Limits { room: 1000, most: 5000 };
    let listener = Arc::new(move |event| drop(events.send(event)));
    let journal = Journal::with_limits(Box::new(disk.clone()), START, listener, limits).unwrap();
    assert_eq!(journal.sync_pending_since(), None);
    let stuck = disk.lock();
    let before = common::clock::now();
    write(&journal, &put(1, 1));
    until("the write is seen to be pending", || journal.sync_pending_since().is_some());
    assert!(journal.sync_pending_since().is_some_and(|since| since >= before));
    assert!(journal.has_room());
    let mut mark = 1;
    while journal.has_room() {
        mark += 1;
        write(&journal, &put(1, mark));
    }
    assert!(journal.waiting_bytes() < 1300);
    drop(stuck);
    wait_durable(&received, 1, mark);
    until("nothing is pending", || journal.has_room() && journal.sync_pending_since().is_none());
    let stuck = disk.lock();
    for more in 1..60 {
        write(&journal, &put(1, mark + more));
    }
    let JournalEvent::Fatal(why) = next(&received) else { panic!("not fatal") };
    assert!(why.contains("bytes wait"), "{why}");
    drop(stuck);
}

#[test]
fn a_real_directory_works_like_the_memory_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (events, received) = channel();
    let listener = Arc::new(move |event| drop(events.send(event)));
    let journal = Journal::start(Box::new(RealDisk::new(dir.path())), START, listener).unwrap();
    for mark in 1..=100 {
        write(&journal, &put(3, mark));
    }
    wait_durable(&received, 3, 100);
    assert_eq!(journal.rotate().unwrap(), 2);
    write(&journal, &put(3, 101));
    drop(journal);
    let recovered = recover(&RealDisk::new(dir.path())).unwrap();
    assert_eq!((recovered.images[&Slot(3)].mark, recovered.next_segment), (101, 3));
}

/// Ten synced records, and a group of some more whose sync never came: how far it is synced, and the file's content.
fn half_synced() -> (usize, Vec<u8>) {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    (1..=10).for_each(|mark| write(&journal, &put(1, mark)));
    wait_durable(&events, 1, 10);
    let mut stuck = disk.lock();
    write(&journal, &put(1, 11));
    until("the writer has taken it", || journal.sync_pending_since().is_some());
    (12..=24).for_each(|mark| write(&journal, &put(1, mark)));
    stuck.operations_left = Some(3);
    drop(stuck);
    wait_durable(&events, 1, 11);
    assert!(matches!(next(&events), JournalEvent::Fatal(_)));
    let disk = disk.lock();
    let whole = disk.get(&segment_name(1)).unwrap();
    let whole = without_room(whole).to_vec();
    let last = whole.split_inclusive(|byte| *byte == b'\n').next_back().unwrap();
    let Ok(Line::Synced(synced)) = take_line(last) else { panic!("no group ends here") };
    (usize::try_from(synced).unwrap(), whole)
}

#[test]
fn sectors_that_power_loss_left_unwritten_are_a_torn_tail() {
    let (synced, whole) = half_synced();
    let sectors: Vec<usize> = (synced / 512..whole.len().div_ceil(512)).collect();
    assert!(sectors.len() >= 4, "{synced} of {} bytes are synced", whole.len());
    for (mask, before) in (0..1u32 << sectors.len()).flat_map(|mask| [(mask, 0), (mask, b'\n')]) {
        let mut bytes = whole.clone();
        for (_, sector) in sectors.iter().enumerate().filter(|(i, _)| mask & (1 << i) == 0) {
            let end = bytes.len().min((sector + 1) * 512);
            bytes[(sector * 512).max(synced)..end].fill(before);
        }
        let mut disk = super::super::mem_disk::MemDisk::default();
        disk.put(&segment_name(1), &bytes);
        let recovered = recover(&disk).unwrap_or_else(|e| panic!("sectors written {mask:b}: {e}"));
        let mark = recovered.images[&Slot(1)].mark;
        let all = mask + 1 == 1 << sectors.len();
        assert!(if all { mark == 24 } else { (11..=24).contains(&mark) }, "sectors written {mask:b}: {mark} records");
        let cut = recovered.chores.iter().any(|chore| matches!(chore, FileOp::Truncate(..)));
        assert_eq!((cut, all && recovered.report.torn_bytes > 0), (!all, false), "sectors written {mask:b}");
    }
}

#[test]
fn a_hole_where_something_was_synced_is_damage() {
    let (synced, whole) = half_synced();
    assert!(synced > 1024);
    for (sector, with) in (0..synced / 512).flat_map(|sector| [(sector, 0), (sector, b'\n')]) {
        let mut bytes = whole.clone();
        bytes[sector * 512..(sector + 1) * 512].fill(with);
        let mut disk = super::super::mem_disk::MemDisk::default();
        disk.put(&segment_name(1), &bytes);
        assert!(recover(&disk).is_err(), "sector {sector}");
    }
}

/// Dies before any of its file operations, and the power fails with it: with room, over room, in a rotation, at the end.
#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_reported() {
    let mut died = 0;
    for (stop, seed) in (0..40).flat_map(|stop| (0..4).map(move |seed| (stop, seed))) {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SharedDisk::default();
        let (journal, events) = journal(&disk);
        disk.lock().operations_left = Some(stop);
        for mark in 1..=12 {
            write(&journal, &put(1, mark));
            if random.bool() {
                std::thread::yield_now();
            }
            if mark.is_multiple_of(4) && journal.rotate().is_err() {
                break;
            }
        }
        journal.close();
        let reported = |event| match event {
            JournalEvent::Durable { marks, .. } => marks.iter().map(|(_, mark)| *mark).max(),
            _ => None,
        };
        let durable = events.try_iter().filter_map(reported).max().unwrap_or(0);
        died += usize::from(durable < 12);
        let mut crashed = disk.lock().clone();
        crashed.lose_power(|n| random.usize(..=n));
        let recovered = recover(&crashed).unwrap_or_else(|e| panic!("stopped after {stop} ({seed}): {e}"));
        let mark = recovered.images.get(&Slot(1)).map_or(0, |image| image.mark);
        assert!((durable..=12).contains(&mark), "stopped after {stop} ({seed}): {mark} of {durable}");
    }
    assert!(died > 20, "{died}");
}

#[test]
fn a_disk_without_space_for_room_is_written_to_all_the_same() {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    disk.lock().failing.longest = Some(4096);
    for mark in 1..=5 {
        write(&journal, &put(1, mark));
        assert!(matches!(next(&events), JournalEvent::Durable { .. }), "nobody is told of a full disk");
    }
    journal.close();
    let recovered = recover(&*disk.lock()).unwrap();
    assert_eq!((recovered.images[&Slot(1)].mark, recovered.report.torn_bytes), (5, 0));
}

#[test]
fn a_segment_that_cannot_be_cut_goes_on() {
    let disk = SharedDisk::default();
    let (journal, events) = journal(&disk);
    write(&journal, &put(1, 1));
    wait_durable(&events, 1, 1);
    disk.lock().failing.cut = Some(ErrorKind::ReadOnlyFilesystem);
    assert_eq!(journal.rotate().unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    disk.lock().failing.cut = None;
    write(&journal, &put(1, 2));
    wait_durable(&events, 1, 2);
    assert_eq!(journal.rotate().unwrap(), 2);
    assert_eq!(recover(&*disk.lock()).unwrap().images[&Slot(1)].mark, 2);
}

#[test]
fn a_real_file_reads_as_written_whichever_way_the_bytes_took() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, name) = (RealDisk::new(dir.path()), "file".to_owned());
    disk.perform(FileOp::Create(name.clone())).unwrap();
    let (mut expected, mut rng) = (Vec::new(), fastrand::Rng::with_seed(11));
    // Whole blocks go past the cache, from wherever they lie in memory; all else goes through it.
    for step in 0..200u8 {
        let whole = rng.u8(0..4) > 0;
        let size = if whole { 4096 * rng.usize(1..40) } else { rng.usize(1..9000) };
        let at = if whole { 4096 * rng.usize(0..64) } else { rng.usize(0..200_000) };
        let bytes = vec![step; size + 1];
        let bytes = &bytes[rng.usize(0..2)..][..size];
        disk.perform(FileOp::Write(name.clone(), at as u64, bytes)).unwrap();
        expected.resize(expected.len().max(at + size), 0);
        expected[at..at + size].copy_from_slice(bytes);
        match rng.u8(0..8) {
            0 => {
                expected.truncate(rng.usize(0..expected.len()));
                disk.perform(FileOp::Truncate(name.clone(), expected.len() as u64)).unwrap();
            }
            1 => disk.perform(FileOp::Sync(name.clone())).unwrap(),
            2 => disk.perform(FileOp::Close(name.clone())).unwrap(),
            _ => {}
        }
        assert!(disk.read(&name, 0, expected.len() as u64).unwrap() == expected, "after step {step}");
        assert_eq!(disk.length(&name).unwrap(), expected.len() as u64);
    }
}

#[test]
fn many_records_do_not_wait_for_somebody_to_begin() {
    let disk = SharedDisk::default();
    let (journal, received) = journal(&disk);
    (1..=1000).for_each(|mark| journal.append(&put(1, mark)));
    wait_durable(&received, 1, 128);
}
