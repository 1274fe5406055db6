//! Real directories: opened, refused, mended, and read by others while they are written.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{ClusterId, Entry, Epoch, LogId, NodeId, Op, Outcome, Seq, Slot, StoreUuid};

use super::super::Disk;
use super::super::checkpoint::CheckpointError;
use super::super::data_dir::{DataDir, DirError};
use super::super::image::SlotImage;
use super::super::journal::{Journal, JournalStart};
use super::super::mem_disk::SharedDisk;
use super::super::record::{Change, Record};
use super::super::recovery::recover;
use super::super::section::{Role, SlotEncoder};
use super::super::store::{Checkpointer, DUE_AFTER, Done, Mended, Opened, StoreError, StoreOptions, open};
use super::world::{assert_same, view};

const CLUSTER: ClusterId = ClusterId(0xc1);

fn quiet() -> Arc<dyn Fn(super::super::JournalEvent) + Send + Sync> {
    Arc::new(|_| {})
}

fn open_plain(path: &Path) -> Opened {
    let opened = open(path, &StoreOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(opened.mended, None);
    opened
}

/// Slots that are written under a lock each, as a server does.
struct Slots {
    journal: Journal,
    images: Vec<Mutex<SlotImage>>,
}

impl Slots {
    fn new(journal: Journal, count: usize) -> Slots {
        Slots { journal, images: (0..count).map(|_| Mutex::new(SlotImage::empty())).collect() }
    }

    fn write(&self, slot: usize, change: Change) {
        let mut image = self.images[slot].lock().unwrap();
        let record = Record { slot: Slot(u16::try_from(slot).unwrap()), mark: image.mark + 1, change: change.clone() };
        image.replay(record.mark, change).unwrap();
        self.journal.append(&record);
        self.journal.begin();
    }

    fn put(&self, slot: usize, key: &str, value: &str) {
        let id = { LogId { epoch: Epoch(1), seq: self.images[slot].lock().unwrap().end().seq.next() } };
        let op = Op::Put { key: key.as_bytes().to_vec().into(), value: value.as_bytes().to_vec().into() };
        self.write(slot, Change::Append(Entry { id, op, outcome: Outcome::Created, request: None }));
    }

    fn commit(&self, slot: usize) {
        let mut image = self.images[slot].lock().unwrap();
        let end = image.end().seq;
        image.commit_to(end);
    }

    fn checkpoint(&self, checkpointer: &mut Checkpointer) -> Result<Done, CheckpointError> {
        let slots = (0..self.images.len()).map(|slot| Slot(u16::try_from(slot).unwrap()));
        checkpointer.run(&self.journal, slots, |slot, encoder: &mut SlotEncoder| {
            let image = self.images[usize::from(slot.0)].lock().unwrap();
            encoder.encode(slot, Role::ALL[usize::from(slot.0) % 3], &image.parts());
        })
    }

    fn images(&self) -> BTreeMap<Slot, SlotImage> {
        let image = |(slot, image): (usize, &Mutex<SlotImage>)| {
            (Slot(u16::try_from(slot).unwrap()), image.lock().unwrap().clone())
        };
        self.images.iter().enumerate().map(image).collect()
    }
}

#[test]
fn a_directory_is_made_found_again_and_readable_from_the_first_start_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/data1");
    let first = open_plain(&path);
    let identity = first.dir.identity();
    assert_eq!((identity.boot.0, identity.cluster, first.images.len()), (1, None, 0));
    for name in ["coordinator.json", "replica1.json", "replica2.json", "logs.json", "identity.json", "checkpoint.json"]
    {
        let bytes = fs::read(path.join(name)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    drop(first);
    let second = open_plain(&path);
    assert_eq!(second.dir.identity().boot.0, 2);
    assert_eq!((second.dir.identity().node, second.dir.identity().store), (identity.node, identity.store));
}

#[test]
fn a_directory_serves_one_process_and_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = open_plain(dir.path());
    let in_use = open(dir.path(), &StoreOptions::default()).unwrap_err().to_string();
    assert!(in_use.contains(&format!("pid {}", std::process::id())), "{in_use}");
    assert!(in_use.contains(&dir.path().display().to_string()), "{in_use}");
    first.dir.bind(CLUSTER, 64).unwrap();
    first.dir.bind(CLUSTER, 64).unwrap();
    assert!(matches!(first.dir.bind(ClusterId(0xc2), 64), Err(DirError::Foreign { .. })));
    assert!(matches!(first.dir.bind(CLUSTER, 128), Err(DirError::Foreign { .. })));
    drop(first);
    let elsewhere = StoreOptions { cluster: Some(ClusterId(0xc2)), ..StoreOptions::default() };
    let foreign = open(dir.path(), &elsewhere).unwrap_err().to_string();
    assert!(foreign.contains("000000c1") && foreign.contains("000000c2"), "{foreign}");
    let again = open_plain(dir.path());
    assert_eq!((again.dir.bound(), again.dir.identity().boot.0), (Some((CLUSTER, 64)), 2));
}

#[test]
fn a_path_that_cannot_be_a_directory_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let refused = open(&path, &StoreOptions::default()).unwrap_err().to_string();
        assert!(refused.contains("a file is in the way"), "{refused}");
    }
}

