//! Whether a quota of processor time has held this process back: cgroups' `cpu.max` or `cpu.cfs_quota_us`, which containers and
//! services are given.
//!
//! Linux counts that in each group's `cpu.stat`: `nr_throttled`, the periods in which the group had used up what it may. Both
//! versions of cgroups are read (cgroups(7); the kernel's `sched-bwc` and `cgroup-v2`). Where there is nothing to be read, nothing holds back.

use std::fs;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Quota {
    /// What was counted when somebody asked last.
    seen: u64,
}

impl Quota {
    pub(crate) const fn new() -> Quota {
        Quota { seen: 0 }
    }

    /// Whether it has held the process back since this was asked last. Reads a few small files.
    pub(crate) fn has_held_back(&mut self) -> bool {
        // Each time anew: a process can be moved.
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        self.look(Path::new("/sys/fs/cgroup"), &groups)
    }

    fn look(&mut self, root: &Path, groups: &str) -> bool {
        let held = folders(root, groups).iter().map(|folder| throttled(folder)).sum();
        std::mem::replace(&mut self.seen, held) != held
    }
}

/// The group's folders and those of the groups that it is in, by the content of a process's `cgroup`.
fn folders(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let tree = match controllers {
            "" => root.to_owned(),
            of if of.split(',').any(|controller| controller == "cpu") => root.join(of),
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        folders.extend(group.ancestors().map(|group| tree.join(group)));
    }
    folders
}

fn throttled(folder: &Path) -> u64 {
    let stat = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
    let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(folder: &Path, throttled: u64) {
        fs::create_dir_all(folder).unwrap();
        let stat = format!("nr_periods 9\nnr_throttled {throttled}\nthrottled_usec 77\n");
        fs::write(folder.join("cpu.stat"), stat).unwrap();
    }

    #[test]
    fn a_quota_is_seen_in_both_versions_and_in_the_groups_above() {
        let dir = tempfile::tempdir().unwrap();
        for (groups, group, above) in [
            ("0::/system.slice/kv.service\n", "system.slice/kv.service", "system.slice"),
            ("9:cpu,cpuacct:/a/b\n8:pids:/c\n1:name=systemd:/d\n", "cpu,cpuacct/a/b", "cpu,cpuacct/a"),
            ("0::/\n1:cpu:/a:b\n", "cpu/a:b", "cpu"),
        ] {
            let (group, above) = (dir.path().join(group), dir.path().join(above));
            stat(&group, 0);
            stat(&above, 0);
            let mut quota = Quota::new();
            let mut asked = || quota.look(dir.path(), groups);
            assert!(!asked(), "{groups}");
            stat(&group, 3);
            assert!(asked() && !asked(), "{groups}");
            stat(&above, 1);
            assert!(asked() && !asked(), "{groups}");
        }
    }

    #[test]
    fn where_nothing_can_be_read_nothing_holds_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu.stat"), "nr_throttled many\n").unwrap();
        for groups in ["", "0::/nowhere\n", "0::/\n", "nonsense\n:\n1:cpu\n", "5:cpuset,cpuacct:/\n"] {
            assert!(!Quota::new().look(dir.path(), groups), "{groups}");
        }
    }
}
