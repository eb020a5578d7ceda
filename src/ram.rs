//! How much memory this process may still take: what the machine has, what its cgroups and its own limits
//! leave. Everything is read below a root folder, so that tests can bring their own machine.

use std::path::{Path, PathBuf};

use crate::cpus::{Group, read};
use crate::error::{Error, Result};

/// Bytes that this process may still take; `None` where the system does not tell.
pub fn available(root: &Path) -> Option<u64> {
    let all = [machine(root), groups(root), limits(root)];
    all.into_iter().flatten().min()
}

/// Refuses what does not fit.
///
/// # Errors
/// [`Error::Memory`] with both numbers.
pub fn check(what: impl FnOnce() -> String, needed: u64) -> Result<()> {
    match available(Path::new("/")).filter(|&free| needed > free) {
        None => Ok(()),
        Some(available) => Err(Error::Memory {
            what: what(),
            needed,
            available,
        }),
    }
}

/// The error of an allocation that the system refuses.
pub(crate) fn refused(what: impl Into<String>, needed: u64) -> Error {
    let available = available(Path::new("/")).unwrap_or(0).min(needed);
    Error::Memory {
        what: what.into(),
        needed,
        available,
    }
}

/// `LABEL  NUMBER kB` in bytes.
fn kilobytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(label))?;
    let number = line.trim().strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the kernel thinks can be taken without swapping; before Linux 3.14 what is free or a cached file.
fn machine(root: &Path) -> Option<u64> {
    let info = read(root.join("proc/meminfo"))?;
    let of = |label| kilobytes(&info, label);
    of("MemAvailable:").or_else(|| Some(of("MemFree:")? + of("Cached:").unwrap_or(0)))
}

/// The least that is left in this process's cgroups and those above them, versions 2 and 1.
fn groups(root: &Path) -> Option<u64> {
    let v2 = |dir: &Path| {
        left(
            dir,
            ["memory.max", "memory.current"],
            ["inactive_file", "active_file"],
        )
    };
    let v1 = |dir: &Path| {
        let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
        left(dir, names, ["total_inactive_file", "total_active_file"])
    };
    let group = Group::read(root, "memory");
    let of = |dirs: Vec<PathBuf>, left: &dyn Fn(&Path) -> Option<u64>| {
        dirs.iter().filter_map(|dir| left(dir)).min()
    };
    let all = [
        of(group.v2(root), &v2),
        of(group.v1(root, &["memory"]), &v1),
    ];
    all.into_iter().flatten().min()
}

