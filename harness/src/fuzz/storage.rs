//! What a server reads when it starts: the journal, the checkpoint, and whose directory it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use common::update::Becomes;
use common::{ClientId, Entry, Epoch, LogId, NodeId, Op, Outcome, RequestId, Seq, Slot, StoreUuid, sealed};
use kvserver::storage::checkpoint::Label;
use kvserver::storage::codec::{
    Line, SegmentHead, put_head, put_record, put_synced, take_head, take_line, take_record,
};
use kvserver::storage::data_dir::read_identity;
use kvserver::storage::manifest::{MANIFEST, segment_name};
use kvserver::storage::mem_disk::MemDisk;
use kvserver::storage::record::Change;
use kvserver::storage::{CheckpointWriter, Disk as _, FileOp, Record, Role, SlotEncoder, SlotImage, recover, salvage};

use super::choice;
use super::wire::{crc32, view};

const STORE: StoreUuid = StoreUuid(0x5107e);
const ME: NodeId = NodeId(1);

type Images = BTreeMap<Slot, SlotImage>;

/// Journal lines, one by one: as they are, or as payloads that get the right checksum.
pub(super) fn lines(data: &[u8]) {
    let Some((mode, rest)) = choice(data) else { return };
    let mut image = SlotImage::empty();
    let mut journal = Vec::new();
    put_head(&mut journal, &SegmentHead { segment: 1, after: 0 });
    for line in rest.split(|byte| *byte == b'\n').take(64) {
        let sealed = if mode & 1 == 0 { line.to_vec() } else { seal(line) };
        drop(take_head(&sealed));
        if let Ok(Line::Record(mut record)) = take_line(&sealed) {
            let mut again = Vec::new();
            put_record(&mut again, &record);
            assert_eq!(take_record(&again).as_ref(), Ok(&record), "written again");
            // Made to follow, so that it is its content that counts.
            record.mark = image.mark + 1;
            drop(image.replay(record.mark, record.change));
        }
        journal.extend_from_slice(&sealed);
        journal.push(b'\n');
    }
    let mut disk = MemDisk::default();
    disk.put(&segment_name(1), &journal);
    drop(recover(&disk));
    drop(salvage(&disk));
}

fn seal(payload: &[u8]) -> Vec<u8> {
    let mut line = Vec::new();
    // A payload is one line: nobody ever seals another.
    sealed::seal(&mut line, |out| out.extend(payload.iter().filter(|byte| **byte != b'\n')));
    line.pop();
    line
}

pub(super) fn line_seeds() -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    story().iter().for_each(|record| put_record(&mut whole, record));
    put_synced(&mut whole, 0);
    let payloads: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').filter_map(sealed::open).collect();
    let mut seeds = vec![[&[0][..], &whole].concat(), [&[1][..], &payloads.join(&b'\n')].concat()];
    seeds.extend(payloads.iter().map(|payload| [&[1][..], payload].concat()));
    seeds
}

