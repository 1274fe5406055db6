//! Files that were cut, flipped, appended to or left in the middle of a checkpoint while a server was dead.
//!
//! Every byte of every file is the business of the unit tests in `kvserver/src/storage`; here some of them are tried on
//! a server of a cluster under load, which must notice, and be whole again afterwards.

use kvserver::storage::journal::extent::without_room;
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::arena::{HEAL, Wrap};
use super::play::{Done, Play, Stage};
use super::run::{Need, Scenario};
use super::strace::{self, Fault};

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "journal-cut", needs: &[], run: journal_cut },
    Scenario { name: "journal-flipped", needs: &[], run: journal_flipped },
    Scenario { name: "checkpoint-flipped", needs: &[], run: checkpoint_flipped },
    Scenario { name: "identity-flipped", needs: &[], run: identity_flipped },
    Scenario { name: "garbage-appended", needs: &[], run: garbage_appended },
    Scenario { name: "only-copy-damaged", needs: &[], run: only_copy_damaged },
    Scenario { name: "killed-in-checkpoint", needs: &[Need::Strace], run: killed_in_checkpoint },
];

/// The parts of a checkpoint.
const CHECKPOINT: &[&str] = &["checkpoint.json", "coordinator.json", "replica1.json", "replica2.json", "logs.json"];

/// The journal's last segment.
fn journal(dir: &Path) -> anyhow::Result<PathBuf> {
    let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.strip_prefix("journal-")?.parse::<u64>().ok();
    names.filter_map(|path| Some((number(&path)?, path))).max().map(|(_, path)| path).context("no journal")
}

/// How long a journal is without the room behind its lines.
fn filled(path: &Path) -> anyhow::Result<u64> {
    Ok(without_room(&std::fs::read(path)?).len() as u64)
}

/// Turns one bit of a file.
fn flip(path: &Path, at: u64, bit: u8) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&[byte[0] ^ (1 << bit)])?)
}

/// Files that were set aside as damaged.
fn set_aside(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("corrupt-")).count()
}

/// Kills each server in turn, harms its directory, starts it and waits until all is whole; `rounds` times. Gives how many
/// starts found something.
fn harm(
    play: &mut Play,
    rounds: usize,
    mut how: impl FnMut(usize, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let mut noticed = 0;
    for round in 0..rounds {
        let number = round % 3 + 1;
        play.goes_on()?;
        play.arena.kill(number)?;
        let dir = play.arena.dir(number);
        how(round, &dir)?;
        let before = set_aside(&dir);
        play.arena.start(number)?;
        play.arena.settled(3, HEAL).with_context(|| format!("round {round}; logs:\n{}", play.arena.logs(20)))?;
        let cut = play.arena.said(number)?.contains("incomplete");
        noticed += usize::from(cut || set_aside(&dir) > before);
    }
    Ok(noticed)
}

fn journal_cut(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let rounds = stage.pick(12, 3);
    // From inside the last line to some records back: those had been acknowledged by this copy, as by a disk that lies.
    let noticed = harm(&mut play, rounds, |round, dir| {
        let path = journal(dir)?;
        let length = filled(&path)?;
        let less = u64::try_from(1 + round * 7)?;
        Ok(OpenOptions::new().write(true).open(path)?.set_len(length.saturating_sub(less))?)
    })?;
    play.end_damaged(
        3,
        format!("cut 1 to {} bytes off a dead server's journal, {rounds} times ({noticed} told)", rounds * 7 - 6),
    )
}

fn journal_flipped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let rounds = stage.pick(12, 3);
    let mut random = fastrand::Rng::with_seed(11);
    let noticed = harm(&mut play, rounds, |_, dir| {
        let path = journal(dir)?;
        let length = filled(&path)?;
        flip(&path, random.u64(..length), random.u8(..8))
    })?;
    ensure!(noticed > 0, "no flipped byte of the journal was noticed");
    play.end_damaged(3, format!("flipped a bit of a dead server's journal, {rounds} times ({noticed} told)"))
}

