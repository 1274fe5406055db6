//! The wall clock jumps. The product's clocks are read in one place (`common/src/clock.rs`): leases and patience by
//! `CLOCK_BOOTTIME`, which nobody can set; the wall clock by the client library, for the age of its session, and by servers for
//! the deadlines of keys, which none of these have.
//!
//! The machine's clock is not touched: `faketime` gives single processes another one, through the system's library. What
//! the product reads by system call it cannot fake; what the standard library reads, such as the times in the log, it
//! does, and by those the jump is seen. A test of the sources (`harness/tests/e2e/nemesis.rs`) holds the rest.

use std::time::Duration;

use anyhow::ensure;

use super::arena::{HEAL, Wrap};
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};

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

fn wall_clock_jumps(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let files: Vec<_> = (0..=3).map(|number| play.arena.folder().join(format!("clock{number}"))).collect();
    for (number, file) in files.iter().enumerate() {
        std::fs::write(file, "+0\n")?;
        play.arena.stop(number)?;
        play.arena.start_under(number, &under(file)?)?;
        play.arena.settled(3, HEAL)?;
    }
    let jumps = ["+3600", "-3600", "+0", "+86400"];
    for jump in jumps {
        // Never all alike: one process a jump ahead of the others.
        for (number, file) in files.iter().enumerate() {
            std::fs::write(file, format!("{jump}\n"))?;
            play.goes_on()?;
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
    play.end(3, format!("moved the wall clocks of all processes by {jumps:?} s, one after another"))
}