/// Limit less use; cached files count as free, since they leave when memory is needed.
fn left(dir: &Path, [limit, used]: [&str; 2], cached: [&str; 2]) -> Option<u64> {
    let number = |name: &str| read(dir.join(name))?.trim().parse::<u64>().ok();
    // `max` is no number: no limit.
    let limit = number(limit)?;
    let used = number(used).unwrap_or(0);
    let stat = read(dir.join("memory.stat")).unwrap_or_default();
    let lines = stat.lines().filter_map(|l| l.split_once(' '));
    let files = lines.filter(|(name, _)| cached.contains(name));
    let files: u64 = files
        .filter_map(|(_, n)| n.trim().parse::<u64>().ok())
        .sum();
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

/// What `ulimit -v` and `ulimit -d` leave.
fn limits(root: &Path) -> Option<u64> {
    let limits = read(root.join("proc/self/limits"))?;
    let status = read(root.join("proc/self/status")).unwrap_or_default();
    let left = |(label, used): (&str, &str)| {
        let line = limits.lines().find_map(|l| l.strip_prefix(label))?;
        let soft = line.split_whitespace().next()?.parse::<u64>().ok()?;
        Some(soft.saturating_sub(kilobytes(&status, used).unwrap_or(0)))
    };
    let all = [
        ("Max address space", "VmSize:"),
        ("Max data size", "VmData:"),
    ];
    all.into_iter().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    /// What is available on a machine made of files.
    fn of(files: &[(&str, String)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        available(root.path())
    }

    fn info(free: u64) -> (&'static str, String) {
        let text = format!(
            "MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n",
            free / 1024
        );
        ("proc/meminfo", text)
    }

    fn file(path: &'static str, value: impl ToString) -> (&'static str, String) {
        (path, format!("{}\n", value.to_string()))
    }

    #[test]
    fn the_machine_alone() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[info(8 * GB)]), Some(8 * GB));
        let old = "MemTotal: 9 kB\nMemFree: 3 kB\nCached:  2 kB\n".to_owned();
        assert_eq!(of(&[("proc/meminfo", old)]), Some(5 * 1024));
        assert_eq!(of(&[("proc/meminfo", "nonsense".into())]), None);
    }

    #[test]
    fn version_2_counts_every_slice_on_the_way_up() {
        let group = ("proc/self/cgroup", "0::/user.slice/app.scope\n".to_owned());
        let base = vec![
            info(8 * GB),
            group,
            file("sys/fs/cgroup/user.slice/memory.max", 3 * GB),
            file("sys/fs/cgroup/user.slice/memory.current", GB),
            file("sys/fs/cgroup/user.slice/app.scope/memory.max", "max"),
            file("sys/fs/cgroup/user.slice/app.scope/memory.current", GB / 2),
        ];
        assert_eq!(of(&base), Some(2 * GB));
        // The innermost one is the smallest.
        let inner = [
            &base[..4],
            &[file("sys/fs/cgroup/user.slice/app.scope/memory.max", GB)],
        ];
        assert_eq!(of(&inner.concat()), Some(GB));
        // Cached files leave when memory is needed.
        let stat = format!("anon 5\ninactive_file {}\nactive_file {}\n", GB / 2, GB / 4);
        let cached = [&base[..], &[("sys/fs/cgroup/user.slice/memory.stat", stat)]].concat();
        assert_eq!(of(&cached), Some(2 * GB + GB / 2 + GB / 4));
        // More in use than allowed: nothing is left, and nothing wraps.
        let over = [&base[..], &[file("sys/fs/cgroup/user.slice/memory.max", 5)]].concat();
        assert_eq!(of(&over), Some(0));
        // In a container only the mount itself can be seen.
        let own = [&base[..2], &[file("sys/fs/cgroup/memory.max", 4 * GB)]].concat();
        assert_eq!(of(&own), Some(4 * GB));
    }

    #[test]
    fn version_1_alone_and_beside_version_2() {
        let base = vec![
            info(8 * GB),
            (
                "proc/self/cgroup",
                "9:memory:/docker/x\n4:cpu,cpuacct:/y\n0::/z\n".to_owned(),
            ),
            file(
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                9_223_372_036_854_771_712u64,
            ),
            file("sys/fs/cgroup/memory/memory.usage_in_bytes", GB),
            file(
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes",
                2 * GB,
            ),
            file("sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", GB),
        ];
        assert_eq!(of(&base), Some(GB));
        // Without a limit the machine counts, not 2^63.
        assert_eq!(of(&base[..4]), Some(8 * GB));
        let stat = format!("inactive_file 1\ntotal_inactive_file {}\n", GB / 2);
        let cached = [
            &base[..],
            &[("sys/fs/cgroup/memory/docker/x/memory.stat", stat)],
        ]
        .concat();
        assert_eq!(of(&cached), Some(GB + GB / 2));
        let hybrid = [
            &base[..],
            &[file("sys/fs/cgroup/unified/z/memory.max", GB / 2)],
        ]
        .concat();
        assert_eq!(of(&hybrid), Some(GB / 2));
    }

    #[test]
    fn limits_of_the_process_count() {
        let limits = |space: &str, data: &str| {
            let text = format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax data size   {data}  unlimited  bytes\n\
                 Max address space         {space}           unlimited            bytes\n"
            );
            ("proc/self/limits", text)
        };
        let status = (
            "proc/self/status",
            "VmSize:\t 1048576 kB\nVmData:\t 512 kB\n".to_owned(),
        );
        let with = |space, data| of(&[info(8 * GB), limits(space, data), status.clone()]);
        assert_eq!(with("unlimited", "unlimited"), Some(8 * GB));
        assert_eq!(with("2147483648", "unlimited"), Some(GB));
        assert_eq!(with("2147483648", "1048576"), Some(512 * 1024));
        assert_eq!(with("1000", "unlimited"), Some(0));
    }
}
