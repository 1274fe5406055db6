//! The configuration service gone, with old metadata, deaf, or killed in the middle of a change; and nobody in sync left.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use kvclient::{Address, Client, Error, Settings};
use playground::process::until;

use super::arena::{Arena, HEAL, Net};
use super::load::{KEYS, name};
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};
use super::strace::{self, Fault};
use super::wires::{Flow, Who};
use crate::real::Text;

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "ecs-down", needs: &[], run: ecs_down },
    Scenario { name: "ecs-down-second-fault", needs: &[], run: ecs_down_second_fault },
    Scenario { name: "ecs-old-metadata", needs: &[], run: ecs_old_metadata },
    Scenario { name: "ecs-hears-nobody", needs: &[], run: ecs_hears_nobody },
    Scenario { name: "ecs-killed-in-join", needs: &[Need::Strace], run: ecs_killed_in_join },
    Scenario { name: "ecs-killed-in-leave", needs: &[Need::Strace], run: ecs_killed_in_leave },
    Scenario { name: "only-out-of-sync-left", needs: &[], run: only_out_of_sync_left },
];

fn ecs_down(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    play.arena.kill(0)?;
    // Past every lease that nobody renews, and every patience.
    std::thread::sleep(Duration::from_secs(stage.pick(15, 3)));
    play.goes_on()?;
    let number = play.arena.seat()?;
    play.arena.start(number)?;
    // Several times as long as a join takes when there is somebody to ask.
    let waits = Duration::from_secs(stage.pick(5, 2));
    let joined = until(waits, || play.arena.said(number).is_ok_and(|said| said.contains("ready in")));
    ensure!(!joined, "a server joined without the ecs:\n{}", play.arena.said(number)?);
    let ended = play.arena.process(number)?.try_ended()?;
    ensure!(ended.is_none(), "it ended ({ended:?}) instead of waiting:\n{}", play.arena.said(number)?);
    play.arena.start(0)?;
    play.end(4, "killed the ecs, went on without it; a fourth server waited for it")
}

