//! The ECS: its core under lines from anybody, and the files it starts from.

use std::collections::BTreeMap;

use common::control::{FromServer, Question};
use common::peer::Identity;
use common::view::{ClusterRecord, NodeState};
use common::{ClusterId, NodeId, Time, sealed};
use ecs::store::{read_snapshot, replay};
use ecs::{Action, Cluster, Command, Config, Conn, Ecs, Event, Probed};

use super::choice;
use super::wire::{from_server, info, line};

/// The longest line that an event may write to the log: whoever can reach the port must not be able to fill the disk.
const LOG_LINE: usize = 2048;

fn record() -> ClusterRecord {
    ClusterRecord { cluster: ClusterId(7), slots: 4, replicas: 2, lease_ms: 250, vnodes: 1 }
}

/// Lines of servers, impostors and clients. A line's first byte says over which of four connections it comes, how much
/// time has passed, and what probes meet.
pub(super) fn core(data: &[u8]) {
    let mut stage = Stage {
        ecs: Ecs::new(Config::default(), Cluster::new(record()), Time(1_000_000)),
        now: Time(1_000_000),
        conns: BTreeMap::new(),
        next: 0,
    };
    for line in data.split(|byte| *byte == b'\n').take(64) {
        if let Some((bits, rest)) = choice(line) {
            stage.line(bits, rest);
        }
    }
}

struct Stage {
    ecs: Ecs,
    now: Time,
    /// The connections that are open, by what the input calls them.
    conns: BTreeMap<u8, Conn>,
    next: u64,
}

impl Stage {
    fn line(&mut self, bits: u8, rest: &[u8]) {
        self.now = Time(self.now.0 + u64::from((bits >> 2) & 15) * 60_000);
        self.event(bits, Event::Tick);
        if rest.is_empty() {
            if let Some(conn) = self.conns.remove(&(bits & 3)) {
                self.event(bits, Event::Closed { conn });
            }
            return;
        }
        if let Ok(Question::Accuse { addr, why }) = serde_json::from_slice(rest) {
            self.event(bits, Event::Accuse { addr, why });
            return;
        }
        let Ok(message) = serde_json::from_slice(rest) else { return };
        let known = self.conns.get(&(bits & 3)).copied();
        let event = match (message, known) {
            (FromServer::Heartbeat(beat), _) => Event::Heartbeat(beat),
            (FromServer::Register { info, cluster, rejoin, seen }, known) => {
                let conn = known.unwrap_or_else(|| self.open(bits & 3));
                Event::Register { conn, info, cluster, rejoin, seen }
            }
            (FromServer::Ask(asks), Some(conn)) => Event::Ask { conn, asks },
            (FromServer::Report(report), Some(conn)) => Event::Report { conn, report },
            (FromServer::Goodbye, Some(conn)) => Event::Goodbye { conn },
            (FromServer::Stopping, Some(conn)) => Event::Stopping { conn },
            (FromServer::Wish { id, wish }, Some(conn)) => Event::Wish { conn, id, wish },
            // The shell hangs up.
            _ => return,
        };
        self.event(bits, event);
    }

    fn open(&mut self, name: u8) -> Conn {
        self.next += 1;
        self.conns.insert(name, Conn(self.next));
        Conn(self.next)
    }

    fn event(&mut self, bits: u8, event: Event) {
        let mut queue = vec![event];
        // Probes and hang-ups answer each other; a live lock would be a bug of its own.
        for _ in 0..200 {
            let Some(event) = queue.pop() else { return };
            let mut out = Vec::new();
            self.ecs.handle(self.now, event, &mut out);
            assert_eq!(self.ecs.cluster().check(), Ok(()));
            for action in out {
                self.perform(bits, action, &mut queue);
            }
        }
        panic!("one line keeps the core busy for ever: {queue:?}");
    }

    fn perform(&mut self, bits: u8, action: Action, queue: &mut Vec<Event>) {
        match action {
            Action::Log { text, .. } => assert!(text.len() <= LOG_LINE, "{} bytes of log: {text}", text.len()),
            Action::Disconnect { conn } => {
                self.conns.retain(|_, open| *open != conn);
                queue.push(Event::Closed { conn });
            }
            Action::Probe { node, .. } => {
                let seen = match bits >> 6 {
                    0 => Probed::Refused,
                    1 => Probed::Silent,
                    _ => Probed::Answered(self.identity(node)),
                };
                queue.push(Event::Probed { node, seen });
            }
            Action::Persist(_) | Action::Send { .. } => {}
        }
    }

