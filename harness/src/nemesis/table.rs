//! Which scenarios stand for which line of the table of faults in `docs/replication.md`.
//!
//! Kept here and nowhere else: `nemesis --list` prints it, and a test holds it against the document and against the
//! scenarios that there are.

use std::fmt::Write as _;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The line's first column, as it stands in the document.
    pub fault: &'static str,
    /// Scenarios, by name.
    pub scenarios: &'static [&'static str],
    /// Tests that play it elsewhere, by file.
    pub elsewhere: &'static [&'static str],
}

const fn line(fault: &'static str, scenarios: &'static [&'static str]) -> Line {
    Line { fault, scenarios, elsewhere: &[] }
}

/// Every line of the table, in its order.
pub const LINES: &[Line] = &[
    line(
        "coordinator killed after sending an entry to one member and not the other",
        &["sent-to-one-member", "killed-at-send"],
    ),
    line(
        "killed after all acknowledgements, before the reply, or before the others know of the commit",
        &["acked-before-reply", "acked-before-commit-known", "killed-at-sync", "killed-at-journal-write"],
    ),
    line("a member killed while its acknowledgement is awaited", &["member-killed-awaited"]),
    line(
        "both members killed; any two of three power-cut together; all three power-cut and back",
        &["both-members-killed", "all-killed", "power-cut-one", "power-cut-two-of-three", "power-cut-all"],
    ),
    line("the whole ISR down, only an out-of-sync copy up", &["only-out-of-sync-left"]),
    line(
        "a node back on its port with an empty, foreign or copied directory",
        &["wiped-directory", "foreign-directory", "old-copy-of-directory", "copied-directory-twice"],
    ),
    line("ECS down", &["ecs-down", "ecs-down-second-fault", "ecs-disk-full", "ecs-fsync-fails"]),
    line(
        "ECS killed at each step of a join or leave, restarted with old metadata, or with all heartbeats missing",
        &["ecs-killed-in-join", "ecs-killed-in-leave", "ecs-killed-at-sync", "ecs-old-metadata", "ecs-hears-nobody"],
    ),
    line(
        "coordinator, member or ECS stopped for 30 s and continued",
        &["coordinator-stopped", "member-stopped", "ecs-stopped", "two-stopped", "stutter"],
    ),
    line("wall clock moved by an hour, forwards or back", &["wall-clock-jumps"]),
    line(
        "coordinator cut off from the ECS only, from its members only, or in one direction; halves; a link flapping every second",
        &[
            "cut-from-ecs",
            "half-open-to-ecs",
            "heartbeats-lost",
            "cut-from-members",
            "half-open-to-members",
            "acks-lost",
            "pulses-lost",
            "sends-lost",
            "halves",
            "flapping",
            "slow-links",
            "packets-cut-from-ecs",
            "packets-cut-from-members",
            "packets-one-way",
            "packets-halves",
            "packets-flapping",
            "packets-lossy",
        ],
    ),
    line(
        "a second failover during a failover; learner, source or target dying in mid-transfer; two joins at once; a join with a failure",
        &[
            "second-failover",
            "learner-dies",
            "source-dies",
            "joiner-dies",
            "join-with-failure",
            "two-joins",
            "join-source-stopped",
            "joiner-stopped",
            "joiner-cut-from-source",
            "leaver-dies",
            "leave-target-dies",
            "move-with-deaths",
            "repair-with-deaths",
        ],
    ),
    line("1 to 5 to 1 servers under load; rolling restarts", &["one-to-five", "five-to-one", "rolling-restart"]),
    line(
        "a journal cut at each byte of its last line; a flipped byte anywhere; garbage appended; killed between the renames of a checkpoint",
        &[
            "journal-cut",
            "journal-flipped",
            "checkpoint-flipped",
            "identity-flipped",
            "garbage-appended",
            "only-copy-damaged",
            "killed-in-checkpoint",
            "killed-while-stopping",
        ],
    ),
    line(
        "disk full; an fsync that fails, takes 300 ms or is stuck; a read-only remount; no file descriptors left",
        &["disk-full", "disk-read-only", "fsync-fails", "write-fails", "fsync-slow", "fsync-stuck", "no-descriptors"],
    ),
    line(
        "the same directory, port or id used twice",
        &["same-directory-twice", "same-port-twice", "copied-directory-twice"],
    ),
    Line {
        fault: "10,000 idle connections; half a line, then the end; clients that never read; over-long lines; NUL, invalid UTF-8, empty lines; unknown words",
        scenarios: &[],
        elsewhere: &["harness/tests/e2e/hostile.rs", "harness/tests/e2e/crowds.rs"],
    },
    Line {
        fault: "clients that send internal or administrative words or forged identities, or 10,000 false accusations",
        scenarios: &[],
        elsewhere: &["harness/tests/e2e/strangers.rs"],
    },
    line("SIGTERM under load", &["sigterm-under-load", "killed-while-stopping"]),
];

/// For people: each line and what plays it.
#[must_use]
pub fn listing() -> String {
    let mut text = String::new();
    for Line { fault, scenarios, elsewhere } in LINES {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{fault}\n    {}", [*scenarios, *elsewhere].concat().join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::nemesis::run;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    /// The first column of the document's table.
    fn documented() -> Vec<String> {
        let text = std::fs::read_to_string(root().join("docs/replication.md")).unwrap();
        let section = text.split("## Faults survived").nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
        let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(|row| row.split('|').nth(1).unwrap().trim().to_owned()).collect()
    }

    #[test]
    fn every_line_of_the_document_is_played_and_no_other() {
        let lines: Vec<String> = LINES.iter().map(|line| line.fault.to_owned()).collect();
        assert_eq!(lines, documented());
        for line in LINES {
            assert!(!line.scenarios.is_empty() || !line.elsewhere.is_empty(), "nothing plays: {}", line.fault);
            for file in line.elsewhere {
                assert!(root().join(file).exists(), "{file} does not exist");
            }
        }
    }

    #[test]
    fn every_name_is_a_scenario_and_every_scenario_is_in_a_line() {
        let named: BTreeSet<&str> = LINES.iter().flat_map(|line| line.scenarios).copied().collect();
        let there: Vec<&str> = run::all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(there.iter().copied().collect::<BTreeSet<_>>(), named);
        assert_eq!(there.len(), named.len(), "two scenarios have one name");
    }
}
