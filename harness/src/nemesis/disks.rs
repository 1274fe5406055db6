//! Disks that are full, fail, are slow, get stuck or turn read-only, and processes that run out of file descriptors.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use playground::process::until;

use super::arena::{Arena, HEAL, Net, Wrap};
use super::mounts::Mount;
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};
use super::strace::{self, Fault, told};
use crate::real::Text;

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "disk-full", needs: &[Need::Root], run: disk_full },
    Scenario { name: "ecs-disk-full", needs: &[Need::Root], run: ecs_disk_full },
    Scenario { name: "disk-read-only", needs: &[Need::Root, Need::Tool("mkfs.ext4")], run: disk_read_only },
    Scenario { name: "fsync-fails", needs: &[Need::Strace], run: fsync_fails },
    Scenario { name: "ecs-fsync-fails", needs: &[Need::Strace], run: ecs_fsync_fails },
    Scenario { name: "write-fails", needs: &[Need::Strace], run: write_fails },
    Scenario { name: "fsync-slow", needs: &[Need::Strace], run: fsync_slow },
    Scenario { name: "fsync-stuck", needs: &[Need::Strace], run: fsync_stuck },
    Scenario { name: "no-descriptors", needs: &[Need::Tool("prlimit")], run: no_descriptors },
];

/// A cluster of three in which the directory of `number` (0: the ecs) is a file system of its own.
fn mounted(
    stage: &Stage,
    number: usize,
    make: impl FnOnce(&std::path::Path) -> anyhow::Result<Mount>,
) -> anyhow::Result<(Play, Mount)> {
    let mut arena = Arena::new(&stage.program, |_| Ok(Net::Plain))?;
    let mount = make(&arena.folder().join("mounted"))?;
    let dir = mount.path().join("data");
    if number == 0 {
        arena.set_dir(0, dir.clone());
    }
    arena.start(0)?;
    for at in 1..=3 {
        arena.seat()?;
        if at == number {
            arena.set_dir(at, dir.clone());
        }
        arena.start(at)?;
    }
    arena.settled(3, HEAL)?;
    Ok((Play::load(arena, 200)?, mount))
}

/// Writes to a file until there is no room.
fn fill(mount: &Mount) -> anyhow::Result<std::path::PathBuf> {
    let path = mount.path().join("ballast");
    let mut file = File::create(&path)?;
    let block = vec![0; 1 << 16];
    while file.write_all(&block).is_ok() {}
    // The rest, which is less than a block.
    while file.write_all(&block[..256]).is_ok() {}
    Ok(path)
}

/// A bad disk is no death: the ecs has judged nobody since `began`.
fn nobody_judged(play: &Play, began: Instant) -> anyhow::Result<()> {
    let judged = play.arena.judged_since(began)?;
    ensure!(judged.is_empty(), "a living server was judged: {judged:#?}\n{}", play.arena.logs(20));
    Ok(())
}

fn disk_full(stage: &Stage) -> anyhow::Result<Done> {
    let (mut play, mount) = mounted(stage, 2, |path| Mount::tmpfs(path, "8m"))?;
    let began = Instant::now();
    let ballast = fill(&mount)?;
    // Its slots go to others, and it goes on living.
    play.goes_on()?;
    std::thread::sleep(Duration::from_secs(stage.pick(6, 1)));
    play.goes_on()?;
    let ended = play.arena.process(2)?.try_ended()?;
    ensure!(ended.is_none(), "a full disk ended the server ({ended:?}):\n{}", play.arena.said(2)?);
    // With every `cargo test`, too, on machines that stand still for longer than the ecs waits.
    if stage.long {
        nobody_judged(&play, began)?;
    }
    std::fs::remove_file(ballast)?;
    let done = play.end(3, "filled a server's disk to the last byte, and emptied it again");
    drop(mount);
    done
}

