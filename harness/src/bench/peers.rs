//! The peers, from Debian's packages, each configured to promise what Annulus promises.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a peer may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// A running peer. Where a client connects is `address`.
#[derive(Debug)]
pub(crate) struct Peer {
    /// For tables.
    pub(crate) name: &'static str,
    /// Of the node that takes writes.
    pub(crate) address: String,
    guards: Vec<Guard>,
}

/// A foreign process under a shell that ends it when our end of its stdin closes: however we end, it does.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn start(program: &str, args: &[String], log: &Path) -> anyhow::Result<Guard> {
        let log = std::fs::File::create(log)?;
        let script = r#""$@" </dev/null & peer=$!; cat >/dev/null; kill -9 $peer; wait $peer"#;
        let child = Command::new("/bin/sh")
            .args(["-c", script, "guard", program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
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

impl Peer {
    /// One redis without persistence: as fast as it gets.
    pub(crate) fn redis(folder: &Path) -> anyhow::Result<Peer> {
        let port = free_port()?;
        let args = redis_args(folder, "redis", port, &["--save", "", "--appendonly", "no"])?;
        let guards = vec![Guard::start("redis-server", &args, &folder.join("redis.log"))?];
        let peer = Peer { name: "redis", address: format!("127.0.0.1:{port}"), guards };
        peer.until("PING", |reply| reply.starts_with("+PONG"))?;
        Ok(peer)
    }

    /// A redis with two replicas, each writing through to its disk before it answers.
    pub(crate) fn durable_redis(folder: &Path) -> anyhow::Result<Peer> {
        let durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
        let port = free_port()?;
        let main = redis_args(folder, "redis-main", port, &durable)?;
        let mut guards = vec![Guard::start("redis-server", &main, &folder.join("redis-main.log"))?];
        for number in 1..=2 {
            let name = format!("redis-replica{number}");
            let mut args = redis_args(folder, &name, free_port()?, &durable)?;
            args.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), port.to_string()]);
            guards.push(Guard::start("redis-server", &args, &folder.join(format!("{name}.log")))?);
        }
        let peer = Peer { name: "redis x3", address: format!("127.0.0.1:{port}"), guards };
        peer.until("INFO replication", |reply| reply.matches("state=online").count() == 2)?;
        Ok(peer)
    }

    /// Three etcd nodes; the address is the leader's.
    pub(crate) fn etcd(folder: &Path) -> anyhow::Result<Peer> {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<anyhow::Result<_>>()?;
        let everyone: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("n{n}=http://127.0.0.1:{peer}")).collect();
        let mut guards = Vec::new();
        for (number, (client, peer)) in ports.iter().enumerate() {
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let data = folder.join(format!("etcd{number}"));
            let args = [
                ("--name", format!("n{number}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", everyone.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                ("--log-level", "error".to_owned()),
                ("--snapshot-count", "100000".to_owned()),
            ];
            let mut args: Vec<String> = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
            args.push("--enable-v2=true".to_owned());
            guards.push(Guard::start("etcd", &args, &folder.join(format!("etcd{number}.log")))?);
        }
        let address = etcd_leader(&ports)?;
        Ok(Peer { name: "etcd x3", address, guards })
    }

    /// Asks redis until the answer pleases.
    fn until(&self, question: &str, pleases: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = exchange(&self.address, &format!("{question}\r\n")).unwrap_or_default();
            if pleases(&answer) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{} with {} processes does not serve; last answer {answer:?}", self.name, self.guards.len());
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn redis_args(folder: &Path, name: &str, port: u16, more: &[&str]) -> anyhow::Result<Vec<String>> {
    let data: PathBuf = folder.join(name);
    std::fs::create_dir_all(&data)?;
    let fixed = ["--port".to_owned(), port.to_string(), "--dir".to_owned(), data.display().to_string()];
    Ok(fixed.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect())
}

fn etcd_leader(ports: &[(u16, u16)]) -> anyhow::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (client, _) in ports {
            let address = format!("127.0.0.1:{client}");
            let question = "GET /v2/stats/self HTTP/1.0\r\nHost: etcd\r\n\r\n";
            let answer = exchange(&address, question).unwrap_or_default();
            if answer.contains("StateLeader") {
                return Ok(address);
            }
        }
        if Instant::now() >= deadline {
            bail!("etcd has no leader after {PATIENCE:?}");
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
