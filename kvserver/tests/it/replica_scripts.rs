//! Scripted scenarios of the replica core: one scenario a file in `tests/replica_scripts/`, named by the scenario.
//!
//! A tiny world around replicas of one slot: messages wait until a script delivers or drops them, disks sync at once
//! unless a script holds them, time moves only when a script says so. Regenerate with `UPDATE_GOLDENFILES=1`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use common::peer::{Beacon, BeaconAck, Identity, PeerMsg};
use common::position::Position;
use common::text::decode_page;
use common::update::{ExpireOnly, Expiry, Only, Update};
use common::{BootId, ClientId, Epoch, NodeId, RequestId, Slot, StoreUuid, Switches, Time, Timing, View, Wall};
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use kvserver::replica::{Action, Event, Read, Replica, Reply, Scan, Setup, Token, Traffic, Write, WriteOp};
use kvserver::storage::map::Held;
use kvserver::storage::{Record, SlotImage};

struct Node {
    replica: Replica,
    boot: u64,
    disk: SlotImage,
    unsynced: Vec<Record>,
    held: bool,
}

#[derive(Default)]
struct World {
    nodes: BTreeMap<NodeId, Node>,
    now: u64,
    flight: VecDeque<(NodeId, NodeId, PeerMsg)>,
    /// Messages that a script brings in late.
    delayed: Vec<(NodeId, NodeId, PeerMsg)>,
    cut: BTreeSet<NodeId>,
    tokens: u64,
    /// How far a node's clock is ahead, in microseconds: it may jump when its machine restarts.
    ahead: BTreeMap<NodeId, u64>,
    /// How far the wall clocks are ahead of those, in microseconds, once a script has said so; and of single nodes.
    wall: Option<i64>,
    walls: BTreeMap<NodeId, i64>,
}

impl World {
    fn clock(&self, id: NodeId) -> Time {
        Time(self.now + self.ahead.get(&id).copied().unwrap_or(0))
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        let now = self.clock(id);
        let ahead = self.walls.get(&id).copied().or(self.wall);
        let node = self.nodes.entry(id).or_insert_with(|| {
            let disk = SlotImage::empty();
            let replica = Replica::new(Slot(0), setup(id, 1, now), disk.clone());
            Node { replica, boot: 1, disk, unsynced: Vec::new(), held: false }
        });
        node.replica.set_wall(Wall { ahead });
        node
    }

    fn handle(&mut self, id: NodeId, event: Event, log: &mut String) {
        let (now, mut out) = (self.clock(id), Vec::new());
        self.node(id).replica.handle(now, event, &mut out);
        self.perform(id, out, log);
    }

    fn perform(&mut self, id: NodeId, actions: Vec<Action>, log: &mut String) {
        for action in actions {
            match action {
                Action::Journal(record) => {
                    let _ = writeln!(log, "n{} journal {}", id.0, describe_change(&record));
                    self.node(id).unsynced.push(record);
                }
                Action::Send { to, msg } => self.flight.push_back((id, to, msg)),
                Action::Reply { token, reply: Reply::Page(page) } => {
                    let _ = writeln!(log, "n{} reply #{} {}", id.0, token.index, describe_page(&page));
                }
                Action::Reply { token, reply } => {
                    let _ = writeln!(log, "n{} reply #{} {reply:?}", id.0, token.index);
                }
                Action::Ask(ask) => {
                    let _ = writeln!(log, "n{} asks e{} {:?}", id.0, ask.epoch, ask.change);
                }
                Action::Audited(what) => {
                    let _ = writeln!(log, "n{} audited: {what:?}", id.0);
                }
                // Counted for people; what is counted shows in everything else.
                Action::Moved(_) => {}
                Action::Alarm(why) => {
                    let _ = writeln!(log, "n{} ALARM {why}", id.0);
                }
            }
        }
        if !self.node(id).held {
            self.fsync(id, log);
        }
    }

    fn fsync(&mut self, id: NodeId, log: &mut String) {
        let node = self.node(id);
        let records = std::mem::take(&mut node.unsynced);
        let Some(mark) = records.last().map(|record| record.mark) else { return };
        for record in records {
            node.disk.replay(record.mark, record.change).expect("a journal without gaps");
        }
        node.disk.check();
        self.handle(id, Event::Durable { mark }, log);
    }

