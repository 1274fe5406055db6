//! Clients that send nonsense: nobody else notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::real::{Cluster, Options, Text};
use playground::process::until;

const NODE: &str = env!("CARGO_BIN_EXE_annulus-node");
const PATIENCE: Duration = Duration::from_secs(20);

/// One malformed line, by number: empty words, unknown words, binary, far too long, control characters, half UTF-8.
fn nonsense(number: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut line: Vec<u8> = match number % 8 {
        0 => b"frobnicate the server".to_vec(),
        1 => b"put".to_vec(),
        2 => b"get".to_vec(),
        3 => [b"put ".as_slice(), &[b'k'; 21], b" v"].concat(),
        4 => (0..random.usize(1..400)).map(|_| random.u8(..)).collect(),
        5 => [b"put key ".as_slice(), &vec![b'v'; 140_000]].concat(),
        6 => b"\x00\x01\x02 \xff\xfe get \xc3".to_vec(),
        _ => b"keyrange keyrange keyrange".to_vec(),
    };
    // It is to be one line, not empty, of the text dialect.
    line.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b'?');
    if matches!(line.first(), Some(b'*' | b' ' | b'?')) {
        line[0] = b'x';
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// A put and its get on a connection of their own.
fn works(cluster: &Cluster, key: &str) {
    let servers = cluster.keyrange(1);
    let owner = servers.servers(key)[0].to_owned();
    let mut text = Text::connect(&owner).expect("the owner takes connections");
    let put = text.ask(&format!("put {key} well")).expect("the owner answers");
    assert!(put.starts_with("PUT_SUCCESS") || put.starts_with("PUT_UPDATE"), "{put}");
    assert_eq!(text.ask(&format!("get {key}")).expect("the owner answers"), format!("GET_SUCCESS {key} well"));
}

#[test]
fn a_thousand_malformed_lines_leave_the_server_serving_others() {
    let cluster = Cluster::start(NODE, 3, Options::default());
    let mut random = fastrand::Rng::with_seed(5);
    let mut text = cluster.text(1);
    // The first line decides the dialect: an honest one.
    assert!(text.ask("get a").is_ok());
    for number in 0..1_000 {
        text.send(&nonsense(number, &mut random)).expect("the connection stays");
        let reply = text.receive().unwrap_or_else(|error| panic!("line {number}: {error}\n{}", cluster.logs(40)));
        assert!(!reply.is_empty(), "line {number} was answered with nothing");
        if number % 100 == 0 {
            works(&cluster, &format!("k{number}"));
        }
    }
    assert!(text.ask("get a").is_ok(), "the connection that sent all that still serves");
}

#[test]
fn half_lines_silent_readers_and_floods_of_connections_leave_the_server_serving_others() {
    let cluster = Cluster::start(NODE, 1, Options::default());
    let address = cluster.address(1);
    // Half a line, then gone.
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).expect("connects");
        stream.write_all(b"put half a li").expect("takes bytes");
    }
    // Asks and never reads: its replies may not fill the server's memory.
    let mut deaf = TcpStream::connect(&address).expect("connects");
    deaf.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
    works(&cluster, "big");
    let question = b"keyrange\r\n".repeat(10_000);
    let mut sent = 0_usize;
    while sent < 64 << 20 {
        match deaf.write(&question) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    // Idle ones.
    let idle: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(&address).expect("connects")).collect();
    works(&cluster, "fine");
    drop(idle);
    // A browser is turned away.
    let mut browser = TcpStream::connect(&address).expect("connects");
    browser.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    browser.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nput k v\r\n").expect("takes bytes");
    let mut answer = Vec::new();
    // It may end with a reset, since what it sent is not read to the end.
    let _ = browser.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("PUT_SUCCESS"), "a browser wrote a record");
    works(&cluster, "after");
}

#[test]
fn a_directory_that_is_in_use_is_refused_with_a_reason() {
    let cluster = Cluster::start(NODE, 1, Options::default());
    let mut second = Command::new(NODE)
        .args(["__kvserver", "-p", "0", "-b", cluster.ecs(), "-d"])
        .arg(cluster.data(1))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let ended = until(PATIENCE, || second.try_wait().expect("a child can be asked").is_some());
    second.kill().expect("a child can be killed");
    let output = second.wait_with_output().expect("it has ended");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(ended && !output.status.success(), "a second server runs on the same directory: {said}");
    assert!(said.contains(&*cluster.data(1).to_string_lossy()), "does not name the directory: {said}");
}
