//! `kill -9` before one system call after another: every sync and every send that a server makes, while clients write,
//! while it catches up after its start, and while it stops in order.
//!
//! Renames are in `damage` (they are the checkpoint's), the ecs's syncs during a join in `ecs`.

use std::time::Duration;

use anyhow::ensure;

use super::arena::HEAL;
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};
use super::strace::{self, Fault};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "killed-at-sync", needs: &[Need::Strace], run: killed_at_sync },
    Scenario { name: "killed-at-send", needs: &[Need::Strace], run: killed_at_send },
    Scenario { name: "killed-at-journal-write", needs: &[Need::Strace], run: killed_at_journal_write },
    Scenario { name: "killed-while-stopping", needs: &[Need::Strace], run: killed_while_stopping },
    Scenario { name: "ecs-killed-at-sync", needs: &[Need::Strace], run: ecs_killed_at_sync },
];

/// Starts each server in turn so that it dies before a call, brings it back, and goes on to the next point.
fn sweep(stage: &Stage, what: &str, calls: &str, points: &[usize]) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let mut hit = Vec::new();
    for point in points {
        let number = point % 3 + 1;
        play.arena.kill(number)?;
        let log = play.arena.folder().join(format!("strace-{point}"));
        play.arena.spawn(number, &strace::at(&log, calls, &Fault::Kill, &point.to_string()))?;
        if play.arena.ended(number, Duration::from_secs(15)).is_ok() {
            hit.push(*point);
        } else {
            play.arena.kill(number)?;
        }
        play.arena.start(number)?;
        play.arena.settled(3, HEAL)?;
        play.goes_on()?;
    }
    ensure!(hit.len() * 2 > points.len(), "only {what} {hit:?} of {points:?} were reached");
    play.end(3, format!("killed servers before {what} number {hit:?} since their start"))
}

fn killed_at_sync(stage: &Stage) -> anyhow::Result<Done> {
    let long: Vec<usize> = (1..=9).chain([12, 20, 35, 60, 100]).collect();
    sweep(stage, "sync", "fdatasync,fsync", stage.pick(&long, &[3, 9, 31]))
}

fn killed_at_send(stage: &Stage) -> anyhow::Result<Done> {
    let long: Vec<usize> = (1..=6).chain([12, 30, 60, 150, 400, 800]).collect();
    sweep(stage, "send", "sendto,sendmsg,writev", stage.pick(&long, &[5, 50, 301]))
}

fn killed_at_journal_write(stage: &Stage) -> anyhow::Result<Done> {
    let long: Vec<usize> = (1..=6).chain([12, 25, 60, 120]).collect();
    sweep(stage, "write", "pwrite64", stage.pick(&long, &[9, 40]))
}

/// SIGTERM, and death before one sync after another of the last checkpoint.
fn killed_while_stopping(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let rounds = stage.pick(8, 2);
    let mut died = 0;
    for round in 0..rounds {
        let number = round % 3 + 1;
        // After an orderly stop its start writes no checkpoint, so that the last one's thread is the first to rename three
        // times.
        play.arena.stop(number)?;
        let log = play.arena.folder().join(format!("strace-{round}"));
        let when = format!("{}", 3 + round % 3);
        play.arena.start_under(number, &strace::at(&log, "rename,renameat,renameat2", &Fault::Kill, &when))?;
        play.goes_on()?;
        play.arena.process(number)?.ask_to_stop()?;
        let end = play.arena.ended(number, Duration::from_secs(20))?;
        died += usize::from(end.code().is_none());
        play.arena.start(number)?;
        play.arena.settled(3, HEAL)?;
    }
    ensure!(died > 0, "no server died while it stopped");
    play.end(3, format!("killed {died} of {rounds} servers in the middle of their last checkpoint"))
}

/// The ecs dies before one sync after another while servers fail and return.
fn ecs_killed_at_sync(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let points: &[usize] = stage.pick(&[1, 2, 3, 4, 5, 6, 8, 10], &[1, 3]);
    let mut hit = Vec::new();
    for point in points {
        let victim = point % 3 + 1;
        play.arena.stop(0)?;
        let log = play.arena.folder().join(format!("strace-{point}"));
        play.arena.spawn(0, &strace::at(&log, "fdatasync,fsync", &Fault::Kill, &point.to_string()))?;
        play.arena.kill(victim)?;
        play.arena.start(victim)?;
        if play.arena.ended(0, Duration::from_secs(8)).is_ok() {
            hit.push(*point);
        } else {
            play.arena.kill(0)?;
        }
        play.arena.start(0)?;
        play.arena.settled(3, HEAL)?;
        play.goes_on()?;
    }
    ensure!(!hit.is_empty(), "none of the syncs {points:?} was reached");
    play.end(3, format!("killed the ecs before sync number {hit:?} while a server failed and returned"))
}
