//! Scenarios by name, what they need, and running them with one line for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::Serialize;

use super::play::{Done, Stage};
use super::{
    changes, clocks, cuts, damage, directories, disks, ecs, kills, mounts, moves, packets, points, power, stops, strace,
};

/// One thing that is done to a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As it is asked for.
    pub name: &'static str,
    /// Without which it is skipped.
    pub needs: &'static [Need],
    /// Does it.
    pub run: fn(&Stage) -> anyhow::Result<Done>,
}

/// What not every machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Namespaces and mounts.
    Root,
    /// A program.
    Tool(&'static str),
    /// `strace`, and permission to use it.
    Strace,
}

impl Need {
    /// What is missing, if it is.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let there = match self {
            // Asked for without a crate of its own.
            Need::Root => mounts::run(&["id", "-u"]).is_ok_and(|id| id.trim() == "0"),
            Need::Tool(tool) => mounts::run(&["sh", "-c", &format!("command -v {tool}")]).is_ok(),
            Need::Strace => strace::usable(),
        };
        let what = match self {
            Need::Root => "root".to_owned(),
            Need::Tool(tool) => tool.to_owned(),
            Need::Strace => "strace (installed and allowed)".to_owned(),
        };
        (!there).then_some(what)
    }
}

/// All, in the order in which they are run.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let families = [
        kills::ALL,
        stops::ALL,
        cuts::ALL,
        packets::ALL,
        ecs::ALL,
        changes::ALL,
        moves::ALL,
        directories::ALL,
        damage::ALL,
        disks::ALL,
        power::ALL,
        points::ALL,
        clocks::ALL,
    ];
    families.concat()
}

/// The scenario of this name.
#[must_use]
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// What came of one.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which.
    pub name: String,
    /// `passed`, `FAILED` or `SKIPPED`.
    pub verdict: &'static str,
    /// What was done, what is missing, or what went wrong.
    pub what: String,
    /// Answered operations.
    pub operations: u64,
    /// The longest pause of one client's writes, in milliseconds.
    pub gap_ms: u128,
    /// How long it took.
    pub seconds: f32,
}

impl Outcome {
    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let Outcome { name, verdict, what, operations, gap_ms, seconds } = self;
        match *verdict {
            "passed" => {
                format!("{verdict}  {name:<28} {operations:>6} ops, gap {gap_ms:>5} ms, {seconds:>5.1} s: {what}")
            }
            _ => format!("{verdict} {name:<28} {what}"),
        }
    }
}

/// Runs one, to the end however it ends.
#[must_use]
pub fn run(scenario: &Scenario, stage: &Stage) -> Outcome {
    let began = Instant::now();
    let missing: Vec<String> = scenario.needs.iter().filter_map(|need| need.missing()).collect();
    let mut outcome = Outcome {
        name: scenario.name.to_owned(),
        verdict: "SKIPPED",
        what: format!("needs {}", missing.join(", ")),
        operations: 0,
        gap_ms: 0,
        seconds: 0.0,
    };
    if missing.is_empty() {
        let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(stage)))
            .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", message(&*panic))));
        match result {
            Ok(Done { did, operations, gap }) => {
                outcome = Outcome { verdict: "passed", what: did, operations, gap_ms: gap.as_millis(), ..outcome };
            }
            Err(error) => outcome = Outcome { verdict: "FAILED", what: format!("{error:#}"), ..outcome },
        }
    }
    outcome.seconds = began.elapsed().as_secs_f32();
    outcome
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// How long `what` took.
pub(super) fn timed<T>(what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let began = Instant::now();
    what().map(|value| (value, began.elapsed()))
}