    /// Writes many records of one size.
    fn bulk(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = NodeId(args.next_pos().ok_or("node")?.parse()?);
        let (count, size) = (named(&mut args, "count")?.unwrap_or(0u32), named(&mut args, "size")?.unwrap_or(0));
        let at = named(&mut args, "at")?;
        args.reject_next()?;
        for i in 0..count {
            let (key, value) = (Bytes::from(format!("bulk{i}")), Bytes::from(vec![b'v'; size]));
            let op = match at {
                None => WriteOp::Put(value),
                Some(at) => WriteOp::Update(Update::Set { value, only: Only::Always, expiry: Expiry::At(at) }),
            };
            let write = Write { key, op, request: None, retry: false };
            self.handle(id, Event::Write { write, token: Token::default() }, &mut String::new());
        }
        Ok(())
    }

    /// Changes a record behind the protocol's back: one bit of it (which its checksum tells), all of it, or it is gone.
    fn damage(&mut self, id: NodeId, flip: bool, key: &str, value: Option<&str>) {
        self.node(id).replica.damage(|map| match value {
            _ if flip => assert!(map.flip(key.as_bytes()), "no {key}"),
            Some(value) => map.put(key.as_bytes(), value.as_bytes()),
            None => map.delete(key.as_bytes()),
        });
    }

    fn deliver(&mut self, log: &mut String, wanted: impl Fn(NodeId, NodeId) -> bool) {
        let mut kept = VecDeque::new();
        for _ in 0..1000 {
            let Some((from, to, msg)) = self.flight.pop_front() else { break };
            if self.cut.contains(&from) || self.cut.contains(&to) {
                let _ = writeln!(log, "n{} -> n{} {} LOST", from.0, to.0, describe(&msg));
            } else if wanted(from, to) {
                let _ = writeln!(log, "n{} -> n{} {}", from.0, to.0, describe(&msg));
                self.handle(to, Event::Peer { from, msg }, log);
            } else {
                kept.push_back((from, to, msg));
            }
        }
        self.flight.extend(kept);
    }

