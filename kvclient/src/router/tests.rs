//! Scenarios by hand, and random worlds in which the promises must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use common::position::Position;
use common::{Outcome, RequestId, Time};
use proptest::prelude::*;

use super::*;
use crate::ring::Arc;

fn addr(name: &str) -> Address {
    Address::from(format!("{name}:5001"))
}

fn whole(name: &str) -> Arc {
    Arc { from: Position(0), to: Position(u128::MAX), address: addr(name) }
}

fn put() -> Command {
    Command::Put { key: "k".into(), value: "v".into() }
}

fn get() -> Command {
    Command::Get { key: "k".into() }
}

/// A router whose seed is `a`, with the actions of the last step.
struct Bench {
    router: Router,
    now: Time,
    out: Vec<Action>,
}

impl Bench {
    fn new() -> Bench {
        let router = Router::new(Settings::default(), vec![addr("a")], 1, Time(0), 1_700_000_000_000);
        Bench { router, now: Time(0), out: Vec::new() }
    }

    /// A router that knows the ring: `a` coordinates everything, `a`, `b` and `c` answer reads.
    fn with_ring() -> Bench {
        let mut bench = Bench::new();
        bench.start(Command::Connect);
        bench.ring("a", &["a", "b", "c"]);
        bench
    }

    fn start(&mut self, command: Command) -> OpId {
        self.out.clear();
        self.router.start(self.now, command, &mut self.out)
    }

    fn input(&mut self, input: Input) -> &[Action] {
        self.out.clear();
        self.now = self.now + Duration::from_micros(100);
        self.router.handle(self.now, input, &mut self.out);
        &self.out
    }

    /// The server that is being asked answers that `coordinator` coordinates everything.
    fn ring(&mut self, coordinator: &str, readers: &[&str]) -> &[Action] {
        let asked = self.out.iter().find_map(|action| match action {
            Action::Refresh { from } => Some(from.clone()),
            _ => None,
        });
        let from = asked.expect("no ring was asked for");
        let readers = readers.iter().map(|name| whole(name)).collect();
        self.input(Input::Keyrange { from, result: Ok((vec![whole(coordinator)], readers)) })
    }

    fn sent(&self) -> Option<(OpId, u32, Address, Request)> {
        self.out.iter().find_map(|action| match action {
            Action::Send { op, attempt, to, request } => Some((*op, *attempt, to.clone(), request.clone())),
            _ => None,
        })
    }

    fn reply(&mut self, reply: Reply) -> &[Action] {
        let (op, attempt, ..) = self.sent().expect("nothing was sent");
        self.input(Input::Answer { op, attempt, reply })
    }

    fn fail(&mut self, kind: Failure) -> &[Action] {
        let (op, attempt, ..) = self.sent().expect("nothing was sent");
        self.input(Input::Failure { op, attempt, kind, detail: String::new() })
    }

    /// Lets time pass until the router wants its next tick.
    fn tick(&mut self) -> &[Action] {
        self.now = self.router.deadline().expect("nothing is awaited");
        self.out.clear();
        self.router.handle(self.now, Input::Tick, &mut self.out);
        &self.out
    }

    /// Lets time pass until a server is given up; whenever the ring is asked for, it is as it was.
    fn until_timeout(&mut self) {
        loop {
            self.tick();
            if self.out.iter().any(|action| matches!(action, Action::Retire { .. })) {
                return;
            }
            if self.out.iter().any(|action| matches!(action, Action::Refresh { .. })) {
                self.ring("a", &["a", "b", "c"]);
            }
        }
    }

    fn result(&self) -> Option<&Result<Answer, Error>> {
        self.out.iter().find_map(|action| match action {
            Action::Done { result, .. } => Some(result),
            _ => None,
        })
    }
}

#[test]
fn a_first_operation_learns_the_ring_from_a_seed_and_goes_to_the_coordinator() {
    let mut bench = Bench::new();
    bench.start(put());
    assert_eq!(bench.out, vec![Action::Refresh { from: addr("a") }]);
    bench.ring("b", &["b"]);
    assert_eq!(bench.sent().unwrap().2, addr("b"));
    bench.reply(Reply::Done(Answer::Written(Outcome::Created)));
    assert_eq!(bench.result(), Some(&Ok(Answer::Written(Outcome::Created))));
    assert_eq!(bench.router.open(), 0);
    assert_eq!(bench.router.deadline(), None);
}

#[test]
fn not_responsible_leads_to_a_refresh_and_the_new_coordinator_without_a_retry_mark() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    let (.., first) = bench.sent().unwrap();
    bench.reply(Reply::NotResponsible);
    bench.ring("b", &["b", "c"]);
    let (_, _, to, second) = bench.sent().unwrap();
    assert_eq!((to, second.retry), (addr("b"), false));
    assert_eq!(second.id.map(|id| id.seq), first.id.map(|id| id.seq));
}

