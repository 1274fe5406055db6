//! The processes of one scenario: an ecs and some servers, each with a loopback address, a directory and a wrapping of its own.
//!
//! Every cluster has a network 127.x.y.0/24 to itself, so that ports are fixed, a restarted process is found where it was,
//! and a proxy can stand where others look for a server. Dropped, it ends them all; its folder stays if the scenario failed.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use common::NodeId;
use playground::node;
use playground::process::{Launch, Process, Signal, describe};
use playground::status::{self, Summary};
use serde_json::Value;

use super::spaces::Spaces;
use super::wires::{Who, Wires};

/// Start-up reads data back, and the machine may be busy.
const LISTEN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Detection, failover and copying, on a machine that does other things as well.
pub const HEAL: Duration = Duration::from_secs(60);
const CLIENT_PORT: u16 = 5000;
const PEER_PORT: u16 = 6000;
const ECS_PORT: u16 = 3000;
/// Whoever holds this port of a network has the network.
const CLAIM_PORT: u16 = 2999;

/// How processes reach each other.
#[derive(Debug)]
pub enum Net {
    /// Directly.
    Plain,
    /// Through proxies that can hold, delay and cut.
    Wired(Wires),
    /// Each in a network namespace of its own; needs root.
    Spaced(Spaces),
}

/// What a process is started under, and with.
#[derive(Clone, Debug, Default)]
pub struct Wrap {
    /// A program that starts the product in its own way, with its arguments.
    pub prefix: Vec<OsString>,
    /// More arguments for the product.
    pub args: Vec<OsString>,
}

impl Wrap {
    /// Under this program.
    pub fn under<S: Into<OsString>>(prefix: impl IntoIterator<Item = S>) -> Wrap {
        Wrap { prefix: prefix.into_iter().map(Into::into).collect(), args: Vec::new() }
    }

    /// With these further arguments.
    pub fn with<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> Wrap {
        Wrap { prefix: Vec::new(), args: args.into_iter().map(Into::into).collect() }
    }
}

#[derive(Debug)]
struct Seat {
    process: Option<Process>,
    dir: PathBuf,
}

/// The processes; servers are numbered from 1.
#[derive(Debug)]
pub struct Arena {
    program: PathBuf,
    folder: PathBuf,
    discarded: bool,
    network: [u8; 2],
    _claim: TcpListener,
    net: Net,
    ecs: Seat,
    servers: Vec<Seat>,
    /// For every start of the ecs.
    pub ecs_args: Vec<OsString>,
    /// For every start of a server.
    pub server_args: Vec<OsString>,
}

/// A network that nobody else uses, held by a port of it.
fn claim() -> anyhow::Result<([u8; 2], TcpListener)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let number = std::process::id().wrapping_mul(7).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let network = [u8::try_from(number / 250 % 250)? + 2, u8::try_from(number % 250)? + 2];
        if let Ok(listener) = TcpListener::bind((format!("127.{}.{}.254", network[0], network[1]), CLAIM_PORT)) {
            return Ok((network, listener));
        }
    }
    bail!("no free network 127.x.y.0/24 was found")
}

/// The id in a server's first words: `kvserver 0.1.0, node 8a3c7528d3ddfa3b, start 1`.
fn node_in(said: &str) -> Option<NodeId> {
    let hex = said.split_once(", node ")?.1.split(',').next()?;
    u64::from_str_radix(hex, 16).ok().map(NodeId)
}

impl Arena {
    /// An empty one: nothing runs yet.
    ///
    /// # Errors
    /// The network cannot be made.
    pub fn new(program: &Path, make: impl FnOnce([u8; 2]) -> anyhow::Result<Net>) -> anyhow::Result<Arena> {
        let (network, claim) = claim()?;
        let folder = super::mounts::temporary().join(format!("{}-{}", network[0], network[1]));
        std::fs::create_dir_all(&folder)?;
        // Quick to replace and to come home: a scenario waits for both.
        let ecs_args = ["--slots", "32", "--settle-ms", "700", "--replace-after-ms", "1500"];
        Ok(Arena {
            program: program.to_owned(),
            discarded: false,
            network,
            _claim: claim,
            net: make(network)?,
            ecs: Seat { process: None, dir: folder.join("ecs") },
            servers: Vec::new(),
            ecs_args: ecs_args.map(OsString::from).to_vec(),
            server_args: Vec::new(),
            folder,
        })
    }

