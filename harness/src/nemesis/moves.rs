//! Slots on their way: joins, leaves, evening out and repair, with somebody killed, stopped or cut off in the midst.

use std::time::Duration;

use anyhow::ensure;
use playground::process::Signal;
use serde_json::Value;

use super::arena::{HEAL, Wrap};
use super::play::{Done, Play, Stage};
use super::run::Scenario;
use super::wires::{Flow, Who};
use crate::real::{Text, memory};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "join-source-stopped", needs: &[], run: join_source_stopped },
    Scenario { name: "joiner-stopped", needs: &[], run: joiner_stopped },
    Scenario { name: "joiner-cut-from-source", needs: &[], run: joiner_cut_from_source },
    Scenario { name: "leaver-dies", needs: &[], run: leaver_dies },
    Scenario { name: "leave-target-dies", needs: &[], run: leave_target_dies },
    Scenario { name: "move-with-deaths", needs: &[], run: move_with_deaths },
    Scenario { name: "repair-with-deaths", needs: &[], run: repair_with_deaths },
];

/// Enough data that a transfer is something one can be in the middle of.
fn fill(stage: &Stage, play: &Play) -> anyhow::Result<()> {
    let pairs: Vec<(String, String)> =
        (0..stage.pick(20_000, 4_000)).map(|number| (format!("bulk{number}"), "x".repeat(400))).collect();
    let ledger = crate::real::load(&play.arena.addresses(), &pairs);
    ensure!(ledger.acked() == pairs.len(), "the bulk was not written");
    Ok(())
}

/// Begins a join and waits until it is under way; gives the newcomer's number.
fn begin_join(play: &mut Play) -> anyhow::Result<usize> {
    let number = play.arena.add()?;
    let address = play.arena.address(number);
    play.load.reader(number, &address);
    play.arena.wait("join under way", HEAL, |status| !status["joining"].is_null())?;
    Ok(number)
}

fn stop_for(play: &mut Play, number: usize, length: Duration) -> anyhow::Result<()> {
    play.arena.signal(number, Signal::STOP)?;
    let gone_on = play.goes_on();
    std::thread::sleep(length);
    play.arena.signal(number, Signal::CONT)?;
    gone_on
}

fn join_source_stopped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    fill(stage, &play)?;
    begin_join(&mut play)?;
    let length = Duration::from_secs(stage.pick(10, 2));
    stop_for(&mut play, 1, length)?;
    play.end(4, format!("stopped a server that a newcomer copied from, for {length:?}"))
}

fn joiner_stopped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    fill(stage, &play)?;
    let joiner = begin_join(&mut play)?;
    let length = Duration::from_secs(stage.pick(10, 2));
    stop_for(&mut play, joiner, length)?;
    play.end(4, format!("stopped a newcomer in the middle of its join, for {length:?}"))
}

fn joiner_cut_from_source(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::wired(stage, 3)?;
    fill(stage, &play)?;
    let joiner = begin_join(&mut play)?;
    let before = play.arena.wires().stopped();
    for flow in [Flow::Held, Flow::Cut] {
        play.arena.wires().set_both(Who::Server(joiner), Who::Server(1), flow);
        std::thread::sleep(Duration::from_secs(stage.pick(4, 1)));
        play.goes_on()?;
        play.arena.wires().open_all();
    }
    let stopped = play.arena.wires().stopped() - before;
    ensure!(stopped > 0, "no link was used while it was cut");
    play.end(
        4,
        format!("cut a newcomer off from a server that it copied from ({stopped} times something was held or cut)"),
    )
}

fn leaver_dies(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 4)?;
    fill(stage, &play)?;
    ask(&play, 4, "leave")?;
    play.arena.kill(4)?;
    play.goes_on()?;
    play.end(3, "killed a server on its way out")
}

fn leave_target_dies(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 5)?;
    fill(stage, &play)?;
    ask(&play, 5, "leave")?;
    play.arena.kill(2)?;
    play.goes_on()?;
    play.arena.start(2)?;
    let end = play.arena.ended(5, HEAL)?;
    ensure!(end.success(), "server 5 left with {end}:\n{}", play.arena.said(5)?);
    play.end(4, "killed a server while another handed its share to it and others, and left")
}

