//! The command line: flags, start, and orderly end.
#![allow(clippy::print_stdout, clippy::print_stderr)] // what a program says at its start and when it cannot go on

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use common::view::ClusterRecord;
use common::{ClusterId, clock, logging};
use log::LevelFilter;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::core::Config;
use crate::server::Server;
use crate::store::Store;

/// Where the state lies if nobody says otherwise: beside the servers' directories.
const DIR: &str = "storage-dirs/ecs";
/// Slots of a new ring: 64 servers still have four each, and 256 views are one short message.
const SLOTS: u16 = 256;
/// The largest ring: a report on every slot still fits a line.
const MAX_SLOTS: u16 = 32_768;
/// Arcs per server of a new ring: the classic picture.
const VNODES: u16 = 1;
/// Copies beside the coordinator's in a new ring.
const REPLICAS: u8 = 2;
/// The lease of a new cluster, in milliseconds.
const LEASE_MS: u32 = 250;
/// Below this, scheduling noise costs leases.
const MIN_LEASE_MS: u32 = 50;

/// The external configuration service: keeps the ring's metadata and watches over the servers.
#[derive(Parser, Debug)]
#[command(name = "ecs", version)]
struct Flags {
    /// Port to listen on; 0 takes any free one.
    #[arg(short, long, env = "ANNULUS_ECS_PORT", default_value_t = 3000)]
    port: u16,
    /// Address to listen on.
    #[arg(short, long, default_value = "127.0.0.1")]
    address: String,
    /// Directory of the metadata.
    #[arg(short, long, default_value = DIR)]
    dir: PathBuf,
    /// Log file; without it the log goes to stderr.
    #[arg(short = 'l', long)]
    log_file: Option<PathBuf>,
    /// Log level (also as `-ll`): ALL, TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF.
    #[arg(long, value_parser = logging::level)]
    log_level: Option<LevelFilter>,
    /// More log: -v debug, -vv everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Slots of the ring, a power of two; fixed when the cluster is created [default: 256].
    #[arg(long)]
    slots: Option<u16>,
    /// Arcs per server; fixed when the cluster is created [default: 1].
    #[arg(long)]
    vnodes: Option<u16>,
    /// Copies beside the coordinator's; fixed when the cluster is created [default: 2].
    #[arg(long)]
    replicas: Option<u8>,
    /// The lease in milliseconds: shorter means faster failover; fixed when the cluster is created [default: 250].
    #[arg(long)]
    lease_ms: Option<u32>,
    /// Port of the HTTP admin page: /healthz /readyz /status /metrics; 0 takes any free one.
    #[arg(long)]
    admin_port: Option<u16>,
    /// A server not heard for this long is suspected.
    #[arg(long, default_value_t = 1000)]
    suspect_ms: u64,
    /// How long a suspected server has to answer a probe.
    #[arg(long, default_value_t = 300)]
    probe_ms: u64,
    /// How long servers have to be heard after a start before they are judged.
    #[arg(long, default_value_t = 2000)]
    grace_ms: u64,
    /// How long a slot that still has two copies waits for the third before another server gets one.
    #[arg(long, default_value_t = 5000)]
    replace_after_ms: u64,
    /// How long a server must be back before its slots come home.
    #[arg(long, default_value_t = 5000)]
    settle_ms: u64,
    /// How many seconds a join or leave may stand still before it is undone.
    #[arg(long, default_value_t = 60)]
    patience_s: u64,
    /// How many seconds a server is down before its slots get other homes.
    #[arg(long, default_value_t = 600)]
    rehome_after_s: u64,
}

