//! A representative part of the nemesis, with short pauses: one scenario of each kind. `just nemesis` plays them all.
//!
//! Each says in one line what it did, past the test runner's capture: what is skipped for lack of root or of a tool is
//! seen by whoever runs the tests.

use std::io::Write as _;
use std::path::Path;

use harness::nemesis::play::Stage;
use harness::nemesis::run::{named, run};

fn play(name: &str) {
    let scenario = named(name).unwrap_or_else(|| panic!("no scenario is called {name}"));
    let stage = Stage { program: env!("CARGO_BIN_EXE_annulus-node").into(), long: false };
    let outcome = run(&scenario, &stage);
    // Nothing is to be done about a closed stderr.
    let _ = writeln!(std::io::stderr(), "{}", outcome.line());
    assert!(outcome.verdict != "FAILED", "{name}: {}", outcome.what);
}

macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                play($name);
            }
        )*
    };
}

scenarios! {
    sent_to_one_member: "sent-to-one-member",
    acked_before_reply: "acked-before-reply",
    coordinator_stopped: "coordinator-stopped",
    half_open_to_members: "half-open-to-members",
    acks_lost: "acks-lost",
    packets_halves: "packets-halves",
    ecs_old_metadata: "ecs-old-metadata",
    only_out_of_sync_left: "only-out-of-sync-left",
    join_with_failure: "join-with-failure",
    wiped_directory: "wiped-directory",
    copied_directory_twice: "copied-directory-twice",
    journal_flipped: "journal-flipped",
    fsync_fails: "fsync-fails",
    disk_full: "disk-full",
    power_cut_all: "power-cut-all",
    killed_at_sync: "killed-at-sync",
    sigterm_under_load: "sigterm-under-load",
}

/// Leases and patience go by a clock that nobody can set: servers read the wall clock for the deadlines of keys, and the ecs to date
/// what it tells people (its timeline), so that no jump of it can matter to anything else. `wall-clock-jumps` shows it on processes, as far as a clock can be faked for them.
#[test]
fn few_read_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the harness lies in the workspace");
    let mut readers = Vec::new();
    for place in ["common/src", "ecs/src", "kvserver/src", "kvclient/src"] {
        let found = std::process::Command::new("grep")
            .args(["-rlE", "wall_millis|clock::wall|SystemTime|UNIX_EPOCH", place])
            .current_dir(root)
            .output()
            .expect("grep runs");
        readers.extend(String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned));
    }
    readers.sort();
    assert_eq!(
        readers,
        [
            "common/src/clock.rs",
            "ecs/src/server/timeline.rs",
            "kvclient/src/client.rs",
            "kvserver/src/client_port/backend.rs",
            "kvserver/src/node/membership.rs",
            "kvserver/src/node/ticker.rs",
            "kvserver/src/relay/mod.rs",
        ],
        "a new reader of the wall clock: see docs/testing.md"
    );
}
