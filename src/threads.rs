//! How many threads to use, and the pool they come from.

use std::fs;

use geb_kernels::team::{Leader, Team};

use crate::error::{Error, Result};

/// Most threads a session takes.
pub const MAX_THREADS: usize = 256;

/// Threads to use when the user says nothing: `RAYON_NUM_THREADS`, else the cores this process may
/// run on, capped by the cgroup's CPU quota (rounded up).
pub fn default_threads() -> usize {
    if let Some(n) = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|v| v.parse::<usize>().ok())
        .filter(|n| *n > 0)
    {
        return n.min(MAX_THREADS);
    }
    // The standard library already looks at the affinity mask and at cgroup quotas (rounding down,
    // at least 1); a quota of 1.5 cores is better used by two threads.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quota = cgroup_quota().map_or(cores, |q| (q.ceil() as usize).max(1));
    cores
        .max(quota.min(affinity_cores().unwrap_or(cores)))
        .clamp(1, MAX_THREADS)
}

/// CPU quota of the cgroup in cores, version 2 or 1.
fn cgroup_quota() -> Option<f64> {
    let parse = |quota: &str, period: &str| -> Option<f64> {
        let (q, p) = (
            quota.trim().parse::<f64>().ok()?,
            period.trim().parse::<f64>().ok()?,
        );
        (q > 0.0 && p > 0.0).then(|| q / p)
    };
    if let Ok(text) = fs::read_to_string("/sys/fs/cgroup/cpu.max") {
        let mut parts = text.split_whitespace();
        return parse(parts.next()?, parts.next()?);
    }
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok();
    parse(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}

/// Cores of the affinity mask, from the kernel's list (`0-3,8`).
fn affinity_cores() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    let mut count = 0;
    for part in list.trim().split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        count += b.parse::<usize>().ok()?.checked_sub(a.parse().ok()?)? + 1;
    }
    Some(count)
}

/// A rayon pool whose threads join the caller as one team, once per forward pass.
pub struct Pool {
    helpers: Option<rayon::ThreadPool>,
    team: Team,
}

impl Pool {
    /// A pool of `threads`, the calling thread included.
    pub fn new(threads: usize) -> Result<Pool> {
        let what = "threads";
        if !(1..=MAX_THREADS).contains(&threads) {
            let allowed = format!("1..={MAX_THREADS}");
            return Err(Error::Request {
                what: what.into(),
                value: threads.to_string(),
                allowed,
            });
        }
        let build = |n| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("geb-{i}"))
                .build()
        };
        let helpers = (threads > 1)
            .then(|| build(threads - 1))
            .transpose()
            .map_err(|e| Error::Request {
                what: what.into(),
                value: threads.to_string(),
                allowed: format!("what the system can start ({e})"),
            })?;
        Ok(Pool {
            helpers,
            team: Team::new(threads),
        })
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Runs `f` as the leader while the pool's threads help.
    pub fn run<R: Send>(&mut self, f: impl FnOnce(&mut Leader<'_>) -> R + Send) -> R {
        self.team.begin();
        let team = &self.team;
        match &self.helpers {
            None => team.lead(f),
            Some(pool) => pool.in_place_scope(|scope| {
                for i in 1..team.threads() {
                    scope.spawn(move |_| team.help(i));
                }
                team.lead(f)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_sane_and_pool_works() {
        assert!((1..=MAX_THREADS).contains(&default_threads()));
        assert!(Pool::new(0).is_err());
        for n in [1, 2, 4] {
            let mut pool = Pool::new(n).expect("pool");
            for _ in 0..50 {
                let mut data = vec![0u8; 1000];
                pool.run(|lead| lead.chunks_mut(&mut data, 7, |_, c, _| c.fill(1)));
                assert!(data.iter().all(|x| *x == 1));
            }
        }
    }
}
