//! Links between chosen pairs that hold everything, hold one direction, are cut, flap or are slow: by proxies, so that no
//! root is needed. `packets` does some of it again with real packet loss.

use std::time::Duration;

use anyhow::ensure;

use super::arena::Arena;
use super::play::{Done, Play, Stage};
use super::run::Scenario;
use super::wires::{Flow, Who};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "cut-from-ecs", needs: &[], run: cut_from_ecs },
    Scenario { name: "half-open-to-ecs", needs: &[], run: half_open_to_ecs },
    Scenario { name: "cut-from-members", needs: &[], run: cut_from_members },
    Scenario { name: "half-open-to-members", needs: &[], run: half_open_to_members },
    Scenario { name: "acks-lost", needs: &[], run: acks_lost },
    Scenario { name: "pulses-lost", needs: &[], run: pulses_lost },
    Scenario { name: "sends-lost", needs: &[], run: sends_lost },
    Scenario { name: "heartbeats-lost", needs: &[], run: heartbeats_lost },
    Scenario { name: "halves", needs: &[], run: halves },
    Scenario { name: "flapping", needs: &[], run: flapping },
    Scenario { name: "slow-links", needs: &[], run: slow_links },
];

/// Sets links as `cut` says, lets the clients go on, keeps it so for a while, and opens all links.
fn with_links(stage: &Stage, servers: usize, did: &str, cut: impl FnOnce(&Arena, &[usize])) -> anyhow::Result<Done> {
    let play = Play::wired(stage, servers)?;
    let members = play.members(0)?;
    let before = play.arena.wires().stopped();
    cut(&play.arena, &members);
    std::thread::sleep(Duration::from_secs(stage.pick(6, 1)));
    play.goes_on()?;
    let stopped = play.arena.wires().stopped() - before;
    ensure!(stopped > 0, "no link was used while it was cut");
    play.arena.wires().open_all();
    play.end(servers, format!("{did} ({stopped} times something was held or cut)"))
}

fn cut_from_ecs(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "cut a coordinator off from the ecs", |arena, members| {
        arena.wires().set_both(Who::Server(members[0]), Who::Ecs, Flow::Cut);
    })
}

fn half_open_to_ecs(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "let nothing through between a coordinator and the ecs", |arena, members| {
        arena.wires().set_both(Who::Server(members[0]), Who::Ecs, Flow::Held);
    })
}

fn heartbeats_lost(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "lost everything from a coordinator to the ecs, not the other way", |arena, members| {
        arena.wires().set(Who::Server(members[0]), Who::Ecs, Flow::Held);
    })
}

fn cut_from_members(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "cut a coordinator off from both members", |arena, members| {
        for member in &members[1..] {
            arena.wires().set_both(Who::Server(members[0]), Who::Server(*member), Flow::Cut);
        }
    })
}

fn half_open_to_members(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "let nothing through between a coordinator and both members", |arena, members| {
        for member in &members[1..] {
            arena.wires().set_both(Who::Server(members[0]), Who::Server(*member), Flow::Held);
        }
    })
}

fn acks_lost(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "lost everything from a member to its coordinator, not the other way", |arena, members| {
        arena.wires().set(Who::Server(members[1]), Who::Server(members[0]), Flow::Held);
    })
}

/// The member asks and answers everything else, so it seems to be there; but without its answers to beacons nobody has a lease. (Its
/// own beacons are lost, too.)
fn pulses_lost(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "lost a member's pulses to its coordinator, and nothing else", |arena, members| {
        arena.wires().set(Who::Pulse(members[1]), Who::Server(members[0]), Flow::Held);
    })
}

fn sends_lost(stage: &Stage) -> anyhow::Result<Done> {
    with_links(stage, 3, "lost everything from a coordinator to a member, not the other way", |arena, members| {
        arena.wires().set(Who::Server(members[0]), Who::Server(members[1]), Flow::Held);
    })
}

/// Two servers with the ecs on one side, two on the other. Clients reach all.
fn halves(stage: &Stage) -> anyhow::Result<Done> {
    // With two whole copies on the side of the ecs for every slot that is to be served: ISRs of three among four servers.
    with_links(stage, 4, "two servers and the ecs on one side, two servers on the other", |arena, _| {
        for far in [3, 4] {
            for near in [Who::Server(1), Who::Server(2), Who::Ecs] {
                arena.wires().set_both(Who::Server(far), near, Flow::Held);
            }
        }
    })
}

/// A link that comes and goes every second.
fn flapping(stage: &Stage) -> anyhow::Result<Done> {
    let play = Play::wired(stage, 3)?;
    let members = play.members(0)?;
    let (one, other) = (Who::Server(members[0]), Who::Server(members[1]));
    let (rounds, acks) = (stage.pick(15, 4), play.load.acks());
    for round in 0..rounds {
        let how = if round % 2 == 0 { Flow::Held } else { Flow::Cut };
        play.arena.wires().set_both(one, other, how);
        std::thread::sleep(Duration::from_millis(500));
        play.arena.wires().open_all();
        std::thread::sleep(Duration::from_millis(500));
    }
    // No livelock: it is served in between, not only afterwards.
    let acks = play.load.acks() - acks;
    ensure!(acks > 5 * rounds, "only {acks} writes went through in {rounds} s");
    let stopped = play.arena.wires().stopped();
    ensure!(stopped > rounds / 2, "the link was used {stopped} times while it was cut");
    play.end(3, format!("let the link of a coordinator and a member come and go every second, {rounds} times"))
}

fn slow_links(stage: &Stage) -> anyhow::Result<Done> {
    let play = Play::wired(stage, 3)?;
    let late = Flow::Late(Duration::from_millis(20));
    let all = [Who::Server(1), Who::Server(2), Who::Server(3), Who::Ecs];
    for one in all {
        for other in all.into_iter().filter(|other| *other != one) {
            play.arena.wires().set(one, other, late);
        }
    }
    std::thread::sleep(Duration::from_secs(stage.pick(6, 1)));
    play.goes_on()?;
    play.end(3, "delayed everything between all processes by 20 ms, each way")
}
