//! The wall clock jumps. The product's clocks are read in one place (`common/src/clock.rs`): leases and patience by
//! `CLOCK_BOOTTIME`, which nobody can set; the wall clock by the client library, for the age of its session, and by servers for
//! the deadlines of keys: a key with one may go too soon or too late by as much as a clock is wrong, any other is there
//! whatever clocks say.
//!
//! The machine's clock is not touched: `faketime` gives single processes another one, through the system's library. What
//! the standard library reads, such as the times in the log, it fakes, and by those the jump is seen. What the product reads by
//! system call it cannot: as long as `common/src/clock.rs` does that, no deadline goes early here, and the line that tells what
//! was done says so. A test of the sources (`harness/tests/e2e/nemesis.rs`) holds who reads wall clocks at all.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;

use super::arena::{HEAL, Wrap};
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};
use crate::real::Resp;

pub(super) const ALL: &[Scenario] =
    &[Scenario { name: "wall-clock-jumps", needs: &[Need::Tool("faketime")], run: wall_clock_jumps }];

/// A process whose wall clock is told by a file that may change at any time.
fn under(file: &std::path::Path) -> anyhow::Result<Wrap> {
    let library = super::mounts::run(&["sh", "-c", "ls /usr/lib/*/faketime/libfaketime.so.1 | head -n 1"])?;
    let library = library.trim();
    ensure!(!library.is_empty(), "faketime is installed without its library");
    Ok(Wrap::under([
        "env".to_owned(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        // Read anew at every call; the steady clocks stay as they are.
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]))
}

/// Keys of each kind.
const EACH: usize = 16;
/// Kinds that must stay, with what is said when they are set: without a deadline, and with one that no clock reaches.
const STAY: [(&str, &str); 2] = [("lasting", ""), ("far", " EX 2592000")];
/// The kind that a jump of an hour takes away.
const MAY_GO: (&str, &str) = ("near", " EX 1800");

fn set_keys(address: &str) -> anyhow::Result<()> {
    let mut redis = Resp::connect(address)?;
    for ((kind, deadline), number) in STAY.iter().chain([&MAY_GO]).flat_map(|kind| (0..EACH).map(move |n| (kind, n))) {
        let reply = redis.ask(&format!("SET {kind}-{number} {number}{deadline}"))?;
        ensure!(reply == "OK", "SET {kind}-{number} was answered with {reply}");
    }
    Ok(())
}

/// Reads all keys at one server; gives the numbers of those that have gone.
fn look(address: &str) -> anyhow::Result<BTreeSet<usize>> {
    let mut redis = Resp::connect(address)?;
    let mut gone = BTreeSet::new();
    for number in 0..EACH {
        for (kind, _) in STAY {
            let reply = redis.ask(&format!("GET {kind}-{number}"))?;
            ensure!(reply == number.to_string(), "{address} answered {reply} to GET {kind}-{number}");
        }
        match &*redis.ask(&format!("GET {}-{number}", MAY_GO.0))? {
            "nil" => drop(gone.insert(number)),
            reply => ensure!(reply == number.to_string(), "{address} answered {reply} to GET {}-{number}", MAY_GO.0),
        }
    }
    Ok(gone)
}

fn wall_clock_jumps(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let files: Vec<_> = (0..=3).map(|number| play.arena.folder().join(format!("clock{number}"))).collect();
    for (number, file) in files.iter().enumerate() {
        std::fs::write(file, "+0\n")?;
        play.arena.stop(number)?;
        play.arena.start_under(number, &under(file)?)?;
        play.arena.settled(3, HEAL)?;
    }
    set_keys(&play.arena.address(1))?;
    let mut gone = BTreeSet::new();
    let jumps = ["+3600", "-3600", "+0", "+86400"];
    for jump in jumps {
        // Never all alike: one process a jump ahead of the others.
        for (number, file) in files.iter().enumerate() {
            std::fs::write(file, format!("{jump}\n"))?;
            play.goes_on()?;
            gone.append(&mut look(&play.arena.address(number.max(1)))?);
            std::thread::sleep(Duration::from_millis(if number == 0 { stage.pick(1500, 100) } else { 0 }));
        }
    }
    // Something to be logged, by a process that survives it.
    play.arena.kill(3)?;
    play.goes_on()?;
    play.arena.start(3)?;
    play.arena.settled(3, HEAL)?;
    let said = play.arena.said(0)?;
    let days: std::collections::BTreeSet<&str> =
        said.lines().filter_map(|line| line.strip_prefix('[')?.split('T').next()).collect();
    ensure!(days.len() > 1, "the ecs's log shows no jump of a day, only {days:?}:\n{said}");
    for number in 1..=3 {
        let back: Vec<usize> = gone.difference(&look(&play.arena.address(number))?).copied().collect();
        ensure!(back.is_empty(), "server {number} has keys {} {back:?}, which had gone", MAY_GO.0);
    }
    let (stayed, gone) = (EACH * STAY.len(), gone.len());
    ensure!(gone > 0, "no key with a deadline in half an hour went: the jumps have not reached the servers' clocks");
    play.end(
        3,
        format!(
            "moved the wall clocks of all processes by {jumps:?} s, one after another: {stayed} keys stayed, {gone} of \
             {EACH} with a deadline in half an hour went"
        ),
    )
}
