//! Where jobs go when servers fail.

use bytes::Bytes;
use common::blob::Blob;
use common::forward::What;
use common::{BootId, ClientId, Meta, NodeInfo, NodeState, Outcome, StoreUuid};

use super::*;

const ME: NodeId = NodeId(1);
const PUT: Reply = Reply::Written(Outcome::Created);

/// A ring of one slot, whose copies these servers have; the first coordinates.
fn ring(epoch: u64, isr: &[u64]) -> Topology {
    let info = |id: u64| NodeInfo {
        node: NodeId(id),
        store: StoreUuid(1),
        boot: BootId(1),
        client_addr: String::new(),
        peer_addr: String::new(),
        admin_addr: None,
        state: NodeState::Up,
        weight: common::view::WEIGHT,
    };
    let view = View {
        slot: Slot(0),
        epoch: Epoch(epoch),
        previous: Epoch(0),
        coordinator: NodeId(isr[0]),
        coordinator_boot: BootId(1),
        isr: isr.iter().map(|id| (NodeId(*id), StoreUuid(1))).collect(),
        targets: isr.iter().map(|id| NodeId(*id)).collect(),
        home: NodeId(isr[0]),
        released: None,
    };
    let mut ring = Topology::new(1);
    ring.merge(Meta { version: 1, full: true, nodes: (1..=4).map(info).collect(), gone: vec![], views: vec![view] });
    ring
}

struct Play {
    core: Core,
    ring: Topology,
    now: Time,
    out: Vec<Action>,
}

impl Play {
    fn new(isr: &[u64]) -> Play {
        Play { core: Core::new(ME, Switches::default()), ring: ring(1, isr), now: Time(1_000_000), out: Vec::new() }
    }

    fn write(&mut self, index: u64, value: &str) {
        let what = What::Put(Blob(Bytes::copy_from_slice(value.as_bytes())));
        self.order(index, Job::Write { key: Blob(Bytes::from_static(b"k")), what });
    }

    fn read(&mut self, index: u64) {
        self.order(index, Job::Read(Blob(Bytes::from_static(b"k"))));
    }

    fn order(&mut self, index: u64, job: Job) {
        let request = job.is_write().then_some(RequestId { client: ClientId(7), seq: index, lowest_unacked: 1 });
        let order = Order { token: Token { conn: 3, index }, job, request, doubt: false, tried_here: false };
        self.core.start(self.now, order, &self.ring, &mut self.out);
    }

    /// What was sent: to whom, with which number, and whether as a retry.
    fn sent(&mut self) -> Vec<(u64, u64, bool)> {
        let mut sent = Vec::new();
        self.out.retain(|action| match action {
            Action::Send { to, forward } => {
                sent.push((to.0, forward.number, forward.retry));
                false
            }
            Action::Here(forward) => {
                sent.push((ME.0, forward.number, forward.retry));
                false
            }
            Action::Reply { .. } => true,
        });
        sent
    }

    fn replies(&mut self) -> Vec<(u64, Reply)> {
        let told = std::mem::take(&mut self.out).into_iter();
        told.map(|action| match action {
            Action::Reply { token, reply } => (token.index, reply),
            other => panic!("{other:?} is no reply"),
        })
        .collect()
    }

    fn answer(&mut self, number: u64, reply: Reply) {
        self.core.answer(self.now, number, reply, &self.ring, &mut self.out);
    }

    fn lost(&mut self, server: u64, sent: bool) {
        self.core.lost(self.now, NodeId(server), sent, &self.ring, &mut self.out);
    }

    /// Time passes.
    fn after(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.core.tick(self.now, &self.ring, &mut self.out);
    }

    fn view(&mut self, epoch: u64, isr: &[u64]) {
        self.ring = ring(epoch, isr);
        self.core.look(self.now, &self.ring, &mut self.out);
    }
}