    /// One round of beacons from every coordinator, answered at once by everyone who is not cut off.
    fn beacons(&mut self, log: &mut String) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let now = self.clock(id);
            let mut beacons: Vec<(NodeId, Beacon)> = Vec::new();
            self.node(id).replica.beacons(now, &mut beacons);
            for (to, beacon) in beacons {
                if self.cut.contains(&id) || self.cut.contains(&to) {
                    continue;
                }
                let (answered, mut out) = (self.clock(to), Vec::new());
                let ack: Option<BeaconAck> = self.node(to).replica.beacon(answered, id, &beacon, &mut out);
                self.perform(to, out, log);
                let Some(ack) = ack else { continue };
                let grant = beacon.grant.map_or(String::new(), |g| format!(" grants {} ms", g.micros / 1000));
                let _ = writeln!(log, "n{} ~> n{} beacon e{}{grant}", id.0, to.0, beacon.epoch);
                let mut out = Vec::new();
                self.node(id).replica.beacon_ack(now, to, now, answered, &ack, &mut out);
                self.perform(id, out, log);
            }
        }
    }

    fn advance(&mut self, by: Duration, log: &mut String) {
        self.now += u64::try_from(by.as_micros()).expect("short");
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let now = self.clock(id);
            if self.node(id).replica.deadline().is_some_and(|at| at <= now) {
                self.handle(id, Event::Tick, log);
            }
        }
    }

    /// Lets everybody work for a while, beacon by beacon, and says only what was asked, answered and alarmed.
    fn run_for(&mut self, millis: u64, log: &mut String) {
        let mut everything = String::new();
        for _ in 0..millis / 50 {
            self.advance(Duration::from_millis(50), &mut everything);
            self.beacons(&mut everything);
            self.deliver(&mut everything, |_, _| true);
        }
        let told = |line: &&str| [" asks ", " reply ", " ALARM "].iter().any(|word| line.contains(word));
        everything.lines().filter(told).for_each(|line| writeln!(log, "{line}").expect("a string"));
    }

    fn state(&mut self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            let now = self.clock(*id);
            let replica = &node.replica;
            let epoch = replica.view().map_or(0, |v| v.epoch.0);
            let reads = if replica.may_read(now) { "reads" } else { "no reads" };
            let map = &replica.image().map;
            let until = |until: Option<u64>| until.map_or(String::new(), |until| format!("@{until}"));
            let record =
                |(k, held): (&[u8], Held<'_>)| format!("{}={}{}", text_of(k), text_of(held.value), until(held.until));
            let mut records: Vec<String> = map.all().map(record).collect();
            records.sort();
            if records.len() > 10 {
                records = vec![format!("{} records", map.len())];
            }
            let (role, commit, end) = (replica.role_name(), replica.commit(), replica.end());
            let _ =
                writeln!(text, "n{} {role} e{epoch} commit {commit} end {end} {reads} {{{}}}", id.0, records.join(" "));
            for (follower, standing, matched) in replica.followers() {
                let _ = writeln!(text, "   n{} {standing} has {matched}", follower.0);
            }
        }
        text
    }

    fn view(&mut self, command: &Command, log: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let epoch = Epoch(named(&mut args, "epoch")?.ok_or("epoch=")?);
        let previous = Epoch(named(&mut args, "previous")?.unwrap_or(epoch.0 - 1));
        let coordinator = NodeId(named(&mut args, "coordinator")?.ok_or("coordinator=")?);
        let released = named(&mut args, "released")?.map(Epoch);
        let isr = ids(&named::<String>(&mut args, "isr")?.ok_or("isr=")?)?;
        let targets = named::<String>(&mut args, "targets")?.map_or(Ok(isr.clone()), |text: String| ids(&text))?;
        let to = named::<String>(&mut args, "to")?.map_or(Ok(targets.clone()), |text: String| ids(&text))?;
        args.reject_next()?;
        let coordinator_boot = BootId(self.node(coordinator).boot);
        let isr = isr.into_iter().map(|id| (id, StoreUuid(u128::from(id.0)))).collect();
        let (slot, home) = (Slot(0), coordinator);
        let view = View { slot, epoch, previous, coordinator, coordinator_boot, isr, targets, home, released };
        for id in to {
            self.handle(id, Event::View(view.clone()), log);
        }
        Ok(())
    }

    fn write(
        &mut self,
        command: &Command,
        op: impl Fn(Bytes) -> WriteOp,
        log: &mut String,
    ) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = NodeId(args.next_pos().ok_or("node")?.parse()?);
        let key = Bytes::from(args.next_pos().map_or(String::new(), ToString::to_string));
        let mut op = op(Bytes::new());
        if let WriteOp::Put(value) | WriteOp::Swap(value) = &mut op {
            *value = args.next_pos().ok_or("value")?.to_string().into();
        }
        let (request, retry) = request_of(&mut args)?;
        args.reject_next()?;
        self.start(id, Write { key, op, request, retry }, log);
        Ok(())
    }

    fn start(&mut self, id: NodeId, write: Write, log: &mut String) {
        self.tokens += 1;
        let token = Token { conn: 0, index: self.tokens };
        self.handle(id, Event::Write { write, token }, log);
    }

    /// `update NODE KEY WHAT [ARGUMENT] [at=MS] [only=CONDITION]`, and the request id as for other writes.
    fn update(&mut self, command: &Command, log: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let node = args.next_pos().ok_or("node")?.to_string();
        let key = args.next_pos().ok_or("key")?.to_string();
        let what = args.next_pos().ok_or("what")?.to_string();
        let text = args.next_pos().map_or(String::new(), ToString::to_string);
        let (at, only) = (named(&mut args, "at")?, named::<String>(&mut args, "only")?.unwrap_or_default());
        let update = match what.as_str() {
            "set" => {
                let only = match only.as_str() {
                    "missing" => Only::Missing,
                    "present" => Only::Present,
                    _ => Only::Always,
                };
                let keep = named(&mut args, "keep")?.unwrap_or(false);
                let expiry = at.map_or(if keep { Expiry::Keep } else { Expiry::Never }, Expiry::At);
                Update::Set { value: text.into(), only, expiry }
            }
            "take" => Update::Take,
            "add" => Update::Add(text.parse()?),
            "add-float" => Update::AddFloat(text.into()),
            "append" => Update::Append(text.into()),
            "expire" => {
                let only = match only.as_str() {
                    "later" => ExpireOnly::Later,
                    "no-expiry" => ExpireOnly::NoExpiry,
                    _ => ExpireOnly::Always,
                };
                Update::Expire { at: at.ok_or("at=")?, only }
            }
            "persist" => Update::Persist,
            other => return Err(format!("no update {other}").into()),
        };
        let (request, retry) = request_of(&mut args)?;
        args.reject_next()?;
        let write = Write { key: key.into(), op: WriteOp::Update(update), request, retry };
        self.start(NodeId(node.parse()?), write, log);
        Ok(())
    }

    fn lasting(&mut self, command: &Command, log: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = NodeId(args.next_pos().ok_or("node")?.parse()?);
        let key = args.next_pos().ok_or("key")?.to_string();
        args.reject_next()?;
        self.tokens += 1;
        let (token, now, mut out) = (Token { conn: 0, index: self.tokens }, self.clock(id), Vec::new());
        let read = match self.node(id).replica.lasting(now, key.as_bytes(), token, &mut out) {
            Read::Later => format!("later (#{})", token.index),
            Read::Lasts(lasting) => format!("{lasting:?}"),
            other => format!("{other:?}"),
        };
        let _ = writeln!(log, "n{} {read}", id.0);
        self.perform(id, out, log);
        Ok(())
    }

    /// `wall MS [NODE]`: what the wall clocks show now, or one of them.
    fn set_wall(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let shown = args.next_pos().ok_or("ms")?.parse::<i64>()? * 1000;
        let node = args.next_pos().map(|node| node.parse()).transpose()?.map(NodeId);
        args.reject_next()?;
        let now = i64::try_from(node.map_or(self.now, |node| self.clock(node).0))?;
        match node {
            Some(node) => drop(self.walls.insert(node, shown - now)),
            None => self.wall = Some(shown - now),
        }
        Ok(())
    }

    fn extent(&mut self, command: &Command, log: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = NodeId(args.next_pos().ok_or("node")?.parse()?);
        args.reject_next()?;
        self.tokens += 1;
        let (token, now, mut out) = (Token { conn: 0, index: self.tokens }, self.clock(id), Vec::new());
        let extent = match self.node(id).replica.extent(now, token, &mut out) {
            Some(Ok(extent)) => format!("{extent:?}"),
            Some(Err(refusal)) => format!("{refusal:?}"),
            None => format!("later (#{})", token.index),
        };
        let _ = writeln!(log, "n{} {extent}", id.0);
        self.perform(id, out, log);
        Ok(())
    }

    fn scan(&mut self, command: &Command, log: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = NodeId(args.next_pos().ok_or("node")?.parse()?);
        let after = args.next_pos().map(str::to_owned);
        args.reject_next()?;
        self.tokens += 1;
        let (token, now, mut out) = (Token { conn: 0, index: self.tokens }, self.clock(id), Vec::new());
        let after = after.as_deref().map(str::as_bytes);
        let scan = match self.node(id).replica.scan(now, Position(u128::MAX), after, token, &mut out) {
            Scan::Page(page) => describe_page(&page),
            Scan::Later => format!("later (#{})", token.index),
            Scan::Refused(refusal) => format!("{refusal:?}"),
        };
        let _ = writeln!(log, "n{} {scan}", id.0);
        self.perform(id, out, log);
        Ok(())
    }

    fn get(&mut self, command: &Command, log: &mut String) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let id = NodeId(args.next_pos().ok_or("node")?.parse()?);
        let key = args.next_pos().ok_or("key")?.to_string();
        args.reject_next()?;
        self.tokens += 1;
        let (token, now, mut out) = (Token { conn: 0, index: self.tokens }, self.clock(id), Vec::new());
        let read = self.node(id).replica.read(now, key.as_bytes(), token, &mut out, |read| match read {
            Read::Value(value) => format!("value {}", text_of(value)),
            Read::Later => format!("later (#{})", token.index),
            other => format!("{other:?}"),
        });
        let _ = writeln!(log, "n{} {read}", id.0);
        self.perform(id, out, log);
        Ok(())
    }

    fn restart(&mut self, id: NodeId) {
        let now = self.clock(id);
        let node = self.node(id);
        node.boot += 1;
        node.unsynced.clear();
        node.held = false;
        node.replica = Replica::new(Slot(0), setup(id, node.boot, now), node.disk.clone());
        self.flight.retain(|(from, to, _)| *from != id && *to != id);
    }
}

