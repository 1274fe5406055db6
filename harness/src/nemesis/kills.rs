//! `kill -9` in the middle of a write. Where it is in the middle is arranged by holding links: nothing is left to luck.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::Outcome;
use kvclient::{Address, Client, Settings};
use playground::process::until;

use super::arena::HEAL;
use super::load::name;
use super::play::{Done, Play, Stage};
use super::promises;
use super::run::Scenario;
use super::wires::{Flow, Who};
use crate::real::Text;

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "sent-to-one-member", needs: &[], run: sent_to_one_member },
    Scenario { name: "acked-before-reply", needs: &[], run: acked_before_reply },
    Scenario { name: "acked-before-commit-known", needs: &[], run: acked_before_commit_known },
    Scenario { name: "member-killed-awaited", needs: &[], run: member_killed_awaited },
    Scenario { name: "both-members-killed", needs: &[], run: both_members_killed },
    Scenario { name: "all-killed", needs: &[], run: all_killed },
    Scenario { name: "second-failover", needs: &[], run: second_failover },
    Scenario { name: "sigterm-under-load", needs: &[], run: sigterm_under_load },
];

/// For what takes a round trip.
const SOON: Duration = Duration::from_secs(5);

/// Bytes held on the way are lost with their connection: what was sent by the dead never arrives.
fn lose(play: &Play, from: usize) {
    let wires = play.arena.wires();
    for other in (1..=play.arena.addresses().len()).map(Who::Server).chain([Who::Client]) {
        wires.set_both(Who::Server(from), other, Flow::Cut);
    }
}

/// A server whose bytes were lost is started again. Only now are its ways open: opened at once, what was held could still arrive.
fn back(play: &mut Play, server: usize) -> anyhow::Result<()> {
    play.arena.wires().open_all();
    play.arena.start(server)?;
    play.arena.settled(3, HEAL)
}

/// A write that must not be answered yet.
fn unanswered(writer: &mut Text, key: &str, value: &str) -> anyhow::Result<()> {
    writer.send(format!("put {key} {value}\r\n").as_bytes())?;
    writer.patience(Duration::from_millis(40))?;
    let early = writer.receive();
    writer.patience(HEAL)?;
    ensure!(early.is_err(), "the write was answered although it could not be complete: {early:?}");
    Ok(())
}

/// Waits until the wires hold something that they did not when there were `before`.
fn held(play: &Play, before: u64) -> anyhow::Result<()> {
    ensure!(until(SOON, || play.arena.wires().stopped() > before), "nothing was sent on the held link");
    Ok(())
}

fn sent_to_one_member(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::wired(stage, 3)?;
    let rounds = stage.pick(3, 1);
    for round in 0..rounds {
        let members = play.members(round)?;
        let [coordinator, _, second] = members[..] else { anyhow::bail!("no three copies: {members:?}") };
        let before = play.arena.wires().stopped();
        let mut writer = Text::connect(&play.arena.address(coordinator))?;
        play.arena.wires().set(Who::Server(coordinator), Who::Server(second), Flow::Held);
        // Beside it, the other clients' writes to this coordinator are in the same state.
        unanswered(&mut writer, &beside(round, "half-"), "half")?;
        held(&play, before)?;
        play.arena.kill(coordinator)?;
        lose(&play, coordinator);
        play.goes_on()?;
        back(&mut play, coordinator)?;
    }
    play.end(3, format!("killed {rounds} coordinators whose entries had reached one member and not the other"))
}

/// A put of a key that nobody else writes, by the product's client, in the background.
fn put_once(addresses: &[String], key: &str) -> std::thread::JoinHandle<anyhow::Result<Outcome>> {
    let (addresses, key) = (addresses.to_vec(), key.to_owned());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let settings = Settings { total: HEAL, ..Settings::default() };
            let client = Client::connect(addresses.into_iter().map(Address::from).collect(), settings).await?;
            Ok(client.put(key, "once").await?)
        })
    })
}

/// A new key in the slot of key number 0, so that its servers are known.
fn fresh_key(prefix: &str) -> String {
    beside(0, prefix)
}

/// A new key in the slot of key number `key`: 32 slots are the top five bits.
fn beside(key: u32, prefix: &str) -> String {
    let slot = |key: &str| crate::real::position(key) >> 123;
    (0..).map(|number| format!("{prefix}{number}")).find(|other| slot(other) == slot(&name(key))).unwrap_or_default()
}

fn acked_before_reply(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::wired(stage, 3)?;
    let rounds = stage.pick(3, 1);
    for round in 0..rounds {
        let members = play.members(0)?;
        let (coordinator, member) = (members[0], members[1]);
        let key = fresh_key(&format!("once-{round}-"));
        // Held from the client's point of view only: the copies still talk.
        let mut reader = Text::connect(&play.arena.address(member))?;
        play.arena.wires().set(Who::Server(coordinator), Who::Client, Flow::Held);
        let others: Vec<String> =
            play.arena.addresses().into_iter().filter(|at| *at != play.arena.address(coordinator)).collect();
        let put = put_once(&others, &key);
        let committed = until(SOON, || {
            reader.ask(&format!("get {key}")).is_ok_and(|reply| reply == format!("GET_SUCCESS {key} once"))
        });
        let answered = put.is_finished();
        ensure!(
            committed && !answered,
            "the write was to be committed (it is: {committed}) with its reply held (it came: {answered}); the copies were at \
             {members:?} and are at {:?}",
            play.members(0)?
        );
        play.arena.kill(coordinator)?;
        lose(&play, coordinator);
        let outcome = put.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        ensure!(outcome == Outcome::Created, "the retry got {outcome:?}: it was executed a second time");
        back(&mut play, coordinator)?;
    }
    play.end(3, format!("killed {rounds} coordinators between commit and reply; retries got the first result"))
}

