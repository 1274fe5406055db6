//! One scenario's stage: a cluster with recording clients, and the judgement at the end.
//!
//! The judgement is the same for all: every slot whole again, every key read from every copy that may answer, nothing in
//! the logs that a healthy server never says, and the whole history, those last reads included, linearizable.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::arena::{Arena, HEAL, Net};
use super::load::{KEYS, Load, Recorded, name};
use super::promises;
use super::spaces::Spaces;
use super::wires::Wires;
use crate::history;
use crate::real::Text;

/// Fewer answered operations than this prove nothing.
const FEWEST: u64 = 300;

/// What scenarios are told.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The binary whose hidden sub-commands are the roles.
    pub program: PathBuf,
    /// Pauses and sweeps as long as the table says, or short ones.
    pub long: bool,
}

impl Stage {
    /// One of two, by the length of the run.
    #[must_use]
    pub fn pick<T>(&self, long: T, short: T) -> T {
        if self.long { long } else { short }
    }
}

/// What a scenario that passed did.
#[derive(Clone, Debug)]
pub struct Done {
    /// For people.
    pub did: String,
    /// Answered operations.
    pub operations: u64,
    /// The longest pause of one client's writes.
    pub gap: Duration,
}

/// A cluster with clients.
#[derive(Debug)]
pub struct Play {
    /// Its processes.
    pub arena: Arena,
    /// Its clients.
    pub load: Load,
}

impl Play {
    /// An ecs and so many servers that reach each other directly.
    ///
    /// # Errors
    /// They do not come up.
    pub fn plain(stage: &Stage, servers: usize) -> anyhow::Result<Play> {
        Play::on(Arena::new(&stage.program, |_| Ok(Net::Plain))?, servers)
    }

    /// The same with proxies between them.
    ///
    /// # Errors
    /// They do not come up.
    pub fn wired(stage: &Stage, servers: usize) -> anyhow::Result<Play> {
        Play::on(Arena::new(&stage.program, |_| Ok(Net::Wired(Wires::new()?)))?, servers)
    }

    /// The same with a network namespace each.
    ///
    /// # Errors
    /// They do not come up.
    pub fn spaced(stage: &Stage, servers: usize) -> anyhow::Result<Play> {
        Play::on(Arena::new(&stage.program, |network| Ok(Net::Spaced(Spaces::new(network)?)))?, servers)
    }

    /// Starts everything in an arena, as far as it is not running, and the clients.
    ///
    /// # Errors
    /// It does not come up.
    pub fn on(mut arena: Arena, servers: usize) -> anyhow::Result<Play> {
        let started = (|| {
            arena.start(0)?;
            for _ in 0..servers {
                arena.add()?;
            }
            arena.settled(servers, HEAL)
        })();
        if let Err(error) = started {
            return Err(error.context(format!("no cluster to begin with; logs:\n{}", arena.logs(20))));
        }
        Play::load(arena, 0)
    }

    /// Clients for a settled arena; their values get this many bytes more.
    ///
    /// # Errors
    /// Nothing goes through.
    pub fn load(arena: Arena, padding: usize) -> anyhow::Result<Play> {
        let load = Load::start(&arena.addresses(), padding);
        let play = Play { arena, load };
        play.load.more(50, HEAL).context("before anything was done to the cluster")?;
        Ok(play)
    }

    /// Who coordinates and who copies the slot of key number `key`: the servers' numbers, the coordinator first.
    ///
    /// # Errors
    /// The ecs does not say.
    pub fn members(&self, key: u32) -> anyhow::Result<Vec<usize>> {
        let status = self.arena.status()?;
        let views = status["views"].as_array().context("no views")?;
        let position = crate::real::position(&name(key));
        let slot = usize::try_from(position >> (128 - views.len().ilog2()))?;
        let numbers = self.numbers(&status);
        let number = |node: &Value| numbers.get(&node.to_string()).copied();
        let coordinator = number(&views[slot]["coordinator"]).context("an unknown coordinator")?;
        let isr = views[slot]["isr"].as_array().into_iter().flatten().filter_map(number);
        Ok(std::iter::once(coordinator).chain(isr.filter(|other| *other != coordinator)).collect())
    }

    fn numbers(&self, status: &Value) -> BTreeMap<String, usize> {
        let servers = status["servers"].as_array().into_iter().flatten();
        let pair = |server: &Value| Some((server["node"].to_string(), self.arena.number(server["address"].as_str()?)?));
        servers.filter_map(pair).collect()
    }

    /// Waits until every key is written, and more is read, by requests that are sent from now on.
    ///
    /// # Errors
    /// Some slot is not served.
    pub fn goes_on(&self) -> anyhow::Result<()> {
        let going = self.load.every_key(HEAL).and_then(|()| self.load.more(20, HEAL));
        going.map_err(|error| error.context(format!("logs:\n{}", self.arena.logs(15))))
    }