#[test]
fn the_same_coordinator_again_means_a_pause() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    bench.reply(Reply::Stopped(String::new()));
    assert_eq!(bench.ring("a", &["a"]), &[]);
    bench.tick();
    assert_eq!(bench.sent().unwrap().2, addr("a"));
    assert!(!bench.sent().unwrap().3.retry);
}

#[test]
fn a_write_lock_is_waited_out() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    assert_eq!(bench.reply(Reply::WriteLocked), &[]);
    bench.tick();
    assert_eq!(bench.sent().unwrap().2, addr("a"));
}

#[test]
fn a_lost_answer_is_retried_with_the_mark_at_the_new_coordinator() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    let (.., first) = bench.sent().unwrap();
    bench.fail(Failure::ClosedAfterSend);
    bench.ring("b", &["b"]);
    let (_, _, to, second) = bench.sent().unwrap();
    assert_eq!((to, second.retry, second.id), (addr("b"), true, first.id));
}

#[test]
fn a_silent_server_is_retired_reported_and_passed_over() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    bench.until_timeout();
    assert!(bench.out.contains(&Action::Retire { server: addr("a") }));
    assert!(bench.out.contains(&Action::Report { server: addr("a"), why: "timeout" }));
    // The ring was looked at a moment ago and still named it.
    bench.tick();
    assert!(bench.sent().unwrap().3.retry);
}

#[test]
fn a_failover_is_noticed_without_waiting_for_the_timeout() {
    let mut bench = Bench::with_ring();
    let op = bench.start(put());
    let begun = bench.now;
    bench.tick();
    assert!(bench.sent().is_none(), "it still waits");
    bench.ring("b", &["b", "c"]);
    let (_, _, to, second) = bench.sent().unwrap();
    assert_eq!((to, second.retry), (addr("b"), true));
    assert!(bench.now.since(begun) < Settings::default().attempt / 2);
    bench.input(Input::Answer { op, attempt: 1, reply: Reply::Done(Answer::Written(Outcome::Created)) });
    assert_eq!(bench.result(), Some(&Ok(Answer::Written(Outcome::Created))), "the first answer counts all the same");
}

#[test]
fn a_server_that_was_silent_is_asked_last() {
    let mut bench = Bench::with_ring();
    bench.start(get());
    let silent = bench.sent().unwrap().2;
    while bench.sent().is_none_or(|(_, _, to, _)| to == silent) {
        bench.tick();
        if bench.out.iter().any(|action| matches!(action, Action::Refresh { .. })) && bench.sent().is_none() {
            bench.ring("a", &["a", "b", "c"]);
        }
    }
    bench.reply(Reply::Done(Answer::Value(None)));
    for _ in 0..50 {
        bench.start(get());
        assert_ne!(bench.sent().unwrap().2, silent);
        bench.reply(Reply::Done(Answer::Value(None)));
    }
}

#[test]
fn a_late_answer_of_a_sending_that_was_given_up_still_counts() {
    let mut bench = Bench::with_ring();
    let op = bench.start(put());
    let (_, attempt, ..) = bench.sent().unwrap();
    bench.until_timeout();
    bench.input(Input::Answer { op, attempt, reply: Reply::Done(Answer::Written(Outcome::Updated)) });
    assert_eq!(bench.result(), Some(&Ok(Answer::Written(Outcome::Updated))));
}

#[test]
fn a_read_goes_to_the_next_of_the_three_at_once() {
    let mut bench = Bench::with_ring();
    bench.start(get());
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        asked.insert(bench.sent().unwrap().2);
        bench.fail(Failure::ClosedAfterSend);
    }
    assert_eq!(asked, BTreeSet::from([addr("a"), addr("b"), addr("c")]));
}

#[test]
fn reads_are_spread() {
    let mut bench = Bench::with_ring();
    let mut asked = BTreeMap::<Address, u32>::new();
    for _ in 0..300 {
        bench.start(get());
        *asked.entry(bench.sent().unwrap().2).or_default() += 1;
        bench.reply(Reply::Done(Answer::Value(None)));
    }
    assert!(asked.len() == 3 && asked.values().all(|n| *n > 60), "{asked:?}");
}

#[test]
fn nobody_there_is_said_at_once() {
    let mut bench = Bench::new();
    bench.start(get());
    let result = Err(NoRing::Unreachable("connection refused".into()));
    bench.input(Input::Keyrange { from: addr("a"), result });
    let Some(Err(Error::Unreachable(trouble))) = bench.result() else { panic!("{:?}", bench.out) };
    assert_eq!(trouble.tried, vec![(addr("a"), "connection refused".to_owned())]);
}