fn setup(id: NodeId, boot: u64, started: Time) -> Setup {
    let me = Identity { cluster: None, node: id, store: StoreUuid(u128::from(id.0)), boot: BootId(boot) };
    let (standalone, confirm_reads) = (false, false);
    let (longest_value, switches) = (20, Switches::default());
    Setup {
        me,
        timing: Timing::default(),
        started,
        standalone,
        confirm_reads,
        longest_value,
        traffic: Traffic::new(0),
        switches,
    }
}

/// A write's request id, and whether it is a retry.
fn request_of(args: &mut ArgumentConsumer<'_>) -> Result<(Option<RequestId>, bool), Box<dyn Error>> {
    let (client, seq) = (named(args, "client")?, named(args, "seq")?.unwrap_or(1));
    let retry = named(args, "retry")?.unwrap_or(false);
    let lowest_unacked = named(args, "lowest")?.unwrap_or(1);
    Ok((client.map(|c: u128| RequestId { client: ClientId(c), seq, lowest_unacked }), retry))
}

/// A named argument, parsed.
fn named<T: std::str::FromStr>(args: &mut ArgumentConsumer<'_>, name: &str) -> Result<Option<T>, Box<dyn Error>> {
    let Some(text) = args.take_key(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("{name}={text} cannot be read").into())
}

