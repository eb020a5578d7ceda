//! What was measured on this machine and is kept: numbers of threads that `geb-run tune` found, by model size;
//! limits that `geb-run bench --limits` found, by level and threads.

use std::path::{Path, PathBuf};

use geb::cpus::Cpus;
use geb::files::{self, Over};
use geb::threads;
use serde_json::{Map, Value, json};

use crate::model_path;
use crate::outputs;
use crate::report::{Failure, Outcome};

/// The number to use for a model that reads this many bytes of weights per token: what was
/// stored for this machine. `None` where the environment names one, or nothing was stored.
pub fn stored(bytes_per_token: u64) -> Option<usize> {
    if threads::asked().is_some() {
        return None;
    }
    let n = find(&store(THREADS).ok()?, class(bytes_per_token))?;
    let n = usize::try_from(n.as_u64()?).ok()?;
    (1..=threads::MAX_THREADS).contains(&n).then_some(n)
}

/// Longest file of values that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Numbers of threads: `{machine: {class: threads}}`.
pub const THREADS: &str = "threads.json";
/// Limits: `{machine: {"level, threads": limits}}`.
pub const LIMITS: &str = "limits.json";

/// The file of this name.
pub fn store(name: &str) -> Outcome<PathBuf> {
    Ok(model_path::cache_dir()?.join(name))
}

/// What the file has for this machine under `key`.
pub fn find(path: &Path, key: &str) -> Option<Value> {
    let machine = machine(&Cpus::read(Path::new("/")));
    read(path)?.get_mut(&machine)?.get_mut(key).map(Value::take)
}

fn read(path: &Path) -> Option<Map<String, Value>> {
    serde_json::from_slice(&files::read(path, MAX_BYTES).ok()?).ok()
}

/// Adds one value. A file that cannot be read is replaced.
pub fn keep(path: &Path, machine: &str, key: &str, value: Value) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(e.to_string()).at(path.display());
    let mut all = read(path).unwrap_or_default();
    let own = all.entry(machine).or_insert_with(|| json!({}));
    if !own.is_object() {
        *own = json!({});
    }
    own[key] = value;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let text = serde_json::to_vec_pretty(&all).map_err(|e| failed(e.into()))?;
    outputs::write(path, &text, Over::ANY)
}

/// The machine as this process sees it: a container with fewer CPUs is another one.
pub fn machine(cpus: &Cpus) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let quota = cpus.quota.map_or(String::new(), |q| format!(", quota {q}"));
    format!("{name}, {} cores, {} CPUs{quota}", cpus.cores, cpus.logical)
}

/// Models of one class are limited by the same thing: start-up of steps, caches or memory.
pub fn class(bytes_per_token: u64) -> &'static str {
    const MB: u64 = 1_000_000;
    match bytes_per_token {
        b if b <= 32 * MB => "up to 32 MB",
        b if b <= 128 * MB => "up to 128 MB",
        b if b <= 512 * MB => "up to 512 MB",
        b if b <= 2_000 * MB => "up to 2 GB",
        b if b <= 8_000 * MB => "up to 8 GB",
        _ => "more than 8 GB",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_kept_side_by_side() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("new").join("threads.json");
        for (machine, class, n) in [("a", "x", 1), ("a", "y", 2), ("b", "x", 3), ("a", "x", 4)] {
            keep(&path, machine, class, n.into()).expect("written");
        }
        let all = Value::Object(read(&path).expect("JSON"));
        assert_eq!(all, json!({"a": {"x": 4, "y": 2}, "b": {"x": 3}}));
        std::fs::write(&path, "[broken").expect("written");
        keep(&path, "c", "x", 1.into()).expect("replaced");
        assert_eq!(read(&path).expect("JSON").len(), 1);
    }

    #[test]
    fn classes_grow() {
        let classes = [1, 100, 400, 1_900, 7_000, 9_000].map(|mb| class(mb * 1_000_000));
        let distinct: std::collections::BTreeSet<_> = classes.iter().collect();
        assert_eq!(distinct.len(), classes.len());
    }
}
