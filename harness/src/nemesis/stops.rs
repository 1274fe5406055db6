//! Processes that are stopped (SIGSTOP) and wake up (SIGCONT) without knowing for how long they slept.

use std::time::{Duration, Instant};

use playground::process::Signal;

use super::play::{Done, Play, Stage};
use super::run::Scenario;

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "coordinator-stopped", needs: &[], run: coordinator_stopped },
    Scenario { name: "member-stopped", needs: &[], run: member_stopped },
    Scenario { name: "ecs-stopped", needs: &[], run: ecs_stopped },
    Scenario { name: "two-stopped", needs: &[], run: two_stopped },
    Scenario { name: "stutter", needs: &[], run: stutter },
];

fn length(stage: &Stage) -> Duration {
    Duration::from_secs(stage.pick(30, 3))
}

/// Stops these, lets the rest go on, and wakes them when the time is over.
fn stop_and_wake(play: &mut Play, who: &[usize], length: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    for number in who {
        play.arena.signal(*number, Signal::STOP)?;
    }
    let gone_on = play.goes_on();
    std::thread::sleep(length.saturating_sub(began.elapsed()));
    for number in who {
        // Whoever reads from them gets its answers now.
        play.arena.signal(*number, Signal::CONT)?;
    }
    gone_on
}

fn coordinator_stopped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let coordinator = play.members(0)?[0];
    stop_and_wake(&mut play, &[coordinator], length(stage))?;
    play.end(3, format!("stopped a coordinator for {:?}", length(stage)))
}

fn member_stopped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 4)?;
    let member = play.members(0)?[1];
    stop_and_wake(&mut play, &[member], length(stage))?;
    play.end(4, format!("stopped a member for {:?}, with a fourth server to take its place", length(stage)))
}

fn ecs_stopped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    stop_and_wake(&mut play, &[0], length(stage))?;
    play.end(3, format!("stopped the ecs for {:?}", length(stage)))
}

fn two_stopped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let members = play.members(0)?;
    stop_and_wake(&mut play, &members[..2], length(stage))?;
    play.end(3, format!("stopped a coordinator and a member for {:?}", length(stage)))
}

/// A machine that takes the processor away again and again, for less than makes a server dead and for more than a lease.
fn stutter(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let rounds = stage.pick(30, 6);
    for round in 0..rounds {
        let number = round % 3 + 1;
        play.arena.signal(number, Signal::STOP)?;
        std::thread::sleep(Duration::from_millis(300));
        play.arena.signal(number, Signal::CONT)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    play.goes_on()?;
    play.end(3, format!("stopped one server or another for 300 ms, {rounds} times"))
}
