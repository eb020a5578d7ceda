//! A team of threads that share one forward pass: a leader hands out steps, helpers join in.
//!
//! The leader runs ordinary sequential code and owns every buffer; a step borrows what it writes
//! and is over when the call returns, so the borrow checker sees a plain function call. Threads
//! come from the caller (a rayon pool enters once per forward pass); between steps they spin
//! briefly, yield for a while, then sleep for moments.
//!
//! ```text
//! leader: write job; open gate (epoch + 1); work; close gate; wait until nobody is inside
//! helper: gate open and epoch new? enter (count + 1); work; leave (count - 1)
//! ```
//! A helper that is late, because the machine runs something else, finds the gate closed and is
//! not waited for. Work is claimed in chunks from one counter, so unequal cores stay busy; columns of
//! products in chunks that shrink, so that all are done at about the same time.
//! A helper that panics makes the leader panic at the end of the step, with the same payload; the
//! team can be used again.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::mat::MatMut;

/// Spins of a waiting thread before it starts to yield; about 10 microseconds, longer than most
/// serial parts of a pass. A thread that shares its core is best descheduled while it waits, for then
/// nobody waits for it; and the one that it waits for may be behind it on the same core.
const SPINS: u32 = 400;
/// Yields before it sleeps: about 50 microseconds where nobody else wants the core.
const YIELDS: u32 = 100;
/// How long it sleeps at a time. A core that sleeps takes over a thread that waits for another core.
const NAP: Duration = Duration::from_micros(20);
/// How many chunks per thread what is left of a step is worth when the next chunk is claimed.
const SHARES: usize = 3;

/// Bit of the gate's state that says it is open; the count of those inside is below it,
/// the epoch above.
const OPEN: u64 = 1 << 16;
const COUNT: u64 = OPEN - 1;
const EPOCH: u64 = 1 << 17;

/// Buffers that belong to one thread of the team.
#[derive(Default)]
pub struct Local {
    /// Weight panels of the prefill product.
    pub panel: crate::Scratch,
    /// Attention's rows and blocks.
    pub attention: crate::float::AttnScratch,
}

type Job<'a> = dyn Fn(&mut Local) + Sync + 'a;
type Panic = Box<dyn Any + Send>;

/// The team: a gate, the current job, and each thread's buffers.
pub struct Team {
    state: AtomicU64,
    finished: AtomicBool,
    job: UnsafeCell<Option<*const Job<'static>>>,
    locals: Vec<Mutex<Local>>,
    /// Whether a helper left a panic in `panic`.
    failed: AtomicBool,
    panic: Mutex<Option<Panic>>,
}

// SAFETY: `job` is written only by the leader while the gate is closed and nobody is inside, and
// read only by helpers that have entered an open gate; everything else is atomic or locked.
unsafe impl Sync for Team {}
// SAFETY: the raw pointer in `job` is dereferenced only under the protocol above.
unsafe impl Send for Team {}

impl Team {
    /// A team of `threads`, leader included; at least one.
    pub fn new(threads: usize) -> Team {
        Team {
            state: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            locals: (0..threads.max(1)).map(|_| Mutex::default()).collect(),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// The buffers of thread `index`; `None` while it is at work. A panic leaves no harm in them: every
    /// job writes what it reads.
    fn local(&self, index: usize) -> Option<MutexGuard<'_, Local>> {
        match self.locals[index].try_lock() {
            Ok(local) => Some(local),
            Err(TryLockError::Poisoned(local)) => Some(local.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What a helper panicked with since the last call.
    fn panicked(&self) -> Option<Panic> {
        let failed = self.failed.swap(false, Ordering::Acquire);
        let taken = || {
            self.panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        failed.then(taken).flatten()
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.locals.len()
    }

    /// Prepares for a pass: call before helpers are sent in.
    pub fn begin(&mut self) {
        *self.finished.get_mut() = false;
        // A step whose leader panicked as well has not asked.
        drop(self.panicked());
    }

    /// Leads: runs `f` as the leader, then sends the helpers home. Helpers may come in at any time.
    /// There is one leader at a time; a second one panics on the leader's lock.
    pub fn lead<R>(&self, f: impl FnOnce(&mut Leader<'_>) -> R) -> R {
        let mut local = self.local(0).expect("one leader at a time");
        struct Home<'a>(&'a AtomicBool);
        impl Drop for Home<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let _home = Home(&self.finished);
        f(&mut Leader {
            team: self,
            local: &mut local,
        })
    }

    /// Helps as thread `index` (1 and up) until the leader is done.
    pub fn help(&self, index: usize) {
        let Some(mut local) = self.local(index) else {
            return;
        };
        let mut seen = u64::MAX;
        let mut spins = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            let fresh = state & OPEN != 0 && state / EPOCH != seen;
            if fresh
                && self
                    .state
                    .compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                seen = state / EPOCH;
                // Leaves the gate in any case, so that the leader does not wait for ever.
                let _inside = Inside(&self.state);
                // SAFETY: this thread is counted inside an open gate. The leader wrote the job before
                // opening, and neither rewrites nor returns from `step` until the count is zero, so
                // the closure and what it borrows are alive and not written.
                let job = unsafe { (*self.job.get()).map(|job| &*job) };
                let run = || job.map(|job| job(&mut local));
                if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                    let mut slot = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                    *slot = Some(panic);
                    self.failed.store(true, Ordering::Release);
                }
                spins = 0;
            } else if self.finished.load(Ordering::Acquire) {
                return;
            } else {
                relax(&mut spins);
            }
        }
    }
}

struct Inside<'a>(&'a AtomicU64);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn relax(spins: &mut u32) {
    *spins = spins.saturating_add(1);
    if *spins < SPINS {
        core::hint::spin_loop()
    } else if *spins < SPINS + YIELDS {
        std::thread::yield_now()
    } else {
        std::thread::sleep(NAP)
    }
}

/// The leader's handle: its methods are the parallel steps.
pub struct Leader<'a> {
    team: &'a Team,
    local: &'a mut Local,
}

