//! Arbitrary values for property tests: every variant, bytes of every kind.

use bytes::Bytes;
use common::blob::Blob;
use common::peer::Leaf;
use common::retry::RetryTable;
use common::update::{Becomes, Came, Wrong};
use common::{
    BootId, ClientId, Entry, Epoch, Lineage, LogId, NodeId, Op, Outcome, RequestId, Seq, Slot, StoreUuid, View,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::record::{Change, Record};

/// Keys and values: short text, text that needs escapes, any bytes.
pub(super) fn some_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        "[a-z]{0,6}".prop_map(|text| Bytes::from(text.into_bytes())),
        ".{0,8}".prop_map(|text| Bytes::from(text.into_bytes())),
        vec(any::<u8>(), 0..8).prop_map(Bytes::from),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (some_bytes(), some_bytes()).prop_map(|(key, value)| Op::Put { key, value }),
        1 => some_bytes().prop_map(|key| Op::Delete { key }),
        1 => (some_bytes(), some_bytes(), proptest::option::of(some_bytes()))
            .prop_map(|(key, value, old)| Op::Swap { key, value, old: old.map(common::blob::Blob) }),
        2 => (some_bytes(), becomes(), proptest::option::of(some_bytes()))
            .prop_map(|(key, becomes, told)| Op::Update { key, becomes, told: told.map(Blob) }),
        1 => Just(Op::Noop),
    ]
}

fn becomes() -> impl Strategy<Value = Becomes> {
    prop_oneof![
        Just(Becomes::Same),
        Just(Becomes::Gone),
        any::<u64>().prop_map(|at| Becomes::Expired { at }),
        (some_bytes(), any::<Option<u64>>()).prop_map(|(value, until)| Becomes::Value { value, until }),
        any::<Option<u64>>().prop_map(|until| Becomes::Lasting { until }),
    ]
}

fn came() -> impl Strategy<Value = Came> {
    let wrong = [Wrong::NotInteger, Wrong::Overflow, Wrong::NotFloat, Wrong::NotFinite, Wrong::TooLong];
    prop_oneof![
        any::<bool>().prop_map(|had| Came::Done { had }),
        any::<bool>().prop_map(|had| Came::Unchanged { had }),
        any::<i64>().prop_map(Came::Number),
        Just(Came::Text),
        any::<u64>().prop_map(Came::Length),
        (0..wrong.len()).prop_map(move |at| Came::Wrong(wrong[at])),
    ]
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Created),
        Just(Outcome::Updated),
        Just(Outcome::Deleted),
        Just(Outcome::Missing),
        came().prop_map(Outcome::Came),
    ]
}

pub(super) fn request() -> impl Strategy<Value = RequestId> {
    (any::<u128>(), any::<u64>(), any::<u64>()).prop_map(|(client, seq, lowest_unacked)| RequestId {
        client: ClientId(client),
        seq,
        lowest_unacked,
    })
}

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, seq)| LogId { epoch: Epoch(epoch), seq: Seq(seq) })
}

pub(super) fn entry() -> impl Strategy<Value = Entry> {
    (log_id(), op(), outcome(), proptest::option::of(request())).prop_map(|(id, op, outcome, request)| Entry {
        id,
        op,
        outcome,
        request,
    })
}

pub(super) fn view() -> impl Strategy<Value = View> {
    let isr = btree_map(any::<u64>().prop_map(NodeId), any::<u128>().prop_map(StoreUuid), 1..4);
    (any::<u16>(), any::<u64>(), any::<u64>(), isr, vec(any::<u64>().prop_map(NodeId), 0..4), any::<Option<u64>>())
        .prop_map(|(slot, epoch, boot, isr, targets, released)| {
            let coordinator = *isr.keys().next().unwrap();
            View {
                slot: Slot(slot),
                epoch: Epoch(epoch),
                previous: Epoch(epoch / 2),
                coordinator,
                coordinator_boot: BootId(boot),
                isr,
                targets,
                home: coordinator,
                released: released.map(Epoch),
            }
        })
}

pub(super) fn retries() -> impl Strategy<Value = RetryTable> {
    vec((request(), outcome()), 0..6).prop_map(|requests| {
        let mut table = RetryTable::default();
        for (request, outcome) in &requests {
            table.record(request, *outcome);
        }
        table
    })
}

fn lineage() -> impl Strategy<Value = Lineage> {
    vec(log_id(), 0..4).prop_map(|ids| {
        let mut lineage = Lineage::default();
        ids.into_iter().for_each(|id| lineage.note(id));
        lineage
    })
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let blob = || some_bytes().prop_map(Blob);
    let records = vec((blob(), blob()), 0..4);
    let dated = vec((blob(), blob(), any::<u64>()), 0..2);
    (0u16..1024, any::<bool>(), records, dated).prop_map(|(leaf, clear, records, dated)| Leaf {
        leaf,
        clear,
        records,
        dated,
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => entry().prop_map(Change::Append),
        1 => view().prop_map(Change::View),
        1 => any::<u64>().prop_map(|after| Change::Truncate { after: Seq(after) }),
        1 => any::<u64>().prop_map(|applied| Change::WalkBegin { applied: Seq(applied) }),
        1 => vec(leaf(), 0..3).prop_map(|leaves| Change::Fill { leaves }),
        1 => (vec(entry(), 0..3), log_id(), lineage(), retries())
            .prop_map(|(entries, at, lineage, retries)| Change::WalkEnd { entries, at, lineage, retries }),
        1 => any::<u64>().prop_map(|epoch| Change::Drop { epoch: Epoch(epoch) }),
    ]
}

/// Any record at all: it need not fit any slot.
pub(super) fn record() -> impl Strategy<Value = Record> {
    (any::<u16>(), any::<u64>(), change()).prop_map(|(slot, mark, change)| Record { slot: Slot(slot), mark, change })
}