    /// Heals, judges, and tells. `live` servers must be up.
    ///
    /// # Errors
    /// The promise is broken: how, and the logs.
    pub fn end(self, live: usize, did: impl Into<String>) -> anyhow::Result<Done> {
        self.finish(live, did.into(), true, None)
    }

    /// The same where alarms are in order: a directory was damaged on purpose.
    ///
    /// # Errors
    /// As [`Play::end`].
    pub fn end_damaged(self, live: usize, did: impl Into<String>) -> anyhow::Result<Done> {
        self.finish(live, did.into(), false, None)
    }

    /// The same where the longest pause of one client's writes is promised, too.
    ///
    /// # Errors
    /// As [`Play::end`].
    pub fn end_within(self, live: usize, promised: Duration, did: impl Into<String>) -> anyhow::Result<Done> {
        self.finish(live, did.into(), true, Some(promised))
    }

    fn finish(self, live: usize, did: String, quiet: bool, promised: Option<Duration>) -> anyhow::Result<Done> {
        let Play { mut arena, load } = self;
        let settled = arena.settled(live, HEAL).and_then(|()| arena.copied(live, HEAL));
        let whole = settled
            .and_then(|()| arena.settled(live, HEAL))
            .and_then(|()| load.every_key(HEAL).context("after everything was whole"));
        let recorded = load.stop();
        let judged = whole.and_then(|()| judge(&arena, &recorded, live, quiet)).and_then(|()| {
            promised
                .map_or(Ok(()), |promised| promises::kept("a pause of one client's writes", recorded.gap(), promised))
        });
        judged.map_err(|error| {
            error.context(format!("{did}; left in {}; logs:\n{}", arena.folder().display(), arena.logs(25)))
        })?;
        arena.discard();
        let (acks, reads) = recorded.counts();
        Ok(Done { did, operations: acks + reads, gap: recorded.gap() })
    }
}

/// The judgement of a whole cluster.
fn judge(arena: &Arena, recorded: &Recorded, live: usize, quiet: bool) -> anyhow::Result<()> {
    // With fewer than three servers only coordinators are named as readers.
    let wanted = KEYS as usize * if live < 3 { 1 } else { 3 };
    let deadline = Instant::now() + HEAL;
    loop {
        let copies = read_back(arena, recorded)?;
        if copies >= wanted {
            break;
        }
        // A real disk that stalls for two seconds at this moment costs its server's copies for as long, as it should.
        ensure!(Instant::now() < deadline, "only {copies} copies of {KEYS} keys could be read");
        std::thread::sleep(Duration::from_millis(200));
    }
    let odd = recorded.odd();
    ensure!(odd.is_empty(), "odd answers: {odd:#?}");
    let (acks, reads) = recorded.counts();
    ensure!(acks + reads >= FEWEST, "only {acks} writes and {reads} reads: that proves nothing");
    let findings = history::check(&recorded.history());
    if let Some(first) = findings.violations.first() {
        let all: String = recorded.history().ops().iter().map(|op| format!("{op:?}\n")).collect();
        std::fs::write(arena.folder().join("history"), all)?;
        bail!("{} keys are not linearizable; the first:\n{first}", findings.violations.len());
    }
    ensure!(findings.undecided.is_empty(), "keys {:?} are too entangled to decide", findings.undecided);
    let alarms = arena.alarms();
    ensure!(!quiet || alarms.is_empty(), "alarms: {alarms:#?}");
    Ok(())
}

/// Reads every key from every server that may answer it, into the history; how many reads that were.
fn read_back(arena: &Arena, recorded: &Recorded) -> anyhow::Result<usize> {
    let mut reads = 0;
    for (index, address) in arena.addresses().iter().enumerate() {
        // Who has been taken out of the cluster does not answer.
        let Ok(mut text) = Text::connect(address) else { continue };
        let number = u32::try_from(index + 1)?;
        let mut open: Vec<u32> = (0..KEYS).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !open.is_empty() {
            let keyrange = text.keyrange(true).with_context(|| format!("keyrange_read at {address}"))?;
            let mut refused = Vec::new();
            for key in open.drain(..).filter(|key| keyrange.servers(&name(*key)).contains(&&**address)) {
                match recorded.0.text_get(&mut text, 300 + number, number, key)? {
                    None => reads += 1,
                    Some(reply) => refused.push((key, reply)),
                }
            }
            if let Some((key, reply)) = refused.first() {
                ensure!(Instant::now() < deadline, "{address} is named for {} and says {reply}", name(*key));
                std::thread::sleep(Duration::from_millis(20));
            }
            open = refused.into_iter().map(|(key, _)| key).collect();
        }
    }
    Ok(reads)
}
