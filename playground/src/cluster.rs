//! One ecs and some kvservers as child processes, with their data and logs under one folder.
//!
//! Starts, kills, restarts and waits; knows nothing about what they do. Dropped, it ends them all.
//!
//! This is a shell: it reads the clock and waits.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::node;
use crate::process::{Launch, Process};
use crate::status;

/// How long a process may take to listen. Start-up reads the data back, so this is generous.
const LISTEN: Duration = Duration::from_secs(30);
/// How long a process may take to stop in order, before it is killed.
pub const STOP: Duration = Duration::from_secs(15);

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary whose hidden sub-commands are the roles.
    pub program: PathBuf,
    /// Data and logs go here.
    pub folder: PathBuf,
    /// The ecs listens here and server number i, from 1, on the i-th port after it. None: wherever the system likes.
    pub base_port: Option<u16>,
    /// More arguments for the ecs.
    pub ecs_args: Vec<OsString>,
    /// More arguments for every server.
    pub server_args: Vec<OsString>,
}

/// A running cluster. Servers are numbered from 1, as in their folders' names.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    ecs: Process,
    servers: Vec<Process>,
}

impl Cluster {
    /// Starts the ecs, and no server yet.
    ///
    /// # Errors
    /// It does not start; its log is part of the error.
    pub fn start(options: Options) -> anyhow::Result<Cluster> {
        let ecs = Process::start(ecs_launch(&options), LISTEN)?;
        Ok(Cluster { options, ecs, servers: Vec::new() })
    }

    /// Starts one more server and gives its number.
    ///
    /// # Errors
    /// It does not start; its log is part of the error.
    pub fn add_server(&mut self) -> anyhow::Result<usize> {
        let number = self.servers.len() + 1;
        let port = match self.options.base_port {
            Some(base) => base.checked_add(u16::try_from(number)?).context("the ports end at 65535")?,
            None => 0,
        };
        let launch = self.server_launch(number, port);
        self.servers.push(Process::start(launch, LISTEN)?);
        Ok(number)
    }

    /// The ecs.
    #[must_use]
    pub fn ecs(&self) -> &Process {
        &self.ecs
    }

    /// Where everything is kept.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.options.folder
    }

    /// All servers, number 1 first, ended ones included.
    #[must_use]
    pub fn servers(&self) -> &[Process] {
        &self.servers
    }

    /// Server `number`.
    ///
    /// # Panics
    /// There is none.
    pub fn server(&mut self, number: usize) -> &mut Process {
        assert!((1..=self.servers.len()).contains(&number), "servers are numbered 1 to {}", self.servers.len());
        &mut self.servers[number - 1]
    }

    /// The client addresses of all servers.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address().to_owned()).collect()
    }

    /// The data directory of server `number`.
    #[must_use]
    pub fn data(&self, number: usize) -> PathBuf {
        self.options.folder.join(format!("data{number}"))
    }

    /// Starts an ended server again: same data, same client port.
    ///
    /// # Errors
    /// It does not start; its log is part of the error.
    pub fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        let port = port_of(self.server(number).address())?;
        self.server(number).kill()?;
        let launch = self.server_launch(number, port);
        self.servers[number - 1] = Process::start(launch, LISTEN)?;
        Ok(())
    }

    /// Starts the ended ecs again: same data, same port.
    ///
    /// # Errors
    /// It does not start; its log is part of the error.
    pub fn restart_ecs(&mut self) -> anyhow::Result<()> {
        let port = port_of(self.ecs.address())?;
        self.ecs.kill()?;
        let mut launch = ecs_launch(&self.options);
        launch.args[2] = port.to_string().into();
        self.ecs = Process::start(launch, LISTEN)?;
        Ok(())
    }

    /// The ecs process, to be signalled.
    pub fn ecs_mut(&mut self) -> &mut Process {
        &mut self.ecs
    }

    /// What the ecs says of the cluster.
    ///
    /// # Errors
    /// See [`status::ask`].
    pub fn status(&self) -> anyhow::Result<Value> {
        status::ask(self.ecs.address())
    }

    /// Stops the servers in order, all at once, then the ecs. Gives how each ended, by name.
    pub fn stop(&mut self) -> Vec<(String, std::io::Result<ExitStatus>)> {
        for server in &mut self.servers {
            // Whoever cannot be signalled is dealt with below.
            let _ = server.ask_to_stop();
        }
        let deadline = Instant::now() + STOP;
        let mut ends = Vec::new();
        for server in &mut self.servers {
            let end = server.stop(deadline.saturating_duration_since(Instant::now()));
            ends.push((server.name().to_owned(), end));
        }
        let end = self.ecs.stop(STOP);
        ends.push((self.ecs.name().to_owned(), end));
        ends
    }

    /// The last lines of every log, for a failure.
    #[must_use]
    pub fn logs(&self, lines: usize) -> String {
        let all = std::iter::once(&self.ecs).chain(&self.servers);
        all.map(|process| format!("--- {} ({})\n{}\n", process.name(), process.log().display(), process.tail(lines)))
            .collect()
    }

    fn server_launch(&self, number: usize, port: u16) -> Launch {
        let mut args: Vec<OsString> = vec![node::KVSERVER.into(), "-p".into(), port.to_string().into()];
        args.extend(["-b".into(), self.ecs.address().into(), "-d".into(), self.data(number).into_os_string()]);
        args.extend(self.options.server_args.iter().cloned());
        Launch {
            name: format!("server {number}"),
            program: self.options.program.clone(),
            args,
            log: self.options.folder.join(format!("server{number}.log")),
            announces: "kvserver listening on ",
        }
    }
}

fn ecs_launch(options: &Options) -> Launch {
    let mut args: Vec<OsString> =
        vec![node::ECS.into(), "-p".into(), options.base_port.unwrap_or(0).to_string().into()];
    args.extend(["-d".into(), options.folder.join("ecs").into_os_string()]);
    args.extend(options.ecs_args.iter().cloned());
    Launch {
        name: "ecs".to_owned(),
        program: options.program.clone(),
        args,
        log: options.folder.join("ecs.log"),
        announces: "ecs listening on ",
    }
}

fn port_of(address: &str) -> anyhow::Result<u16> {
    let (_, port) = address.rsplit_once(':').with_context(|| format!("{address} has no port"))?;
    port.parse().with_context(|| format!("{address} has no port"))
}
