//! Servers that come, and what may happen meanwhile; restarts one after another under load.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use playground::process::until;
use serde_json::Value;

use super::arena::{HEAL, Wrap};
use super::play::{Done, Play, Stage};
use super::promises;
use super::run::{Need, Scenario};
use super::strace::{self, Fault};
use crate::real::Text;

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "one-to-five", needs: &[], run: one_to_five },
    Scenario { name: "five-to-one", needs: &[], run: five_to_one },
    Scenario { name: "rolling-restart", needs: &[], run: rolling_restart },
    Scenario { name: "two-joins", needs: &[], run: two_joins },
    Scenario { name: "join-with-failure", needs: &[], run: join_with_failure },
    Scenario { name: "joiner-dies", needs: &[Need::Strace], run: joiner_dies },
    Scenario { name: "learner-dies", needs: &[Need::Strace], run: learner_dies },
    Scenario { name: "source-dies", needs: &[Need::Strace], run: source_dies },
];

/// Lets a new server in and reads from it too.
fn join(play: &mut Play) -> anyhow::Result<usize> {
    let number = play.arena.add()?;
    let address = play.arena.address(number);
    play.load.reader(number, &address);
    Ok(number)
}

/// What servers count of slots that they handed over: how many, and for how long writes to one were refused at most.
#[derive(Clone, Copy, Debug, Default)]
struct Locks {
    slots: u64,
    longest: Duration,
}

impl Locks {
    /// As the server at the other end counts them since its start.
    fn of(text: &mut Text) -> anyhow::Result<Locks> {
        let answer = text.ask("status")?;
        let json = answer.strip_prefix("STATUS_SUCCESS ").with_context(|| answer.clone())?;
        let counted = &serde_json::from_str::<Value>(json)?["moves"]["write_lock"];
        let (slots, longest) = (counted["slots"].as_u64(), counted["max_ms"].as_f64());
        let (slots, longest) = slots.zip(longest).context("no write_lock in the status")?;
        Ok(Locks { slots, longest: Duration::from_secs_f64(longest / 1e3) })
    }

    fn add(&mut self, other: Locks) {
        (self.slots, self.longest) = (self.slots + other.slots, self.longest.max(other.longest));
    }

    /// For people, if none was too long.
    fn told(self) -> anyhow::Result<String> {
        ensure!(self.slots > 0, "nobody has counted a slot that was handed over");
        promises::kept("the longest write lock of a slot", self.longest, promises::WRITE_LOCK)?;
        Ok(format!("{} slots were locked for writes, {} ms at most", self.slots, self.longest.as_millis()))
    }
}

fn one_to_five(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 1)?;
    for live in 2..=5 {
        join(&mut play)?;
        play.arena.settled(live, HEAL)?;
        play.goes_on()?;
        ring_is_right(&play, live)?;
    }
    let mut locks = Locks::default();
    for number in 1..=5 {
        locks.add(Locks::of(&mut Text::connect(&play.arena.address(number))?)?);
    }
    let locks = locks.told()?;
    play.end(5, format!("let four servers join one, one after another; the ring was right after each; {locks}"))
}

/// Asks a server to leave, and waits until it has ended by itself, with exit code 0. What it counted goes with it, so it is
/// asked until then.
fn leave(play: &mut Play, number: usize) -> anyhow::Result<Locks> {
    let mut text = Text::connect(&play.arena.address(number))?;
    let answer = text.ask("leave")?;
    ensure!(answer.starts_with("LEAVE_SUCCESS"), "server {number} answered leave with {answer}");
    let mut locks = Locks::default();
    until(HEAL, || {
        locks = Locks::of(&mut text).unwrap_or(locks);
        play.arena.process(number).is_ok_and(|server| server.try_ended().is_ok_and(|end| end.is_some()))
    });
    let end = play.arena.ended(number, HEAL)?;
    ensure!(end.success(), "server {number} left with {end}:\n{}", play.arena.said(number)?);
    Ok(locks)
}

fn five_to_one(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 5)?;
    let mut locks = Locks::default();
    for live in (1..=4).rev() {
        locks.add(leave(&mut play, live + 1)?);
        play.arena.settled(live, HEAL)?;
        play.goes_on()?;
        ring_is_right(&play, live)?;
    }
    let locks = locks.told()?;
    play.end(1, format!("let four servers leave five, one after another; the ring was right after each; {locks}"))
}

/// The keyrange names every server, the same at each of them, and every position belongs to one.
fn ring_is_right(play: &Play, live: usize) -> anyhow::Result<()> {
    let mut rings = Vec::new();
    for number in 1..=live {
        let mut text = Text::connect(&play.arena.address(number))?;
        let same = playground::process::until(Duration::from_secs(5), || {
            text.keyrange(false).is_ok_and(|ring| rings.last().is_none_or(|last| *last == ring))
        });
        ensure!(same, "server {number} tells another ring than the others");
        rings.push(text.keyrange(false)?);
    }
    let ring = rings.pop().unwrap_or(crate::real::Keyrange(Vec::new()));
    let named: std::collections::BTreeSet<&str> = ring.0.iter().map(|arc| arc.server.as_str()).collect();
    ensure!(named.len() == live, "{} servers are named in a ring of {live}", named.len());
    let ends = ring.0.iter().zip(ring.0.iter().cycle().skip(1));
    for (arc, next) in ends {
        ensure!(arc.to.wrapping_add(1) == next.from, "the arcs {arc:?} and {next:?} do not meet");
    }
    Ok(())
}