#[test]
fn a_server_that_stays_silent_is_tried_to_the_end_and_then_called_unreachable() {
    let mut bench = Bench::new();
    bench.start(get());
    while bench.router.open() > 0 {
        bench.tick();
    }
    assert!(matches!(bench.result(), Some(Err(Error::Unreachable(_)))), "{:?}", bench.out);
    assert!(bench.now >= Time(10_000_000));
}

#[test]
fn a_cluster_that_starts_is_waited_for() {
    let mut bench = Bench::new();
    bench.start(get());
    let result = Err(NoRing::NotServing("SERVER_STOPPED".into()));
    bench.input(Input::Keyrange { from: addr("a"), result });
    assert_eq!(bench.out, vec![]);
    bench.tick();
    bench.ring("a", &["a"]);
    assert_eq!(bench.sent().unwrap().2, addr("a"));
}

#[test]
fn a_forgotten_result_ends_as_unknown_at_once() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    bench.fail(Failure::ClosedAfterSend);
    bench.ring("b", &["b"]);
    bench.reply(Reply::Unknown { why: "the result is forgotten".into(), forgotten: true });
    assert!(matches!(bench.result(), Some(Err(Error::Unknown(_)))));
}

#[test]
fn a_wrong_request_is_not_repeated() {
    let mut bench = Bench::with_ring();
    bench.start(put());
    bench.reply(Reply::Failed("key too long".into()));
    assert!(matches!(bench.result(), Some(Err(Error::Rejected { .. }))));
}

#[test]
fn results_below_the_oldest_open_write_may_be_forgotten() {
    let mut bench = Bench::with_ring();
    let lowest = |bench: &Bench| bench.sent().unwrap().3.id.map(|id| (id.seq, id.lowest_unacked));
    let first = bench.start(put());
    assert_eq!(lowest(&bench), Some((1, 1)));
    bench.start(put());
    assert_eq!(lowest(&bench), Some((2, 1)));
    bench.input(Input::Answer { op: first, attempt: 1, reply: Reply::Done(Answer::Written(Outcome::Created)) });
    bench.start(put());
    assert_eq!(lowest(&bench), Some((3, 2)));
}

/// How a random server treats one request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Serve,
    ServeButSayUnknown,
    ServeAndClose,
    ServeAndStaySilent,
    NotResponsible,
    Stopped,
    WriteLocked,
    UnknownNotExecuted,
    Forgotten,
    Failed,
    CannotConnect,
    CloseBefore,
    CloseAfter,
    Silent,
}

fn fates() -> impl Strategy<Value = Fate> {
    use Fate as F;
    proptest::sample::select(vec![
        F::Serve,
        F::ServeButSayUnknown,
        F::ServeAndClose,
        F::ServeAndStaySilent,
        F::NotResponsible,
        F::NotResponsible,
        F::Stopped,
        F::Stopped,
        F::WriteLocked,
        F::UnknownNotExecuted,
        F::Forgotten,
        F::Failed,
        F::CannotConnect,
        F::CloseBefore,
        F::CloseAfter,
        F::Silent,
    ])
}

/// What the world remembers of one write.
#[derive(Default)]
struct Truth {
    id: Option<RequestId>,
    executed: u32,
    in_doubt: bool,
    ended: bool,
    sent: u32,
}

struct World {
    router: Router,
    now: Time,
    fates: std::iter::Cycle<std::vec::IntoIter<Fate>>,
    coordinators: std::iter::Cycle<std::vec::IntoIter<u8>>,
    events: BTreeMap<(Time, u64), Input>,
    count: u64,
    truths: BTreeMap<OpId, Truth>,
}

