//! Import and export.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test that cannot go on says where; it has threads and clocks.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::fake::{Act, Fake};
use serde_json::Value;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("annulus-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn run(fake: &Fake, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvclient"));
    command.args(["-s", &fake.addresses[0], "--timeout", "0.3"]).args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn value(fake: &Fake, key: &[u8]) -> Option<Vec<u8>> {
    fake.with(|state| state.map.get(key).cloned())
}

#[test]
fn every_record_of_both_formats_is_stored() {
    let (fake, scratch) = (Fake::start(1), Scratch::new("formats"));
    let lines: String = (0..3000).map(|n| format!("{{\"key\":\"k{n}\",\"value\":\"v{n}\"}}\n")).collect();
    let json = scratch.file("a.jsonl", lines.as_bytes());
    let (code, out, _) = run(&fake, &["import", json.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(out.starts_with("imported 3000 records") && out.contains("3000 new, 0 updated, 0 failed"), "{out}");
    let tsv = scratch.file("b.tsv", b"k1\tw\r\nb\\x00\t\xff\\t\\\\\n");
    assert_eq!(run(&fake, &["import", tsv.to_str().unwrap()]).0, 0);
    assert_eq!(value(&fake, b"k1").unwrap(), b"w");
    assert_eq!(value(&fake, b"b\x00").unwrap(), b"\xff\t\\");
    assert_eq!(value(&fake, b"k2999").unwrap(), b"v2999");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "nothing is left beside the input");
}

#[test]
fn the_last_line_of_a_key_wins() {
    let (fake, scratch) = (Fake::start(1), Scratch::new("order"));
    let lines: String = (0..2000).map(|n| format!("k{}\t{n}\n", n % 3)).collect();
    let tsv = scratch.file("a.tsv", lines.as_bytes());
    assert_eq!(run(&fake, &["import", tsv.to_str().unwrap()]).0, 0);
    assert_eq!(value(&fake, b"k0").unwrap(), b"1998");
    assert_eq!(value(&fake, b"k1").unwrap(), b"1999");
    assert_eq!(value(&fake, b"k2").unwrap(), b"1997");
}

#[test]
fn what_fails_is_told_by_line_and_the_rest_is_stored() {
    let (fake, scratch) = (Fake::start(1), Scratch::new("wrong"));
    let long = "k".repeat(5000);
    let text = format!("a\t1\nno tab\nb\tC:\\users\n{long}\t2\nc\t3\n");
    let tsv = scratch.file("a.tsv", text.as_bytes());
    let (code, out, error) = run(&fake, &["import", tsv.to_str().unwrap()]);
    assert_eq!(code, 1, "{error}");
    assert!(out.contains("imported 2 records") && out.contains("3 failed"), "{out}");
    for part in ["line 2: no TAB", "line 3: a backslash", "line 4 (key kkk", "over the limit"] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    let (_, out, _) = run(&fake, &["--json", "import", tsv.to_str().unwrap()]);
    let json: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!((&json["failed"], &json["failures"][0]["line"]), (&3.into(), &2.into()));
    assert_eq!(run(&fake, &["import", "/nowhere/a.tsv"]).0, 1);
    assert_eq!(run(&fake, &["import", "-"]).0, 2, "the format of stdin must be said");
}

#[test]
fn an_import_that_was_cut_off_continues() {
    let (fake, scratch) = (Fake::start(1), Scratch::new("resume"));
    let lines: String = (0..1000).map(|n| format!("k{n}\tv{n}\n")).collect();
    let tsv = scratch.file("a.tsv", lines.as_bytes());
    let state = scratch.0.join("a.tsv.import-state");
    fake.with(|fake| {
        let serves = std::iter::repeat_n(Act::Serve, 500);
        let address = fake.keyrange.rsplit(',').next().unwrap().trim_end_matches(';').to_owned();
        fake.plans.insert(address, serves.chain(std::iter::repeat_n(Act::Stopped, 100_000)).collect());
    });
    let args = ["import", tsv.to_str().unwrap(), "--resume", "--in-flight", "16"];
    let (code, out, error) = run(&fake, &args);
    assert_eq!(code, 5, "{out}{error}");
    assert!(error.contains("ended early") && error.contains("run it again"), "{error}");
    let saved: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let stored = saved["lines"].as_u64().unwrap();
    // Requests overtake each other: the first one that came too late may be any of those that were on their way at a time.
    let first_missing = fake.with(|fake| (0..1000).find(|n| !fake.map.contains_key(format!("k{n}").as_bytes())));
    assert_eq!(Some(stored), first_missing, "{saved}");
    fake.with(|fake| fake.plans.clear());
    fake.with(|fake| fake.seen.clear());
    let (code, out, error) = run(&fake, &args);
    assert_eq!(code, 0, "{out}{error}");
    assert!(error.contains(&format!("continuing after line {stored}")), "{error}");
    assert_eq!(fake.seen("put") as u64, 1000 - stored, "only the rest was sent");
    assert_eq!(fake.with(|fake| fake.map.len()), 1000);
    assert!(!state.exists());
}

#[test]
fn the_state_of_another_input_is_refused() {
    let (fake, scratch) = (Fake::start(1), Scratch::new("state"));
    let tsv = scratch.file("a.tsv", b"k\tv\n");
    scratch.file("a.tsv.import-state", br#"{"lines":7,"size":1}"#);
    let (code, _, error) = run(&fake, &["import", tsv.to_str().unwrap(), "--resume"]);
    assert_eq!(code, 1);
    assert!(error.contains("the input has 4 bytes, but had 1"), "{error}");
}

fn lines(path: &std::path::Path) -> Vec<String> {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_exported_can_be_imported() {
    let (fake, scratch) = (Fake::start(3), Scratch::new("export"));
    fake.with(|fake| {
        for nth in 0..2000u32 {
            fake.map.insert(format!("key {nth}").into_bytes(), vec![u8::try_from(nth % 256).unwrap(); 1000]);
        }
        fake.map.insert(b"\xff\n".to_vec(), b"tab\tline\nback\\slash\r\x00".to_vec());
        fake.map.insert(b"empty".to_vec(), Vec::new());
    });
    let whole = fake.with(|fake| fake.map.clone());
    for name in ["all.jsonl", "all.tsv"] {
        let file = scratch.0.join(name);
        let (code, out, error) = run(&fake, &["export", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{error}");
        assert!(out.starts_with("exported 2002 records to "), "{out}");
        let other = Fake::start(1);
        assert_eq!(run(&other, &["import", file.to_str().unwrap()]).0, 0);
        assert!(other.with(|other| other.map == whole), "{name}: what came back is not what went out");
    }
    let (code, out, error) = run(&fake, &["export"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let mut printed: Vec<&str> = out.lines().collect();
    printed.sort_unstable();
    assert_eq!(printed, lines(&scratch.0.join("all.jsonl")));
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let (fake, scratch) = (Fake::start(1), Scratch::new("no-file"));
    fake.with(|fake| fake.map.insert(b"k".to_vec(), b"v".to_vec()));
    let file = scratch.file("all.jsonl", b"what was there before\n");
    fake.plan(0, &[Act::Serve, Act::Serve]);
    fake.with(|fake| {
        let address = fake.keyrange.rsplit(',').next().unwrap().trim_end_matches(';').to_owned();
        fake.plans.entry(address).or_default().extend([Act::Stopped; 10_000]);
    });
    let (code, _, error) = run(&fake, &["export", file.to_str().unwrap()]);
    assert_eq!(code, 5, "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"what was there before\n");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "the half-done file is gone");
}
