//! The program itself: one-shot commands and the shell on a pipe.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test that cannot go on says where; it has threads and clocks.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::fake::{Act, Fake};
use serde_json::Value;

fn program(fake: &Fake) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvclient"));
    command.args(["-s", &fake.addresses.join(","), "--timeout", "1"]).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(fake: &Fake, args: &[&str]) -> (i32, String, String) {
    finish(program(fake).args(args).output().unwrap())
}

fn finish(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn pipe(command: &mut Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    finish(output)
}

#[test]
fn one_shot_commands_and_their_exit_codes() {
    let fake = Fake::start(3);
    assert_eq!(run(&fake, &["get", "k"]), (3, String::new(), "kvclient: no value under k\n".to_owned()));
    assert_eq!(run(&fake, &["put", "k", "two words"]), (0, "created k\n".to_owned(), String::new()));
    assert_eq!(run(&fake, &["put", "k", "-x"]).1, "updated k\n");
    assert_eq!(run(&fake, &["get", "k"]), (0, "-x\n".to_owned(), String::new()));
    assert_eq!(run(&fake, &["put", "k", "null"]).0, 0);
    assert_eq!(run(&fake, &["get", "k"]).1, "null\n", "a script means what it says");
    assert_eq!(run(&fake, &["delete", "k"]).1, "deleted k\n");
    assert_eq!(run(&fake, &["delete", "k"]).0, 3);
    assert_eq!(run(&fake, &["put"]).0, 2);
    assert_eq!(run(&fake, &["-s", "nowhere", "get", "k"]).0, 2);
    let (code, _, error) = run(&fake, &["put", &"k".repeat(3000), "v"]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("over the limit"), "{error}");
}

#[test]
fn a_value_can_come_from_stdin() {
    let fake = Fake::start(1);
    let (code, ..) = pipe(program(&fake).args(["put", "k", "-"]), b"line 1\nline 2\n\xff");
    assert_eq!(code, 0);
    assert_eq!(fake.with(|state| state.map[&b"k"[..]].clone()), b"line 1\nline 2\n\xff");
}

#[test]
fn errors_say_what_where_and_how_long() {
    let fake = Fake::start(1);
    fake.with(|state| state.always = Some(Act::Stopped));
    let (code, _, error) = run(&fake, &["get", "k"]);
    assert_eq!(code, 5, "{error}");
    for part in ["not executed", "after 1.0 s", &fake.addresses[0], "the slot waits for a lease", "--timeout"] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, _, error) = run(&fake, &["-s", &unused, "get", "k"]);
    assert!(code == 5 || code == 4, "{error}");
    let alone = Command::new(env!("CARGO_BIN_EXE_kvclient")).args(["-s", &unused, "get", "k"]).output().unwrap();
    let (code, _, error) = finish(alone);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("cannot connect") && error.contains(&unused), "{error}");
}

#[test]
fn json_is_one_object_a_line_even_for_errors() {
    let fake = Fake::start(2);
    let json = |args: &[&str]| -> (i32, Value) {
        let (code, out, error) = run(&fake, &[&["--json"], args].concat());
        assert_eq!(error, "");
        (code, serde_json::from_str(&out).unwrap())
    };
    assert_eq!(json(&["put", "k", "v"]).1["outcome"], "created");
    assert_eq!(json(&["get", "k"]).1["value"], "v");
    let (code, missing) = json(&["get", "x"]);
    assert_eq!((code, &missing["error"], &missing["exit"]), (3, &"not_found".into(), &3.into()));
    assert_eq!(json(&["ring"]).1["ring"][0]["replicas"][0], fake.addresses[1].as_str());
    assert_eq!(json(&["keyrange"]).1["arcs"][0]["server"], fake.addresses[0].as_str());
    assert_eq!(json(&["keyrange_read"]).1["arcs"].as_array().unwrap().len(), 2);
    assert_eq!(json(&["status"]).1["servers"][1]["status"]["serving"], true);
}

#[test]
fn the_ring_is_a_table() {
    let fake = Fake::start(3);
    let (code, table, _) = run(&fake, &["ring"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].contains("coordinator") && lines[0].contains("replica 2"), "{table}");
    assert!(fake.addresses.iter().all(|address| lines[1].contains(address)), "{table}");
    assert!(lines[1].contains("100.0 %"), "{table}");
}

#[test]
fn the_shell_on_a_pipe_runs_every_line_and_ends_with_the_first_failure() {
    let fake = Fake::start(1);
    let script = b"# a remark\nput k a  b\n\nget k\nget missing\nfly\ndelete k\nquit\nput never done\n";
    let (code, out, error) = pipe(&mut program(&fake), script);
    assert_eq!(out, "created k\na  b\ndeleted k\n");
    assert_eq!(error, "line 5: no value under missing\nline 6: unknown command `fly`; `help` lists the commands\n");
    assert_eq!(code, 3);
    assert_eq!(fake.seen("never"), 0);
}

#[test]
fn the_shell_connects_and_disconnects() {
    let fake = Fake::start(1);
    let (host, port) = fake.addresses[0].rsplit_once(':').unwrap();
    let script = format!("get k\nconnect {host} {port}\nput k v\nget k\ndisconnect\nget k\nlogLevel\nhelp quit\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvclient"));
    let (code, out, error) = pipe(command.env_remove("RUST_LOG").env_remove("ANNULUS_SERVERS"), script.as_bytes());
    let connected = format!("connected to {}: a ring of 1 server", fake.addresses[0]);
    assert!(out.starts_with(&format!("{connected}\ncreated k\nv\ndisconnected\nlog level WARN\nquit")), "{out}");
    assert_eq!(error.lines().filter(|line| line.contains("not connected")).count(), 2, "{error}");
    assert_eq!(code, 4);
}

#[test]
fn bytes_that_are_no_text_pass_through_the_shell() {
    let fake = Fake::start(1);
    let mut child = program(&fake);
    child.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"put \xfe \xff\xfd\r\nget \xfe\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"created \\xfe\n\xff\xfd\n");
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let fake = Fake::start(1);
    let mut child = program(&fake);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    for _ in 0..100 {
        // It may have ended already.
        drop(stdin.write_all(b"help\n"));
    }
    drop(stdin);
    let (code, _, error) = finish(child.wait_with_output().unwrap());
    assert_eq!((code, error.as_str()), (0, ""));
}

#[test]
fn ctrl_c_ends_with_130() {
    let fake = Fake::start(1);
    fake.with(|state| state.always = Some(Act::Stopped));
    let mut command = program(&fake);
    let child = command.args(["--timeout", "60", "get", "k"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fake.seen("get k") == 0 {
        assert!(std::time::Instant::now() < deadline, "no request came");
        std::thread::yield_now();
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(finish(child.wait_with_output().unwrap()).0, 130);
}