/// Without room the ecs can decide nothing, and must not pretend to: the data goes on.
fn ecs_disk_full(stage: &Stage) -> anyhow::Result<Done> {
    let (mut play, mount) = mounted(stage, 0, |path| Mount::tmpfs(path, "8m"))?;
    let ballast = fill(&mount)?;
    play.goes_on()?;
    let victim = play.members(0)?[2];
    play.arena.kill(victim)?;
    std::thread::sleep(Duration::from_secs(stage.pick(5, 2)));
    std::fs::remove_file(ballast)?;
    // Whether it waited or stopped: with room and a start if need be, it goes on from what it had made durable.
    let stopped = play.arena.process(0)?.try_ended()?;
    if stopped.is_some() {
        play.arena.start(0)?;
    }
    play.goes_on()?;
    play.arena.start(victim)?;
    let did =
        stopped.map_or_else(|| "it went on".to_owned(), |end| format!("it ended with {end} and was started again"));
    let done = play.end(3, format!("filled the ecs's disk, killed a server: {did}"));
    drop(mount);
    done
}

fn disk_read_only(stage: &Stage) -> anyhow::Result<Done> {
    let (mut play, mount) = mounted(stage, 2, Mount::ext4)?;
    mount.read_only(true)?;
    play.goes_on()?;
    let probe = File::create(mount.path().join("probe"));
    ensure!(probe.is_err(), "the file system is not read-only");
    std::thread::sleep(Duration::from_secs(stage.pick(6, 1)));
    play.goes_on()?;
    let ended = play.arena.process(2)?.try_ended()?;
    let did = match ended {
        None => {
            play.arena.kill(2)?;
            "the server lived on without writing".to_owned()
        }
        // The system told the journal's sync, which may not be tried again.
        Some(end) if end.code() == Some(70) => "the server ended with exit code 70".to_owned(),
        Some(end) => anyhow::bail!("the server ended with {end}:\n{}", play.arena.said(2)?),
    };
    mount.power_on()?;
    play.arena.start(2)?;
    let done = play.end(3, format!("turned a server's file system read-only under it: {did}"));
    drop(mount);
    done
}

/// Server 2 under strace from its start, settled.
fn traced(stage: &Stage, calls: &str, fault: &Fault, when: &str) -> anyhow::Result<(Play, std::path::PathBuf)> {
    let mut play = Play::plain(stage, 3)?;
    let log = play.arena.folder().join("strace");
    play.arena.stop(2)?;
    play.goes_on()?;
    play.arena.start_under(2, &strace::at(&log, calls, fault, when))?;
    Ok((play, log))
}

fn fsync_fails(stage: &Stage) -> anyhow::Result<Done> {
    let (mut play, log) = traced(stage, "fdatasync", &Fault::Error("EIO"), "40")?;
    let end = play.arena.ended(2, HEAL)?;
    ensure!(told(&log).contains("INJECTED"), "no sync failed");
    ensure!(end.code() == Some(70), "{end} instead of exit code 70:\n{}", play.arena.said(2)?);
    play.goes_on()?;
    play.arena.start(2)?;
    play.end(3, "let one sync of a server's journal fail with EIO: it ended with exit code 70")
}

fn ecs_fsync_fails(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let log = play.arena.folder().join("strace");
    play.arena.stop(0)?;
    // The first is at the start.
    play.arena.start_under(0, &strace::at(&log, "fdatasync", &Fault::Error("EIO"), "2"))?;
    let victim = play.members(0)?[0];
    play.arena.kill(victim)?;
    let end = play.arena.ended(0, HEAL)?;
    ensure!(told(&log).contains("INJECTED"), "no sync failed");
    ensure!(end.code() == Some(1), "{end} instead of exit code 1:\n{}", play.arena.said(0)?);
    play.arena.start(0)?;
    play.goes_on()?;
    play.arena.start(victim)?;
    play.end(3, "let the ecs's sync of a failover fail with EIO: it ended, and did it again after its start")
}

