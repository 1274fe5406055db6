//! Whether a quota of processor time has throttled this process: cgroups' `cpu.max` or `cpu.cfs_quota_us`, which
//! containers and services are given.
//!
//! Linux counts that in each group's `cpu.stat`: `nr_throttled`, the periods in which the group had used up what it may
//! before they ended. Both versions of cgroups are read (cgroups(7); the kernel's `sched-bwc` and `cgroup-v2`). Where
//! there is nothing to be read, nothing throttles: groups above a container's own are not visible in there.

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

    /// Whether it has throttled the process since this was asked last; the first time, since its group exists. Reads some
    /// files, for which the kernel sums up what its processors have counted: not to be asked all the time.
    pub(crate) fn has_throttled(&mut self) -> bool {
        // Each time anew: a process can be moved.
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        self.look(Path::new("/sys/fs/cgroup"), &groups)
    }

    fn look(&mut self, root: &Path, groups: &str) -> bool {
        let throttled = folders(root, groups).iter().map(|folder| throttled(folder)).sum();
        std::mem::replace(&mut self.seen, throttled) < throttled
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
            // Mounted together with others it may have their names in another order, but then it has its own one, too.
            of if of.split(',').any(|controller| controller == "cpu") => {
                Some(root.join("cpu")).filter(|own| own.exists()).unwrap_or_else(|| root.join(of))
            }
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
        for (groups, group, above) in [
            ("0::/system.slice/kv.service\n", "system.slice/kv.service", "system.slice"),
            ("9:cpu,cpuacct:/a/b\n8:pids:/c\n1:name=systemd:/d\n", "cpu,cpuacct/a/b", "cpu,cpuacct/a"),
            ("4:cpuacct,cpu:/a/b\n", "cpu/a/b", "cpu/a"),
            ("0::/\n1:cpu:/a:b\n", "cpu/a:b", "cpu"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (group, above) = (dir.path().join(group), dir.path().join(above));
            stat(&above, 0);
            stat(&group, 7);
            let mut quota = Quota::new();
            let mut asked = || quota.look(dir.path(), groups);
            assert!(asked(), "{groups}: since the group exists");
            assert!(!asked(), "{groups}");
            stat(&group, 8);
            assert!(asked() && !asked(), "{groups}");
            stat(&above, 1);
            assert!(asked() && !asked(), "{groups}");
            stat(&group, 0);
            assert!(!asked(), "{groups}: another group is no quota");
        }
    }

    #[test]
    fn where_nothing_can_be_read_nothing_throttles() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu.stat"), "nr_throttled many\n").unwrap();
        for groups in ["", "0::/nowhere\n", "0::/\n", "nonsense\n:\n1:cpu\n", "5:cpuset,cpuacct:/\n"] {
            assert!(!Quota::new().look(dir.path(), groups), "{groups}");
        }
    }
}