    /// The folder of everything, which stays unless [`Arena::discard`] is called.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All went well: nobody will want to look at the folder.
    pub fn discard(&mut self) {
        self.discarded = true;
    }

    /// The proxies.
    ///
    /// # Panics
    /// The arena was made without.
    #[must_use]
    pub fn wires(&self) -> &Wires {
        match &self.net {
            Net::Wired(wires) => wires,
            _ => panic!("this scenario has no proxies"),
        }
    }

    /// The namespaces.
    ///
    /// # Panics
    /// The arena was made without.
    #[must_use]
    pub fn spaces(&self) -> &Spaces {
        match &self.net {
            Net::Spaced(spaces) => spaces,
            _ => panic!("this scenario has no namespaces"),
        }
    }

    fn ip(&self, host: usize) -> String {
        match &self.net {
            Net::Spaced(spaces) => spaces.ip(host),
            _ => format!("127.{}.{}.{host}", self.network[0], self.network[1]),
        }
    }

    /// Where the ecs listens.
    #[must_use]
    pub fn ecs_address(&self) -> String {
        format!("{}:{ECS_PORT}", self.ip(super::ECS_HOST))
    }

    /// Where others look for server `number`.
    #[must_use]
    pub fn address(&self, number: usize) -> String {
        let wired = matches!(self.net, Net::Wired(_));
        format!("{}:{CLIENT_PORT}", self.ip(if wired { super::PROXY + number } else { number }))
    }

