//! What the figures were measured on: without that, nobody can say whether a figure is a surprise.

use std::process::Command;

use serde::Serialize;

/// The machine and the programs of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Of the first of them.
    pub cpu: String,
    /// MiB.
    pub memory: u64,
    /// The system's.
    pub kernel: String,
    /// When the run began, UTC.
    pub date: String,
    /// The load of the last minute, before anything was measured: processors' worth of other work.
    pub load: String,
    /// Program and version of every system that took part.
    pub versions: Vec<String>,
}

impl Machine {
    /// Asks the system.
    #[must_use]
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0) / 1024;
        let peers = [
            ("redis-server", "--version"),
            ("etcd", "--version"),
            ("redis-benchmark", "--version"),
            ("etcdctl", "version"),
        ];
        let own = format!("annulus {}", env!("CARGO_PKG_VERSION"));
        Machine {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            memory,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            date: first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_default(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            versions: std::iter::once(own)
                .chain(peers.iter().filter_map(|(program, flag)| first_line(program, &[flag])))
                .collect(),
        }
    }

    /// In one line; without the date, which documents have no use for.
    #[must_use]
    pub fn line(&self) -> String {
        self.lines().join(" ")
    }

    /// The same in two.
    #[must_use]
    pub fn lines(&self) -> [String; 2] {
        let Machine { cores, cpu, memory, kernel, load, .. } = self;
        let machine = format!("{cores} cores ({cpu}), {memory} MiB, Linux {kernel}, load before: {load}.");
        [machine, format!("{}.", self.versions.join("; "))]
    }
}

/// The value of a line `name : value`.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// What a program that ends at once says first; None if there is no such program.
fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // What redis says of its build after that is of no use here.
    text.lines().next().map(|line| line.split(" sha=").next().unwrap_or(line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found() {
        assert_eq!(field("a : 1\nmodel name\t: Some CPU @ 2\n", "model name"), "Some CPU @ 2");
        assert_eq!(field("MemTotal:       24682 kB\n", "MemTotal"), "24682 kB");
        assert_eq!(field("", "MemTotal"), "");
    }
}