/// The journal's writes fail for a while, as on a full disk that needs no root.
fn write_fails(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let log = play.arena.folder().join("strace");
    let dir = play.arena.dir(2);
    play.arena.stop(2)?;
    let mut wrap = strace::at(&log, "pwrite64", &Fault::Error("ENOSPC"), "10..200");
    // Only writes to files of the directory: sockets and pipes are not meant.
    let at = wrap.prefix.iter().position(|word| word == "-e").unwrap_or(1);
    for name in std::fs::read_dir(&dir)?.flatten().map(|entry| entry.path()) {
        wrap.prefix.splice(at..at, ["-P".into(), name.into_os_string()]);
    }
    for number in 1..60 {
        wrap.prefix.splice(at..at, ["-P".into(), dir.join(format!("journal-{number}.jsonl")).into_os_string()]);
    }
    play.arena.start_under(2, &wrap)?;
    let began = Instant::now();
    let injected = until(HEAL, || told(&log).contains("INJECTED"));
    ensure!(injected, "no write failed:\n{}", play.arena.said(2)?);
    play.goes_on()?;
    let ended = play.arena.process(2)?.try_ended()?;
    ensure!(ended.is_none(), "a full disk ended the server ({ended:?}):\n{}", play.arena.said(2)?);
    nobody_judged(&play, began)?;
    play.end(3, "let up to 190 writes of a server's journal fail with ENOSPC")
}

fn fsync_slow(stage: &Stage) -> anyhow::Result<Done> {
    let (mut play, log) = traced(stage, "fdatasync", &Fault::Delay(300_000), "1+")?;
    play.arena.settled(3, HEAL)?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(stage.pick(10, 2)));
    play.goes_on()?;
    nobody_judged(&play, began)?;
    let slow = told(&log).matches("fdatasync").count();
    ensure!(slow > 3, "only {slow} syncs were delayed");
    play.arena.kill(2)?;
    play.arena.start(2)?;
    play.end(3, format!("delayed every sync of a server by 300 ms ({slow} of them), then killed it"))
}

/// One sync that takes 8 s: the server's slots are moved while it hangs.
fn fsync_stuck(stage: &Stage) -> anyhow::Result<Done> {
    let (play, log) = traced(stage, "fdatasync", &Fault::Delay(8_000_000), "60")?;
    let began = Instant::now();
    let address = play.arena.address(2);
    let stalled = play.arena.wait("stalled disk", HEAL, |status| {
        let servers = status["servers"].as_array().into_iter().flatten();
        servers.into_iter().any(|server| server["address"] == *address && server["disk_stalled"] == true)
    });
    stalled.map_err(|error| error.context(format!("strace: {}", told(&log))))?;
    play.goes_on()?;
    // Until it is over: a stalled disk is said, and is no silence.
    play.arena.wait("disk that works again", HEAL, |status| {
        let servers = status["servers"].as_array().into_iter().flatten();
        servers.into_iter().all(|server| server["disk_stalled"] == false)
    })?;
    nobody_judged(&play, began)?;
    play.end(3, "let one sync of a server hang for 8 s: the ecs was told, its slots went to others and came back")
}

/// Too few descriptors: fewer connections, and a server that lives.
fn no_descriptors(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    play.arena.stop(2)?;
    play.arena.start_under(2, &Wrap::under(["prlimit", "--nofile=96:96"]))?;
    play.arena.settled(3, HEAL)?;
    let (address, began) = (play.arena.address(2), Instant::now());
    let crowd: Vec<Text> =
        (0..200).filter_map(|_| Text::connect_within(&address, Duration::from_secs(2)).ok()).collect();
    std::thread::sleep(Duration::from_secs(stage.pick(5, 1)));
    let ended = play.arena.process(2)?.try_ended()?;
    ensure!(ended.is_none(), "it ended without descriptors ({ended:?}):\n{}", play.arena.said(2)?);
    let said = play.arena.said(2)?;
    ensure!(said.contains("connections"), "nothing was said about the limit:\n{said}");
    nobody_judged(&play, began)?;
    let came = crowd.len();
    drop(crowd);
    play.goes_on()?;
    play.arena.stop(2)?;
    play.arena.start(2)?;
    play.end(3, format!("gave a server 96 file descriptors and {came} connections more"))
}