#[test]
fn an_identity_that_is_newer_damaged_or_missing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_plain(dir.path()));
    let identity = dir.path().join("identity.json");
    let good = fs::read(&identity).unwrap();
    let refused = || open(dir.path(), &StoreOptions::default()).unwrap_err();

    let mut newer = Vec::new();
    common::sealed::seal(&mut newer, |out| out.extend_from_slice(br#"{"format":3,"name":"unknown"}"#));
    fs::write(&identity, newer).unwrap();
    assert!(matches!(refused(), StoreError::Dir(DirError::Newer { found: 3, .. })));

    let mut flipped = good.clone();
    flipped[40] ^= 1;
    fs::write(&identity, flipped).unwrap();
    assert!(refused().to_string().contains("checksum of identity.json"));

    fs::remove_file(&identity).unwrap();
    assert!(refused().to_string().contains("no identity.json"));

    fs::write(&identity, good).unwrap();
    drop(open_plain(dir.path()));
}

#[test]
fn what_is_left_of_a_store_that_never_began_is_not_taken_for_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_plain(dir.path());
    let store = opened.dir.identity().store;
    opened.dir.fresh_store().unwrap();
    assert_ne!(opened.dir.identity().store, store);
    drop(opened);
    fs::write(dir.path().join("journal-1.jsonl"), "half a line").unwrap();
    assert!(open_plain(dir.path()).images.is_empty());
    assert!(open_plain(dir.path()).images.is_empty());
}

/// What the version before deadlines has written is read; from then on that version refuses the directory.
#[test]
fn a_directory_of_format_1_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_plain(dir.path());
    opened.dir.bind(CLUSTER, 1).unwrap();
    let (journal, mut checkpointer) = opened.start(quiet()).unwrap();
    let slots = Slots::new(journal, 1);
    slots.put(0, "kept", "yes");
    slots.commit(0);
    slots.checkpoint(&mut checkpointer).unwrap();
    slots.put(0, "later", "too");
    slots.journal.close();
    drop((opened, checkpointer));
    let format = |name: &str| {
        let bytes = fs::read(dir.path().join(name)).unwrap();
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let payload = String::from_utf8(common::sealed::open(&bytes[..first]).unwrap().to_vec()).unwrap();
        (payload, bytes[first..].to_vec())
    };
    for name in ["identity.json", "checkpoint.json"] {
        let (payload, rest) = format(name);
        assert!(payload.contains("\"format\":2"), "{payload}");
        let mut older = Vec::new();
        let payload = payload.replace("\"format\":2", "\"format\":1");
        common::sealed::seal(&mut older, |out| out.extend_from_slice(payload.as_bytes()));
        older.extend_from_slice(&rest);
        fs::write(dir.path().join(name), older).unwrap();
    }
    let opened = open_plain(dir.path());
    let image = &opened.images[&Slot(0)];
    assert_eq!((image.map.get(b"kept"), image.tail.len()), (Some(&b"yes"[..]), 1));
    assert!(format("identity.json").0.contains("\"format\":2"));
}

