//! What the lines have in common: Annulus's servers, keys, values, and where connections go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use playground::node;
use playground::process::{Launch, Process};

use super::dialect::Protocol;
use super::load::{Load, Target};
use crate::real::{Cluster, Keyrange};

/// How long a server may take to listen, and to answer what is there.
const LISTEN: Duration = Duration::from_secs(60);
/// How often a starting server is asked.
const KNOCK: Duration = Duration::from_millis(2);

/// A ring of one.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) process: Process,
}

impl Alone {
    /// Starts it with its data in `folder`.
    pub(crate) fn start(program: &str, folder: &Path, more: &[&str]) -> anyhow::Result<Alone> {
        let data: PathBuf = folder.join("annulus");
        let mut args = vec![node::KVSERVER.into(), "-p".into(), "0".into(), "-d".into(), data.into_os_string()];
        args.extend(more.iter().map(Into::into));
        let launch = Launch {
            name: "server".to_owned(),
            program: program.into(),
            args,
            log: folder.join("annulus.log"),
            announces: "kvserver listening on ",
        };
        Ok(Alone { process: Process::start(launch, LISTEN)? })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.process.address()
    }

    /// Starts an ended server again, on its data and port, without waiting for it.
    pub(crate) fn launch(&mut self) -> anyhow::Result<String> {
        self.launch_with(&[])
    }

    /// The same with more arguments.
    pub(crate) fn launch_with(&mut self, more: &[&str]) -> anyhow::Result<String> {
        let address = self.process.address().to_owned();
        let mut launch = self.process.launch().clone();
        launch.args[2] = address.rsplit(':').next().unwrap_or("0").into();
        launch.args.extend(more.iter().map(Into::into));
        self.process = Process::spawn(launch)?;
        Ok(address)
    }

    /// Reads its address off its log again, once it has been asked something.
    pub(crate) fn listening(&mut self) -> anyhow::Result<()> {
        self.process.listening(LISTEN)
    }
}

/// Asks over and over until the answer is right; how long that took.
pub(crate) fn until_right(what: &str, mut right: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let began = Instant::now();
    while !right() {
        if began.elapsed() > LISTEN {
            bail!("{what} does not answer within {LISTEN:?}");
        }
        std::thread::sleep(KNOCK);
    }
    Ok(began.elapsed())
}

/// Each server with those of the keys that it coordinates.
pub(crate) fn coordinators(cluster: &Cluster, keys: &[String]) -> anyhow::Result<Vec<Target>> {
    shares_of(&cluster.keyrange(1), cluster.addresses(), keys)
}

/// Each of the servers with those of the keys that it coordinates.
pub(crate) fn shares_of(keyrange: &Keyrange, servers: Vec<String>, keys: &[String]) -> anyhow::Result<Vec<Target>> {
    let mut parts: Vec<(String, Vec<String>)> = servers.into_iter().map(|address| (address, Vec::new())).collect();
    for key in keys {
        let owner = keyrange.servers(key).first().copied().unwrap_or_default();
        if let Some((_, keys)) = parts.iter_mut().find(|(address, _)| address == owner) {
            keys.push(key.clone());
        }
    }
    anyhow::ensure!(parts.iter().all(|(_, keys)| !keys.is_empty()), "a server coordinates nothing: {keyrange:?}");
    Ok(parts.into_iter().map(|(address, keys)| Target { address, keys: keys.into() }).collect())
}

/// Writes every key of all targets once, to all targets at the same time.
pub(crate) fn fill(protocol: Protocol, targets: &[Target], value: &str) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let fillers: Vec<_> =
            targets.iter().map(|target| scope.spawn(move || Load::fill(protocol, target, value))).collect();
        fillers.into_iter().try_for_each(|filler| filler.join().expect("a filler does not panic"))
    })
}

/// A key of 16 bytes, as redis-benchmark makes them, too.
pub(crate) fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// The first keys.
pub(crate) fn keys(count: usize) -> Arc<[String]> {
    (0..count).map(key).collect()
}

/// A value of so many bytes.
pub(crate) fn value(bytes: usize) -> Arc<str> {
    "v".repeat(bytes).into()
}

/// An empty folder.
pub(crate) fn fresh(folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)
}
