//! Start, wait, load, shell, stop.
//!
//! This is a shell that talks to a person: it prints, waits and has a thread that listens for signals.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;
use crate::cluster::{Cluster, Options};
use crate::status::{Server, Summary};
use crate::{folder, process};

/// Something could not be started or did not serve in time.
const FAILED: u8 = 5;
/// How often the cluster is asked whether it serves.
const ASK: Duration = Duration::from_millis(50);
/// Nobody waits longer than this without being told what for.
const TELL: Duration = Duration::from_secs(2);

/// Whether a person types commands.
static SHELL_IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Runs the playground to its end.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    match play(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("playground: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn play(args: &Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let storage = folder::storage()?;
    let folder = if args.keep { folder::kept(&storage) } else { folder::fresh(&storage) };
    let folder = folder.with_context(|| format!("cannot make a folder in {}", storage.display()))?;
    let cluster = start(args, &folder)?;
    let cluster = Arc::new(Mutex::new(Some(cluster)));
    stop_on_signals(&cluster)?;
    let outcome = serve(args, &cluster, began);
    // A signal may have taken the cluster already; then that thread ends the process.
    let taken = lock(&cluster).take();
    if let Some(cluster) = taken {
        stop(cluster, args.keep);
    }
    outcome
}

/// Starts the processes and tells about each.
fn start(args: &Args, folder: &Path) -> anyhow::Result<Cluster> {
    println!("data and logs: {}", folder.display());
    let options = Options {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        folder: folder.to_path_buf(),
        base_port: args.port,
        ecs_args: Vec::new(),
        server_args: vec!["--dialect".into(), args.dialect.name().into()],
    };
    let mut cluster = Cluster::start(options)?;
    println!("ecs       {:<21} pid {}", cluster.ecs().address(), cluster.ecs().id());
    for _ in 0..args.servers {
        let number = cluster.add_server()?;
        let server = cluster.server(number);
        println!("{:<9} {:<21} pid {}", server.name(), server.address(), server.id());
    }
    Ok(cluster)
}

/// Everything between start and stop; the result is the exit code.
fn serve(args: &Args, cluster: &Arc<Mutex<Option<Cluster>>>, began: Instant) -> anyhow::Result<ExitCode> {
    let summary = wait(cluster, usize::from(args.servers), Duration::from_secs(args.patience))?;
    let addresses = with(cluster, |cluster| Ok(cluster.addresses()))?;
    tell_shares(&summary, &addresses);
    println!("all {} servers serve after {:.1} s", args.servers, began.elapsed().as_secs_f32());
    if let Some(file) = &args.load {
        crate::shell::load(&addresses, file)?;
    }
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        println!("`help` lists the commands; `quit` or Ctrl-D stops the cluster.");
        // From here on Ctrl-C belongs to the shell, which cancels the running command with it.
        SHELL_IS_OPEN.store(true, Ordering::Relaxed);
    }
    std::io::stdout().flush()?;
    Ok(crate::shell::open(&addresses))
}

/// Waits until every slot is served, and says what it waits for.
fn wait(cluster: &Arc<Mutex<Option<Cluster>>>, servers: usize, patience: Duration) -> anyhow::Result<Summary> {
    let deadline = Instant::now() + patience;
    let mut told = Instant::now();
    loop {
        let status = with(cluster, |cluster| {
            notice_deaths(cluster)?;
            Ok(cluster.status())
        })?;
        let missing = match status.and_then(|status| Summary::of(&status)) {
            Ok(summary) if summary.healed(servers) => return Ok(summary),
            Ok(summary) => summary.missing(servers).join(", "),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            let logs = with(cluster, |cluster| Ok(cluster.logs(15)))?;
            bail!("not serving after {} s: {missing}\n{logs}", patience.as_secs());
        }
        if told.elapsed() >= TELL {
            println!("waiting: {missing}");
            told = Instant::now();
        }
        std::thread::sleep(ASK);
    }
}

/// A process that died during the start will not serve: better said at once.
fn notice_deaths(cluster: &mut Cluster) -> anyhow::Result<()> {
    for number in 1..=cluster.servers().len() {
        let server = cluster.server(number);
        if let Some(status) = server.try_ended()? {
            bail!("{} ended during the start ({}):\n{}", server.name(), process::describe(status), server.tail(30));
        }
    }
    Ok(())
}

fn tell_shares(summary: &Summary, addresses: &[String]) {
    for (index, address) in addresses.iter().enumerate() {
        let coordinates = summary.servers.iter().find(|server| server.address == *address).map_or(0, slots_of);
        let share = 100.0 * coordinates as f64 / summary.slots.max(1) as f64;
        println!(
            "server {:<2} {address:<21} coordinates {coordinates} of {} slots ({share:.0} %)",
            index + 1,
            summary.slots
        );
    }
}

fn slots_of(server: &Server) -> usize {
    server.coordinates
}

/// Stops all processes and says how each ended if that was not in order.
fn stop(mut cluster: Cluster, keep: bool) {
    let began = Instant::now();
    for (name, end) in cluster.stop() {
        match end {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("{name}: {}", process::describe(status)),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    let folder = cluster.folder().display().to_string();
    println!(
        "stopped in {:.1} s; the data stays in {folder}{}",
        began.elapsed().as_secs_f32(),
        if keep { "" } else { " until you remove it" }
    );
}

/// Ctrl-C and SIGTERM stop every child before this process ends.
fn stop_on_signals(cluster: &Arc<Mutex<Option<Cluster>>>) -> anyhow::Result<()> {
    let cluster = Arc::clone(cluster);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    std::thread::spawn(move || {
        let number = runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => if !SHELL_IS_OPEN.load(Ordering::Relaxed) { return 2 },
                    _ = terminate.recv() => return 15,
                    _ = hangup.recv() => return 1,
                }
            }
        });
        if let Some(mut cluster) = lock(&cluster).take() {
            cluster.stop();
        }
        std::process::exit(128 + number);
    });
    Ok(())
}

fn lock(cluster: &Mutex<Option<Cluster>>) -> MutexGuard<'_, Option<Cluster>> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<T>(cluster: &Mutex<Option<Cluster>>, act: impl FnOnce(&mut Cluster) -> anyhow::Result<T>) -> anyhow::Result<T> {
    act(lock(cluster).as_mut().context("stopped by a signal")?)
}
