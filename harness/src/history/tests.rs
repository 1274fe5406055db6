//! Histories whose verdict is known, and random ones that a real register produced.

use super::*;

fn op(call: u64, end: End, action: Action) -> Op {
    Op { id: 0, client: 0, server: None, key: 0, call, end, action }
}

fn put(value: Value, call: u64, ret: u64) -> Op {
    op(call, End::Answered(ret), Action::Put { value, created: None })
}

fn put_unknown(value: Value, call: u64) -> Op {
    op(call, End::Unknown, Action::Put { value, created: None })
}

fn put_saying(value: Value, created: bool, call: u64, ret: u64) -> Op {
    op(call, End::Answered(ret), Action::Put { value, created: Some(created) })
}

fn delete(existed: Option<bool>, call: u64, ret: u64) -> Op {
    op(call, End::Answered(ret), Action::Delete { existed })
}

fn get(seen: Option<Value>, call: u64, ret: u64) -> Op {
    op(call, End::Answered(ret), Action::Get { seen })
}

fn verdict(mut ops: Vec<Op>) -> Verdict {
    ops.sort_by_key(|op| op.call);
    for (id, op) in (0..).zip(&mut ops) {
        op.id = id;
    }
    check_key(&ops)
}

const GOOD: Verdict = Verdict::Linearizable;
const BAD: Verdict = Verdict::Violated;

#[test]
fn nothing_at_all_is_linearizable() {
    assert_eq!(verdict(vec![]), GOOD);
    assert_eq!(verdict(vec![get(None, 0, 1)]), GOOD);
}

#[test]
fn a_read_during_a_write_may_see_either_value() {
    for seen in [1, 2] {
        assert_eq!(verdict(vec![put(1, 0, 1), put(2, 2, 9), get(Some(seen), 3, 4)]), GOOD);
    }
}

#[test]
fn values_do_not_go_back_within_one_write() {
    assert_eq!(verdict(vec![put(1, 0, 1), put(2, 2, 9), get(Some(2), 3, 4), get(Some(1), 5, 6)]), BAD);
}

#[test]
fn a_stale_read_is_caught() {
    assert_eq!(verdict(vec![put(1, 0, 1), put(2, 2, 3), get(Some(1), 4, 5)]), BAD);
}

#[test]
fn a_lost_write_is_caught() {
    assert_eq!(verdict(vec![put(1, 0, 1), get(None, 2, 3)]), BAD);
}

#[test]
fn a_resurrected_delete_is_caught() {
    assert_eq!(verdict(vec![put(1, 0, 1), delete(None, 2, 3), get(None, 4, 5), get(Some(1), 6, 7)]), BAD);
    assert_eq!(verdict(vec![put(1, 0, 1), delete(None, 2, 3), get(Some(1), 6, 7)]), BAD);
}

#[test]
fn a_value_nobody_wrote_is_caught() {
    assert_eq!(verdict(vec![put(1, 0, 1), get(Some(7), 2, 3)]), BAD);
}

#[test]
fn a_value_read_before_it_was_written_is_caught() {
    assert_eq!(verdict(vec![get(Some(1), 0, 1), put(1, 2, 3)]), BAD);
    assert_eq!(verdict(vec![get(Some(1), 0, 1), put_unknown(1, 2)]), BAD);
}

#[test]
fn a_refused_write_must_not_show() {
    let refused = op(0, End::Refused(1), Action::Put { value: 1, created: None });
    assert_eq!(verdict(vec![refused.clone(), get(None, 2, 3)]), GOOD);
    assert_eq!(verdict(vec![refused, get(Some(1), 2, 3)]), BAD);
}

#[test]
fn an_unknown_write_may_never_happen_or_happen_late() {
    assert_eq!(verdict(vec![put(1, 0, 1), put_unknown(2, 2), get(Some(1), 10, 11)]), GOOD);
    let late = vec![put(1, 0, 1), put_unknown(2, 2), get(Some(1), 10, 11), put(3, 12, 13), get(Some(2), 20, 21)];
    assert_eq!(verdict(late), GOOD);
}

#[test]
fn an_unknown_write_happens_once() {
    let twice = vec![put_unknown(2, 0), get(Some(2), 5, 6), put(3, 7, 8), get(Some(2), 9, 10)];
    assert_eq!(verdict(twice), BAD);
}

#[test]
fn a_request_executed_twice_is_caught() {
    // Answered once, overwritten, and back again: the retry was executed a second time.
    assert_eq!(verdict(vec![put(1, 0, 1), put(2, 2, 3), get(Some(2), 4, 5), get(Some(1), 6, 7)]), BAD);
    // A delete that first found something and, executed again, took a later value with it.
    let deleted_again = vec![put(1, 0, 1), delete(Some(true), 2, 3), put(2, 4, 5), get(None, 6, 7)];
    assert_eq!(verdict(deleted_again), BAD);
}

