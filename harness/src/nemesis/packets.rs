//! Links that lose packets, between network namespaces: what proxies cannot do (handshakes unanswered, retransmission,
//! resets that never arrive). Needs root.

use std::time::Duration;

use anyhow::ensure;

use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};
use super::spaces::Spaces;

const NEEDS: &[Need] = &[Need::Root, Need::Tool("ip"), Need::Tool("nsenter"), Need::Tool("iptables")];

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "packets-cut-from-ecs", needs: NEEDS, run: cut_from_ecs },
    Scenario { name: "packets-cut-from-members", needs: NEEDS, run: cut_from_members },
    Scenario { name: "packets-one-way", needs: NEEDS, run: one_way },
    Scenario { name: "packets-halves", needs: NEEDS, run: halves },
    Scenario { name: "packets-flapping", needs: NEEDS, run: flapping },
    Scenario { name: "packets-lossy", needs: NEEDS, run: lossy },
];

/// Drops the packets of these pairs (from, to; 0 is the ecs) while the clients go on, then lets them through.
fn without(
    stage: &Stage,
    servers: usize,
    did: &str,
    pairs: impl FnOnce(&[usize]) -> Vec<(usize, usize)>,
) -> anyhow::Result<Done> {
    let play = Play::spaced(stage, servers)?;
    let pairs = pairs(&play.members(0)?);
    let spaces = play.arena.spaces();
    set(spaces, &pairs, true)?;
    std::thread::sleep(Duration::from_secs(stage.pick(6, 2)));
    play.goes_on()?;
    let dropped = pairs.iter().map(|(_, to)| spaces.dropped(*to)).sum::<anyhow::Result<u64>>()?;
    ensure!(dropped > 0, "no packet was dropped");
    set(spaces, &pairs, false)?;
    play.end(servers, format!("{did} ({dropped} packets dropped)"))
}

fn set(spaces: &Spaces, pairs: &[(usize, usize)], yes: bool) -> anyhow::Result<()> {
    pairs.iter().try_for_each(|(from, to)| spaces.drop_packets(*from, *to, yes))
}

fn both(one: usize, other: usize) -> [(usize, usize); 2] {
    [(one, other), (other, one)]
}

fn cut_from_ecs(stage: &Stage) -> anyhow::Result<Done> {
    without(stage, 3, "dropped all packets between a coordinator and the ecs", |members| both(members[0], 0).to_vec())
}

fn cut_from_members(stage: &Stage) -> anyhow::Result<Done> {
    without(stage, 3, "dropped all packets between a coordinator and its members", |members| {
        members[1..].iter().flat_map(|member| both(members[0], *member)).collect()
    })
}

fn one_way(stage: &Stage) -> anyhow::Result<Done> {
    without(stage, 3, "dropped all packets from a member to its coordinator", |members| vec![(members[1], members[0])])
}

fn halves(stage: &Stage) -> anyhow::Result<Done> {
    without(stage, 4, "two servers and the ecs on one side, two servers on the other", |_| {
        [3, 4].into_iter().flat_map(|far| [0, 1, 2].into_iter().flat_map(move |near| both(far, near))).collect()
    })
}

fn flapping(stage: &Stage) -> anyhow::Result<Done> {
    let play = Play::spaced(stage, 3)?;
    let members = play.members(0)?;
    let (rounds, acks) = (stage.pick(15, 4), play.load.acks());
    for _ in 0..rounds {
        set(play.arena.spaces(), &both(members[0], members[1]), true)?;
        std::thread::sleep(Duration::from_millis(500));
        set(play.arena.spaces(), &both(members[0], members[1]), false)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let acks = play.load.acks() - acks;
    ensure!(acks > 5 * rounds, "only {acks} writes went through in {rounds} s");
    play.end(
        3,
        format!("dropped all packets between a coordinator and a member every other half second, {rounds} times"),
    )
}

/// Every twentieth packet is lost, everywhere.
fn lossy(stage: &Stage) -> anyhow::Result<Done> {
    let play = Play::spaced(stage, 3)?;
    for number in 0..=3 {
        let rule = "iptables -w -A INPUT -m statistic --mode random --probability 0.05 -j DROP";
        play.arena.spaces().run(number, rule)?;
    }
    std::thread::sleep(Duration::from_secs(stage.pick(10, 2)));
    play.goes_on()?;
    let dropped = (0..=3).map(|number| play.arena.spaces().dropped(number)).sum::<anyhow::Result<u64>>()?;
    ensure!(dropped > 0, "no packet was dropped");
    for number in 0..=3 {
        play.arena.spaces().run(number, "iptables -w -F INPUT")?;
    }
    play.end(3, format!("lost every twentieth packet between all, clients included ({dropped} packets dropped)"))
}