fn ecs_down_second_fault(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let members = play.members(0)?;
    play.arena.kill(0)?;
    play.arena.kill(members[0])?;
    // Nobody can take over: errors are in order, wrong answers are not, which the history will tell.
    let mut text = Text::connect(&play.arena.address(members[1]))?;
    let refused = until(Duration::from_secs(10), || {
        text.ask(&format!("get {}", name(0))).is_ok_and(|reply| reply == "SERVER_STOPPED")
    });
    ensure!(refused, "a member without a coordinator went on answering");
    std::thread::sleep(Duration::from_secs(stage.pick(5, 1)));
    play.arena.start(0)?;
    play.goes_on()?;
    play.arena.start(members[0])?;
    play.end(3, "killed the ecs and a coordinator: refusals until the ecs was back, then a failover")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn ecs_old_metadata(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let (new, old) = (play.arena.dir(0), play.arena.folder().join("ecs-old"));
    copy(&new, &old)?;
    // What the copy does not know: a failover and a return.
    let victim = play.members(0)?[0];
    play.arena.kill(victim)?;
    play.goes_on()?;
    play.arena.start(victim)?;
    play.arena.settled(3, HEAL)?;
    play.arena.kill(0)?;
    play.arena.set_dir(0, old);
    play.arena.start(0)?;
    let refusing = play.arena.wait("ecs that refuses to act", HEAL, |status| status["refusing"].is_string())?;
    play.goes_on()?;
    play.arena.stop(0)?;
    play.arena.set_dir(0, new);
    play.arena.start(0)?;
    play.end(3, format!("started the ecs with metadata from before a failover; it said: {}", refusing["refusing"]))
}

/// Restarted while no server can reach it, the ecs must not judge all of them dead.
fn ecs_hears_nobody(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::wired(stage, 3)?;
    let epoch = play.arena.status()?["epoch"].as_u64();
    play.arena.kill(0)?;
    let servers = (1..=3).map(Who::Server);
    servers.clone().for_each(|server| play.arena.wires().set_both(server, Who::Ecs, Flow::Held));
    play.arena.start(0)?;
    std::thread::sleep(Duration::from_secs(stage.pick(8, 4)));
    play.goes_on()?;
    let now = play.arena.status()?["epoch"].as_u64();
    ensure!(now == epoch, "an ecs that heard nobody changed views: epoch {epoch:?} became {now:?}");
    servers.for_each(|server| play.arena.wires().set_both(server, Who::Ecs, Flow::Open));
    play.arena.settled(3, HEAL)?;
    let after = play.arena.status()?["epoch"].as_u64();
    play.end(3, format!("restarted the ecs deaf: epoch {epoch:?} stayed, and was {after:?} when it heard again"))
}

/// The ecs dies before one sync after another while a server joins; each time it is started again.
fn ecs_killed_in_join(stage: &Stage) -> anyhow::Result<Done> {
    // The first is at the start, before anybody is heard.
    let points: &[usize] = stage.pick(&[2, 3, 4, 5, 6, 8, 10, 13], &[2, 4]);
    let mut play = Play::on(Arena::new(&stage.program, |_| Ok(Net::Plain))?, 2)?;
    let mut hit = Vec::new();
    for point in points {
        play.arena.stop(0)?;
        let log = play.arena.folder().join(format!("strace-{point}"));
        play.arena.start_under(0, &strace::at(&log, "fdatasync", &Fault::Kill, &point.to_string()))?;
        let number = play.arena.seat()?;
        play.arena.start(number)?;
        let address = play.arena.address(number);
        play.load.reader(number, &address);
        if play.arena.ended(0, Duration::from_secs(stage.pick(8, 5))).is_ok() {
            hit.push(*point);
        } else {
            play.arena.kill(0)?;
        }
        play.arena.start(0)?;
        play.arena.settled(number, HEAL)?;
        play.goes_on()?;
    }
    ensure!(!hit.is_empty(), "the ecs never reached any of the syncs {points:?}");
    let live = 2 + points.len();
    play.end(
        live,
        format!("killed the ecs before its sync number {hit:?} while a server joined; all {live} servers joined"),
    )
}

/// The same while one server after another leaves.
fn ecs_killed_in_leave(stage: &Stage) -> anyhow::Result<Done> {
    let points: &[usize] = stage.pick(&[2, 3, 4, 5], &[2, 4]);
    let mut play = Play::plain(stage, 2 + points.len())?;
    let mut hit = Vec::new();
    for (gone, point) in points.iter().enumerate() {
        let number = 2 + points.len() - gone;
        play.arena.stop(0)?;
        let log = play.arena.folder().join(format!("strace-{point}"));
        play.arena.start_under(0, &strace::at(&log, "fdatasync", &Fault::Kill, &point.to_string()))?;
        // Refused while the ecs does not know everybody yet, and not answered if it dies first.
        let asked = until(HEAL, || {
            let answer = Text::connect(&play.arena.address(number)).and_then(|mut text| text.ask("leave"));
            answer.is_ok_and(|answer| answer.starts_with("LEAVE_SUCCESS"))
                || play.arena.process(0).is_ok_and(|ecs| ecs.try_ended().is_ok_and(|end| end.is_some()))
        });
        ensure!(asked, "server {number} could not be asked to leave");
        if play.arena.ended(0, Duration::from_secs(8)).is_ok() {
            hit.push(*point);
        } else {
            play.arena.kill(0)?;
        }
        play.arena.start(0)?;
        left(&mut play, number)?;
        play.arena.settled(number - 1, HEAL)?;
        play.goes_on()?;
    }
    ensure!(!hit.is_empty(), "the ecs never reached any of the syncs {points:?}");
    play.end(2, format!("killed the ecs before its sync number {hit:?} while a server left; two servers stayed"))
}

/// Waits until a server that was asked to leave is gone; if the request died with the ecs it is asked again.
fn left(play: &mut Play, number: usize) -> anyhow::Result<()> {
    let gone = until(HEAL, || {
        if play.arena.process(number).is_ok_and(|server| server.try_ended().is_ok_and(|end| end.is_some())) {
            return true;
        }
        // Whatever it answers: that it is leaving already is an answer too.
        let _ = Text::connect(&play.arena.address(number)).and_then(|mut text| text.ask("leave"));
        std::thread::sleep(Duration::from_millis(200));
        false
    });
    ensure!(gone, "server {number} does not leave:\n{}", play.arena.logs(20));
    let end = play.arena.ended(number, HEAL)?;
    ensure!(end.success(), "server {number} left with {end}:\n{}", play.arena.said(number)?);
    Ok(())
}

/// The last in-sync copies are gone, one that missed writes is there: an error, never "not found".
fn only_out_of_sync_left(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let members = play.members(0)?;
    let (behind, others) = (members[2], &members[..2]);
    play.arena.kill(behind)?;
    play.goes_on()?;
    for other in others {
        play.arena.kill(*other)?;
    }
    play.arena.start(behind)?;
    let mut text = Text::connect(&play.arena.address(behind))?;
    let mut refusals = 0;
    for key in (0..KEYS).cycle().take(stage.pick(400, 100)) {
        let reply = text.ask(&format!("get {}", name(key)))?;
        let refused = ["SERVER_STOPPED", "SERVER_NOT_RESPONSIBLE"].contains(&&*reply);
        ensure!(refused, "an out-of-sync copy answered {reply:.60} to get {}", name(key));
        refusals += 1;
    }
    let error = one_get(&play.arena.address(behind))?;
    let unavailable = play.arena.wait("status that says unavailable", HEAL, |status| {
        status["slots"]["unavailable"].as_u64().is_some_and(|slots| slots > 0)
    })?;
    for other in others {
        play.arena.start(*other)?;
    }
    let slots = &unavailable["slots"]["unavailable"];
    play.end(
        3,
        format!(
            "left only an out-of-sync copy: {refusals} reads refused, {slots} slots unavailable; a client: {error}"
        ),
    )
}

/// What the product's client says when a get finds nobody.
fn one_get(address: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = Settings { total: Duration::from_secs(2), ..Settings::default() };
    let got = runtime.block_on(async { Client::new(vec![Address::from(address)], settings).get(name(0)).await });
    match got {
        Err(error @ (Error::Refused(_) | Error::Unreachable(_))) => Ok(error.to_string()),
        other => anyhow::bail!("a client got {other:?} from an out-of-sync copy"),
    }
}
