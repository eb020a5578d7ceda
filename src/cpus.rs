//! Which CPUs this process may use: affinity mask, physical cores, cgroup quota.
//!
//! Everything is read below a root folder, so that tests can bring their own machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The CPUs of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpus {
    /// Logical CPUs of the affinity mask.
    pub logical: usize,
    /// Physical cores among them; hardware threads of one core count once.
    pub cores: usize,
    /// CPU time per time that the cgroups allow, in CPUs; `None` without a limit.
    pub quota: Option<f64>,
}

impl Cpus {
    /// Reads `proc` and `sys` below `root` (`/` for this machine). Without these files, what the
    /// standard library finds.
    pub fn read(root: &Path) -> Cpus {
        let allowed = affinity(root);
        let std = || std::thread::available_parallelism().map_or(1, usize::from);
        let logical = allowed.as_ref().map_or_else(std, BTreeSet::len).max(1);
        let cores = allowed.and_then(|cpus| cores(root, &cpus));
        Cpus {
            logical,
            cores: cores.unwrap_or(logical),
            quota: quota(root),
        }
    }

    /// Threads to use when nothing else is known: one per physical core, not more than the
    /// quota rounded up.
    pub fn threads(&self) -> usize {
        self.capped(self.cores)
    }

    /// Most threads that can run at the same time.
    pub fn most(&self) -> usize {
        self.capped(self.logical)
    }

    fn capped(&self, n: usize) -> usize {
        // A quota of 1.5 CPUs is better used by two threads than by one.
        self.quota.map_or(n, |q| n.min(q.ceil() as usize)).max(1)
    }
}

pub(crate) fn read(path: PathBuf) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// A list of the kernel's, such as `0-3,8`.
fn list(text: &str) -> Option<BTreeSet<usize>> {
    /// More CPUs than any machine has.
    const MOST: usize = 1 << 16;
    let mut out = BTreeSet::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (usize, usize) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
        (b < MOST).then(|| out.extend(a..=b))?;
    }
    (!out.is_empty()).then_some(out)
}

/// CPUs of the affinity mask; cpusets are part of it.
fn affinity(root: &Path) -> Option<BTreeSet<usize>> {
    let status = read(root.join("proc/self/status"))?;
    list(
        status
            .lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?,
    )
}

/// Groups of hardware threads among `cpus`; `None` when the machine does not tell.
fn cores(root: &Path, cpus: &BTreeSet<usize>) -> Option<usize> {
    let siblings = |cpu: &usize| {
        let topology = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
        let names = ["core_cpus_list", "thread_siblings_list"];
        list(&names.iter().find_map(|n| read(topology.join(n)))?)?.pop_first()
    };
    let cores: Option<BTreeSet<usize>> = cpus.iter().map(siblings).collect();
    cores.map(|c| c.len())
}

/// Where this process stands in the trees of cgroups.
pub(crate) struct Group {
    v2: String,
    v1: String,
}

impl Group {
    /// The group of version 2, and that of `controller` in version 1.
    pub(crate) fn read(root: &Path, controller: &str) -> Group {
        let groups = read(root.join("proc/self/cgroup")).unwrap_or_default();
        let (mut v2, mut v1) = ("/", "/");
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            match (parts.next(), parts.next()) {
                (Some(""), Some(path)) => v2 = path,
                (Some(all), Some(path)) if all.split(',').any(|c| c == controller) => v1 = path,
                _ => {}
            }
        }
        let (v2, v1) = (v2.to_owned(), v1.to_owned());
        Group { v2, v1 }
    }

    /// Folders of version 2 from the mount down to the group. Inside a container the path of the group
    /// may not exist; its own group is then at the mount.
    pub(crate) fn v2(&self, root: &Path) -> Vec<PathBuf> {
        folders(root, &["", "unified"], &self.v2)
    }

    /// The same of version 1, where the controller is mounted under one of `names`.
    pub(crate) fn v1(&self, root: &Path, names: &[&str]) -> Vec<PathBuf> {
        folders(root, names, &self.v1)
    }
}

/// All folders from each mount down to `path`.
fn folders(root: &Path, mounts: &[&str], path: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for mount in mounts {
        let mut dir = root.join("sys/fs/cgroup").join(mount);
        all.push(dir.clone());
        for name in path.split('/').filter(|n| !n.is_empty() && *n != "..") {
            dir.push(name);
            all.push(dir.clone());
        }
    }
    all
}

