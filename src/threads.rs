//! How many threads to use, and the pool they come from.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

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

/// Threads of the pool that this runs in, else [`default_threads`].
pub(crate) fn here() -> usize {
    match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => default_threads(),
    }
}

/// The error for threads that the system does not start.
pub fn refused(wanted: usize, reason: impl ToString) -> Error {
    let reason = reason.to_string();
    Error::Threads { wanted, reason }
}

/// Calls `f` once per item, each on a thread of its own, the last one on this thread. What the system starts
/// no thread for is done on this one too. Results are in the order of the items; a panic is passed on.
pub fn each<I: Send, R: Send>(items: Vec<I>, f: impl Fn(I) -> R + Sync) -> Vec<R> {
    let slots: Vec<Mutex<Option<I>>> = items.into_iter().map(|i| Mutex::new(Some(i))).collect();
    let take = |slot: &Mutex<Option<I>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let work = |slot| take(slot).map(&f);
    std::thread::scope(|scope| {
        let started: Vec<_> = slots
            .iter()
            .take(slots.len().saturating_sub(1))
            .map(|slot| {
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || work(slot))
                    .ok()
            })
            .collect();
        let own: Vec<_> = slots
            .iter()
            .enumerate()
            .filter(|(i, _)| started.get(*i).is_none_or(Option::is_none))
            .map(|(_, slot)| work(slot))
            .collect();
        let (mut own, mut results) = (own.into_iter(), Vec::with_capacity(slots.len()));
        for thread in started.into_iter().chain([None]) {
            results.extend(match thread {
                Some(thread) => thread
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p)),
                None => own.next().flatten(),
            });
        }
        results
    })
}

/// Calls `f` for every item on `threads` threads, which take the next one when they are done with one. Results
/// are in the order of the items.
pub fn spread<T: Sync, R: Send>(threads: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let own = |()| {
        let mine = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let mine = mine.map_while(|i| Some((i, f(items.get(i)?))));
        mine.collect::<Vec<_>>()
    };
    let all = each(vec![(); threads.min(items.len())], own);
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
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
            .map_err(|e| refused(threads, e))?;
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

/// A pool that several engines use, one at a time, in the order in which they ask.
#[derive(Clone)]
pub struct SharedPool(Arc<Queue>);

struct Queue {
    pool: Mutex<Pool>,
    /// Who asked last, and whose turn it is.
    asked: AtomicUsize,
    turn: Mutex<usize>,
    next: Condvar,
    threads: usize,
}

impl SharedPool {
    /// A pool of `threads`, the one that uses it included.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(threads: usize) -> Result<SharedPool> {
        Ok(SharedPool(Arc::new(Queue {
            pool: Mutex::new(Pool::new(threads)?),
            asked: AtomicUsize::new(0),
            turn: Mutex::new(0),
            next: Condvar::new(),
            threads,
        })))
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// As [`Pool::run`], when those that asked before are done.
    pub fn run<R: Send>(&self, f: impl FnOnce(&mut Leader<'_>) -> R + Send) -> R {
        let queue = &*self.0;
        let own = queue.asked.fetch_add(1, Ordering::Relaxed);
        // Whatever happens in `f`, the next one has its turn.
        let _turn = Turn::wait(queue, own);
        let mut pool = queue.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.run(f)
    }
}

/// Of one who asked; ends when it is dropped.
struct Turn<'a>(&'a Queue);

impl<'a> Turn<'a> {
    fn wait(queue: &'a Queue, own: usize) -> Self {
        let mut turn = queue.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while *turn != own {
            turn = queue
                .next
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Turn(queue)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = turn.wrapping_add(1);
        drop(turn);
        self.0.next.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_shared_pool_take_turns() {
        let pool = SharedPool::new(2).expect("a pool");
        let at_once = AtomicUsize::new(0);
        let one = |n: usize| {
            (0..50)
                .map(|i| {
                    pool.run(|_| {
                        assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
                        at_once.fetch_sub(1, Ordering::SeqCst);
                        n * 100 + i
                    })
                })
                .sum::<usize>()
        };
        assert_eq!(each(vec![0, 1, 2], one), [1225, 6225, 11225]);
        let panics = || pool.run(|_| panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(pool.run(|_| 7), 7);
    }

    #[test]
    fn items_keep_their_order_whoever_works() {
        for n in [0usize, 1, 2, 7] {
            let items: Vec<usize> = (0..n).collect();
            assert_eq!(
                each(items.clone(), |i| 3 * i),
                Vec::from_iter((0..n).map(|i| 3 * i))
            );
            for threads in [1, 2, 5] {
                assert_eq!(spread(threads, &items, |i| i + 1), Vec::from_iter(1..=n));
            }
        }
        let panics = || each(vec![1, 2, 3], |i| assert!(i != 2, "on purpose"));
        assert!(std::panic::catch_unwind(panics).is_err());
    }

    #[test]
    fn a_panic_of_a_helper_reaches_the_caller_and_the_pool_works_on() {
        let mut pool = Pool::new(3).expect("pool");
        let main = std::thread::current().id();
        for _ in 0..3 {
            let mut run = || {
                pool.run(|lead| {
                    loop {
                        lead.ranges(100, 1, |_, _| {
                            assert!(std::thread::current().id() == main, "on purpose");
                            std::thread::yield_now();
                        });
                    }
                })
            };
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut run));
            let panic: Box<dyn std::any::Any + Send> = caught.expect_err("a panic");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        }
        let mut data = vec![0u8; 1000];
        pool.run(|lead| lead.chunks_mut(&mut data, 7, |_, c, _| c.fill(1)));
        assert!(data.iter().all(|x| *x == 1));
    }

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