#[test]
fn the_word_of_a_write_is_checked_too() {
    assert_eq!(verdict(vec![put_saying(1, true, 0, 1), put_saying(2, false, 2, 3)]), GOOD);
    assert_eq!(verdict(vec![put_saying(1, true, 0, 1), put_saying(2, true, 2, 3)]), BAD);
    assert_eq!(verdict(vec![put(1, 0, 1), delete(Some(false), 2, 3)]), BAD);
    assert_eq!(verdict(vec![delete(Some(true), 2, 3)]), BAD);
}

#[test]
fn an_unknown_write_can_explain_the_word_of_the_next() {
    assert_eq!(verdict(vec![put_unknown(1, 0), put_saying(2, false, 2, 3)]), GOOD);
    // But not both the word and, later, its own value.
    let spent = vec![put_unknown(1, 0), put_saying(2, false, 2, 3), get(Some(2), 4, 5), get(Some(1), 6, 7)];
    assert_eq!(verdict(spent), BAD);
    // With a second unknown put to explain the word, the first is free to show.
    let two =
        vec![put_unknown(1, 0), put_unknown(9, 0), put_saying(2, false, 2, 3), get(Some(2), 4, 5), get(Some(1), 6, 7)];
    assert_eq!(verdict(two), GOOD);
}

#[test]
fn unknown_deletes_count_one_each() {
    let unknown = || op(2, End::Unknown, Action::Delete { existed: None });
    let two_gaps = |deletes: usize| {
        let mut ops = vec![put(1, 0, 1), get(None, 10, 11), put(2, 12, 13), get(None, 14, 15)];
        ops.extend((0..deletes).map(|_| unknown()));
        ops
    };
    assert_eq!(verdict(two_gaps(1)), BAD);
    assert_eq!(verdict(two_gaps(2)), GOOD);
}

#[test]
fn a_value_with_a_deadline_vanishes_once_and_for_all() {
    let put_for = |value, call, ret| op(call, End::Answered(ret), Action::PutFor { value });
    assert_eq!(verdict(vec![put_for(1, 0, 1), get(Some(1), 2, 3), get(None, 4, 5), get(None, 6, 7)]), GOOD);
    assert_eq!(verdict(vec![put_for(1, 0, 1), get(None, 2, 3), get(Some(1), 4, 5)]), BAD);
    assert_eq!(verdict(vec![put_for(1, 0, 1), put(2, 2, 3), get(None, 4, 5)]), BAD);
    assert_eq!(verdict(vec![put_for(1, 0, 1), put_saying(2, true, 2, 3), delete(Some(true), 4, 5)]), GOOD);
    // One whose outcome is unknown may have come, taken the place of another, and gone.
    let unknown = op(2, End::Unknown, Action::PutFor { value: 2 });
    assert_eq!(verdict(vec![put(1, 0, 1), unknown, get(None, 4, 5)]), GOOD);
}

#[test]
fn what_is_told_of_the_value_until_then_is_checked() {
    let swap = |value, old, call, ret| op(call, End::Answered(ret), Action::Swap { value, old: Some(old) });
    let take = |old, call, ret| op(call, End::Answered(ret), Action::Take { old: Some(old) });
    assert_eq!(verdict(vec![swap(1, None, 0, 1), swap(2, Some(1), 2, 3), take(Some(2), 4, 5), take(None, 6, 7)]), GOOD);
    assert_eq!(verdict(vec![swap(1, None, 0, 1), swap(2, None, 2, 3)]), BAD);
    assert_eq!(verdict(vec![put(1, 0, 1), take(Some(1), 2, 3), take(Some(1), 4, 5)]), BAD);
    // Executed twice: the second time it found its own value.
    assert_eq!(verdict(vec![put(1, 0, 1), swap(2, Some(2), 2, 3)]), BAD);
}

#[test]
fn many_unknown_writes_do_not_blow_the_search_up() {
    let mut ops: Vec<Op> = (0..40).map(|i| put_unknown(i, u64::from(i))).collect();
    for i in 0..40 {
        ops.push(get(Some(39 - i), 100 + u64::from(i) * 2, 101 + u64::from(i) * 2));
    }
    assert_eq!(verdict(ops.clone()), GOOD);
    ops.push(get(Some(5), 1000, 1001));
    assert_eq!(verdict(ops), BAD);
}

#[test]
fn the_account_names_what_matters_and_little_else() {
    let mut ops = vec![put(1, 0, 1), put(2, 2, 3), get(Some(1), 40, 50)];
    ops.extend((0..20).map(|i| get(Some(2), 4 + i, 5 + i)));
    ops.sort_by_key(|op| op.call);
    for (id, op) in (0..).zip(&mut ops) {
        op.id = id;
    }
    let text = explain(7, &ops);
    assert!(text.contains("k7") && text.contains("put v1") && text.contains("get = v1"), "{text}");
    assert!(text.contains("put v2") || text.contains("get = v2"), "the overwriting must be shown: {text}");
    assert!(text.lines().count() <= 6, "{text}");
}