fn ids(text: &str) -> Result<Vec<NodeId>, Box<dyn Error>> {
    text.split('/').map(|id| Ok(NodeId(id.parse()?))).collect()
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn describe_page(page: &[u8]) -> String {
    let page = decode_page(page).expect("a page");
    let records: Vec<String> =
        page.records.iter().map(|(key, value)| format!("{}={}", text_of(key), text_of(value))).collect();
    format!("page [{}]{}", records.join(" "), if page.more { " and more" } else { "" })
}

fn describe_change(record: &Record) -> String {
    let text = serde_json::to_value(record).expect("records are JSON");
    let name = text.as_object().and_then(|map| map.keys().find(|key| *key != "slot" && *key != "mark").cloned());
    let detail = match &record.change {
        kvserver::storage::record::Change::Append(entry) => format!(" {}", entry_name(&entry.id)),
        kvserver::storage::record::Change::View(view) => format!(" e{}", view.epoch),
        kvserver::storage::record::Change::Truncate { after } => format!(" after {after}"),
        _ => String::new(),
    };
    name.unwrap_or_default() + &detail
}

fn entry_name(id: &common::LogId) -> String {
    format!("e{}.{}", id.epoch, id.seq)
}

fn describe(msg: &PeerMsg) -> String {
    use PeerMsg as M;
    let epoch = msg.epoch();
    match msg {
        M::Sync { end, commit, .. } => format!("SYNC e{epoch} end {end} commit {commit}"),
        M::SyncAck { at, commit, further, .. } => {
            format!("SYNC_ACK e{epoch} at {at:?} commit {commit}{}", if *further { ", and goes further" } else { "" })
        }
        M::PutFromCoordinator { rank, prev, entries, commit, .. } => {
            let entries: Vec<String> = entries.iter().map(|e| entry_name(&e.id)).collect();
            let (prev, entries) = (entry_name(prev), entries.join(" "));
            format!("PUT_FROM_COORDINATOR_{rank} e{epoch} after {prev}: {entries} commit {commit}")
        }
        M::PutAck { end, .. } => format!("PUT_ACK e{epoch} end {end}"),
        M::PutGap { have, .. } => format!("PUT_GAP e{epoch} have {have}"),
        M::ReadIndex { read, .. } => format!("READ_INDEX e{epoch} #{read}"),
        M::ReadIndexAck { read, commit, .. } => format!("READ_INDEX_ACK e{epoch} #{read} commit {commit}"),
        M::WalkDigests { digests, .. } => format!("WALK_DIGESTS e{epoch} of {} leaves", digests.len()),
        M::WalkFill { frame, leaves, .. } => format!("WALK_FILL e{epoch} frame {frame} with {} leaves", leaves.len()),
        M::WalkEnd { entries, at, .. } => format!("WALK_END e{epoch} {} entries, at {}", entries.len(), entry_name(at)),
        M::Audit { at, what, .. } => {
            let what = format!("{what:?}");
            format!("AUDIT e{epoch} at {at} of {}", what.split(['(', '[']).next().unwrap_or_default())
        }
        M::AuditAck { found, .. } => {
            let found = format!("{found:?}");
            format!("AUDIT_ACK e{epoch} {}", found.split(['(', '[']).next().unwrap_or_default())
        }
        other => {
            let text = format!("{other:?}");
            format!("{} e{epoch}", text.split([' ', '{']).next().unwrap_or_default())
        }
    }
}

impl Runner for World {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut log = String::new();
        match command.name.as_str() {
            "view" => self.view(command, &mut log)?,
            "put" => self.write(command, WriteOp::Put, &mut log)?,
            "getset" => self.write(command, WriteOp::Swap, &mut log)?,
            "update" => self.update(command, &mut log)?,
            "lasting" => self.lasting(command, &mut log)?,
            "wall" => self.set_wall(command)?,
            "extent" => self.extent(command, &mut log)?,
            "delete" => self.write(command, |_| WriteOp::Delete, &mut log)?,
            "probe" => self.write(command, |_| WriteOp::Probe, &mut log)?,
            "get" => self.get(command, &mut log)?,
            "scan" => self.scan(command, &mut log)?,
            "bulk" => self.bulk(command)?,
            "root" => {
                for (id, node) in &self.nodes {
                    let map = &node.replica.image().map;
                    let _ = writeln!(log, "n{} {} records, root {:016x}", id.0, map.len(), map.root());
                }
            }
            "state" => log = self.state(),
            "beacons" => self.beacons(&mut log),
            name => {
                let mut args = command.consume_args();
                let first = args.next_pos().map(|arg| arg.to_string());
                let node = || -> Result<NodeId, Box<dyn Error>> { Ok(NodeId(first.as_ref().ok_or("node")?.parse()?)) };
                match name {
                    "deliver" => {
                        let only = first.as_ref().map(|_| node()).transpose()?;
                        self.deliver(&mut log, |_, to| only.is_none_or(|only| only == to));
                    }
                    "lose" => {
                        let only = first.as_ref().map(|_| node()).transpose()?;
                        self.flight.retain(|(_, to, _)| only.is_some_and(|only| only != *to));
                    }
                    "delay" => {
                        let id = node()?;
                        let (late, kept): (Vec<_>, Vec<_>) = self.flight.drain(..).partition(|(_, to, _)| *to == id);
                        self.delayed.extend(late);
                        self.flight = VecDeque::from(kept);
                    }
                    "late" => self.flight.extend(self.delayed.drain(..)),
                    "clock" => {
                        let ahead = args.next_pos().ok_or("ms")?.parse::<u64>()? * 1000;
                        let id = node()?;
                        self.ahead.insert(id, ahead);
                    }
                    "cut" => drop(self.cut.insert(node()?)),
                    "mend" => self.cut.clear(),
                    "audit" => self.handle(node()?, Event::Audit, &mut log),
                    "flip" | "forge" => {
                        let (id, key) = (node()?, args.next_pos().ok_or("key")?.to_string());
                        let value = args.next_pos().map(ToString::to_string);
                        self.damage(id, name == "flip", &key, value.as_deref());
                    }
                    "hold" => {
                        let id = node()?;
                        self.node(id).held = true;
                    }
                    "fsync" => {
                        let id = node()?;
                        self.node(id).held = false;
                        self.fsync(id, &mut log);
                    }
                    "restart" => self.restart(node()?),
                    "run" => self.run_for(first.ok_or("ms")?.parse()?, &mut log),
                    "wait" => self.advance(Duration::from_millis(first.ok_or("ms")?.parse()?), &mut log),
                    "handover" => {
                        let to = NodeId(args.next_pos().ok_or("to")?.parse()?);
                        let id = node()?;
                        let epoch = self.node(id).replica.view().map(|v| v.epoch).unwrap_or_default();
                        self.handle(id, Event::HandOver { epoch, to }, &mut log);
                    }
                    "drop-copy" => {
                        let id = node()?;
                        let epoch = self.node(id).replica.view().map(|v| v.epoch).unwrap_or_default();
                        self.handle(id, Event::Drop { epoch }, &mut log);
                    }
                    "disk" => {
                        let writable = args.next_pos().ok_or("full or ok")? == "ok";
                        self.handle(node()?, Event::Disk { writable }, &mut log);
                    }
                    other => return Err(format!("no command {other}").into()),
                }
                args.reject_next()?;
            }
        }
        Ok(log)
    }
}

#[test]
fn scripts() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replica_scripts");
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 10, "the scenarios are there");
    for path in names {
        println!("scenario {}", path.display());
        goldenscript::run(&mut World::default(), &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Whatever happens to a coordinator makes it look at its clock anew. If that put its next tick off, one with enough to do
/// would never send again, judge anybody or hand over.
#[test]
fn steady_events_do_not_put_off_the_ticks() {
    let mut script = "view epoch=1 coordinator=1 isr=1/2/3\ndeliver\nbeacons\ndeliver\ncut 3\n".to_owned();
    script.push_str(&"put 1 a x\nwait 5\ndeliver\n".repeat(200));
    script.push_str("---\n");
    let said = goldenscript::generate(&mut World::default(), &script).expect("the script runs");
    assert!(said.contains("asks e1 Shrink"), "a silent member is reported under steady writes");
}