/// A store with a checkpoint and a journal over it, and everything it ever held.
struct Written {
    disk: MemDisk,
    names: Vec<String>,
    /// The images at the checkpoint and after each record since.
    states: Vec<Images>,
    /// Every key with every value it ever had.
    records: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(write);

/// What happened to the slots of the store, in order. Marks count from 1 per slot.
fn story() -> Vec<Record> {
    let mut records = Vec::new();
    let mut marks: BTreeMap<Slot, u64> = BTreeMap::new();
    let mut push = |slot: u16, change| {
        let mark = marks.entry(Slot(slot)).or_default();
        *mark += 1;
        records.push(Record { slot: Slot(slot), mark: *mark, change });
    };
    for slot in 0..3_u16 {
        push(slot, Change::View(view(slot, u64::from(slot) + 4, u64::from(slot) % 2 + 1)));
        for seq in 1..=6 {
            push(slot, Change::Append(entry(slot, seq)));
        }
    }
    push(1, Change::Truncate { after: Seq(4) });
    push(2, Change::WalkBegin { applied: Seq(3) });
    push(0, Change::Append(entry(0, 7)));
    records
}

fn entry(slot: u16, seq: u64) -> Entry {
    let key = Bytes::from(if seq == 4 { vec![0xff, b'k'] } else { format!("key{slot}{}", seq % 3).into_bytes() });
    let value = Bytes::from(if seq == 5 { vec![0x80; 9] } else { format!("value {slot} \"{seq}\"").into_bytes() });
    let until = Some(1_795_258_800_000);
    let op = match seq {
        2 | 5 => Op::Update { key, becomes: Becomes::Value { value, until }, told: None },
        6 => Op::Delete { key },
        _ => Op::Put { key, value },
    };
    let request = seq.is_multiple_of(2).then_some(RequestId { client: ClientId(9), seq, lowest_unacked: seq });
    Entry { id: LogId { epoch: Epoch(4), seq: Seq(seq) }, op, outcome: Outcome::Created, request }
}

fn write() -> Written {
    let story = story();
    let (before, after) = story.split_at(story.len() / 2);
    let (mut images, mut disk) = (Images::new(), MemDisk::default());
    before.iter().for_each(|record| replay(&mut images, record));
    // Half of what is there is committed: maps, tails and retry tables all have something in them.
    images.values_mut().for_each(|image| image.commit_to(Seq(3)));
    write_checkpoint(&mut disk, &images);
    let mut states = vec![images.clone()];
    let mut journal = Vec::new();
    put_head(&mut journal, &SegmentHead { segment: 2, after: 0 });
    for (at, record) in after.iter().enumerate() {
        let begin = journal.len() as u64;
        put_record(&mut journal, record);
        if at % 3 == 2 {
            put_synced(&mut journal, begin);
        }
        replay(&mut images, record);
        states.push(images.clone());
    }
    disk.put(&segment_name(2), &journal);
    let records = states.iter().flat_map(everything).collect();
    let names = disk.names().expect("a memory disk lists its files");
    Written { disk, names, states, records }
}

fn replay(images: &mut Images, record: &Record) {
    let image = images.entry(record.slot).or_insert_with(SlotImage::empty);
    image.replay(record.mark, record.change.clone()).expect("the story is consistent");
}

fn write_checkpoint(disk: &mut MemDisk, images: &Images) {
    let label = Label { generation: 1, first_segment: 2, store: STORE };
    let mut writer = CheckpointWriter::begin(disk, label).expect("memory");
    let mut encoder = SlotEncoder::default();
    for (slot, image) in images {
        encoder.encode(*slot, Role::of(image.view.as_ref(), ME), &image.parts());
        writer.add(&encoder).expect("memory");
    }
    writer.commit().expect("memory");
}

/// Keys and values of the maps and of the tails.
fn everything(images: &Images) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let mut all = BTreeSet::new();
    for image in images.values() {
        all.extend(image.records().map(|(key, value)| (key.to_vec(), value.to_vec())));
        for entry in &image.tail {
            if let Op::Put { key, value } | Op::Update { key, becomes: Becomes::Value { value, .. }, .. } = &entry.op {
                all.insert((key.to_vec(), value.to_vec()));
            }
        }
    }
    all
}

/// A good store under damage: four bytes a blow (file, kind, place). Whatever is recovered without complaint was once
/// the state, and whatever was never written comes with a list of losses.
pub(super) fn directory(data: &[u8]) {
    let mut disk = WRITTEN.disk.clone();
    data.chunks_exact(4).take(16).for_each(|blow| strike(&mut disk, [blow[0], blow[1], blow[2], blow[3]]));
    if let Ok(found) = recover(&disk) {
        let empty =
            found.images.is_empty() && disk.names().is_ok_and(|names| !names.iter().any(|name| name == MANIFEST));
        assert!(empty || WRITTEN.states.contains(&found.images), "a state that never was: {:?}", found.images);
        let mut mended = disk.clone();
        found.chores.into_iter().for_each(|op| mended.perform(op).expect("chores can be done"));
        let again = recover(&mended).expect("what was mended is good");
        assert_eq!(again.images, found.images);
    }
    if let Ok(found) = salvage(&disk) {
        let strange: Vec<_> = everything(&found.images).difference(&WRITTEN.records).cloned().collect();
        assert!(strange.is_empty() || !found.losses.is_empty(), "never written, and nothing is lost: {strange:?}");
    }
}