/// A bound store with two slots, and a flipped byte in the middle of its journal.
fn damaged(path: &Path, isr: impl Fn(NodeId, StoreUuid) -> Vec<NodeId>) -> Opened {
    let mut opened = open_plain(path);
    opened.dir.bind(CLUSTER, 2).unwrap();
    let identity = opened.dir.identity();
    let (journal, _) = opened.start(quiet()).unwrap();
    let slots = Slots::new(journal, 2);
    for slot in 0..2 {
        let mut view = view(Slot(u16::try_from(slot).unwrap()), 5, &isr(identity.node, identity.store));
        view.isr.insert(identity.node, identity.store);
        slots.write(slot, Change::View(view));
        slots.put(slot, "kept", "yes");
    }
    slots.put(0, "flipped", "here");
    slots.put(0, "later", "too");
    slots.journal.close();
    let journal = path.join("journal-2.jsonl");
    let mut bytes = fs::read(&journal).unwrap();
    let at = bytes.windows(7).position(|window| window == b"flipped").unwrap();
    bytes[at] ^= 4;
    fs::write(&journal, bytes).unwrap();
    opened
}

#[test]
fn a_damaged_copy_among_others_is_set_aside_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let before = damaged(dir.path(), |node, _| vec![node, NodeId(1)]);
    let identity = before.dir.identity();
    drop(before);
    let opened = open(dir.path(), &StoreOptions::default()).unwrap();
    let Some(Mended::BegunAnew { corruption }) = &opened.mended else { panic!("{:?}", opened.mended) };
    assert_eq!(corruption.file, "journal-2.jsonl");
    assert!(opened.images.is_empty());
    assert_eq!((opened.dir.identity().node, opened.dir.bound()), (identity.node, Some((CLUSTER, 2))));
    assert_ne!(opened.dir.identity().store, identity.store);
    let aside = fs::read_to_string(dir.path().join("corrupt-2-journal-2.jsonl")).unwrap();
    assert!(aside.contains("\"later\""));
    drop(opened);
    assert!(open_plain(dir.path()).images.is_empty());
}

#[test]
fn a_damaged_only_copy_is_left_alone_until_a_salvage_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let before = damaged(dir.path(), |node, _| vec![node]);
    let identity = before.dir.identity();
    drop(before);
    let journal = fs::read(dir.path().join("journal-2.jsonl")).unwrap();
    let refused = open(dir.path(), &StoreOptions::default()).unwrap_err().to_string();
    let line = journal.windows(7).position(|window| window == b"bhipped" || window == b"blipped").unwrap();
    let start = journal[..line].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    assert!(refused.contains(&format!("journal-2.jsonl at byte {start}")), "{refused}");
    assert!(refused.contains("--salvage") && refused.contains("only in-sync copy of 2 slots"), "{refused}");
    assert_eq!(fs::read(dir.path().join("journal-2.jsonl")).unwrap(), journal);

    let options = StoreOptions { salvage: true, cluster: Some(CLUSTER), ..StoreOptions::default() };
    let mut opened = open(dir.path(), &options).unwrap();
    let Some(Mended::Salvaged { losses, unlisted: 0 }) = &opened.mended else { panic!("{:?}", opened.mended) };
    assert!(!losses.is_empty());
    assert_eq!(opened.dir.identity().store, identity.store);
    let image = opened.images.get_mut(&Slot(0)).unwrap();
    image.commit_to(Seq(100));
    assert_eq!((image.map.get(b"kept"), image.map.get(b"later")), (Some(&b"yes"[..]), Some(&b"too"[..])));
    let (journal, mut checkpointer) = opened.start(quiet()).unwrap();
    let slots = Slots::new(journal, 1);
    *slots.images[0].lock().unwrap() = opened.images[&Slot(0)].clone();
    slots.put(0, "new", "life");
    slots.commit(0);
    slots.checkpoint(&mut checkpointer).unwrap();
    drop((slots, opened));
    let opened = open_plain(dir.path());
    assert_eq!(opened.images[&Slot(0)].map.len(), 3);
}

#[test]
fn another_stores_checkpoint_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    drop(open_plain(dir.path()));
    drop(open_plain(other.path()));
    fs::copy(other.path().join("checkpoint.json"), dir.path().join("checkpoint.json")).unwrap();
    let refused = open(dir.path(), &StoreOptions::default()).unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt { .. }) && refused.to_string().contains("it is store"), "{refused}");
}