impl World {
    fn later(&mut self, input: Input) {
        self.count += 1;
        // Answers take from 0.1 to 12 ms, in no order.
        let delay = Duration::from_micros(100 + self.count * 7919 % 12_000);
        self.events.insert((self.now + delay, self.count), input);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { op, attempt, request, .. } => self.serve(op, attempt, &request),
                Action::Refresh { from } => {
                    let name = ["a", "b", "c"][usize::from(self.coordinators.next().unwrap() % 3)];
                    let result = Ok((vec![whole(name)], vec![whole("a"), whole("b")]));
                    self.later(Input::Keyrange { from, result });
                }
                Action::Done { op, result } => self.check_end(op, &result),
                Action::Retire { .. } | Action::Report { .. } => {}
            }
        }
    }

    fn serve(&mut self, op: OpId, attempt: u32, request: &Request) {
        let fate = self.fates.next().unwrap();
        let truth = self.truths.entry(op).or_default();
        assert!(!truth.ended, "an operation that is over was sent");
        truth.sent += 1;
        assert!(truth.sent < 600, "an operation is sent again and again without a pause");
        if let Some(id) = request.id {
            let first = *truth.id.get_or_insert(id);
            assert_eq!((first.client, first.seq), (id.client, id.seq), "a write changed its id");
            assert!(id.lowest_unacked <= id.seq);
        }
        assert_eq!(request.retry, truth.in_doubt, "the retry mark must say whether an earlier sending is in doubt");
        let executes =
            matches!(fate, Fate::Serve | Fate::ServeButSayUnknown | Fate::ServeAndClose | Fate::ServeAndStaySilent);
        if request.command.is_write() {
            truth.executed += u32::from(executes);
            truth.in_doubt |= !matches!(
                fate,
                Fate::Serve
                    | Fate::NotResponsible
                    | Fate::Stopped
                    | Fate::WriteLocked
                    | Fate::Failed
                    | Fate::CannotConnect
                    | Fate::CloseBefore
            );
        }
        let unknown = |forgotten| Reply::Unknown { why: "why".into(), forgotten };
        let served = match request.command {
            Command::Put { .. } => Answer::Written(Outcome::Created),
            _ => Answer::Value(Some(Bytes::from_static(b"v"))),
        };
        let failure = |kind| Input::Failure { op, attempt, kind, detail: String::new() };
        let input = match fate {
            Fate::Serve => Input::Answer { op, attempt, reply: Reply::Done(served) },
            Fate::ServeButSayUnknown | Fate::UnknownNotExecuted => Input::Answer { op, attempt, reply: unknown(false) },
            Fate::Forgotten => Input::Answer { op, attempt, reply: unknown(true) },
            Fate::NotResponsible => Input::Answer { op, attempt, reply: Reply::NotResponsible },
            Fate::Stopped => Input::Answer { op, attempt, reply: Reply::Stopped(String::new()) },
            Fate::WriteLocked => Input::Answer { op, attempt, reply: Reply::WriteLocked },
            Fate::Failed => Input::Answer { op, attempt, reply: Reply::Failed("wrong".into()) },
            Fate::CannotConnect => failure(Failure::Refused),
            Fate::CloseBefore => failure(Failure::ClosedBeforeSend),
            Fate::CloseAfter | Fate::ServeAndClose => failure(Failure::ClosedAfterSend),
            Fate::Silent | Fate::ServeAndStaySilent => return,
        };
        self.later(input);
    }

    fn check_end(&mut self, op: OpId, result: &Result<Answer, Error>) {
        let truth = self.truths.entry(op).or_default();
        assert!(!truth.ended, "{op:?} ended twice");
        truth.ended = true;
        match result {
            Err(Error::Unknown(_)) => {}
            Err(_) => assert_eq!(truth.executed, 0, "a write that was executed ended as {result:?}"),
            Ok(Answer::Written(_)) => assert!(truth.executed > 0, "a write that was not executed was called done"),
            Ok(_) => {}
        }
    }

    fn run(&mut self) {
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let Some(next) = event.into_iter().chain(self.router.deadline()).min() else { return };
            self.now = self.now.max(next);
            let input = match self.events.first_entry() {
                Some(first) if first.key().0 <= self.now => first.remove(),
                _ => Input::Tick,
            };
            let mut out = Vec::new();
            self.router.handle(self.now, input, &mut out);
            self.perform(out);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn in_any_world_every_operation_ends_in_time_and_truthfully(
        fates in proptest::collection::vec(fates(), 1..60),
        coordinators in proptest::collection::vec(any::<u8>(), 1..20),
        reads in proptest::collection::vec(any::<bool>(), 1..12),
        seed: u64,
    ) {
        let settings = Settings::default();
        let total = settings.total;
        let router = Router::new(settings, vec![addr("a")], seed, Time(0), 0);
        let mut world = World {
            router,
            now: Time(0),
            fates: fates.into_iter().cycle(),
            coordinators: coordinators.into_iter().cycle(),
            events: BTreeMap::new(),
            count: 0,
            truths: BTreeMap::new(),
        };
        for read in &reads {
            let mut out = Vec::new();
            let op = world.router.start(world.now, if *read { get() } else { put() }, &mut out);
            world.truths.entry(op).or_default();
            world.perform(out);
        }
        world.run();
        prop_assert_eq!(world.router.open(), 0);
        prop_assert!(world.now <= Time(0) + total + Duration::from_millis(20), "{:?}", world.now);
        prop_assert!(world.truths.values().all(|truth| truth.ended));
        prop_assert_eq!(world.truths.len(), reads.len());
    }
}