fn rolling_restart(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 4)?;
    let rounds = stage.pick(2, 1);
    for number in (0..rounds).flat_map(|_| 1..=4) {
        play.arena.stop(number)?;
        play.arena.start(number)?;
        play.arena.settled(4, HEAL)?;
        play.goes_on()?;
    }
    ring_is_right(&play, 4)?;
    play.end(4, format!("stopped and started four servers in turn, {rounds} times, each with exit code 0"))
}

fn two_joins(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 2)?;
    for _ in 0..2 {
        let number = play.arena.seat()?;
        play.arena.spawn(number, &Wrap::default())?;
    }
    for number in 3..=4 {
        play.arena.process(number)?.listening(HEAL)?;
        let address = play.arena.address(number);
        play.load.reader(number, &address);
    }
    play.end(4, "started two new servers at once")
}

/// Enough data that a transfer is something one can be in the middle of.
fn bulky(stage: &Stage, servers: usize) -> anyhow::Result<Play> {
    let play = Play::plain(stage, servers)?;
    let pairs: Vec<(String, String)> =
        (0..stage.pick(20_000, 4_000)).map(|number| (format!("bulk{number}"), "x".repeat(400))).collect();
    let ledger = crate::real::load(&play.arena.addresses(), &pairs);
    ensure!(ledger.acked() == pairs.len(), "the bulk was not written");
    Ok(play)
}

fn joining(status: &Value) -> bool {
    !status["joining"].is_null()
}

fn join_with_failure(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = bulky(stage, 3)?;
    join(&mut play)?;
    play.arena.wait("join under way", HEAL, joining)?;
    play.arena.kill(2)?;
    play.goes_on()?;
    play.arena.start(2)?;
    play.end(4, "killed a server while another joined")
}

/// Starts `number` so that it dies before its `point`-th write to the journal; whether it did.
fn dies_at(play: &mut Play, number: usize, point: usize) -> anyhow::Result<bool> {
    let log = play.arena.folder().join(format!("strace-{number}-{point}"));
    play.arena.spawn(number, &strace::at(&log, "fdatasync", &Fault::Kill, &point.to_string()))?;
    let died = play.arena.ended(number, Duration::from_secs(12)).is_ok();
    if !died {
        play.arena.kill(number)?;
    }
    Ok(died)
}

fn joiner_dies(stage: &Stage) -> anyhow::Result<Done> {
    let points: &[usize] = stage.pick(&[2, 4, 6, 8, 10, 14, 20, 30], &[4, 8]);
    let mut play = bulky(stage, 3)?;
    let number = play.arena.seat()?;
    let mut hit = Vec::new();
    for point in points {
        if dies_at(&mut play, number, *point)? {
            hit.push(point);
        }
        play.goes_on()?;
    }
    ensure!(!hit.is_empty(), "the newcomer never reached any of the syncs {points:?}");
    play.arena.start(number)?;
    play.end(4, format!("killed a newcomer before its sync number {hit:?} and started it again each time"))
}

fn learner_dies(stage: &Stage) -> anyhow::Result<Done> {
    let points: &[usize] = stage.pick(&[2, 4, 6, 8, 10, 14, 20, 30], &[4, 8]);
    let mut play = bulky(stage, 3)?;
    let mut hit = Vec::new();
    play.arena.kill(2)?;
    for point in points {
        play.goes_on()?;
        if dies_at(&mut play, 2, *point)? {
            hit.push(point);
        }
    }
    ensure!(!hit.is_empty(), "the learner never reached any of the syncs {points:?}");
    play.arena.start(2)?;
    play.end(3, format!("killed a server that was catching up before its sync number {hit:?}"))
}

fn source_dies(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = bulky(stage, 3)?;
    let rounds = stage.pick(3, 1);
    for round in 0..rounds {
        let learner = round % 3 + 1;
        play.arena.kill(learner)?;
        play.goes_on()?;
        // An empty directory: everything has to be copied.
        std::fs::remove_dir_all(play.arena.dir(learner))?;
        play.arena.start(learner)?;
        let source = learner % 3 + 1;
        play.arena.wait("learner under way", HEAL, |status| {
            let servers = status["servers"].as_array().into_iter().flatten();
            servers.into_iter().any(|server| server["learns"].as_u64().is_some_and(|slots| slots > 0))
        })?;
        play.arena.kill(source)?;
        play.goes_on()?;
        play.arena.start(source)?;
        play.arena.settled(3, HEAL)?;
    }
    play.end(3, format!("killed {rounds} coordinators while another server copied everything from them"))
}
