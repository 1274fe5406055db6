//! Directories that are empty, another cluster's, copied, or used twice; ports that are taken.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use playground::process::until;

use super::arena::{Arena, HEAL, Net, Wrap};
use super::play::{Done, Play, Stage};
use super::run::Scenario;

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "wiped-directory", needs: &[], run: wiped_directory },
    Scenario { name: "foreign-directory", needs: &[], run: foreign_directory },
    Scenario { name: "old-copy-of-directory", needs: &[], run: old_copy_of_directory },
    Scenario { name: "copied-directory-twice", needs: &[], run: copied_directory_twice },
    Scenario { name: "same-directory-twice", needs: &[], run: same_directory_twice },
    Scenario { name: "same-port-twice", needs: &[], run: same_port_twice },
];

/// For an end that needs no patience.
const SOON: Duration = Duration::from_secs(20);

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    super::mounts::run(&["cp", "-a", &from.to_string_lossy(), &to.to_string_lossy()]).map(drop)
}

fn wiped_directory(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let victim = play.members(0)?[0];
    play.arena.kill(victim)?;
    std::fs::remove_dir_all(play.arena.dir(victim))?;
    // Same port, at once: whoever counted on its copy by its address would lose what was written.
    play.arena.start(victim)?;
    play.end(3, "wiped a coordinator's directory and started it on the same port at once")
}

fn foreign_directory(stage: &Stage) -> anyhow::Result<Done> {
    let mut other = Arena::new(&stage.program, |_| Ok(Net::Plain))?;
    other.start(0)?;
    other.add()?;
    other.settled(1, HEAL)?;
    other.stop(1)?;
    other.discard();
    let mut play = Play::plain(stage, 3)?;
    let (own, foreign) = (play.arena.dir(2), play.arena.folder().join("foreign"));
    copy(&other.dir(1), &foreign)?;
    play.arena.kill(2)?;
    play.arena.set_dir(2, foreign);
    play.arena.spawn(2, &Wrap::default())?;
    let end = play.arena.ended(2, SOON)?;
    let said = play.arena.said(2)?;
    ensure!(end.code() == Some(71), "{end} instead of exit code 71:\n{said}");
    ensure!(said.contains("belongs to cluster"), "the reason is not told:\n{said}");
    play.goes_on()?;
    play.arena.set_dir(2, own);
    play.arena.start(2)?;
    play.end(3, "started a server with another cluster's directory: refused with exit code 71")
}

/// A backup from before, put back: its identity is right, its content is not.
fn old_copy_of_directory(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let (own, backup) = (play.arena.dir(2), play.arena.folder().join("backup"));
    play.arena.stop(2)?;
    copy(&own, &backup)?;
    for _ in 0..2 {
        play.arena.start(2)?;
        play.arena.settled(3, HEAL)?;
        play.goes_on()?;
        play.arena.kill(2)?;
    }
    play.arena.set_dir(2, backup);
    play.arena.spawn(2, &Wrap::default())?;
    let end = play.arena.ended(2, SOON)?;
    let said = play.arena.said(2)?;
    ensure!(end.code() == Some(71) && said.contains("old copy"), "{end}:\n{said}");
    play.arena.set_dir(2, own);
    play.arena.start(2)?;
    play.end(3, "put an old copy of a directory back: refused with exit code 71")
}

/// Two processes with one identity: the copy is started while the original runs, so its boot is the same or higher.
fn copied_directory_twice(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let copied = play.arena.folder().join("copied");
    copy(&play.arena.dir(2), &copied)?;
    let _ = std::fs::remove_file(copied.join("lock"));
    let number = play.arena.seat()?;
    play.arena.set_dir(number, copied);
    play.arena.spawn(number, &Wrap::default())?;
    // The higher boot wins and the other stops.
    let ended = until(SOON, || play.arena.process(2).is_ok_and(|process| process.try_ended().is_ok_and(|end| end.is_some())));
    ensure!(ended, "two processes with one identity run:\n{}", play.arena.logs(20));
    let (end, said) = (play.arena.ended(2, SOON)?, play.arena.said(2)?);
    ensure!(end.code() == Some(71), "{end} instead of exit code 71:\n{said}");
    let address = play.arena.address(number);
    play.load.reader(number, &address);
    // The copy lacks what was written after it was made, which its first coordinator may notice with an alarm.
    play.end_damaged(3, "started a copy of a running server's directory: the higher boot went on, the other ended with exit code 71")
}

/// A server of its own beside the play, to its end; its exit code and words.
fn beside(stage: &Stage, words: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = Command::new(&stage.program).arg(playground::node::KVSERVER).args(words).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), said))
}

fn same_directory_twice(stage: &Stage) -> anyhow::Result<Done> {
    let play = Play::plain(stage, 3)?;
    let dir = play.arena.dir(2);
    let (code, said) = beside(stage, &["-p", "0", "-b", &play.arena.ecs_address(), "-d", &dir.to_string_lossy()])?;
    ensure!(code == Some(1) && said.contains("in use by another process"), "{code:?}: {said}");
    play.goes_on()?;
    play.end(3, "started a second server on a directory in use: refused with exit code 1 and the reason")
}

fn same_port_twice(stage: &Stage) -> anyhow::Result<Done> {
    let play = Play::plain(stage, 3)?;
    let address = play.arena.address(2);
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    let dir = play.arena.folder().join("second");
    let words = ["-a", host, "-p", port, "-b", &play.arena.ecs_address(), "-d", &dir.to_string_lossy()];
    let (code, said) = beside(stage, &words)?;
    ensure!(code == Some(1) && said.contains("cannot listen"), "{code:?}: {said}");
    play.goes_on()?;
    play.end(3, "started a second server on a port in use: refused with exit code 1 and the reason")
}
