//! The program as a process: what it prints, how it ends, what it says when it cannot start.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // tests

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of its own, gone when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("annulus-process-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server, killed when dropped.
struct Server {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    addr: String,
    admin: String,
}

fn command(dir: &Dir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvserver"));
    command.arg("-d").arg(dir.0.join("data")).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Server {
    fn start(dir: &Dir, args: &[&str]) -> Server {
        let mut child =
            command(dir, &["-p", "0", "--admin-port", "0"]).args(args).stderr(Stdio::inherit()).spawn().unwrap();
        let (out, (tell, lines)) = (child.stdout.take().unwrap(), std::sync::mpsc::channel());
        std::thread::Builder::new()
            .spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)))
            .unwrap();
        let mut server = Server { child, lines, addr: String::new(), admin: String::new() };
        server.admin = server.line("admin on http://");
        server.addr = server.line("kvserver listening on ");
        server.line("ready in ");
        server
    }

    /// What follows `start` in the next line that begins so.
    fn line(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line `{start}`"));
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    fn ask(&self, requests: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        exchange(&mut stream, requests)
    }

    fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        exchange(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(mut self) -> i32 {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("it ends by itself");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends, closes the sending half, and reads to the end.
fn exchange(stream: &mut TcpStream, requests: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers
}

fn run(dir: &Dir, args: &[&str]) -> (Option<i32>, String, String) {
    let mut child = command(dir, args).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    // One that still runs is killed, and has no exit code to show.
    let _ = child.kill();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn writes_of_a_pipeline_are_found_whatever_their_keys_are() {
    let dir = Dir::new("pipeline");
    let server = Server::start(&dir, &[]);
    // Enough for groups that are committed by one thread or the other, with keys on both sides of what is found together.
    let key = |n: usize| format!("key{n}{}", "x".repeat(n % 70));
    let command = |args: &[&str]| {
        let args: String = args.iter().map(|arg| format!("${}\r\n{arg}\r\n", arg.len())).collect();
        format!("*{}\r\n{args}", args.matches('$').count())
    };
    let sets: String = (0..1000).map(|n| command(&["SET", &key(n), &n.to_string()])).collect();
    assert_eq!(server.ask(&sets), "+OK\r\n".repeat(1000));
    // One by one, so that each key is looked for by itself.
    for n in 0..1000 {
        let value = n.to_string();
        assert_eq!(server.ask(&command(&["GET", &key(n)])), format!("${}\r\n{value}\r\n", value.len()), "{}", key(n));
    }
}

#[test]
fn a_server_starts_serves_and_stops_in_order() {
    let dir = Dir::new("life");
    let server = Server::start(&dir, &["-c", "10", "-s", "LRU", "-ll", "INFO"]);
    assert_eq!(server.ask("put k v w\nget k\n"), "PUT_SUCCESS k v w\r\nGET_SUCCESS k v w\r\n");
    let whole = format!(
        "KEYRANGE_SUCCESS 00000000000000000000000000000000,ffffffffffffffffffffffffffffffff,{};\r\n",
        server.addr
    );
    assert_eq!(server.ask("keyrange\n"), whole);
    assert_eq!(server.ask("keyrange_read\n"), whole.replace("KEYRANGE", "KEYRANGE_READ"));
    assert!(server.ask("ecs\n").starts_with("ECS_ERROR this server is standalone"));
    assert!(server.ask("status\n").starts_with("STATUS_SUCCESS {"));

    assert!(server.page("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(server.page("/readyz").starts_with("HTTP/1.1 200 "));
    assert!(server.page("/status").contains("\"standalone\""));
    let metrics = server.page("/metrics");
    assert!(metrics.contains("\nannulus_client_requests_total{kind=\"write\"} 1\n"), "{metrics}");
    assert!(server.page("/other").contains("there are: /healthz"));

    server.signal(Signal::TERM);
    server.line("stopping on SIGTERM");
    server.line("stopped");
    assert_eq!(server.code(), 0);
}

#[test]
fn what_was_written_is_there_after_a_stop_and_after_a_kill() {
    let dir = Dir::new("again");
    let mut server = Server::start(&dir, &[]);
    for (round, signal) in [Signal::TERM, Signal::KILL, Signal::INT].into_iter().enumerate() {
        let requests: String = (0..500).map(|n| format!("put k{n} v{round}\n")).collect();
        let answers = server.ask(&requests);
        let word = if round == 0 { "PUT_SUCCESS " } else { "PUT_UPDATE " };
        assert!(answers.lines().count() == 500 && answers.lines().all(|line| line.starts_with(word)), "{answers}");
        server.signal(signal);
        drop(server);
        server = Server::start(&dir, &[]);
        let requests: String = (0..500).map(|n| format!("get k{n}\n")).collect();
        let expected: String = (0..500).map(|n| format!("GET_SUCCESS k{n} v{round}\r\n")).collect();
        assert_eq!(server.ask(&requests), expected);
    }
}

#[test]
fn the_other_dialect_greets() {
    let dir = Dir::new("tum");
    let server = Server::start(&dir, &["--dialect", "tum"]);
    let answers = server.ask("put k null\r\nget k\r\nPUT k\r\n");
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines[..3], ["Connection to Annulus established", "put_success k", "get_success k null"]);
    assert!(lines[3].starts_with("error `put` without a value"));
}

#[test]
fn a_taken_port_is_told() {
    let dir = Dir::new("taken");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let (code, _, error) = run(&dir, &["-p", &port]);
    assert_eq!(code, Some(1));
    let expected = format!("cannot listen on 127.0.0.1:{port} (--port)");
    assert!(error.contains(&expected) && error.contains("another process listens there"), "{error}");
}

#[test]
fn a_directory_in_use_is_told() {
    let dir = Dir::new("busy");
    let _server = Server::start(&dir, &[]);
    let (code, out, error) = run(&dir, &["-p", "0"]);
    assert_eq!(code, Some(1), "{out}{error}");
    assert!(!out.contains("listening") && error.contains("data"), "{error}");
}

#[test]
fn wrong_flags_end_with_2_and_texts_with_0() {
    let dir = Dir::new("flags");
    for args in [&["-p", "x"][..], &["--text-max-key", "5000"], &["--nonsense"]] {
        let (code, out, error) = run(&dir, args);
        assert!(code == Some(2) && out.is_empty() && error.contains(args[0]), "{args:?}: {code:?} {out} {error}");
    }
    for (args, expected) in
        [(&["--help"][..], "--bootstrap"), (&["--version"], "kvserver "), (&["--print-config"], "port ")]
    {
        let (code, out, error) = run(&dir, args);
        assert!(code == Some(0) && error.is_empty() && out.contains(expected), "{args:?}: {code:?} {out} {error}");
    }
    assert!(!dir.0.join("data").exists(), "nothing was done");
}

#[test]
fn the_environment_stands_between_flag_and_default() {
    let dir = Dir::new("environment");
    let output = command(&dir, &["--print-config", "--reads", "lease"])
        .envs([("ANNULUS_PORT", "6001"), ("ANNULUS_READS", "confirm")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("port ").contains("6001") && line("port ").ends_with("environment (ANNULUS_PORT)"), "{text}");
    assert!(line("reads ").contains("lease") && line("reads ").ends_with("flag"), "{text}");
    assert!(line("dialect ").ends_with("default"), "{text}");
}

#[test]
fn ten_thousand_bad_lines_leave_a_process_that_serves() {
    let dir = Dir::new("bad");
    let server = Server::start(&dir, &[]);
    for part in 0..10 {
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        let mut lines = Vec::new();
        for n in 0..1000u32 {
            lines.extend_from_slice(&n.wrapping_mul(2_654_435_761).to_le_bytes());
            lines.extend(std::iter::repeat_n(b'\xfe', usize::try_from(n).unwrap() % 50));
            lines.push(b'\n');
        }
        lines.extend_from_slice(b"put half a line");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&lines).unwrap();
        drop(stream);
        assert!(server.ask(&format!("put k {part}\n")).ends_with(&format!(" k {part}\r\n")));
    }
}
