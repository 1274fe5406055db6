//! The main promise, played through with real processes: records go into five servers through the client, servers are
//! killed with -9 one after another down to two while writes go on, all return, two die at once, everything is stopped
//! and started. After each step every record is read back from every server that may answer.
//!
//! A test plays it on made-up records; `survive` on any file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use playground::node;

use super::{Cluster, Ledger, Options, Record, Writers};

/// How many servers.
const SERVERS: usize = 5;
/// Detection, failover and copying what is missing, on a machine that does other things as well.
const HEAL: Duration = Duration::from_secs(90);
/// Writes that must go through before and after each kill.
const WRITES: u64 = 100;

/// Plays it; `tell` hears each step.
///
/// # Errors
/// A record was lost, wrong or not readable, a server did not come home, or the import failed.
///
/// # Panics
/// The cluster does not start or heal: with all logs.
pub fn survive(program: &str, records: &[Record], tell: &dyn Fn(&str)) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(program, SERVERS, Options::default());
    let mut play = Play { tell, ledger: import(program, &cluster, records, tell)? };
    let all: Vec<usize> = (1..=SERVERS).collect();
    let home = cluster.keyrange(1);
    play.verify(&cluster, &all, "loaded into five servers")?;

    play.kill(&mut cluster, &[5], &[1, 2, 3, 4])?;
    play.kill(&mut cluster, &[1], &[2, 3, 4])?;
    play.kill(&mut cluster, &[3], &[2, 4])?;

    for number in [1, 3, 5] {
        cluster.restart(number);
    }
    cluster.settled(SERVERS, HEAL);
    play.verify(&cluster, &all, "servers 1, 3 and 5 started again")?;
    ensure!(cluster.keyrange(2) == home, "a server does not coordinate its arc again:\n{}", cluster.logs(40));
    tell("each server coordinates its arc again");

    play.kill(&mut cluster, &[2, 3], &[1, 4, 5])?;

    cluster.stop_all();
    cluster.restart_ecs();
    for number in &all {
        cluster.restart(*number);
    }
    cluster.settled(SERVERS, HEAL);
    play.verify(&cluster, &all, "everything stopped and started")?;
    ensure!(cluster.keyrange(1) == home, "a server does not coordinate its arc again:\n{}", cluster.logs(40));
    tell("each server coordinates its arc again");
    Ok(())
}

struct Play<'a> {
    tell: &'a dyn Fn(&str),
    ledger: Ledger,
}

impl Play<'_> {
    /// Reads everything back from everyone in `live`.
    fn verify(&self, cluster: &Cluster, live: &[usize], after: &str) -> anyhow::Result<()> {
        let addresses: Vec<String> = live.iter().map(|number| cluster.address(*number)).collect();
        match self.ledger.verify(&addresses) {
            Ok(reads) => (self.tell)(&format!("{after}: {} records right in {reads} reads", self.ledger.acked())),
            Err(what) => bail!("{after}: {what}\n{}", cluster.logs(40)),
        }
        Ok(())
    }

    /// Kills `victims` while writers are at work, waits until the cluster has healed, and reads everything back.
    fn kill(&mut self, cluster: &mut Cluster, victims: &[usize], live: &[usize]) -> anyhow::Result<()> {
        let addresses: Vec<String> = live.iter().map(|number| cluster.address(*number)).collect();
        let writers = Writers::start(&addresses, &format!("w{}", live.len()), 4, 50);
        writers.wait_for_acks(WRITES, HEAL);
        let began = Instant::now();
        for victim in victims {
            cluster.kill9(*victim);
        }
        cluster.healed(live.len(), HEAL);
        let healed = began.elapsed();
        writers.wait_for_acks(writers.acks() + WRITES, HEAL);
        let outcome = writers.stop();
        (self.tell)(&format!(
            "kill -9 of {victims:?}: copies complete after {:.1} s, {} writes went on, longest pause {} ms",
            healed.as_secs_f32(),
            outcome.acks,
            outcome.gap.as_millis()
        ));
        self.ledger.merge(outcome.ledger);
        self.verify(cluster, live, &format!("servers {live:?} left"))
    }
}

/// Loads the records as a user would: with the client's import.
fn import(program: &str, cluster: &Cluster, records: &[Record], tell: &dyn Fn(&str)) -> anyhow::Result<Ledger> {
    let file: PathBuf = cluster.folder().join("records.tsv");
    write_tsv(&file, records)?;
    let began = Instant::now();
    let output = Command::new(program)
        .args([node::KVCLIENT, "--servers", &cluster.addresses().join(","), "import"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .context("cannot start the client")?;
    if !output.status.success() {
        bail!("the import failed:\n{}\n{}", String::from_utf8_lossy(&output.stderr), cluster.logs(40));
    }
    tell(&format!("imported {} records in {:.1} s", records.len(), began.elapsed().as_secs_f32()));
    let mut ledger = Ledger::default();
    for record in records {
        ledger.ack(&record.key, &record.value);
    }
    Ok(ledger)
}

fn write_tsv(file: &Path, records: &[Record]) -> std::io::Result<()> {
    let text: String =
        records.iter().map(|record| format!("{}\t{}\n", escaped(&record.key), escaped(&record.value))).collect();
    std::fs::write(file, text)
}

/// As the import reads it: a backslash is doubled.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
}
