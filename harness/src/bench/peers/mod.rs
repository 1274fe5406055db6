//! The peers, from Debian's packages, each configured to promise what Annulus promises in the same line.

pub mod echo;
mod etcd;
mod redis;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

pub(crate) use redis::{Persistence, Redis};

/// How long a peer may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at while it starts.
const LOOK: Duration = Duration::from_millis(50);

/// A running peer. Where a client connects is `address`.
#[derive(Debug)]
pub(crate) struct Peer {
    /// For tables.
    pub(crate) name: &'static str,
    /// Of the node that takes writes.
    pub(crate) address: String,
    _guards: Vec<Guard>,
}

/// A foreign process under a shell that ends it when our end of its stdin closes: however we end, it does. In a process
/// group of its own: Ctrl-C in a terminal would end the shell before it has ended its peer.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    pub(crate) fn start(program: &str, args: &[String], log: &Path) -> anyhow::Result<Guard> {
        let log = std::fs::File::create(log)?;
        let script = r#""$@" </dev/null & peer=$!; cat >/dev/null; kill -9 $peer; wait $peer"#;
        let child = Command::new("/bin/sh")
            .args(["-c", script, "guard", program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Guard(child))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The guard ends as soon as its peer has; nothing else is to be done about an error.
        let _ = self.0.wait();
    }
}

/// Whether the program is installed; if not, says how to get it.
pub(crate) fn installed(program: &str, package: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return Ok(());
    }
    Err(format!("SKIPPED {program}: not installed; `apt-get install -y {package}` brings it"))
}

/// Asks until the answer pleases.
fn until(address: &str, question: &str, pleases: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = exchange(address, question).unwrap_or_default();
        if pleases(&answer) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{address} does not serve after {PATIENCE:?}; last answer to {question:?}: {answer:?}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends a question and reads what comes within a moment.
fn exchange(address: &str, question: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = vec![0; 1 << 14];
    let count = stream.read(&mut answer)?;
    // A reply of this size comes in one or two pieces.
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    let more = stream.read(&mut answer[count..]).unwrap_or(0);
    Ok(String::from_utf8_lossy(&answer[..count + more]).into_owned())
}

/// A port that was free a moment ago: peers cannot be asked which one they took.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