/// Says it to a server and wants it done.
fn ask(play: &Play, number: usize, line: &str) -> anyhow::Result<()> {
    let answer = Text::connect(&play.arena.address(number))?.ask(line)?;
    ensure!(answer.contains("_SUCCESS"), "server {number} answered {line} with {answer}");
    Ok(())
}

fn move_with_deaths(stage: &Stage) -> anyhow::Result<Done> {
    // Four servers, whose arcs are 57, 57, 85 and 57 of 256 slots: something is to be moved.
    let mut play = Play::plain(stage, 4)?;
    fill(stage, &play)?;
    let moving = |status: &Value| status["change"]["kind"] == "rebalance";
    let mut killed = Vec::new();
    ask(&play, 1, "rebalance")?;
    for victim in [0, 3, 1] {
        if !moving(&play.arena.status()?) {
            break;
        }
        play.arena.kill(victim)?;
        if victim != 0 {
            play.goes_on()?;
        }
        play.arena.start(victim)?;
        killed.push(victim);
    }
    ensure!(!killed.is_empty(), "the slots had moved before anybody could be killed");
    play.arena.wait("end of the moves", HEAL, |status| status["change"].is_null())?;
    play.end(4, format!("killed {killed:?} (0 is the ecs) one after another while slots moved"))
}

fn repair_with_deaths(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 4)?;
    let value = format!("found nowhere else {}", std::process::id());
    ask_coordinator(&play, "needle", &value)?;
    let holders = holders(&play, "needle")?;
    // After a restart the record is in the map only, and in no log or buffer; and copies are compared all the time.
    let victim = *holders.get(1).unwrap_or(&2);
    play.arena.stop(victim)?;
    play.arena.start(victim)?;
    play.arena.settled(4, HEAL)?;
    for number in 1..=4 {
        play.arena.stop(number)?;
        play.arena.start_under(number, &Wrap::with(["--audit-seconds", "1"]))?;
        play.arena.settled(4, HEAL)?;
    }
    let pid = play.arena.process(victim)?.id();
    let flipped = memory::flip(pid, value.as_bytes())?;
    ensure!(flipped > 0, "the value is nowhere in the memory of server {victim}");
    let condemned = |play: &Play| -> bool {
        (1..=4).filter_map(|number| Text::connect(&play.arena.address(number)).ok()?.ask("status").ok()).any(|status| {
            let status: Value =
                status.split_once(' ').and_then(|(_, json)| serde_json::from_str(json).ok()).unwrap_or_default();
            status["audit"]["copies_condemned"].as_u64().is_some_and(|copies| copies > 0)
        })
    };
    ensure!(playground::process::until(HEAL, || condemned(&play)), "the damage was not found");
    // The one that makes the copy anew, or would be asked for it, dies.
    let other = holders.iter().copied().find(|number| *number != victim).unwrap_or(1);
    play.arena.kill(other)?;
    play.goes_on()?;
    play.arena.start(other)?;
    play.arena.settled(4, HEAL)?;
    for number in 1..=4 {
        let answer = Text::connect(&play.arena.address(number))?.ask("get needle")?;
        ensure!(
            answer == format!("GET_SUCCESS needle {value}") || answer == "SERVER_NOT_RESPONSIBLE",
            "server {number}: {answer}"
        );
    }
    play.end_damaged(
        4,
        format!("damaged a record in the memory of server {victim} and killed server {other} when it was found"),
    )
}

/// The servers that answer reads for a key, its coordinator first.
fn holders(play: &Play, key: &str) -> anyhow::Result<Vec<usize>> {
    let mut text = Text::connect(&play.arena.address(1))?;
    let (writes, reads) = (text.keyrange(false)?, text.keyrange(true)?);
    let mut servers = writes.servers(key);
    servers.extend(reads.servers(key).into_iter().filter(|server| !writes.servers(key).contains(server)));
    Ok(servers.into_iter().filter_map(|server| play.arena.number(server)).collect())
}

fn ask_coordinator(play: &Play, key: &str, value: &str) -> anyhow::Result<()> {
    let coordinator = holders(play, key)?.first().copied().unwrap_or(1);
    ask(play, coordinator, &format!("put {key} {value}"))
}
