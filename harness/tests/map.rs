//! The documents name files and folders; this test keeps those names true.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the harness lies in the workspace").to_path_buf()
}

/// The texts between single backticks, outside fenced blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Targets of `[text](target)` that are not on the web.
fn linked(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// Whether a quoted text claims to be a path inside the project.
fn is_path(text: &str) -> bool {
    let first = text.split('/').next().unwrap_or("");
    let rooms = ["common", "ecs", "kvserver", "kvclient", "playground", "harness", "docs", ".ci", "storage-dirs"];
    text.contains('/') && rooms.contains(&first) && !text.contains([' ', '*', '{', '<'])
}

fn documents() -> Vec<PathBuf> {
    let mut documents = vec![root().join("ARCHITECTURE.md"), root().join("README.md")];
    let entries = std::fs::read_dir(root().join("docs")).expect("docs/ is readable");
    documents.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()));
    documents
}

#[test]
fn every_path_named_in_the_documents_exists() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document is readable");
        for path in quoted(&text).iter().filter(|text| is_path(text)) {
            seen += 1;
            if !root().join(path).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(seen > 10, "the documents name paths; only {seen} were recognised");
    assert!(missing.is_empty(), "named but not there:\n{}", missing.join("\n"));
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document is readable");
        let folder = document.parent().expect("a document lies in a folder");
        for link in linked(&text) {
            let path = link.split('#').next().unwrap_or("");
            if !path.is_empty() && !folder.join(path).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn the_architecture_says_what_is_absent() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is readable");
    let invariants = text.lines().filter(|line| line.starts_with("Invariant:")).count();
    assert!(invariants >= 5, "ARCHITECTURE.md has only {invariants} lines that begin with \"Invariant:\"");
}

#[test]
fn the_readme_names_exactly_the_two_commands_that_set_everything_up() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("README.md is readable");
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("cargo ")).collect();
    let wanted = ["cargo run --release --bin playground", "cargo test --workspace", "cargo build --release"];
    assert_eq!(commands, wanted, "the two commands, and the build of what is started by hand");
    let ci = std::fs::read_to_string(root().join(".ci/run")).expect(".ci/run is readable");
    assert!(ci.contains(wanted[0]) && ci.contains(wanted[1]), ".ci/run does not call what the README promises");
}