#[test]
fn a_write_follows_its_coordinator_and_says_that_it_is_a_retry() {
    let mut play = Play::new(&[2, 3]);
    play.write(1, "v");
    let [(2, first, false)] = play.sent()[..] else { panic!() };
    play.lost(2, true);
    play.after(10);
    let [(2, _, true)] = play.sent()[..] else { panic!("tried again") };
    play.view(2, &[3]);
    let [(3, second, true)] = play.sent()[..] else { panic!("at once with the next one") };
    play.answer(second, PUT);
    assert_eq!(play.replies(), [(1, PUT)]);
    play.answer(first, PUT);
    assert_eq!((play.replies(), play.core.open(), play.core.deadline()), (vec![], 0, None));
}

#[test]
fn what_was_never_sent_is_no_retry_and_what_was_refused_is_tried_until_the_end() {
    let mut play = Play::new(&[2]);
    play.write(1, "v");
    play.sent();
    play.lost(2, false);
    for _ in 0..200 {
        play.after(30);
        for (_, number, retry) in play.sent() {
            assert!(!retry);
            play.answer(number, Reply::Refused(Refusal::WriteLocked));
        }
    }
    let replies = play.replies();
    assert!(matches!(replies[..], [(1, Reply::Refused(Refusal::Unavailable(_)))]), "{replies:?}");
}

#[test]
fn an_outcome_that_stays_unknown_is_told_as_that() {
    let mut play = Play::new(&[2]);
    play.write(1, "v");
    play.sent();
    play.after(6_000);
    assert!(matches!(play.replies()[..], [(1, Reply::Unknown(_))]));
    play.write(2, "v");
    let [(_, number, _)] = play.sent()[..] else { panic!() };
    play.answer(number, Reply::Unknown(FORGOTTEN));
    assert_eq!(play.replies(), [(2, Reply::Unknown(FORGOTTEN))]);
}

#[test]
fn a_read_goes_to_the_next_one_that_may_answer() {
    let mut play = Play::new(&[2, 3, 4]);
    play.read(1);
    let [(2, first, _)] = play.sent()[..] else { panic!() };
    play.answer(first, Reply::Refused(Refusal::Unavailable("no lease")));
    let [(3, _, _)] = play.sent()[..] else { panic!() };
    // The second is silent: the third is asked, too, and the second's answer still counts.
    play.after(200);
    let [(4, third, _)] = play.sent()[..] else { panic!() };
    play.answer(third, Reply::Value(None));
    assert_eq!(play.replies(), [(1, Reply::Value(None))]);
    play.read(2);
    assert_eq!(play.sent()[0].0, 2, "who was silent is asked last");
}

#[test]
fn writes_of_one_key_stay_in_order() {
    let mut play = Play::new(&[2, 3]);
    play.write(1, "a");
    play.write(2, "b");
    let [(2, first, _), (2, second, _)] = play.sent()[..] else { panic!("one behind the other") };
    play.lost(2, true);
    play.view(2, &[3]);
    let [(3, third, true), (3, fourth, true)] = play.sent()[..] else { panic!("in the same order") };
    assert!(first < second && third < fourth);
    play.answer(third, Reply::Refused(Refusal::NotResponsible));
    play.write(3, "c");
    assert_eq!(play.sent(), [], "not before the first");
    play.answer(fourth, PUT);
    // The first would come too late: it may have been executed by an earlier sending.
    let [(3, last, false)] = play.sent()[..] else { panic!("the third may go") };
    let replies = play.replies();
    assert!(matches!(replies[..], [(1, Reply::Unknown(_)), (2, PUT)]), "{replies:?}");
    play.answer(last, PUT);
    assert_eq!(play.replies(), [(3, PUT)]);
}

#[test]
fn a_thousand_writes_of_one_key_wait_for_the_first() {
    let mut play = Play::new(&[2]);
    play.write(0, "v");
    let [(_, first, _)] = play.sent()[..] else { panic!() };
    play.answer(first, Reply::Refused(Refusal::WriteLocked));
    (1..1000).for_each(|index| play.write(index, "v"));
    assert_eq!(play.sent(), []);
    play.after(20);
    assert_eq!(play.sent().len(), 1000);
}