/// Plays random concurrent operations against a real register, some answers lost, and returns what clients saw.
fn played(rng: &mut fastrand::Rng) -> Vec<Op> {
    let (mut ops, mut value, mut now) = (Vec::new(), None, 0u64);
    let (mut open, mut mortal): (Vec<Op>, Vec<Value>) = (Vec::new(), Vec::new());
    for id in 0..rng.u32(5..60) {
        now += rng.u64(1..4);
        let call = now;
        let mut new = op(call, End::Unknown, Action::Get { seen: None });
        new.id = id;
        new.action = match rng.u8(0..8) {
            0..3 => Action::Put { value: id, created: None },
            3 => Action::PutFor { value: id },
            4 => Action::Swap { value: id, old: None },
            5 => Action::Delete { existed: None },
            6 if rng.bool() => Action::Take { old: None },
            _ => Action::Get { seen: None },
        };
        open.push(new);
        while open.len() > 3 || (!open.is_empty() && rng.bool()) {
            now += 1;
            let mut done = open.remove(rng.usize(..open.len()));
            let lost = rng.u8(0..5) == 0;
            let effect = !lost || rng.bool();
            if value.is_some_and(|value| mortal.contains(&value)) && rng.u8(0..4) == 0 {
                value = None;
            }
            match &mut done.action {
                Action::Get { seen } => *seen = value,
                Action::Put { value: new, created } if effect => {
                    *created = (!lost).then_some(value.is_none());
                    value = Some(*new);
                }
                Action::PutFor { value: new } if effect => {
                    mortal.push(*new);
                    value = Some(*new);
                }
                Action::Swap { value: new, old } if effect => {
                    *old = (!lost).then_some(value);
                    value = Some(*new);
                }
                Action::Take { old } if effect => {
                    *old = (!lost).then_some(value);
                    value = None;
                }
                Action::Delete { existed } if effect => {
                    *existed = (!lost).then_some(value.is_some());
                    value = None;
                }
                _ => {}
            }
            if !lost {
                done.end = End::Answered(now + 1);
            }
            now += 1;
            ops.push(done);
        }
    }
    ops.extend(open);
    ops.sort_by_key(|op| op.call);
    ops
}

#[test]
fn whatever_a_register_did_is_linearizable() {
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..500 {
        let ops = played(&mut rng);
        assert_eq!(check_key(&ops), GOOD, "round {round}: {ops:#?}");
    }
}

/// The checker's shortcut for unknown writes against brute force without it.
#[test]
fn small_histories_get_the_verdict_of_brute_force() {
    let mut rng = fastrand::Rng::with_seed(2);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let mut ops: Vec<Op> = played(&mut rng).into_iter().take(7).collect();
        // Spoil some answers.
        for op in &mut ops {
            if let (Action::Get { seen }, true) = (&mut op.action, rng.u8(0..3) == 0) {
                *seen = if rng.bool() { None } else { Some(rng.u32(0..6)) };
            }
        }
        let brute = brute_force(&ops, 0, None);
        assert_eq!(check_key(&ops) == GOOD, brute, "{ops:#?}");
        if brute { good += 1 } else { bad += 1 }
    }
    assert!(good > 300 && bad > 300, "both verdicts must occur: {good} good, {bad} bad");
}

fn brute_force(ops: &[Op], done: u32, value: Option<Value>) -> bool {
    let open = || (0..ops.len()).filter(|i| done & (1 << i) == 0 && !matches!(ops[*i].end, End::Refused(_)));
    let answer = |i: usize| if let End::Answered(at) = ops[i].end { at } else { u64::MAX };
    if open().all(|i| ops[i].end == End::Unknown) {
        return true;
    }
    open().any(|i| {
        if open().any(|j| answer(j) < ops[i].call) {
            return false;
        }
        let unknown = ops[i].end == End::Unknown;
        let next = match ops[i].action {
            Action::Get { .. } if unknown => value,
            Action::Get { seen } if seen == value => value,
            Action::Get { .. } => return false,
            Action::Put { created: Some(c), .. } if c == value.is_some() => return false,
            Action::Put { value, .. } => Some(value),
            Action::PutFor { value } => Some(value),
            Action::Swap { old: Some(old), .. } | Action::Take { old: Some(old) } if old != value => return false,
            Action::Swap { value, .. } => Some(value),
            Action::Delete { existed: Some(e) } if e != value.is_some() => return false,
            Action::Delete { .. } | Action::Take { .. } => None,
        };
        let mortal = ops.iter().any(|op| matches!(op.action, Action::PutFor { value } if Some(value) == next));
        brute_force(ops, done | (1 << i), next) || (mortal && brute_force(ops, done | (1 << i), None))
    })
}
