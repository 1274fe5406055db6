//! Is there an order of a key's operations that a register explains? A depth-first search with memo (Wing & Gong's
//! search in the form of Lowe), made cheap by one observation about writes of unknown outcome:
//!
//! every operation either observes the register or overwrites it, so an unknown write matters only if the very next
//! operation needs it. It is therefore placed only directly before an operation that is impossible without it, instead
//! of at every point of the search, and an unknown write that nobody needs never took effect.
//!
//! A value with a deadline may vanish at any moment, which nobody needs to have happened either before an operation finds
//! nothing: there absence is explained by the value itself. The clocks that deadlines are measured by are not looked at.

use std::collections::BTreeSet;

use super::{Action, End, Op, Value};

/// The answer for one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A register explains it.
    Linearizable,
    /// No register does.
    Violated,
    /// The search gave up at its bound.
    Undecided,
}

/// Search states looked at per key before giving up. Real histories need a few hundred.
const BOUND: usize = 400_000;

/// Checks the operations of one key, in the order of their calls.
#[must_use]
pub fn check_key(ops: &[Op]) -> Verdict {
    let mut search = Search::new(ops);
    if search.impossible_read(ops) {
        return Verdict::Violated;
    }
    search.run()
}

/// What the search does with an operation.
#[derive(Clone, Copy, Debug)]
struct Step {
    call: u64,
    ret: u64,
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Possible as things are.
    Nothing,
    /// Only directly after this value was put.
    Value(Value),
    /// Only directly after some put.
    AnyValue,
    /// Only directly after some delete, or a put whose value has vanished.
    Absence,
}

struct Search {
    /// Answered operations, by call.
    known: Vec<Step>,
    /// Writes of unknown outcome, by call.
    unknown: Vec<Step>,
    /// Values that somebody saw: an unknown put of another value is the better one to spend where any will do.
    seen: BTreeSet<Value>,
    /// Values that may vanish.
    mortal: BTreeSet<Value>,
}

/// A node of the search: what has taken effect, and what the register holds. The order in which it did is irrelevant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// All known operations below this one are done.
    floor: u32,
    /// Those above it that are done too.
    done: Vec<u32>,
    /// Unknown writes that took effect.
    spent: Vec<u32>,
    value: Option<Value>,
}

impl Search {
    fn new(ops: &[Op]) -> Search {
        let (mut known, mut unknown, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut mortal = BTreeSet::new();
        for op in ops {
            let step = |ret| Step { call: op.call, ret, action: op.action };
            if let Action::PutFor { value } = op.action {
                mortal.insert(value);
            }
            match (op.end, op.action) {
                (End::Answered(ret), action) => {
                    seen.extend(action.saw().flatten());
                    known.push(step(ret));
                }
                (End::Unknown, Action::Get { .. }) | (End::Refused(_), _) => {}
                (End::Unknown, _) => unknown.push(step(u64::MAX)),
            }
        }
        Search { known, unknown, seen, mortal }
    }

    /// A get of a value that no put (but perhaps a refused one) ever wrote.
    fn impossible_read(&self, ops: &[Op]) -> bool {
        let written: BTreeSet<Value> =
            ops.iter().filter(|op| !matches!(op.end, End::Refused(_))).filter_map(|op| op.action.writes()).collect();
        !self.seen.is_subset(&written)
    }

    fn run(&mut self) -> Verdict {
        let mut visited = BTreeSet::new();
        let mut stack = vec![State { floor: 0, done: Vec::new(), spent: Vec::new(), value: None }];
        while let Some(state) = stack.pop() {
            if state.floor as usize == self.known.len() {
                return Verdict::Linearizable;
            }
            if visited.len() >= BOUND {
                return Verdict::Undecided;
            }
            if visited.insert(state.clone()) {
                self.expand(&state, &mut stack);
            }
        }
        Verdict::Violated
    }

    /// Pushes every state that is one operation (and perhaps one unknown write before it) further.
    fn expand(&self, state: &State, stack: &mut Vec<State>) {
        let open = || (state.floor..).take(self.known.len() - state.floor as usize).filter(|i| !state.done.contains(i));
        // Whatever comes next comes before the first answer still outstanding.
        let mut limit = u64::MAX;
        for i in open() {
            let step = &self.known[i as usize];
            if step.call > limit {
                break;
            }
            limit = limit.min(step.ret);
        }
        let mut candidates: Vec<u32> = open().take_while(|i| self.known[*i as usize].call <= limit).collect();
        candidates.reverse(); // the stack turns it round: first called, first tried
        for i in candidates {
            let action = self.known[i as usize].action;
            match need(action, state.value, |value| self.mortal.contains(&value)) {
                Need::Nothing => stack.push(state.after(i, action, None)),
                need => {
                    let choices = self.choices(need, state, limit).into_iter();
                    stack.extend(choices.map(|u| state.after(i, action, Some(u))));
                }
            }
        }
    }

    /// The unknown writes that could be spent for `need`: one that can serve nothing else if there is one, else all.
    fn choices(&self, need: Need, state: &State, limit: u64) -> Vec<u32> {
        let free = (0u32..)
            .zip(&self.unknown)
            .filter(|(u, step)| step.call <= limit && !state.spent.contains(u))
            .filter(|(_, step)| match need {
                Need::Value(wanted) => step.action.writes() == Some(wanted),
                Need::AnyValue => step.action.writes().is_some(),
                Need::Absence => step.action.writes().is_none_or(|value| self.mortal.contains(&value)),
                Need::Nothing => false,
            });
        // Deletes are all alike, and so are puts whose value nobody saw and that serve for nothing else.
        let special = |value: Value| self.seen.contains(&value) || self.mortal.contains(&value);
        let (alike, special): (Vec<_>, Vec<_>) = free.partition(|(_, step)| !step.action.writes().is_some_and(special));
        let number = |(u, _): (u32, &Step)| u;
        if alike.is_empty() { special.into_iter().map(number).collect() } else { vec![number(alike[0])] }
    }
}

/// What must have happened just before `action` for its answer to be right, given the register's content.
fn need(action: Action, value: Option<Value>, mortal: impl Fn(Value) -> bool) -> Need {
    let need = match (action, value) {
        (Action::Put { created: Some(true), .. } | Action::Delete { existed: Some(false) }, Some(_)) => Need::Absence,
        (Action::Put { created: Some(false), .. } | Action::Delete { existed: Some(true) }, None) => Need::AnyValue,
        _ => match action.saw() {
            Some(Some(seen)) if value != Some(seen) => Need::Value(seen),
            Some(None) if value.is_some() => Need::Absence,
            _ => Need::Nothing,
        },
    };
    if need == Need::Absence && value.is_some_and(mortal) { Need::Nothing } else { need }
}

impl State {
    fn after(&self, i: u32, action: Action, unknown: Option<u32>) -> State {
        let mut next = self.clone();
        if let Some(u) = unknown {
            insert_sorted(&mut next.spent, u);
        }
        match action {
            Action::Put { value, .. } | Action::PutFor { value } | Action::Swap { value, .. } => {
                next.value = Some(value);
            }
            Action::Delete { .. } | Action::Take { .. } => next.value = None,
            Action::Get { seen } => next.value = seen,
        }
        insert_sorted(&mut next.done, i);
        while next.done.first() == Some(&next.floor) {
            next.done.remove(0);
            next.floor += 1;
        }
        next
    }
}

fn insert_sorted(list: &mut Vec<u32>, item: u32) {
    let at = list.partition_point(|other| *other < item);
    list.insert(at, item);
}