#[test]
fn a_failed_checkpoint_cleans_up_and_the_next_one_succeeds() {
    let disk = SharedDisk::default();
    let start = JournalStart { segment: 1, after: 0 };
    let journal = Journal::start(Box::new(disk.clone()), start, quiet()).unwrap();
    let own = SharedDisk::default();
    let mut checkpointer = Checkpointer::new(Box::new(own.clone()), 0, StoreUuid(1));
    let slots = Slots::new(journal, 2);
    slots.put(0, "a", "1");
    own.lock().failing.append = Some(ErrorKind::StorageFull);
    let failed = slots.checkpoint(&mut checkpointer).unwrap_err();
    assert!(matches!(failed, CheckpointError::Failed(_)), "{failed}");
    assert_eq!(own.lock().names().unwrap(), Vec::<String>::new());
    own.lock().failing.append = None;
    let done = slots.checkpoint(&mut checkpointer).unwrap();
    assert_eq!((done.generation, done.slots), (2, 1));
    own.lock().failing.sync = Some(ErrorKind::Other);
    let fatal = slots.checkpoint(&mut checkpointer).unwrap_err();
    assert!(matches!(fatal, CheckpointError::Fatal(_)), "{fatal}");
}

#[test]
fn checkpoints_come_by_size_by_time_and_never_for_nothing() {
    let last = Done { bytes: 1 << 20, took: Duration::from_millis(50), ..Done::default() };
    assert!(last.next_is_due(DUE_AFTER, 64 << 20, Duration::ZERO));
    assert!(!last.next_is_due(DUE_AFTER, (64 << 20) - 1, Duration::from_secs(59)));
    assert!(last.next_is_due(DUE_AFTER, 1, Duration::from_secs(60)));
    assert!(!last.next_is_due(DUE_AFTER, 0, Duration::from_secs(6000)));
    let large = Done { bytes: 1 << 30, took: Duration::from_secs(20), ..Done::default() };
    assert!(!large.next_is_due(DUE_AFTER, 64 << 20, Duration::from_secs(199)));
    assert!(
        large.next_is_due(DUE_AFTER, 512 << 20, Duration::ZERO)
            && large.next_is_due(DUE_AFTER, 1, Duration::from_secs(200))
    );
}

/// Writers, a checkpointer in a loop and a reader of the plain files, all at once; then everything is there.
#[test]
fn the_maps_are_valid_json_at_every_moment_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_plain(dir.path());
    let (journal, mut checkpointer) = opened.start(quiet()).unwrap();
    let slots = Slots::new(journal, 6);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let slots = &slots;
                scope.spawn(move || {
                    for i in 0..1500 {
                        let slot = writer * 3 + i % 3;
                        slots.put(slot, &format!("key{} \"\u{7}{{", i % 97), &"v\n\u{fc}".repeat(i % 20));
                        if i % 5 == 0 {
                            slots.commit(slot);
                        }
                    }
                })
            })
            .collect();
        let (slots, done, checkpointer) = (&slots, &done, &mut checkpointer);
        let checkpoints = scope.spawn(move || {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) || count < 3 {
                count = slots.checkpoint(checkpointer).unwrap().generation;
            }
            count
        });
        let reader = scope.spawn(|| {
            let mut parsed = 0;
            while !done.load(Ordering::Relaxed) || parsed < 12 {
                for name in ["coordinator.json", "replica1.json", "replica2.json", "logs.json"] {
                    let bytes = fs::read(dir.path().join(name)).unwrap();
                    let map: serde_json::Value =
                        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
                    assert!(map["slots"].is_array());
                    parsed += 1;
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(checkpoints.join().unwrap() >= 3);
        reader.join().unwrap();
    });
    slots.journal.close();
    let images = slots.images();
    drop((opened, slots));
    assert_same(&open_plain(dir.path()).images, &images);
}

#[test]
fn a_directory_without_a_checkpoint_is_not_empty_but_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_plain(dir.path()));
    for name in
        ["checkpoint.json", "coordinator.json", "replica1.json", "replica2.json", "logs.json", "journal-1.jsonl"]
    {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert!(recover(&super::super::RealDisk::new(dir.path())).is_ok_and(|found| found.images.is_empty()));
    let refused = open(dir.path(), &StoreOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("checkpoint.json") && refused.contains("missing"), "{refused}");
    drop(DataDir::open(dir.path(), None).unwrap());
}
