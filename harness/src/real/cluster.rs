//! The cluster itself; see the parent module. Its methods panic where a test would: with all that is known.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use playground::cluster as processes;
use playground::process::Signal;
use playground::status::Summary;

use super::text::{Keyrange, Text};

/// How often a state is looked at while waiting for it.
const LOOK: Duration = Duration::from_millis(20);

/// What a cluster is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments for the ecs.
    pub ecs: Vec<OsString>,
    /// More arguments for every server.
    pub server: Vec<OsString>,
}

/// A running cluster. Servers are numbered from 1.
#[derive(Debug)]
pub struct Cluster {
    processes: processes::Cluster,
    folder: Folder,
}

/// A temporary folder, removed when dropped unless the test failed.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// A name in the system's temporary folder that nothing else uses.
    fn unused() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("annulus-e2e-{}-{count}", std::process::id()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What is left behind in a temporary folder does no harm.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

impl Cluster {
    /// Starts an ecs and `servers` servers from the `annulus-node` binary at `program`, and waits until all serve.
    ///
    /// # Panics
    /// They do not.
    #[must_use]
    pub fn start(program: &str, servers: usize, options: Options) -> Cluster {
        Cluster::start_in(program, Folder::unused(), servers, options)
    }

    /// Like [`Cluster::start`], with everything in `folder`, which is removed in the end.
    ///
    /// # Panics
    /// They do not.
    #[must_use]
    pub fn start_in(program: &str, folder: PathBuf, servers: usize, options: Options) -> Cluster {
        let mut cluster = Cluster::start_ecs_in(program, Folder(folder), options);
        for _ in 0..servers {
            cluster.add();
        }
        cluster.settled(servers, Duration::from_secs(60));
        cluster
    }

    /// Starts an ecs only.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_ecs(program: &str, options: Options) -> Cluster {
        Cluster::start_ecs_in(program, Folder(Folder::unused()), options)
    }

    fn start_ecs_in(program: &str, folder: Folder, options: Options) -> Cluster {
        let options = processes::Options {
            program: program.into(),
            folder: folder.0.clone(),
            base_port: None,
            ecs_args: options.ecs,
            server_args: options.server,
        };
        let processes = processes::Cluster::start(options).unwrap_or_else(|error| panic!("{error:#}"));
        Cluster { processes, folder }
    }

    /// Starts one more server, without waiting for more than its port, and gives its number.
    ///
    /// # Panics
    /// It does not start.
    pub fn add(&mut self) -> usize {
        self.processes.add_server().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The client addresses of all servers, running or not.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.processes.addresses()
    }

    /// The client address of server `number`.
    #[must_use]
    pub fn address(&self, number: usize) -> String {
        self.processes.servers()[number - 1].address().to_owned()
    }

    /// Where the ecs listens.
    #[must_use]
    pub fn ecs(&self) -> &str {
        self.processes.ecs().address()
    }

    /// The data directory of server `number`.
    #[must_use]
    pub fn data(&self, number: usize) -> PathBuf {
        self.processes.data(number)
    }

    /// The process id of server `number`.
    #[must_use]
    pub fn pid(&self, number: usize) -> u32 {
        self.processes.servers()[number - 1].id()
    }

    /// The process id of the ecs.
    #[must_use]
    pub fn ecs_pid(&self) -> u32 {
        self.processes.ecs().id()
    }

    /// How many bytes server `number` has logged, or the ecs if it is 0.
    ///
    /// # Panics
    /// Its log cannot be looked at.
    #[must_use]
    pub fn logged(&self, number: usize) -> u64 {
        let process = if number == 0 { self.processes.ecs() } else { &self.processes.servers()[number - 1] };
        std::fs::metadata(process.log()).expect("every process has a log").len()
    }

    /// The ecs's whole status.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        self.processes.status().unwrap_or_else(|error| panic!("{error:#}\n{}", self.processes.logs(40)))
    }

    /// Server `number`'s status, as it tells it.
    ///
    /// # Panics
    /// It does not answer, or not with JSON.
    #[must_use]
    pub fn status_of(&self, number: usize) -> serde_json::Value {
        let answer = self.text(number).ask("status").unwrap_or_else(|error| panic!("server {number}: {error}"));
        let json = answer.strip_prefix("STATUS_SUCCESS ").unwrap_or_else(|| panic!("server {number}: {answer}"));
        serde_json::from_str(json).unwrap_or_else(|error| panic!("server {number}: {error}: {json}"))
    }

    /// Where everything of this cluster lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The text of server `number`'s keyrange, as it stands now.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn keyrange(&self, number: usize) -> Keyrange {
        self.text(number).keyrange(false).unwrap_or_else(|error| panic!("server {number}: {error}"))
    }

    /// A text connection to server `number`.
    #[must_use]
    pub fn text(&self, number: usize) -> Text {
        Text::connect(&self.address(number)).unwrap_or_else(|error| panic!("server {number}: {error}"))
    }

    /// Ends server `number` at once, as a power failure of its process would.
    ///
    /// # Panics
    /// The system refuses.
    pub fn kill9(&mut self, number: usize) {
        self.processes.server(number).kill().expect("a child can be killed");
    }

    /// Ends the ecs at once.
    ///
    /// # Panics
    /// The system refuses.
    pub fn kill9_ecs(&mut self) {
        self.processes.ecs_mut().kill().expect("a child can be killed");
    }

    /// Stops server `number` in order.
    ///
    /// # Panics
    /// The system refuses.
    pub fn stop(&mut self, number: usize) -> ExitStatus {
        self.processes.server(number).stop(processes::STOP).expect("a child can be stopped")
    }

    /// Sends SIGTERM to server `number` and waits for nothing.
    ///
    /// # Panics
    /// The system refuses.
    pub fn terminate(&mut self, number: usize) {
        self.processes.server(number).ask_to_stop().expect("a child can be signalled");
    }

    /// Waits until server `number` has ended by itself.
    ///
    /// # Panics
    /// It has not after `patience`.
    pub fn ended(&mut self, number: usize, patience: Duration) -> ExitStatus {
        let ended = self.processes.server(number).wait(patience);
        ended.unwrap_or_else(|error| panic!("{error}\n{}", self.processes.logs(40)))
    }

    /// Stops everything in order, servers first.
    ///
    /// # Panics
    /// A process could not be signalled.
    pub fn stop_all(&mut self) -> Vec<(String, ExitStatus)> {
        let ends = self.processes.stop().into_iter();
        ends.map(|(name, end)| (name, end.expect("a child can be stopped"))).collect()
    }

    /// Freezes server `number`.
    ///
    /// # Panics
    /// The system refuses.
    pub fn pause(&mut self, number: usize) {
        self.processes.server(number).signal(Signal::STOP).expect("a child can be signalled");
    }

    /// Lets a frozen server go on.
    ///
    /// # Panics
    /// The system refuses.
    pub fn resume(&mut self, number: usize) {
        self.processes.server(number).signal(Signal::CONT).expect("a child can be signalled");
    }

    /// Starts an ended server again, with its data and on its port.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self, number: usize) {
        self.processes.restart(number).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts the ended ecs again, with its data and on its port.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart_ecs(&mut self) {
        self.processes.restart_ecs().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// What the ecs says now.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn summary(&self) -> anyhow::Result<Summary> {
        Summary::of(&self.processes.status()?)
    }

    /// Waits until the ecs's status satisfies `wanted`, and gives that status.
    ///
    /// # Panics
    /// It does not within `patience`: with `what`, the last status and all logs.
    pub fn wait(&self, what: &str, patience: Duration, wanted: impl Fn(&Summary) -> bool) -> Summary {
        let deadline = Instant::now() + patience;
        loop {
            let summary = self.summary();
            match summary {
                Ok(summary) if wanted(&summary) => return summary,
                last if Instant::now() >= deadline => {
                    panic!("no {what} within {patience:?}; last: {last:#?}\n{}", self.processes.logs(40))
                }
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    /// Waits until exactly `live` servers are up and every slot is served with all the copies it can have.
    pub fn healed(&self, live: usize, patience: Duration) -> Summary {
        self.wait(&format!("healed cluster of {live}"), patience, |summary| summary.healed(live))
    }

    /// Waits until `live` servers are up and every slot has all its copies, at home.
    pub fn settled(&self, live: usize, patience: Duration) -> Summary {
        self.wait(&format!("settled cluster of {live}"), patience, |summary| summary.settled(live))
    }

    /// The last lines of every process's log.
    #[must_use]
    pub fn logs(&self, lines: usize) -> String {
        self.processes.logs(lines)
    }
}
