//! How many threads to use, and the pool they come from.

use std::path::Path;
use std::sync::OnceLock;

use geb_kernels::team::{Leader, Team};

use crate::cpus::Cpus;
use crate::error::{Error, Result};

/// Most threads a session takes.
pub const MAX_THREADS: usize = 256;

/// Threads to use when the user says nothing: `RAYON_NUM_THREADS`, else one per physical core this
/// process may run on, capped by the cgroup's CPU quota (rounded up). Read once.
pub fn default_threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let n = asked().unwrap_or_else(|| Cpus::read(Path::new("/")).threads());
        n.clamp(1, MAX_THREADS)
    })
}

/// `RAYON_NUM_THREADS`, when it is a number above 0.
pub fn asked() -> Option<usize> {
    let n = std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok()?;
    (n > 0).then_some(n)
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