fn acked_before_commit_known(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::wired(stage, 3)?;
    let rounds = stage.pick(3, 1);
    for round in 0..rounds {
        let members = play.members(0)?;
        let [coordinator, first, second] = members[..] else { anyhow::bail!("no three copies: {members:?}") };
        let key = fresh_key(&format!("known-{round}-"));
        let mut writer = Text::connect(&play.arena.address(coordinator))?;
        let wires = play.arena.wires();
        let before = wires.stopped();
        for member in [first, second] {
            wires.set(Who::Server(member), Who::Server(coordinator), Flow::Held);
        }
        unanswered(&mut writer, &key, "known")?;
        held(&play, before)?;
        // The entries are out, their acknowledgements are on the way; from here on the members hear nothing more.
        for member in [first, second] {
            wires.set(Who::Server(coordinator), Who::Server(member), Flow::Held);
        }
        for member in [first, second] {
            wires.set(Who::Server(member), Who::Server(coordinator), Flow::Open);
        }
        let reply = writer.receive()?;
        ensure!(reply == format!("PUT_SUCCESS {key} known"), "the write was answered with {reply}");
        play.arena.kill(coordinator)?;
        lose(&play, coordinator);
        play.goes_on()?;
        for member in [first, second] {
            let mut text = Text::connect(&play.arena.address(member))?;
            let wanted = format!("GET_SUCCESS {key} known");
            ensure!(
                until(HEAL, || text.ask(&format!("get {key}")).is_ok_and(|reply| reply == wanted)),
                "{key} is lost"
            );
        }
        back(&mut play, coordinator)?;
    }
    play.end(3, format!("killed {rounds} coordinators that had acknowledged what no member knew to be committed"))
}

fn member_killed_awaited(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::wired(stage, 3)?;
    let members = play.members(0)?;
    let (coordinator, member) = (members[0], members[1]);
    let mut writer = Text::connect(&play.arena.address(coordinator))?;
    let before = play.arena.wires().stopped();
    play.arena.wires().set(Who::Server(member), Who::Server(coordinator), Flow::Held);
    let key = fresh_key("awaited-");
    unanswered(&mut writer, &key, "awaited")?;
    held(&play, before)?;
    let (reply, took) = super::run::timed(|| {
        play.arena.kill(member)?;
        lose(&play, member);
        Ok(writer.receive()?)
    })?;
    ensure!(reply == format!("PUT_SUCCESS {key} awaited"), "the write was answered with {reply}");
    promises::kept("the write", took, promises::stall())?;
    play.goes_on()?;
    back(&mut play, member)?;
    play.end(3, format!("killed a member whose acknowledgement was awaited; the write took {} ms", took.as_millis()))
}

fn both_members_killed(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let members = play.members(0)?;
    for member in &members[1..] {
        play.arena.kill(*member)?;
    }
    play.goes_on()?;
    for member in &members[1..] {
        play.arena.start(*member)?;
    }
    play.end(3, "killed both members, went on with one copy, started them again")
}

fn all_killed(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    for number in 0..=3 {
        play.arena.kill(number)?;
    }
    for number in 0..=3 {
        play.arena.start(number)?;
    }
    play.end(3, "killed the ecs and all three servers, started them again")
}

fn second_failover(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 4)?;
    let pauses: &[u64] = stage.pick(&[0, 100, 250, 500, 1200], &[250]);
    for (round, pause) in pauses.iter().enumerate() {
        let members = play.members(u32::try_from(round)?)?;
        let (first, second) = (*members.first().context("nobody")?, *members.get(1).context("no member")?);
        play.arena.kill(first)?;
        std::thread::sleep(Duration::from_millis(*pause));
        play.arena.kill(second)?;
        play.goes_on()?;
        play.arena.start(second)?;
        play.arena.start(first)?;
        play.arena.settled(4, HEAL)?;
    }
    play.end(4, format!("killed a coordinator and its successor {pauses:?} ms later"))
}

fn sigterm_under_load(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let mut took = Vec::new();
    for number in 1..=3 {
        let ((), time) = super::run::timed(|| play.arena.stop(number))?;
        took.push(time.as_millis());
        play.goes_on()?;
        play.arena.start(number)?;
        play.arena.settled(3, HEAL)?;
    }
    let did = format!("SIGTERM to each of three servers in turn: exit code 0 after {took:?} ms");
    // With every `cargo test`, too: there it is not about time.
    if stage.long { play.end_within(3, promises::gap(), did) } else { play.end(3, did) }
}