    fn identity(&self, node: NodeId) -> Identity {
        let row = self.ecs.cluster().nodes().get(&node);
        row.map_or_else(Identity::default, |info| Identity {
            cluster: Some(ClusterId(7)),
            node,
            store: info.store,
            boot: info.boot,
        })
    }
}

pub(super) fn core_seeds() -> Vec<Vec<u8>> {
    let register = |conn: u8, node: u64, boot: u64| line(0x80 | 8 | conn, &from_server(node, boot)[0]);
    let say = |conn: u8, node: u64, at: usize| line(0x84 | conn, &from_server(node, 1)[at]);
    let accuse = line(0x44, &Question::Accuse { addr: "127.0.0.1:5001".to_owned(), why: "timeout".to_owned() });
    let join = |lines: &[Vec<u8>]| lines.join(&b'\n');
    let three = join(&[register(0, 1, 1), register(1, 2, 1), register(2, 3, 1)]);
    let beats = join(&[say(0, 1, 4), say(1, 2, 4), say(2, 3, 4)]);
    vec![
        three.clone(),
        join(&[three.clone(), beats.clone(), say(0, 1, 3), say(0, 1, 2), say(1, 2, 2)]),
        join(&[three.clone(), accuse.clone(), accuse, beats, vec![0xbc], vec![0x3d], vec![0xbe]]),
        join(&[three.clone(), register(3, 1, 2), say(0, 1, 2), say(0, 1, 5)]),
        join(&[three.clone(), say(0, 1, 6), say(1, 2, 7), say(2, 3, 8), say(2, 3, 9), beats_of(&say)]),
        join(&[three, say(0, 1, 5), vec![0xfc], vec![0x3c, b'x'], register(0, 1, 1)]),
    ]
}

fn beats_of(say: &impl Fn(u8, u64, usize) -> Vec<u8>) -> Vec<u8> {
    [say(0, 1, 4), say(1, 2, 4), say(2, 3, 4)].join(&b'\n')
}

/// Snapshots and logs: damaged ones, and whole lines that say impossible things.
pub(super) fn store(data: &[u8]) {
    let Some((mode, rest)) = choice(data) else { return };
    match mode % 4 {
        0 => drop(read_snapshot(rest).map(|(_, cluster)| assert_eq!(cluster.check(), Ok(())))),
        1 => drop(read_snapshot(&seal_lines(rest)).map(|(_, cluster)| assert_eq!(cluster.check(), Ok(())))),
        2 => {
            let mut cluster = Cluster::new(record());
            if replay(&seal_lines(rest), 0, &mut cluster).is_ok() {
                assert_eq!(cluster.check(), Ok(()));
            }
        }
        _ => damaged_log(rest),
    }
}

/// Damage never becomes another state than one that was written.
fn damaged_log(bytes: &[u8]) {
    let mut cluster = Cluster::new(record());
    let Ok((index, kept)) = replay(bytes, 0, &mut cluster) else { return };
    let mut expected = Cluster::new(record());
    commands()
        .iter()
        .take(usize::try_from(index).unwrap_or(usize::MAX))
        .for_each(|command| drop(expected.apply(command)));
    assert!(kept <= bytes.len());
    assert_eq!(cluster, expected, "a state that was never written, at command {index}");
}

/// Every line sealed with the right checksum.
fn seal_lines(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        sealed::seal(&mut out, |out| out.extend_from_slice(line));
    }
    out
}

fn commands() -> Vec<Command> {
    let node = |id: u64| Command::Node(common::NodeInfo { state: NodeState::Up, ..info(id, 1) });
    let found = Command::All(vec![node(1), Command::Found { node: NodeId(1) }]);
    let down = Command::State { node: NodeId(2), state: NodeState::Down };
    vec![found, node(2), node(3), down, Command::Remove { node: NodeId(3) }]
}

fn log_payloads() -> Vec<Vec<u8>> {
    let line = |(at, command): (usize, &Command)| {
        serde_json::to_vec(&serde_json::json!({"index": at + 1, "command": command})).expect("commands can be written")
    };
    commands().iter().enumerate().map(line).collect()
}

pub(super) fn store_seeds() -> Vec<Vec<u8>> {
    let mut cluster = Cluster::new(record());
    commands().iter().for_each(|command| drop(cluster.apply(command)));
    let snapshot =
        serde_json::to_vec(&serde_json::json!({"index": 5, "cluster": cluster})).expect("a state can be written");
    let log = log_payloads().join(&b'\n');
    vec![
        [&[0][..], &seal_lines(&snapshot)].concat(),
        [&[1][..], &snapshot].concat(),
        [&[2][..], &log].concat(),
        [&[3][..], &seal_lines(&log)].concat(),
    ]
}