    /// All client addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        (1..=self.servers.len()).map(|number| self.address(number)).collect()
    }

    /// The number of the server at this address.
    #[must_use]
    pub fn number(&self, address: &str) -> Option<usize> {
        (1..=self.servers.len()).find(|number| self.address(*number) == address)
    }

    /// The data directory of server `number`, 0 being the ecs.
    #[must_use]
    pub fn dir(&self, number: usize) -> PathBuf {
        if number == 0 { self.ecs.dir.clone() } else { self.servers[number - 1].dir.clone() }
    }

    /// Another directory from the next start on.
    pub fn set_dir(&mut self, number: usize, dir: PathBuf) {
        if number == 0 {
            self.ecs.dir = dir;
        } else {
            self.servers[number - 1].dir = dir;
        }
    }

    /// Makes room for one more server, which does not run yet, and gives its number.
    ///
    /// # Errors
    /// The network does not grow.
    pub fn seat(&mut self) -> anyhow::Result<usize> {
        let number = self.servers.len() + 1;
        self.servers.push(Seat { process: None, dir: self.folder.join(format!("data{number}")) });
        if let Net::Wired(wires) = &self.net {
            let (proxy, real) = (self.ip(super::PROXY + number), self.ip(number));
            // Only clients dial the one; who dials the other has to be found out.
            for (port, dialer) in [(CLIENT_PORT, Some(Who::Client)), (PEER_PORT, None)] {
                wires.listen(&format!("{proxy}:{port}"), &format!("{real}:{port}"), dialer, Who::Server(number))?;
            }
            let own = format!("{}:{ECS_PORT}", self.ip(super::ECS_PROXY + number));
            wires.listen(&own, &self.ecs_address(), Some(Who::Server(number)), Who::Ecs)?;
        }
        if let Net::Spaced(spaces) = &mut self.net {
            spaces.add(number)?;
        }
        Ok(number)
    }

    /// Makes room for one more server and starts it.
    ///
    /// # Errors
    /// It does not listen.
    pub fn add(&mut self) -> anyhow::Result<usize> {
        let number = self.seat()?;
        self.start(number)?;
        Ok(number)
    }

    /// Starts server `number`, 0 being the ecs, and waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub fn start(&mut self, number: usize) -> anyhow::Result<()> {
        self.start_under(number, &Wrap::default())
    }

    /// The same, under or with something.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start_under(&mut self, number: usize, wrap: &Wrap) -> anyhow::Result<()> {
        self.spawn(number, wrap)?;
        self.process(number)?.listening(LISTEN)?;
        let said = self.said(number)?;
        if let Net::Wired(wires) = &self.net
            && let Some(node) = node_in(&said)
        {
            wires.know(node, Who::Server(number));
        }
        Ok(())
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self, number: usize, wrap: &Wrap) -> anyhow::Result<()> {
        let launch = self.launch(number, wrap);
        // The one before it goes first: port and directory are the same.
        self.seat_of(number).process = None;
        let process = Process::spawn(launch)?;
        self.seat_of(number).process = Some(process);
        Ok(())
    }

    fn seat_of(&mut self, number: usize) -> &mut Seat {
        if number == 0 { &mut self.ecs } else { &mut self.servers[number - 1] }
    }

    fn launch(&self, number: usize, wrap: &Wrap) -> Launch {
        let mut words: Vec<OsString> = Vec::new();
        if let Net::Spaced(spaces) = &self.net {
            words.extend(spaces.prefix(number).into_iter().map(OsString::from));
        }
        words.extend(wrap.prefix.iter().cloned());
        words.push(self.program.clone().into_os_string());
        words.extend(if number == 0 { self.ecs_words() } else { self.server_words(number) });
        words.extend(wrap.args.iter().cloned());
        let name = if number == 0 { "ecs".to_owned() } else { format!("server {number}") };
        Launch {
            log: self.folder.join(format!("{}.log", name.replace(' ', ""))),
            name,
            program: words.remove(0).into(),
            args: words,
            announces: if number == 0 { "ecs listening on " } else { "kvserver listening on " },
        }
    }

    fn ecs_words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![node::ECS.into(), "-d".into(), self.ecs.dir.clone().into_os_string()];
        words.extend(["-p".into(), ECS_PORT.to_string().into(), "-a".into(), self.ip(super::ECS_HOST).into()]);
        words.extend(self.ecs_args.iter().cloned());
        words
    }

    fn server_words(&self, number: usize) -> Vec<OsString> {
        let dir = self.servers[number - 1].dir.clone();
        let mut words: Vec<OsString> = vec![node::KVSERVER.into(), "-d".into(), dir.into_os_string()];
        words.extend(["-p".into(), CLIENT_PORT.to_string().into(), "-a".into(), self.ip(number).into()]);
        words.extend(["--peer-port".into(), PEER_PORT.to_string().into(), "-b".into()]);
        if matches!(self.net, Net::Wired(_)) {
            words.push(format!("{}:{ECS_PORT}", self.ip(super::ECS_PROXY + number)).into());
            words.extend(["--advertise".into(), self.ip(super::PROXY + number).into()]);
        } else {
            words.push(self.ecs_address().into());
        }
        words.extend(self.server_args.iter().cloned());
        words
    }

    /// The process of server `number`, 0 being the ecs.
    ///
    /// # Errors
    /// It was never started.
    pub fn process(&mut self, number: usize) -> anyhow::Result<&mut Process> {
        self.seat_of(number).process.as_mut().with_context(|| format!("server {number} was never started"))
    }

    /// SIGKILL, and its end.
    ///
    /// # Errors
    /// It had ended by itself before, so the kill proves nothing.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let process = self.process(number)?;
        let before = process.try_ended()?;
        ensure!(before.is_none(), "{} had ended already ({before:?}):\n{}", process.name(), process.tail(20));
        process.kill()?;
        Ok(())
    }

    /// SIGTERM, and its end with exit code 0.
    ///
    /// # Errors
    /// It ends otherwise, or not.
    pub fn stop(&mut self, number: usize) -> anyhow::Result<()> {
        let process = self.process(number)?;
        process.ask_to_stop()?;
        let end = process.wait(Duration::from_secs(20))?;
        ensure!(end.success(), "{}: {} after SIGTERM:\n{}", process.name(), describe(end), process.tail(20));
        Ok(())
    }

    /// A signal.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&mut self, number: usize, signal: Signal) -> anyhow::Result<()> {
        Ok(self.process(number)?.signal(signal)?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not.
    pub fn ended(&mut self, number: usize, patience: Duration) -> anyhow::Result<ExitStatus> {
        let process = self.process(number)?;
        process.wait(patience).with_context(|| format!("its log:\n{}", process.tail(20)))
    }

    /// What the present process of `number` has logged.
    ///
    /// # Errors
    /// It was never started.
    pub fn said(&mut self, number: usize) -> anyhow::Result<String> {
        Ok(self.process(number)?.said())
    }

    /// The ecs's status.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        status::ask(&self.ecs_address())
    }

    /// Waits until the status is as wanted.
    ///
    /// # Errors
    /// It is not in time: with the last one.
    pub fn wait(&self, what: &str, patience: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status();
            match status {
                Ok(status) if wanted(&status) => return Ok(status),
                _ if Instant::now() < deadline => std::thread::sleep(LOOK),
                Ok(status) => {
                    let summary = Summary::of(&status);
                    bail!("no {what} within {patience:?}; last: {summary:?}; timeline: {}", status["timeline"])
                }
                Err(error) => return Err(error.context(format!("no {what} within {patience:?}"))),
            }
        }
    }

    /// Waits until every slot is whole again with `live` servers up, and at home.
    ///
    /// # Errors
    /// It is not in time.
    pub fn settled(&self, live: usize, patience: Duration) -> anyhow::Result<()> {
        let whole = |status: &Value| Summary::of(status).is_ok_and(|summary| summary.settled(live));
        self.wait(&format!("settled cluster of {live}"), patience, whole).map(drop)
    }

    /// Waits until every slot has a copy in sync at three servers, or at all of them. More than settled: a server that was down again
    /// and again gets no new copies for some seconds, and until then the cluster is as whole as it should be.
    ///
    /// # Errors
    /// It is not in time.
    pub fn copied(&self, live: usize, patience: Duration) -> anyhow::Result<()> {
        let copies = |slot: &Value| slot["isr"].as_array().map_or(0, Vec::len);
        let whole = |status: &Value| {
            let slots = status["views"].as_array().filter(|slots| !slots.is_empty());
            slots.is_some_and(|slots| slots.iter().all(|slot| copies(slot) >= live.min(3)))
        };
        self.wait("copies at three servers", patience, whole).map(drop)
    }

    /// Waits until every slot is served and has all the copies that `live` servers allow.
    ///
    /// # Errors
    /// It is not in time.
    pub fn healed(&self, live: usize, patience: Duration) -> anyhow::Result<()> {
        let whole = |status: &Value| Summary::of(status).is_ok_and(|summary| summary.healed(live));
        self.wait(&format!("healed cluster of {live}"), patience, whole).map(drop)
    }

    /// Waits until the ecs calls server `number` that (`up`, `down`, `joining`).
    ///
    /// # Errors
    /// It does not in time.
    pub fn state(&self, number: usize, state: &str, patience: Duration) -> anyhow::Result<()> {
        let address = self.address(number);
        let is = |status: &Value| {
            let servers = status["servers"].as_array().into_iter().flatten();
            servers.into_iter().any(|server| server["address"] == *address && server["state"] == state)
        };
        self.wait(&format!("server {number} {state}"), patience, is).map(drop)
    }

    /// What the ecs has said of servers that it judged down since `began`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn judged_since(&self, began: Instant) -> anyhow::Result<Vec<String>> {
        let status = self.status()?;
        let age = began.elapsed().as_millis();
        let events = status["timeline"].as_array().into_iter().flatten();
        let recent = events.filter(|event| event["ago_ms"].as_u64().is_some_and(|ago| u128::from(ago) < age));
        let downs = recent.filter_map(|event| event["what"].as_str()).filter(|what| what.starts_with("down: "));
        Ok(downs.map(str::to_owned).collect())
    }

    /// The last lines of all logs.
    #[must_use]
    pub fn logs(&self, lines: usize) -> String {
        let all = std::iter::once(&self.ecs).chain(&self.servers).filter_map(|seat| seat.process.as_ref());
        all.map(|process| format!("--- {} ({})\n{}\n", process.name(), process.log().display(), process.tail(lines)))
            .collect()
    }

    /// Lines of any log that a healthy server never writes.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        let all = std::iter::once(&self.ecs).chain(&self.servers).filter_map(|seat| seat.process.as_ref());
        let bad = |line: &&str| ["ALARM", "panicked at", "bug:"].iter().any(|word| line.contains(word));
        all.flat_map(|process| {
            let text = String::from_utf8_lossy(&std::fs::read(process.log()).unwrap_or_default()).into_owned();
            text.lines().filter(bad).map(|line| format!("{}: {line}", process.name())).collect::<Vec<_>>()
        })
        .collect()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Processes first: they write into the folder.
        self.servers.clear();
        self.ecs.process = None;
        if self.discarded {
            // What is left behind in a temporary folder does no harm.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
