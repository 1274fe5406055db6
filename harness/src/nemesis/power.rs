//! Power cuts: each server's directory is a file system of its own, which stops taking anything the moment before its
//! process is killed. What was not synced is gone, as it is when a plug is pulled. Needs root.

use super::arena::{Arena, HEAL, Net};
use super::mounts::Mount;
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};

const NEEDS: &[Need] = &[Need::Root, Need::Tool("mkfs.ext4"), Need::Tool("xfs_io")];

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "power-cut-one", needs: NEEDS, run: one },
    Scenario { name: "power-cut-two-of-three", needs: NEEDS, run: two_of_three },
    Scenario { name: "power-cut-all", needs: NEEDS, run: all },
];

/// A cluster of three with a file system for each directory, the ecs's (number 0) too.
fn powered(stage: &Stage) -> anyhow::Result<(Play, Vec<Mount>)> {
    let mut arena = Arena::new(&stage.program, |_| Ok(Net::Plain))?;
    let mut mounts = Vec::new();
    for number in 0..=3 {
        if number > 0 {
            arena.seat()?;
        }
        let mount = Mount::ext4(&arena.folder().join(format!("disk{number}")))?;
        arena.set_dir(number, mount.path().join("data"));
        mounts.push(mount);
        arena.start(number)?;
    }
    arena.settled(3, HEAL)?;
    Ok((Play::load(arena, 100)?, mounts))
}

/// Cuts the power of these, again and again.
fn cut(stage: &Stage, who: &[usize], did: &str) -> anyhow::Result<Done> {
    let (mut play, mounts) = powered(stage)?;
    let rounds = stage.pick(4, 1);
    for _ in 0..rounds {
        play.goes_on()?;
        for number in who {
            mounts[*number].power_off()?;
        }
        for number in who {
            // It may have noticed, and ended by itself.
            play.arena.process(*number)?.kill()?;
        }
        if who.len() < 3 {
            play.goes_on()?;
        }
        for number in who {
            mounts[*number].power_on()?;
            play.arena.start(*number)?;
        }
        play.arena.settled(3, HEAL)?;
    }
    let done = play.end(3, format!("{did}, {rounds} times"));
    drop(mounts);
    done
}

fn one(stage: &Stage) -> anyhow::Result<Done> {
    cut(stage, &[2], "cut the power of one server")
}

fn two_of_three(stage: &Stage) -> anyhow::Result<Done> {
    cut(stage, &[1, 3], "cut the power of two servers of three")
}

fn all(stage: &Stage) -> anyhow::Result<Done> {
    cut(stage, &[0, 1, 2, 3], "cut the power of the ecs and all three servers")
}
