//! The three maps on disk are whole JSON at every moment, also in the middle of a load.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // waits with deadlines, so it reads the clock; tells what it saw

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::real::{Cluster, Options, Writers};

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const MAPS: [&str; 3] = ["coordinator.json", "replica1.json", "replica2.json"];
const PATIENCE: Duration = Duration::from_secs(60);

fn jq_is_here() -> bool {
    Command::new("jq").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Reads one map the way a person would; gives how many bytes it has.
fn read(path: &Path, jq: bool) -> usize {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&text);
    assert!(parsed.is_ok(), "{}: {:?}", path.display(), parsed.err());
    if jq {
        let output = Command::new("jq").arg("-e").arg("type").arg(path).output().expect("jq starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {error}", path.display());
    }
    text.len()
}

#[test]
fn the_maps_are_whole_in_the_middle_of_a_load() {
    let jq = jq_is_here();
    if !jq {
        println!("SKIPPED in part: jq is not installed, so only serde_json reads the maps");
    }
    let options = Options { server: vec!["--checkpoint-seconds".into(), "1".into()], ..Options::default() };
    let cluster = Cluster::start(NODE, 3, options);
    let writers = Writers::start(&cluster.addresses(), "w", 4, 500);
    let deadline = Instant::now() + PATIENCE;
    // Until each map of each server was seen to change under our eyes three times.
    let mut seen: [BTreeSet<usize>; 9] = Default::default();
    while seen.iter().any(|sizes| sizes.len() < 3) {
        assert!(Instant::now() < deadline, "the maps do not change: {seen:?}\n{}", cluster.logs(40));
        for (index, sizes) in seen.iter_mut().enumerate() {
            sizes.insert(read(&cluster.data(index / 3 + 1).join(MAPS[index % 3]), jq));
        }
    }
    let outcome = writers.stop();
    outcome.ledger.verify(&cluster.addresses()).unwrap_or_else(|what| panic!("{what}"));
}
