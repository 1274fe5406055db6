//! House rules that a compiler does not know and a review should not have to repeat.

use std::path::{Path, PathBuf};

/// The longest source file, in lines. Beyond it a file has more than one subject.
const LONGEST: usize = 800;

/// The pure cores: no clock, no runtime, no randomness of their own, no order that changes from run to run.
const CORES: &[&str] = &[
    "common/src/entry.rs",
    "common/src/extended.rs",
    "common/src/lanes.rs",
    "common/src/lineage.rs",
    "common/src/position.rs",
    "common/src/forward.rs",
    "common/src/resp",
    "common/src/retry.rs",
    "common/src/ring.rs",
    "common/src/sealed.rs",
    "common/src/sessions.rs",
    "common/src/text",
    "common/src/throttle.rs",
    "common/src/update.rs",
    "common/src/view.rs",
    "ecs/src/admin.rs",
    "ecs/src/asks.rs",
    "ecs/src/border.rs",
    "ecs/src/change.rs",
    "ecs/src/cluster.rs",
    "ecs/src/core.rs",
    "ecs/src/detector.rs",
    "ecs/src/director.rs",
    "ecs/src/handover.rs",
    "ecs/src/membership.rs",
    "ecs/src/pace.rs",
    "ecs/src/planner.rs",
    "ecs/src/register.rs",
    "ecs/src/reports.rs",
    "ecs/src/settle.rs",
    "ecs/src/whatif.rs",
    "kvclient/src/router",
    "kvserver/src/client_port/buffer.rs",
    "kvserver/src/client_port/pending.rs",
    "kvserver/src/client_port/redis",
    "kvserver/src/client_port/session.rs",
    "kvserver/src/client_port/text.rs",
    "kvserver/src/client_port/together.rs",
    "kvserver/src/links/hello.rs",
    "kvserver/src/node/committer.rs",
    "kvserver/src/relay/core.rs",
    "kvserver/src/replica",
    "kvserver/src/storage/image.rs",
    "kvserver/src/storage/map.rs",
    "kvserver/src/storage/packed.rs",
    "kvserver/src/storage/record.rs",
    "kvserver/src/storage/records.rs",
    "kvserver/src/storage/recovery.rs",
    "kvserver/src/storage/replay.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the harness lies in the workspace").to_path_buf()
}

fn sources(under: &Path) -> Vec<PathBuf> {
    if under.is_file() {
        return vec![under.to_path_buf()];
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(under).unwrap_or_else(|e| panic!("{}: {e}", under.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn all_sources() -> Vec<PathBuf> {
    let crates = ["common", "ecs", "kvserver", "kvclient", "playground", "harness"];
    let found: Vec<PathBuf> = crates.iter().flat_map(|name| sources(&root().join(name))).collect();
    assert!(found.len() > 20, "only {} sources were found", found.len());
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file without its `#[cfg(test)]` part, which by habit stands at its end.
fn product_part(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

fn complain(complaints: &[String]) {
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn product_crates_do_not_depend_on_each_other() {
    let mut complaints = Vec::new();
    for name in ["common", "ecs", "kvserver", "kvclient"] {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or("");
        for other in ["ecs", "kvserver", "kvclient", "playground", "harness"] {
            if dependencies
                .lines()
                .any(|line| line.starts_with(&format!("{other}.")) || line.starts_with(&format!("{other} ")))
            {
                complaints.push(format!("{name} depends on {other}"));
            }
        }
    }
    complain(&complaints);
}

#[test]
fn cores_know_no_clock_no_runtime_and_no_unstable_order() {
    let forbidden = [
        "tokio",
        "Instant::now",
        "SystemTime",
        "clock::now",
        "std::net",
        "HashMap",
        "HashSet",
        "fastrand::u",
        "thread::",
    ];
    let mut complaints = Vec::new();
    for path in CORES.iter().map(|core| root().join(core)).flat_map(|core| sources(&core)) {
        for (number, line) in product_part(&read(&path)).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if let Some(word) = forbidden.iter().find(|word| code.contains(**word)) {
                complaints.push(format!("{}:{}: a core uses {word}", path.display(), number + 1));
            }
        }
    }
    complain(&complaints);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for path in all_sources() {
        let text = read(&path);
        if text.lines().count() > LONGEST {
            complaints.push(format!("{}: {} lines, over {LONGEST}", path.display(), text.lines().count()));
        }
        if !text.starts_with("//!") {
            complaints.push(format!("{}: does not begin with what it is", path.display()));
        }
    }
    complain(&complaints);
}

#[test]
fn nothing_is_left_for_later_in_the_sources() {
    // Spelled in two parts, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
    ];
    let mut complaints = Vec::new();
    for path in all_sources() {
        for (number, line) in read(&path).lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    complain(&complaints);
}

#[test]
fn tests_do_not_sleep_for_a_guess() {
    // A wait in a test is for a condition, with a deadline; the loop that looks at it may rest for a moment.
    let mut complaints = Vec::new();
    for path in all_sources().into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "tests")) {
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if code.contains(concat!("thread::", "sleep(")) && !code.contains("from_millis(5") {
                complaints.push(format!("{}:{}: sleeps; wait for a condition instead", path.display(), number + 1));
            }
        }
    }
    complain(&complaints);
}

#[test]
fn every_dependency_has_its_version_in_one_place() {
    let mut complaints = Vec::new();
    for name in ["common", "ecs", "kvserver", "kvclient", "playground", "harness"] {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let dependencies = manifest.split("dependencies]").skip(1).flat_map(|part| part.lines().skip(1));
        for line in dependencies.take_while(|line| !line.starts_with("[[")).filter(|line| line.contains('=')) {
            if !line.contains("workspace") {
                complaints.push(format!("{name}/Cargo.toml: {line}"));
            }
        }
    }
    complain(&complaints);
}
