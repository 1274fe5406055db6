//! What clients saw, and whether one register per key can explain it.
//!
//! A [`History`] is a list of client operations with the times of their calls and answers. [`check`] decides whether
//! every key's part of it is linearizable: whether each operation can be given one instant between its call and its
//! answer at which it took effect at once. It knows nothing of servers, views or epochs, so it cannot share their mistakes.
//!
//! Two things make it exact for this product. A write whose outcome the client never learned may take effect at any
//! time after its call, or never. All attempts of one request (same request id) are one operation, called once and
//! answered once: a request that is executed twice shows as a value that comes back after it was overwritten.

mod checker;
mod counter;
mod explain;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use checker::{Verdict, check_key};
pub use counter::Counters;
pub use explain::explain;

/// A written value: unique, because it is the number of the operation that wrote it.
pub type Value = u32;

/// What an operation did, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A put of a unique value.
    Put {
        /// The value.
        value: Value,
        /// Whether the key was new, if the answer said so.
        created: Option<bool>,
    },
    /// A put of a unique value with a deadline: once it is there it may vanish by itself, and then it is gone.
    PutFor {
        /// The value.
        value: Value,
    },
    /// A put of a unique value that tells the value until then.
    Swap {
        /// The value.
        value: Value,
        /// What was there, if the answer said so.
        old: Option<Option<Value>>,
    },
    /// A delete that tells the value until then.
    Take {
        /// What was there, if the answer said so.
        old: Option<Option<Value>>,
    },
    /// A delete.
    Delete {
        /// Whether there was something to delete, if the answer said so.
        existed: Option<bool>,
    },
    /// A get and its answer.
    Get {
        /// What was read.
        seen: Option<Value>,
    },
}

impl Action {
    /// The value that it writes.
    #[must_use]
    pub fn writes(self) -> Option<Value> {
        match self {
            Action::Put { value, .. } | Action::PutFor { value } | Action::Swap { value, .. } => Some(value),
            Action::Take { .. } | Action::Delete { .. } | Action::Get { .. } => None,
        }
    }

    /// What it says that was there; the outer None: nothing.
    #[must_use]
    pub fn saw(self) -> Option<Option<Value>> {
        match self {
            Action::Get { seen } => Some(seen),
            Action::Swap { old, .. } | Action::Take { old } => old,
            Action::Put { .. } | Action::PutFor { .. } | Action::Delete { .. } => None,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Answered at this time.
    Answered(u64),
    /// Refused: it must never take effect. Kept only so that a violation can be explained.
    Refused(u64),
    /// Nobody knows: a write that may take effect at any later time or never, or a read without an answer.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// Its number in the history.
    pub id: u32,
    /// Who asked.
    pub client: u32,
    /// Who answered in the end, for the reader of a report.
    pub server: Option<u32>,
    /// Which key.
    pub key: u32,
    /// When it was first sent.
    pub call: u64,
    /// How it ended.
    pub end: End,
    /// What it did.
    pub action: Action,
}

/// Everything that clients did and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    ops: Vec<Op>,
}

impl History {
    /// Begins an operation. `action` carries no answer yet; the value of a put is the returned number.
    pub fn call(&mut self, client: u32, key: u32, at: u64, action: impl FnOnce(Value) -> Action) -> u32 {
        let id = u32::try_from(self.ops.len()).unwrap_or(u32::MAX);
        self.ops.push(Op { id, client, server: None, key, call: at, end: End::Unknown, action: action(id) });
        id
    }

    /// The operation was answered at `at` by `server`; `action` is what is known of it now.
    pub fn answered(&mut self, id: u32, at: u64, server: Option<u32>, action: Action) {
        let op = &mut self.ops[id as usize];
        (op.end, op.server, op.action) = (End::Answered(at), server, action);
    }

    /// The operation was refused at `at` by `server`: it never took effect and never will.
    pub fn refused(&mut self, id: u32, at: u64, server: Option<u32>) {
        let op = &mut self.ops[id as usize];
        (op.end, op.server) = (End::Refused(at), server);
    }

    /// All operations in the order of their calls.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The operations of each key.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<u32, Vec<Op>> {
        let mut keys: BTreeMap<u32, Vec<Op>> = BTreeMap::new();
        for op in &self.ops {
            keys.entry(op.key).or_default().push(op.clone());
        }
        keys
    }
}

/// What [`check`] found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// A readable account of every key that no register explains.
    pub violations: Vec<String>,
    /// Keys whose history was too entangled to decide within the bound.
    pub undecided: Vec<u32>,
}

/// Checks every key.
#[must_use]
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (key, ops) in history.by_key() {
        match check_key(&ops) {
            Verdict::Linearizable => {}
            Verdict::Undecided => findings.undecided.push(key),
            Verdict::Violated => findings.violations.push(explain(key, &ops)),
        }
    }
    findings
}