impl Leader<'_> {
    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// The leader's own buffers, for serial work.
    pub fn local(&mut self) -> &mut Local {
        self.local
    }

    /// Runs `job` once on every thread that comes in time, the leader always among them.
    fn step(&mut self, job: &Job<'_>) {
        if self.team.threads() == 1 {
            return job(self.local);
        }
        let team = self.team;
        // SAFETY: the lifetime is erased for storage only; the wait below outlives every use.
        let erased = unsafe { core::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: the gate is closed and nobody is inside (established by the previous step's wait),
        // and there is one leader, so nobody else touches the cell.
        unsafe { *team.job.get() = Some(erased) };
        let open = (team.state.load(Ordering::Relaxed) / EPOCH + 1) * EPOCH + OPEN;
        team.state.store(open, Ordering::Release);
        /// Closes the gate and waits, also when the leader's own share panics.
        struct Close<'a>(&'a AtomicU64);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.fetch_and(!OPEN, Ordering::AcqRel);
                let mut spins = 0;
                while self.0.load(Ordering::Acquire) & COUNT != 0 {
                    relax(&mut spins);
                }
            }
        }
        let close = Close(&team.state);
        job(self.local);
        drop(close);
        if let Some(panic) = team.panicked() {
            resume_unwind(panic);
        }
    }

    /// Calls `f` for every range of `grain` indices below `n`, each exactly once.
    pub fn ranges(&mut self, n: usize, grain: usize, f: impl Fn(Range<usize>, &mut Local) + Sync) {
        let grain = grain.max(1);
        if n <= grain {
            if n > 0 {
                f(0..n, self.local);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.step(&|local| {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= n {
                    break;
                }
                f(start..(start + grain).min(n), local);
            }
        });
    }

    /// Calls `f` for ranges of indices below `n`, each index exactly once: long ranges at first, single
    /// indices at the end.
    fn shrinking(&mut self, n: usize, f: impl Fn(Range<usize>, &mut Local) + Sync) {
        if n <= 1 || self.threads() == 1 {
            if n > 0 {
                f(0..n, self.local);
            }
            return;
        }
        let shares = SHARES * self.threads();
        let next = AtomicUsize::new(0);
        self.step(&|local| {
            loop {
                let left = n.saturating_sub(next.load(Ordering::Relaxed));
                let take = (left / shares).max(1);
                let start = next.fetch_add(take, Ordering::Relaxed);
                if start >= n {
                    break;
                }
                f(start..(start + take).min(n), local);
            }
        });
    }

    /// Splits matrices of `N` outputs into ranges of columns, multiples of `step` wide but for the last of a
    /// matrix, and calls `f(matrix, first column, block)` for each.
    pub fn columns<const N: usize>(
        &mut self,
        out: [MatMut<'_>; N],
        step: usize,
        f: impl Fn(usize, usize, MatMut<'_>, &mut Local) + Sync,
    ) {
        let step = step.max(1);
        let (parts, total) = parts(out, |m| m.cols().div_ceil(step));
        self.shrinking(total, |range, local| {
            let mut i = range.start;
            while i < range.end {
                let which = parts.iter().rposition(|p| p.first <= i).unwrap_or(0);
                let p = &parts[which];
                let first = (i - p.first) * step;
                let end = ((range.end - p.first) * step).min(p.cols);
                // SAFETY: the columns lie inside the matrix (`end` is clamped, and an index below its last one
                // starts before `end`), those of different indices are disjoint, each index is claimed once,
                // and the matrices are borrowed for the step.
                let block = unsafe {
                    MatMut::from_raw(p.base.get().add(first), p.rows, end - first, p.stride)
                };
                f(which, first, block, local);
                i = p.first + end.div_ceil(step);
            }
        });
    }

    /// Splits `data` into chunks of `chunk` elements and calls `f(index, chunk)` for each.
    pub fn chunks_mut<T: Send>(
        &mut self,
        data: &mut [T],
        chunk: usize,
        f: impl Fn(usize, &mut [T], &mut Local) + Sync,
    ) {
        let (base, len) = (Shared(data.as_mut_ptr()), data.len());
        self.ranges(len.div_ceil(chunk.max(1)), 1, |range, local| {
            for i in range {
                let at = i * chunk;
                let n = chunk.min(len - at);
                // SAFETY: `at + n <= len`; each index is claimed once, so the pieces are disjoint,
                // and `data` is borrowed for the whole step.
                let piece = unsafe { core::slice::from_raw_parts_mut(base.get().add(at), n) };
                f(i, piece, local);
            }
        });
    }

    /// Splits matrices of `N` outputs into blocks of `rows` x `cols` (the last ones smaller) and calls
    /// `f(matrix, first row, first column, block)` for each; blocks of one column range follow each other.
    pub fn blocks<const N: usize>(
        &mut self,
        out: [MatMut<'_>; N],
        (rows, cols): (usize, usize),
        f: impl Fn(usize, (usize, usize), MatMut<'_>, &mut Local) + Sync,
    ) {
        let (rows, cols) = (rows.max(1), cols.max(1));
        let (parts, total) = parts(out, |m| m.rows().div_ceil(rows) * m.cols().div_ceil(cols));
        self.ranges(total, 1, |range, local| {
            for i in range {
                let which = parts.iter().rposition(|p| p.first <= i).unwrap_or(0);
                let p = &parts[which];
                let down = p.rows.div_ceil(rows);
                let (r, c) = ((i - p.first) % down * rows, (i - p.first) / down * cols);
                let (n, m) = (rows.min(p.rows - r), cols.min(p.cols - c));
                // SAFETY: the block lies inside its matrix (both extents are clamped), blocks of different
                // indices are disjoint, each is claimed once, and the matrices are borrowed for the step.
                let block =
                    unsafe { MatMut::from_raw(p.base.get().add(r * p.stride + c), n, m, p.stride) };
                f(which, (r, c), block, local);
            }
        });
    }
}

/// One matrix of [`Leader::blocks`] or [`Leader::columns`] and its first index.
struct Part {
    base: Shared<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
    first: usize,
}

/// The matrices, of `count` indices each, and the number of all indices.
fn parts<const N: usize>(
    out: [MatMut<'_>; N],
    count: impl Fn(&MatMut<'_>) -> usize,
) -> ([Part; N], usize) {
    let mut total = 0;
    let parts = out.map(|mut m| {
        let first = total;
        total += count(&m);
        Part {
            base: Shared(m.as_mut_ptr()),
            rows: m.rows(),
            cols: m.cols(),
            stride: m.stride(),
            first,
        }
    });
    (parts, total)
}

/// A pointer that may cross threads; every use argues its own disjointness.
struct Shared<T>(*mut T);
// SAFETY: only used by the steps above, which hand out disjoint pieces of a `Send` slice.
unsafe impl<T: Send> Sync for Shared<T> {}
impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_team(threads: usize, f: impl FnOnce(&mut Leader<'_>) + Send) {
        let mut team = Team::new(threads);
        team.begin();
        let team = &team;
        std::thread::scope(|s| {
            for i in 1..threads {
                s.spawn(move || team.help(i));
            }
            team.lead(f);
        });
    }

    #[test]
    fn every_index_is_visited_once_in_every_step() {
        for threads in [1, 2, 3, 8] {
            with_team(threads, |lead| {
                for round in 0..500 {
                    let mut data = vec![0u32; 1 + round % 97];
                    lead.chunks_mut(&mut data, 1 + round % 5, |i, piece, _| {
                        piece.iter_mut().for_each(|x| *x += 1 + i as u32);
                    });
                    for (i, x) in data.iter().enumerate() {
                        assert_eq!(*x, 1 + (i / (1 + round % 5)) as u32);
                    }
                }
            });
        }
    }

    #[test]
    fn blocks_cover_a_strided_matrix() {
        with_team(3, |lead| {
            let mut data = vec![0f32; 7 * 13];
            lead.blocks(
                [MatMut::new(&mut data, 7, 11, 13)],
                (2, 4),
                |_, (r, c), mut block, _| {
                    for i in 0..block.rows() {
                        for (j, x) in block.row_mut(i).iter_mut().enumerate() {
                            *x += ((r + i) * 100 + c + j + 1) as f32;
                        }
                    }
                },
            );
            for (i, x) in data.iter().enumerate() {
                let (r, c) = (i / 13, i % 13);
                assert_eq!(
                    *x,
                    if c < 11 {
                        (r * 100 + c + 1) as f32
                    } else {
                        0.0
                    }
                );
            }
        });
    }

    #[test]
    fn columns_cover_several_matrices_in_multiples_of_the_step() {
        for threads in [1, 2, 3] {
            with_team(threads, |lead| {
                let sizes = [(2, 70), (3, 0), (1, 7), (2, 64)];
                let mut data = sizes.map(|(rows, cols)| vec![0f32; rows * (cols + 3)]);
                let mut all = data.iter_mut().zip(sizes);
                let out = sizes.map(|_| {
                    let (d, (rows, cols)) = all.next().expect("a matrix");
                    MatMut::new(d, rows, cols, cols + 3)
                });
                lead.columns(out, 4, |which, first, mut block, _| {
                    let last = first + block.cols() == sizes[which].1;
                    assert!(first % 4 == 0 && (block.cols() % 4 == 0 || last));
                    for t in 0..block.rows() {
                        for (j, x) in block.row_mut(t).iter_mut().enumerate() {
                            *x += (1000 * which + 100 * t + first + j + 1) as f32;
                        }
                    }
                });
                for (which, (d, (_, cols))) in data.iter().zip(sizes).enumerate() {
                    for (i, x) in d.iter().enumerate() {
                        let (t, c) = (i / (cols + 3), i % (cols + 3));
                        let inside = (1000 * which + 100 * t + c + 1) as f32;
                        assert_eq!(*x, if c < cols { inside } else { 0.0 });
                    }
                }
            });
        }
    }

    /// Twice as many threads as cores, and as many busy neighbours: slow, but the same result.
    #[test]
    fn too_few_cores_change_nothing() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = AtomicBool::new(true);
        let wave = |i: usize| (i as f32 * 0.37).sin() / (1 + i % 7) as f32;
        let run = |threads| {
            let mut data = vec![0f32; 64 * 33];
            with_team(threads, |lead| {
                for round in 0..200 {
                    lead.chunks_mut(&mut data, 33, |row, piece, _| {
                        for (i, x) in piece.iter_mut().enumerate() {
                            *x = *x * 0.5 + wave(row * 33 + i + round);
                        }
                    });
                }
            });
            data
        };
        let expected = run(1);
        std::thread::scope(|s| {
            for _ in 0..cores {
                s.spawn(|| {
                    while busy.load(Ordering::Relaxed) {
                        core::hint::spin_loop();
                    }
                });
            }
            let found = run(2 * cores);
            busy.store(false, Ordering::Relaxed);
            assert_eq!(found, expected);
        });
    }

    /// Runs steps until every thread took part in one, and counts the indices visited.
    fn all_take_part(team: &mut Team) {
        team.begin();
        let (threads, team) = (team.threads(), &*team);
        std::thread::scope(|s| {
            for i in 1..threads {
                s.spawn(move || team.help(i));
            }
            team.lead(|lead| {
                let seen = Mutex::new(std::collections::HashSet::new());
                while seen.lock().expect("ids").len() < threads {
                    let visited = AtomicUsize::new(0);
                    lead.ranges(64, 1, |_, _| {
                        visited.fetch_add(1, Ordering::Relaxed);
                        seen.lock()
                            .expect("ids")
                            .insert(std::thread::current().id());
                        std::thread::yield_now();
                    });
                    assert_eq!(visited.into_inner(), 64);
                }
            });
        });
    }

    #[test]
    fn a_panic_ends_its_step_and_leaves_a_team_that_works() {
        for threads in [1, 2, 3] {
            let mut team = Team::new(threads);
            // In a helper as soon as one comes, in the leader, in all of them.
            for who in ["helper", "leader", "all"] {
                team.begin();
                let (steps, shared) = (AtomicUsize::new(0), &team);
                let main = std::thread::current().id();
                let step = |_: Range<usize>, _: &mut Local| {
                    let leads = std::thread::current().id() == main;
                    let mine = who == "all" || leads == (who == "leader") || threads == 1;
                    assert!(!mine, "on purpose");
                    std::thread::yield_now();
                };
                let run = || {
                    std::thread::scope(|s| {
                        for i in 1..threads {
                            s.spawn(move || shared.help(i));
                        }
                        shared.lead(|lead| {
                            loop {
                                steps.fetch_add(1, Ordering::Relaxed);
                                lead.ranges(100, 1, step);
                            }
                        })
                    })
                };
                let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("a panic");
                let text = panic.downcast_ref::<&str>().expect("its own payload");
                assert_eq!(*text, "on purpose", "{who} of {threads}");
                all_take_part(&mut team);
            }
        }
    }
}
