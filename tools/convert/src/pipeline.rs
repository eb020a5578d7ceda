//! The units of all tensors, computed ahead by threads of their own and taken in order.
//!
//! ```text
//! threads   claim the next unit, compute it, leave it in its place
//! writer    waits for unit 0, 1, 2 …; the first bad unit is reported whatever the thread count
//! ```
//! At most [`UNITS_PER_THREAD`] units per thread are ahead of the writer, so memory is bounded, and
//! neither side waits at the end of a tensor. What a unit computes in parallel runs on the pool. The
//! threads here are not the pool's: one that waits for such work must not be given another unit to do
//! meanwhile, which may ask for a lock that it holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

use super::options::Progress;
use super::stream::{Done, Job, Scratch, Unit};
use super::sums::Outcome;
use geb::error::{Error, Result};

/// Units per thread that may be ready before they are wanted.
const UNITS_PER_THREAD: usize = 32;

type Computed = std::thread::Result<Result<Done>>;

pub(super) struct Pipeline<'a> {
    jobs: &'a [Job<'a>],
    /// All units, each with its job.
    units: Vec<(usize, Unit)>,
    /// The units of each job.
    ranges: Vec<Range<usize>>,
    state: Mutex<State>,
    changed: Condvar,
    ahead: usize,
    pool: &'a rayon::ThreadPool,
}

#[derive(Default)]
struct State {
    /// The unit to be claimed next.
    next: usize,
    /// The unit to be written next.
    wanted: usize,
    ready: BTreeMap<usize, Computed>,
    stop: bool,
}

/// Runs `body` while as many threads as `pool` has compute the units of `jobs`.
///
/// # Errors
/// Those of `body`, and [`Error::Threads`] when the system has no threads left.
pub(super) fn run<'a, R>(
    pool: &'a rayon::ThreadPool,
    jobs: &'a [Job<'a>],
    body: impl FnOnce(&Pipeline<'a>) -> Result<R>,
) -> Result<R> {
    let threads = pool.current_num_threads().max(1);
    let pipeline = Pipeline::new(jobs, pool);
    std::thread::scope(|scope| {
        // Dropped when the body returns or panics, so that the threads end.
        let _stop = Stop(&pipeline);
        for i in 0..threads {
            let named = std::thread::Builder::new().name(format!("unit-{i}"));
            let started = named.spawn_scoped(scope, || pipeline.work());
            started.map_err(|e| geb::threads::refused(threads, e))?;
        }
        body(&pipeline)
    })
}

struct Stop<'a, 'b>(&'b Pipeline<'a>);

impl Drop for Stop<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

impl<'a> Pipeline<'a> {
    fn new(jobs: &'a [Job<'a>], pool: &'a rayon::ThreadPool) -> Pipeline<'a> {
        let mut units = Vec::new();
        let mut ranges = Vec::with_capacity(jobs.len());
        for (j, job) in jobs.iter().enumerate() {
            let start = units.len();
            units.extend(job.units().into_iter().map(|u| (j, u)));
            ranges.push(start..units.len());
        }
        Pipeline {
            jobs,
            units,
            ranges,
            state: Mutex::default(),
            changed: Condvar::new(),
            ahead: pool.current_num_threads().max(1) * UNITS_PER_THREAD,
            pool,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    /// What each thread does.
    fn work(&self) {
        let mut scratch = Scratch::default();
        while let Some(i) = self.claim() {
            let (job, unit) = &self.units[i];
            let run = || self.jobs[*job].run(unit, self.pool, &mut scratch);
            let computed = catch_unwind(AssertUnwindSafe(run));
            let mut state = self.lock();
            state.ready.insert(i, computed);
            if state.wanted == i {
                self.changed.notify_all();
            }
        }
    }

    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        while !state.stop && state.next >= state.wanted + self.ahead {
            state = self.wait(state);
        }
        let i = state.next;
        if state.stop || i >= self.units.len() {
            return None;
        }
        state.next += 1;
        Some(i)
    }

    fn take(&self, i: usize) -> Result<Done> {
        let mut state = self.lock();
        let computed = loop {
            if let Some(computed) = state.ready.remove(&i) {
                break computed;
            }
            state = self.wait(state);
        };
        state.wanted = i + 1;
        drop(state);
        self.changed.notify_all();
        computed.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Writes the units of a job; returns the hash of its source bytes, too. Jobs are filled in order,
    /// each once.
    pub fn fill(
        &self,
        job: usize,
        out: &mut dyn Write,
        progress: &mut dyn Progress,
    ) -> Result<(Outcome, [u8; 32])> {
        let (mut outcome, mut source) = (Outcome::default(), Sha256::new());
        for i in self.ranges[job].clone() {
            let done = self.take(i)?;
            out.write_all(&done.bytes).map_err(Error::io("output"))?;
            outcome.add(&done.outcome);
            source.update(done.source);
            progress.advance(done.read);
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
        }
        Ok((outcome, source.finalize().into()))
    }
}