fn strike(disk: &mut MemDisk, [file, kind, high, low]: [u8; 4]) {
    let names = &WRITTEN.names;
    let name = &names[usize::from(file) % names.len()];
    let Some(mut content) = disk.get(name).map(<[u8]>::to_vec) else { return };
    let at = usize::from(u16::from_be_bytes([high, low])) % (content.len() + 1);
    let end = (at + usize::from(kind >> 3)).min(content.len());
    match kind & 7 {
        0 => content.truncate(at),
        1 => drop(content.drain(at..end)),
        2 => content.insert(at, kind >> 3),
        3 => {
            let copy = content[at..end].to_vec();
            content.splice(at..at, copy);
        }
        4 => content[at..end].fill(0),
        5 => content = disk.get(&names[usize::from(kind >> 3) % names.len()]).unwrap_or_default().to_vec(),
        6 if kind >> 3 == 1 => {
            drop(disk.perform(FileOp::Remove(name.clone())));
            return;
        }
        _ if at < content.len() => content[at] ^= 1 << (kind >> 5),
        _ => {}
    }
    disk.put(name, &content);
}

pub(super) fn directory_seeds() -> Vec<Vec<u8>> {
    let files = u8::try_from(WRITTEN.names.len()).expect("few files");
    (0..files).flat_map(|file| (0..8).map(move |kind| vec![file, kind | 8, file * 31, kind * 17])).collect()
}

/// A checkpoint whose checksums are right and whose content is not: lines of the manifest, a zero, and what all its files
/// contain.
pub(super) fn checkpoint(data: &[u8]) {
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (lines, file) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    let lines: Vec<Vec<u8>> = lines.split(|byte| *byte == b'\n').take(16).map(|line| reseal(line, file)).collect();
    let mut disk = MemDisk::default();
    let mut manifest = Vec::new();
    let head = format!(r#"{{"format":2,"generation":1,"first_segment":1,"store":"{STORE}","slots":{}}}"#, lines.len());
    for line in std::iter::once(&seal(head.as_bytes())).chain(&lines) {
        manifest.extend_from_slice(line);
        manifest.push(b'\n');
    }
    disk.put(MANIFEST, &manifest);
    for name in ["coordinator.json", "replica1.json", "replica2.json", "logs.json"] {
        disk.put(name, file);
    }
    if let Ok(found) = recover(&disk) {
        let bytes: u64 = found.images.values().map(|image| image.map.bytes()).sum();
        assert!(bytes <= (file.len() * lines.len()) as u64, "{bytes} bytes of records out of {}", file.len());
    }
    drop(salvage(&disk));
}

/// The line with the checksums of the pieces that it names, if it names any.
fn reseal(line: &[u8], file: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(line) else { return seal(line) };
    for name in ["records", "log"] {
        let Some(piece) = value.get_mut(name) else { continue };
        let number = |field: &str| piece.get(field)?.as_u64().and_then(|n| usize::try_from(n).ok());
        let range = number("offset").zip(number("length"));
        if let Some(bytes) = range.and_then(|(at, length)| file.get(at..at.checked_add(length)?)) {
            piece["crc"] = crc32(bytes).into();
        }
    }
    seal(&serde_json::to_vec(&value).unwrap_or_default())
}

pub(super) fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let manifest = WRITTEN.disk.get(MANIFEST).unwrap_or_default();
    let lines: Vec<&[u8]> = manifest.split(|byte| *byte == b'\n').skip(1).filter_map(sealed::open).collect();
    let files = ["coordinator.json", "replica1.json", "replica2.json", "logs.json"];
    let files = files.map(|name| WRITTEN.disk.get(name).unwrap_or_default());
    let all = lines.join(&b'\n');
    files.iter().map(|file| [&all, &[0][..], file].concat()).collect()
}

/// `identity.json`, as it is or sealed.
pub(super) fn identity(data: &[u8]) {
    let Some((mode, rest)) = choice(data) else { return };
    let line = if mode & 1 == 0 { rest.to_vec() } else { seal(rest) };
    drop(read_identity(Path::new("."), &line));
}

pub(super) fn identity_seeds() -> Vec<Vec<u8>> {
    let text =
        format!(r#"{{"format":2,"node":"{ME}","store":"{STORE}","boot":3,"cluster":null,"slots":256,"ready":true}}"#);
    vec![[&[0][..], &seal(text.as_bytes())].concat(), [&[1][..], text.as_bytes()].concat()]
}