fn checkpoint_flipped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    // Often enough that there is something in each.
    play.arena.server_args = ["--checkpoint-seconds", "1"].map(Into::into).to_vec();
    for number in 1..=3 {
        play.arena.stop(number)?;
        play.arena.start(number)?;
        play.arena.settled(3, HEAL)?;
    }
    let rounds = stage.pick(10, 5);
    let mut random = fastrand::Rng::with_seed(12);
    let noticed = harm(&mut play, rounds, |round, dir| {
        let path = dir.join(CHECKPOINT[round % CHECKPOINT.len()]);
        let length = std::fs::metadata(&path)?.len();
        flip(&path, random.u64(..length), random.u8(..8))
    })?;
    // What lies between the pieces that have checksums (brackets, commas) carries nothing: a start does not look at it.
    ensure!(noticed > 0, "no flipped bit of a checkpoint was noticed");
    play.end_damaged(3, format!("flipped a bit of a dead server's checkpoint, {rounds} times ({noticed} noticed)"))
}

/// Whose directory it is cannot be told any more: no start, and the reason; a wiped one is welcome.
fn identity_flipped(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    play.arena.kill(2)?;
    let dir = play.arena.dir(2);
    flip(&dir.join("identity.json"), 40, 1)?;
    play.arena.spawn(2, &Wrap::default())?;
    let end = play.arena.ended(2, Duration::from_secs(20))?;
    let said = play.arena.said(2)?;
    ensure!(end.code() == Some(1) && said.contains("whose it is"), "{end}:\n{said}");
    play.goes_on()?;
    std::fs::remove_dir_all(&dir)?;
    play.arena.start(2)?;
    play.end(3, "flipped a bit of identity.json: no start, with the reason; an empty directory was taken in its place")
}

fn garbage_appended(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let tails: [&[u8]; 6] = [b"\0\0\0\0", b"{\"crc\":\"", b"half a line", b"a whole line\n", &[0xff; 700], &[0; 4096]];
    let rounds = stage.pick(12, 3);
    let noticed = harm(&mut play, rounds, |round, dir| {
        let mut file = OpenOptions::new().append(true).open(journal(dir)?)?;
        Ok(file.write_all(tails[round % tails.len()])?)
    })?;
    play.end_damaged(3, format!("appended garbage to a dead server's journal, {rounds} times ({noticed} told)"))
}

/// Nobody else has it: no start that loses it in silence.
fn only_copy_damaged(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 1)?;
    // Two checkpoints' worth, so that there is a middle of the journal.
    play.goes_on()?;
    play.arena.kill(1)?;
    let path = journal(&play.arena.dir(1))?;
    let middle = filled(&path)? / 2;
    flip(&path, middle, 3)?;
    play.arena.spawn(1, &Wrap::default())?;
    let end = play.arena.ended(1, Duration::from_secs(20))?;
    let said = play.arena.said(1)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(end.code() == Some(1) && said.contains(&file) && said.contains("at byte"), "{end}:\n{said}");
    // The bit turned back: everything is there, so the refused start has changed nothing.
    flip(&path, middle, 3)?;
    play.arena.start(1)?;
    play.end_damaged(
        1,
        "flipped a bit of the only copy: no start, with file and byte; turned back, everything was there",
    )
}

/// The server dies before one rename after another of the checkpoints that it writes every second.
fn killed_in_checkpoint(stage: &Stage) -> anyhow::Result<Done> {
    let mut play = Play::plain(stage, 3)?;
    let points: &[usize] = stage.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], &[2, 6, 7, 9]);
    let mut hit = Vec::new();
    for point in points {
        let number = point % 3 + 1;
        play.arena.kill(number)?;
        let log = play.arena.folder().join(format!("strace-{point}"));
        let mut wrap = strace::at(&log, "rename,renameat,renameat2", &Fault::Kill, &point.to_string());
        wrap.args = ["--checkpoint-seconds", "1"].map(Into::into).to_vec();
        play.arena.spawn(number, &wrap)?;
        if play.arena.ended(number, Duration::from_secs(12)).is_ok() {
            hit.push(point);
        } else {
            play.arena.kill(number)?;
        }
        play.arena.start(number)?;
        play.arena.settled(3, HEAL)?;
        play.goes_on()?;
    }
    ensure!(hit.len() * 2 > points.len(), "only the renames {hit:?} of {points:?} were reached");
    play.end(3, format!("killed servers before the renames number {hit:?} since their start"))
}
