//! The real program, with servers played over real sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test: what fails must be seen

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use common::control::{Ask, Change, FromEcs, FromServer, Heartbeat, Report, SlotReport};
use common::peer::{Hello, HelloAck, Identity};
use common::view::{Meta, NodeInfo, NodeState};
use common::{BootId, ClusterId, Epoch, NodeId, Seq, StoreUuid, clock, frame};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

struct Process {
    child: Child,
    addr: String,
}

impl Process {
    fn start(dir: &Path, port: &str) -> Process {
        let mut child = command(dir, port).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some(addr) = line.strip_prefix("ecs listening on ") {
                break addr.to_string();
            }
        };
        // Read on, so that it never waits for us.
        std::thread::Builder::new().spawn(move || lines.for_each(drop)).unwrap();
        Process { child, addr }
    }

    fn ask(&self, question: &str) -> Value {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{question}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    fn status(&self) -> Value {
        self.ask("\"status\"")
    }

    fn port(&self) -> String {
        self.addr.rsplit(':').next().unwrap().to_string()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path, port: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecs"));
    command.args(["-p", port, "-ll", "OFF", "-d"]).arg(dir).stderr(Stdio::piped());
    if !dir.join("snapshot.json").exists() {
        command.args(["--slots", "4"]);
    }
    command
}

/// A directory of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("annulus-ecs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server as the ECS sees it. Dropping it is `kill -9`.
struct Fake {
    info: NodeInfo,
    control: TcpStream,
    lines: BufReader<TcpStream>,
    alive: Arc<AtomicBool>,
    beats: Arc<AtomicBool>,
    peer: String,
    meta: Meta,
}

impl Fake {
    fn register(ecs: &Process, id: u64, boot: u64, cluster: Option<ClusterId>) -> Fake {
        let (alive, beats) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let identity = Identity { cluster, node: NodeId(id), store: StoreUuid(u128::from(id)), boot: BootId(boot) };
        let peer = answer_probes(identity, alive.clone());
        let info = NodeInfo {
            node: identity.node,
            store: identity.store,
            boot: identity.boot,
            client_addr: format!("127.0.0.1:{id}"),
            peer_addr: peer.clone(),
            admin_addr: None,
            state: NodeState::Joining,
            weight: common::view::WEIGHT,
        };
        let control = TcpStream::connect(&ecs.addr).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(control.try_clone().unwrap());
        let mut fake = Fake { info, control, lines, alive, beats, peer, meta: Meta::default() };
        fake.say(&FromServer::Register { info: fake.info.clone(), cluster, rejoin: false, seen: Epoch(0) });
        fake.beat(&ecs.addr, identity);
        fake
    }

    /// Heartbeats over a connection of their own.
    fn beat(&self, ecs: &str, id: Identity) {
        let (mut stream, beats) = (TcpStream::connect(ecs).unwrap(), self.beats.clone());
        let beat = Heartbeat {
            node: id.node,
            store: id.store,
            boot: id.boot,
            meta: 0,
            highest_epoch: Epoch(0),
            disk_stalled: false,
        };
        let line = serde_json::to_string(&FromServer::Heartbeat(beat)).unwrap() + "\n";
        std::thread::Builder::new()
            .spawn(move || {
                while beats.load(Ordering::SeqCst) && stream.write_all(line.as_bytes()).is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
            .unwrap();
    }

    fn say(&mut self, message: &FromServer) {
        let line = serde_json::to_string(message).unwrap() + "\n";
        self.control.write_all(line.as_bytes()).unwrap();
    }

    /// The next line, whose metadata is also remembered.
    fn hear(&mut self) -> FromEcs {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let message = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        if let FromEcs::Welcome { meta, .. } | FromEcs::Update(meta) = &message {
            for view in &meta.views {
                self.meta.views.retain(|old| old.slot != view.slot);
                self.meta.views.push(view.clone());
            }
        }
        message
    }

    fn hear_until(&mut self, wanted: impl Fn(&Fake) -> bool) {
        while !wanted(self) {
            self.hear();
        }
    }

    fn ask_all(&mut self, change: Change) {
        let ask = |view: &common::View| Ask { slot: view.slot, epoch: view.epoch, change };
        let asks = self.meta.views.iter().filter(|view| view.coordinator == self.info.node).map(ask).collect();
        self.say(&FromServer::Ask(asks));
    }

    fn report(&mut self) {
        let one = |view: &common::View| SlotReport {
            slot: view.slot,
            epoch: view.epoch,
            active: true,
            records: 0,
            bytes: 0,
            commit: Seq(0),
        };
        let slots = self.meta.views.iter().filter(|view| view.coordinator == self.info.node).map(one).collect();
        self.say(&FromServer::Report(Report { slots, ..Report::default() }));
    }

    fn kill(self) {
        self.alive.store(false, Ordering::SeqCst);
        // Wakes the peer listener, which then closes.
        let _ = TcpStream::connect(&self.peer);
        while TcpStream::connect(&self.peer).is_ok() {}
        // Until here it is heard: on a busy machine the listener can take longer to close than silence is borne.
        self.beats.store(false, Ordering::SeqCst);
        self.control.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

fn answer_probes(identity: Identity, alive: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::Builder::new()
        .spawn(move || {
            for stream in listener.incoming() {
                if !alive.load(Ordering::SeqCst) {
                    return;
                }
                let (mut stream, mut bytes) = (stream.unwrap(), BytesMut::new());
                while let Ok(None) = frame::take::<Hello>(&mut bytes) {
                    let mut chunk = [0; 256];
                    match stream.read(&mut chunk) {
                        Ok(read) if read > 0 => bytes.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                }
                let mut answer = BytesMut::new();
                frame::put(&mut answer, &HelloAck { from: identity, refused: None, waiting_for: None });
                let _ = stream.write_all(&answer);
            }
        })
        .unwrap();
    addr
}

/// Two servers in sync for everything, the first one coordinating.
fn pair(ecs: &Process) -> (Fake, Fake) {
    let mut first = Fake::register(ecs, 1, 1, None);
    first.hear_until(|fake| fake.meta.views.len() == 4);
    first.report();
    let mut second = Fake::register(ecs, 2, 1, None);
    first.hear_until(|fake| fake.meta.views.iter().all(|view| view.targets.len() == 2));
    let (node, store, boot) = (second.info.node, second.info.store, second.info.boot);
    first.ask_all(Change::Expand { node, store, boot });
    second.hear_until(|fake| fake.meta.views.len() == 4 && fake.meta.views.iter().all(|view| view.isr.len() == 2));
    (first, second)
}

#[test]
fn a_killed_coordinator_is_replaced_at_once() {
    let folder = Folder::new("failover");
    let ecs = Process::start(&folder.0, "0");
    let (first, mut second) = pair(&ecs);
    first.kill();
    let begun = clock::now();
    second.hear_until(|fake| fake.meta.views.iter().all(|view| view.coordinator == NodeId(2)));
    let took = clock::now().since(begun);
    println!("failed over in {took:?}");
    assert!(second.meta.views.iter().all(|view| view.isr.len() == 1));
    let status = ecs.status();
    assert_eq!(status["servers"][0]["state"], "down");
    // Not by missed heartbeats: the closed connection and the refused probe were enough.
    let told = status["timeline"].to_string();
    assert!(told.contains("its control connection closed") && told.contains("connection refused"), "{told}");
}

#[test]
fn a_restart_keeps_everything_and_judges_nobody_in_haste() {
    let folder = Folder::new("restart");
    let mut ecs = Process::start(&folder.0, "0");
    let (mut first, second) = pair(&ecs);
    first.report();
    let before = ecs.status();
    let port = ecs.port();
    ecs.child.kill().unwrap();
    ecs.child.wait().unwrap();
    drop(ecs);
    let ecs = Process::start(&folder.0, &port);
    let after = ecs.status();
    for part in ["cluster", "epoch", "version"] {
        assert_eq!(before[part], after[part], "{part}");
    }
    assert_eq!(before["views"].as_array().unwrap().len(), after["views"].as_array().unwrap().len());
    assert!(after["servers"].as_array().unwrap().iter().all(|server| server["state"] != "down"), "{after}");
    let cluster: ClusterId = after["cluster"]["cluster"].as_str().unwrap().parse().unwrap();
    drop((first, second));
    // A higher boot gets a fresh view for what it coordinated.
    let mut again = Fake::register(&ecs, 1, 2, Some(cluster));
    again.hear_until(|fake| fake.meta.views.iter().any(|view| view.coordinator_boot == BootId(2)));
}

#[test]
fn strangers_are_refused_and_told_why() {
    let folder = Folder::new("refused");
    let ecs = Process::start(&folder.0, "0");
    let mut first = Fake::register(&ecs, 1, 5, None);
    first.hear();
    let mut foreign = Fake::register(&ecs, 2, 1, Some(ClusterId(99)));
    assert!(matches!(foreign.hear(), FromEcs::Refused { fatal: true, .. }));
    let mut old = Fake::register(&ecs, 1, 4, None);
    assert!(matches!(old.hear(), FromEcs::Refused { fatal: true, .. }));
    let mut newer = Fake::register(&ecs, 1, 6, None);
    assert!(matches!(newer.hear(), FromEcs::Welcome { .. }));
    while !matches!(first.hear(), FromEcs::Fenced { .. }) {}
    let second = command(&folder.0, "0").output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("is in use by another ecs"), "{said}");
}

#[test]
fn nonsense_disturbs_nobody() {
    let folder = Folder::new("nonsense");
    let ecs = Process::start(&folder.0, "0");
    let long = vec![b'x'; 1 << 20];
    let lines: [&[u8]; 6] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"\x00\xff\xfe\n", b"{\"heartbeat\":{}}\n", b"{\"ask\":[]}\n", &long];
    let idle: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&ecs.addr).unwrap()).collect();
    for line in lines {
        let mut stream = TcpStream::connect(&ecs.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A line that is too long may be cut off while it is still being sent.
        let _ = stream.write_all(line);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(ecs.ask(r#"{"accuse":{"addr":"nobody:1","why":"timeout"}}"#)["ok"], true);
    assert_eq!(ecs.status()["slots"]["total"], 0);
    drop(idle);
}

#[test]
fn told_to_stop_it_ends_well() {
    let folder = Folder::new("stop");
    let mut ecs = Process::start(&folder.0, "0");
    let pid = ecs.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(ecs.child.wait().unwrap().success());
}
