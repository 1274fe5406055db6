//! Hostile bytes: every parser of the product behind one function from bytes to a verdict.
//!
//! A [`Target`] takes any bytes and panics if a property is broken: more than "it does not crash". What was read and
//! written again reads the same; a stream split at any byte gives the same messages; what a few bytes announce is not
//! allocated; what was never written is never recovered.
//!
//! Two things run the same targets: `cargo test` a bounded number of seeded [`mutate`]d inputs ([`smoke`]), and the
//! coverage-guided fuzzer in `fuzz/`, which lives outside of the workspace because its engine is not ours (`just fuzz`).
//! Inputs that once found something stay in `fuzz/corpus/TARGET/` and are run first by both.
//!
//! Not here: sockets, processes, memory in total. Those are `harness/tests/e2e/hostile.rs`.

mod client;
mod ecs;
pub mod mutate;
mod resp;
pub mod smoke;
mod storage;
mod text;
mod wire;

/// One parser, or a few that belong together.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called on the command line and in the corpus.
    pub name: &'static str,
    /// Takes any bytes.
    ///
    /// # Panics
    /// A property is broken.
    pub run: fn(&[u8]),
    /// Valid inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many mutated inputs `cargo test` tries: a second or two of them.
    pub tries: u32,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "requests", run: text::requests, seeds: text::request_seeds, tries: 60_000 },
    Target { name: "replies", run: text::replies, seeds: text::reply_seeds, tries: 60_000 },
    Target { name: "answers", run: text::answers, seeds: text::answer_seeds, tries: 60_000 },
    Target { name: "pages", run: text::pages, seeds: text::page_seeds, tries: 60_000 },
    Target { name: "commands", run: resp::commands, seeds: resp::command_seeds, tries: 60_000 },
    Target { name: "frames", run: wire::frames, seeds: wire::frame_seeds, tries: 40_000 },
    Target { name: "control", run: wire::control, seeds: wire::control_seeds, tries: 40_000 },
    Target { name: "ecs_core", run: ecs::core, seeds: ecs::core_seeds, tries: 4_000 },
    Target { name: "ecs_store", run: ecs::store, seeds: ecs::store_seeds, tries: 20_000 },
    Target { name: "journal_lines", run: storage::lines, seeds: storage::line_seeds, tries: 20_000 },
    Target { name: "directory", run: storage::directory, seeds: storage::directory_seeds, tries: 4_000 },
    Target { name: "checkpoint", run: storage::checkpoint, seeds: storage::checkpoint_seeds, tries: 10_000 },
    Target { name: "identity", run: storage::identity, seeds: storage::identity_seeds, tries: 40_000 },
    Target { name: "keyrange", run: client::keyrange, seeds: client::keyrange_seeds, tries: 20_000 },
    Target { name: "transfer", run: client::transfer, seeds: client::transfer_seeds, tries: 60_000 },
    Target { name: "config", run: client::config, seeds: client::config_seeds, tries: 3_000 },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Takes the first byte off, as the choice among several ways to read the rest.
fn choice(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(first, rest)| (*first, rest))
}
