//! One child process: started, heard to listen, signalled, stopped for certain.
//!
//! The child's output goes to a file, so it never blocks on us and can be shown when something fails. The child holds the
//! reading end of a pipe as its stdin and stops when that closes ([`crate::node`]): however its parent ends, the child does.
//! It gets a process group of its own, so that Ctrl-C in a terminal reaches the parent, which then stops it in order.
//!
//! This is a shell: it reads the clock and waits.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
pub use rustix::process::Signal;

/// How often a condition is looked at while waiting for it.
pub const POLL: Duration = Duration::from_millis(10);

/// Tells the child to watch its stdin; see the module.
pub const WATCH_STDIN: &str = "ANNULUS_STOP_WITH_STDIN";

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// For messages: `server 2`.
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its output is appended here.
    pub log: PathBuf,
    /// The words before the address in the line that says where it listens.
    pub announces: &'static str,
}

/// A running (or ended) child.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    child: Child,
    /// Where its part of the log begins.
    from: u64,
    address: String,
    ended: Option<ExitStatus>,
    /// Whether it was asked to stop: a second request would mean "at once".
    asked: bool,
}

impl Process {
    /// Starts the child and waits until it says where it listens.
    ///
    /// # Errors
    /// It cannot be started, ends before it listens, or does not listen in time; the end of its log is part of the error.
    pub fn start(launch: Launch, patience: Duration) -> anyhow::Result<Process> {
        let mut process = Process::spawn(launch)?;
        process.listening(patience)?;
        Ok(process)
    }

    /// Starts the child and does not wait for anything: for one that is expected to end early.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(launch: Launch) -> anyhow::Result<Process> {
        let from = std::fs::metadata(&launch.log).map_or(0, |found| found.len());
        let child = spawn(&launch)?;
        Ok(Process { launch, child, from, address: String::new(), ended: None, asked: false })
    }

    /// Waits until the child says where it listens.
    ///
    /// # Errors
    /// It ends before it listens, or does not listen in time; the end of its log is part of the error.
    pub fn listening(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            // Looked at before the log: what an ended child wrote last is then seen for certain.
            let ended = self.try_ended()?;
            if let Some(address) = self.announced()? {
                self.address = address;
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("{} ended before it listened ({status}):\n{}", self.launch.name, self.tail(30));
            }
            if Instant::now() >= deadline {
                bail!("{} does not listen after {patience:?}:\n{}", self.launch.name, self.tail(30));
            }
            std::thread::sleep(POLL);
        }
    }

    /// What this child has written so far: its log from where it began.
    #[must_use]
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.launch.log).unwrap_or_default();
        let new = usize::try_from(self.from).ok().and_then(|from| text.get(from..)).unwrap_or_default();
        String::from_utf8_lossy(new).into_owned()
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens, as it said: `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// The last lines of its output.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.launch.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn try_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Sends a signal; does nothing if the child has ended.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.try_ended()?.is_some() {
            return Ok(());
        }
        // The child is not reaped yet, so its id cannot belong to another process.
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)?;
        Ok(())
    }

    /// Ends it at once, with no chance to tidy up, and waits until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It has not after `patience`, or the system does not say.
    pub fn wait(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.try_ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let text = format!("{} has not ended after {patience:?}", self.launch.name);
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks it to stop in order (SIGTERM), once.
    ///
    /// # Errors
    /// The system refuses.
    pub fn ask_to_stop(&mut self) -> io::Result<()> {
        if self.asked {
            return Ok(());
        }
        self.asked = true;
        self.signal(Signal::TERM)
    }

    /// Stops it in order and, after `patience`, for certain.
    ///
    /// # Errors
    /// The system refuses.
    pub fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        self.ask_to_stop()?;
        match self.wait(patience) {
            Err(late) if late.kind() == io::ErrorKind::TimedOut => self.kill(),
            other => other,
        }
    }

    /// What a new process in its place would be started with, listening on the same address.
    #[must_use]
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The address in the first complete line of its own that announces one.
    fn announced(&self) -> anyhow::Result<Option<String>> {
        let text = std::fs::read(&self.launch.log).with_context(|| self.launch.log.display().to_string())?;
        let new = text.get(usize::try_from(self.from)?..).unwrap_or_default();
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(&[][..], |end| &new[..end]);
        let text = String::from_utf8_lossy(whole);
        let rest = text.lines().find_map(|line| line.split_once(self.launch.announces).map(|(_, rest)| rest));
        Ok(rest
            .and_then(|rest| rest.split_whitespace().next())
            .map(|word| word.trim_end_matches([',', ';', '.']).to_owned()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing sensible is left to do with an error here.
        let _ = self.kill();
    }
}

/// Waits until `condition` holds; whether it did within `patience`.
pub fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// How a process ended, for people: `exit code 3`, `killed by signal 9`.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn spawn(launch: &Launch) -> anyhow::Result<Child> {
    let log = open(&launch.log).with_context(|| format!("cannot write {}", launch.log.display()))?;
    Command::new(&launch.program)
        .args(&launch.args)
        .env(WATCH_STDIN, "1")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {} ({})", launch.name, launch.program.display()))
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Launch {
        let folder = std::env::temp_dir().join(format!("annulus-process-{}-{name}", std::process::id()));
        Launch {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            log: folder.join("log"),
            announces: "listening on ",
        }
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn the_announced_address_is_found_and_the_process_stops_on_request() {
        let mut process =
            Process::start(shell("calm", "echo x listening on 127.0.0.1:77, dir d; exec cat"), PATIENCE).unwrap();
        assert_eq!(process.address(), "127.0.0.1:77");
        assert_eq!(process.try_ended().unwrap(), None);
        assert_eq!(describe(process.stop(PATIENCE).unwrap()), "killed by signal 15");
    }

    #[test]
    fn one_that_ignores_the_request_is_killed() {
        let script = "trap '' TERM; echo listening on a:1; while :; do :; done";
        let mut process = Process::start(shell("stubborn", script), PATIENCE).unwrap();
        assert_eq!(describe(process.stop(Duration::from_millis(50)).unwrap()), "killed by signal 9");
    }

    #[test]
    fn one_that_ends_early_is_reported_with_its_log() {
        let error = Process::start(shell("early", "echo no such disk; exit 3"), PATIENCE).unwrap_err().to_string();
        assert!(error.contains("no such disk") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_child_sees_its_stdin_close_when_its_parent_lets_go() {
        let mut process = Process::start(shell("orphan", "echo listening on a:1; cat; exit 5"), PATIENCE).unwrap();
        drop(process.child.stdin.take());
        assert_eq!(describe(process.wait(PATIENCE).unwrap()), "exit code 5");
    }
}