/// Runs the ECS with these arguments (the program's name first), until it is told to stop.
pub fn cli(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::try_parse_from(logging::spell_out_ll(args)) {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            eprintln!("ecs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let begun = clock::now();
    let level = flags.log_level.or_else(|| logging::verbose(flags.verbose));
    logging::start(level, flags.log_file.as_deref())
        .with_context(|| format!("cannot open the log file {:?}", flags.log_file))?;
    flags.check()?;
    let opened = Store::open(&flags.dir, || flags.record())?;
    flags.check_against(opened.cluster.record())?;
    let record = opened.cluster.record().clone();
    println!("ecs {}, cluster {}", env!("CARGO_PKG_VERSION"), record.cluster);
    println!(
        "data in {}: {} servers, {} slots, epoch {}; {} commands replayed",
        flags.dir.display(),
        opened.cluster.nodes().len(),
        opened.cluster.views().len(),
        opened.cluster.epoch(),
        opened.replayed,
    );
    if opened.cut > 0 {
        log::warn!("cut {} bytes of an incomplete last line, which nothing relied on", opened.cut);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Asked for first, so that a signal that comes early is not lost.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let listener = bind(&flags.address, flags.port, "-p").await?;
        let server = Server::start(flags.timings(), opened, listener, runtime.handle())?;
        if let Some(port) = flags.admin_port {
            let admin = bind(&flags.address, port, "--admin-port").await?;
            println!("admin on http://{}", admin.local_addr()?);
            server.serve_admin(admin, runtime.handle());
        }
        println!("ecs listening on {}", server.listening());
        println!("ready in {} ms", clock::now().since(begun).as_millis());
        tokio::select! {
            () = server.ended() => {}
            _ = terminate.recv() => log::info!("told to stop"),
            _ = interrupt.recv() => log::info!("interrupted"),
        }
        server.stop().context("the metadata could not be written")
    })
}

async fn bind(address: &str, port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((address, port)).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {address}:{port}: choose another {flag}, or 0 for any"))?;
    let addr = listener.local_addr()?;
    if !addr.ip().is_loopback() {
        log::warn!("{addr} can be reached from outside, and this port has no encryption and no passwords");
    }
    Ok(listener)
}

impl Flags {
    fn check(&self) -> anyhow::Result<()> {
        if self.slots.is_some_and(|slots| !slots.is_power_of_two() || slots > MAX_SLOTS) {
            bail!("--slots must be a power of two from 1 to {MAX_SLOTS}");
        }
        if self.vnodes == Some(0) {
            bail!("--vnodes must be at least 1");
        }
        if self.lease_ms.is_some_and(|lease| lease < MIN_LEASE_MS) {
            bail!("--lease-ms must be at least {MIN_LEASE_MS}: a shorter lease is lost to scheduling noise");
        }
        Ok(())
    }

    fn record(&self) -> ClusterRecord {
        ClusterRecord {
            cluster: ClusterId(fastrand::u128(..)),
            slots: self.slots.unwrap_or(SLOTS),
            replicas: self.replicas.unwrap_or(REPLICAS),
            lease_ms: self.lease_ms.unwrap_or(LEASE_MS),
            vnodes: self.vnodes.unwrap_or(VNODES),
        }
    }

    /// What was fixed when the cluster was created cannot be changed by a flag.
    fn check_against(&self, record: &ClusterRecord) -> anyhow::Result<()> {
        let fixed = [
            ("--slots", self.slots.map(u64::from), u64::from(record.slots)),
            ("--vnodes", self.vnodes.map(u64::from), u64::from(record.vnodes)),
            ("--replicas", self.replicas.map(u64::from), u64::from(record.replicas)),
            ("--lease-ms", self.lease_ms.map(u64::from), u64::from(record.lease_ms)),
        ];
        for (flag, given, is) in fixed {
            if given.is_some_and(|given| given != is) {
                bail!(
                    "{flag} was fixed at {is} when the cluster in {} was created: leave it out, or use another -d",
                    self.dir.display()
                );
            }
        }
        Ok(())
    }

    fn timings(&self) -> Config {
        Config {
            suspect: Duration::from_millis(self.suspect_ms),
            probe: Duration::from_millis(self.probe_ms),
            grace: Duration::from_millis(self.grace_ms),
            replace_after: Duration::from_millis(self.replace_after_ms),
            settle: Duration::from_millis(self.settle_ms),
            patience: Duration::from_secs(self.patience_s.max(1)),
            rehome_after: Duration::from_secs(self.rehome_after_s),
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Flags::command().debug_assert();
        let typed = ["ecs", "-p", "0", "-ll", "DEBUG", "-l", "x.log", "--slots", "8"];
        let flags = Flags::try_parse_from(logging::spell_out_ll(typed.map(OsString::from))).unwrap();
        assert_eq!((flags.port, flags.log_level), (0, Some(LevelFilter::Debug)));
        assert!(flags.check().is_ok());
        let record = flags.record();
        assert!(flags.check_against(&record).is_ok());
        assert!(flags.check_against(&ClusterRecord { slots: 16, ..record }).is_err());
    }
}