/// The smallest quota of this process's cgroup and those above it, version 2 or 1, in CPUs.
fn quota(root: &Path) -> Option<f64> {
    let of_v2 = |dir: &PathBuf| {
        let text = read(dir.join("cpu.max"))?;
        let mut parts = text.split_whitespace();
        ratio(parts.next()?, parts.next()?)
    };
    let of_v1 = |dir: &PathBuf| {
        ratio(
            &read(dir.join("cpu.cfs_quota_us"))?,
            &read(dir.join("cpu.cfs_period_us"))?,
        )
    };
    let group = Group::read(root, "cpu");
    let (v2, v1) = (group.v2(root), group.v1(root, &["cpu", "cpu,cpuacct"]));
    let all = v2
        .iter()
        .filter_map(of_v2)
        .chain(v1.iter().filter_map(of_v1));
    all.reduce(f64::min)
}

/// Quota over period; neither `max` nor -1 is a limit.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of files.
    fn machine(files: &[(&str, &str)]) -> Cpus {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        Cpus::read(root.path())
    }

    const STATUS: &str = "proc/self/status";
    const GROUP: &str = "proc/self/cgroup";

    fn status(list: &str) -> String {
        format!("Name:\tgeb-run\nCpus_allowed:\tff\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n")
    }

    fn sibling(cpu: usize, name: &str, list: &str) -> (String, String) {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        (path, format!("{list}\n"))
    }

    #[test]
    fn lists_of_the_kernel() {
        let set = |text: &str| list(text).map(Vec::from_iter);
        assert_eq!(set("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(set("7"), Some(vec![7]));
        for bad in ["", "x", "1-", "-1", "0-4294967295"] {
            assert_eq!(set(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn hardware_threads_of_a_core_count_once() {
        let status = status("0-3,6");
        let files: Vec<_> = (0..8)
            .map(|cpu| {
                sibling(
                    cpu,
                    "core_cpus_list",
                    &format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1),
                )
            })
            .collect();
        let mut all = vec![(STATUS, status.as_str())];
        all.extend(files.iter().map(|(p, t)| (p.as_str(), t.as_str())));
        let cpus = machine(&all);
        assert_eq!((cpus.logical, cpus.cores), (5, 3));
        assert_eq!((cpus.threads(), cpus.most()), (3, 5));
        // The older name of the file; one that is missing makes the machine unknown.
        let old: Vec<_> = [0, 1, 2, 3, 6]
            .map(|cpu| {
                sibling(
                    cpu,
                    "thread_siblings_list",
                    &format!("{},{}", cpu % 4, cpu % 4 + 4),
                )
            })
            .into();
        let mut all = vec![(STATUS, status.as_str())];
        all.extend(old.iter().map(|(p, t)| (p.as_str(), t.as_str())));
        assert_eq!(machine(&all).cores, 4);
        all.pop();
        assert_eq!(machine(&all).cores, 5);
    }

    #[test]
    fn quotas_of_version_2_are_the_smallest_on_the_way_up() {
        let status = status("0-15");
        let base = [
            (STATUS, status.as_str()),
            (GROUP, "0::/a.slice/b.scope\n"),
            ("sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000\n"),
        ];
        let cpus = machine(&base);
        assert_eq!((cpus.quota, cpus.threads()), (Some(1.5), 2));
        let inner = [
            &base[..3],
            &[("sys/fs/cgroup/a.slice/b.scope/cpu.max", "50000 100000")],
        ];
        let cpus = machine(&inner.concat());
        assert_eq!((cpus.quota, cpus.threads()), (Some(0.5), 1));
        // In a container only the mount itself can be seen.
        let own = [base[0], base[1], ("sys/fs/cgroup/cpu.max", "400000 100000")];
        assert_eq!(machine(&own).threads(), 4);
        assert_eq!(machine(&base[..2]).quota, None);
    }

    #[test]
    fn quotas_of_version_1() {
        let status = status("0-7");
        let quota = |quota| {
            [
                (STATUS, status.as_str()),
                (GROUP, "4:cpu,cpuacct:/docker/x\n3:cpuset:/y\n0::/\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", quota),
                (
                    "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us",
                    "100000\n",
                ),
            ]
        };
        assert_eq!(machine(&quota("-1\n")).threads(), 8);
        assert_eq!(machine(&quota("250000\n")).threads(), 3);
        assert_eq!(machine(&quota("nonsense")).threads(), 8);
    }

    #[test]
    fn without_any_file_there_is_still_a_number() {
        let cpus = machine(&[]);
        assert!(cpus.logical >= 1 && cpus.cores == cpus.logical && cpus.quota.is_none());
    }
}
