//! A process that gets a share of a processor only: control groups, version 1 or 2. Needs root.
//!
//! Makes one group right under the controller's root and takes it away again; touches no other.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A group with a quota. Dropped, its processes go back and it is removed.
#[derive(Debug)]
pub(crate) struct Quota {
    root: PathBuf,
    group: PathBuf,
}

impl Quota {
    /// A group that gets `cores` processors' worth of time in every `period`, or why that cannot be.
    pub(crate) fn new(name: &str, cores: f64, period: Duration) -> Result<Quota, String> {
        let (root, second) = controller()?;
        let group = root.join(format!("annulus-bench-{}-{name}", std::process::id()));
        std::fs::create_dir(&group).map_err(|error| format!("cannot make {}: {error}", group.display()))?;
        let quota = Quota { root, group };
        for (file, text) in settings(second, cores, period) {
            quota.write(file, &text)?;
        }
        Ok(quota)
    }

    /// Puts a process with all its threads under the quota.
    pub(crate) fn hold(&self, pid: u32) -> Result<(), String> {
        self.write("cgroup.procs", &pid.to_string())
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.group.join(file);
        std::fs::write(&path, text).map_err(|error| format!("cannot write {text} to {}: {error}", path.display()))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let inside = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            // One that ended meanwhile is where it should be.
            let _ = std::fs::write(self.root.join("cgroup.procs"), pid);
        }
        // An empty group that stays behind does no harm.
        let _ = std::fs::remove_dir(&self.group);
    }
}

/// The folder of the processor controller, and whether it is of version 2.
fn controller() -> Result<(PathBuf, bool), String> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|name| name == "cpu") {
        std::fs::write(root.join("cgroup.subtree_control"), "+cpu")
            .map_err(|error| format!("cannot use the cpu controller of {}: {error}", root.display()))?;
        return Ok((root.to_owned(), true));
    }
    let first = ["cpu", "cpu,cpuacct"].map(|name| root.join(name));
    let found = first.into_iter().find(|folder| folder.join("cpu.cfs_quota_us").exists() || is_root(folder));
    found.map(|folder| (folder, false)).ok_or_else(|| format!("no cpu controller under {}", root.display()))
}

/// The topmost group has no quota of its own, but shares.
fn is_root(folder: &Path) -> bool {
    folder.join("cpu.shares").exists()
}

fn settings(second: bool, cores: f64, period: Duration) -> Vec<(&'static str, String)> {
    let period = period.as_micros();
    let quota = (period as f64 * cores).round() as u64;
    if second {
        return vec![("cpu.max", format!("{quota} {period}"))];
    }
    vec![("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_ten_milliseconds_is_said_in_both_versions() {
        let period = Duration::from_millis(10);
        assert_eq!(settings(true, 0.25, period), [("cpu.max", "2500 10000".to_owned())]);
        let first = [("cpu.cfs_period_us", "10000".to_owned()), ("cpu.cfs_quota_us", "2500".to_owned())];
        assert_eq!(settings(false, 0.25, period), first);
    }
}
