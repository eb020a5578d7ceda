//! The thread that leads the engine.
//!
//! ```text
//! new requests; those whose reader has left go; what found no room is handed over
//! who waits enters, as the policy says, while there are places and pages
//! rows = one of each that answers + guesses + pieces of prompts, for as long as the step may last
//! no pages for all of them: the youngest makes room
//! one pass; each takes its logits, chooses, and tells its reader
//! ```

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cost::Cost;
use super::job::{Job, Mail};
use super::policy::Policy;
use super::shared::{Event, SchedulerOptions, SchedulerStats, Shared, lock};
use crate::engine::{Engine, Sequence, Span};
use crate::error::{Error, Result};
use crate::generate::Progress;
use crate::model::forward::Segment;
use crate::speculate::{Draft, Guesses, Speculation};
use crate::tokenizer::Tokenizer;

/// Positions behind its text that a request needs room for when it enters.
const AHEAD: usize = 64;

pub(super) struct Lead<'t> {
    engine: Engine,
    /// Stands for one that has not entered, where pages are counted.
    empty: Sequence,
    tokenizer: &'t Tokenizer,
    shared: &'t Shared,
    options: SchedulerOptions,
    policy: Box<dyn Policy>,
    cost: Cost,
    waiting: VecDeque<Job<'t>>,
    running: Vec<Job<'t>>,
    /// Last events of requests that have ended, for slow readers.
    leaving: Vec<Mail>,
    /// What guessed for requests that have ended, with what it has learned.
    guessers: Vec<Speculation>,
    tickets: u64,
    /// Somebody found no pages in the last pass: nobody enters before all of them do.
    crowded: bool,
    stats: SchedulerStats,
}

impl<'t> Lead<'t> {
    pub(super) fn new(
        engine: Engine,
        empty: Sequence,
        tokenizer: &'t Tokenizer,
        shared: &'t Shared,
        options: SchedulerOptions,
        policy: Box<dyn Policy>,
    ) -> Self {
        Self {
            engine,
            empty,
            tokenizer,
            shared,
            options,
            policy,
            cost: Cost::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            leaving: Vec::new(),
            guessers: Vec::new(),
            tickets: 0,
            crowded: false,
            stats: SchedulerStats::default(),
        }
    }

    /// Steps until the scheduler is dropped.
    pub(super) fn run(mut self) {
        let mut woken = Instant::now();
        while self.receive() {
            self.sweep();
            self.admit();
            let passing = self.step();
            self.stats.outside += woken.elapsed().saturating_sub(passing);
            self.stats.passing += passing;
            self.publish();
            // Who is told the end may ask at once what was done.
            self.leaving
                .retain_mut(|mail| !mail.is_closed() && !mail.flush());
            if passing.is_zero() && self.is_idle() {
                self.shared.bell.wait();
            }
            woken = Instant::now();
        }
    }

    /// Takes new requests; false if there will be none.
    fn receive(&mut self) -> bool {
        let mut inbox = lock(&self.shared.inbox);
        if inbox.closed {
            return false;
        }
        let requests = std::mem::take(&mut inbox.requests);
        inbox.waiting = self.waiting.len() + requests.len();
        drop(inbox);
        for (request, events) in requests {
            let mail = Mail::new(events);
            match Job::new(&self.engine, self.tokenizer, request, mail) {
                Some(job) => self.waiting.push_back(job),
                None => self.stats.failed += 1,
            }
        }
        true
    }

    /// Says what was done.
    fn publish(&mut self) {
        self.stats.running = self.running.len();
        self.stats.waiting = self.waiting.len();
        let held = self.running.iter().filter_map(|job| job.seq.as_ref());
        (self.stats.pages_held, self.stats.pages) = self.engine.pages_held(held);
        *lock(&self.shared.stats) = self.stats;
        lock(&self.shared.inbox).waiting = self.waiting.len();
    }

    /// Whether nothing can be done before somebody rings.
    fn is_idle(&self) -> bool {
        let stuck = self.running.iter().all(Job::is_paused);
        stuck && (self.waiting.is_empty() || !self.running.is_empty())
    }

    /// Those whose reader has left go; slow readers get what there is room for.
    fn sweep(&mut self) {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|job| !job.is_closed());
        self.running.retain(|job| !job.is_closed());
        self.stats.cancelled += before - self.waiting.len() - self.running.len();
        self.running.iter_mut().for_each(Job::flush);
    }

    /// Lets those enter that the policy chooses.
    fn admit(&mut self) {
        let places = self.options.streams.saturating_sub(self.running.len());
        if self.waiting.is_empty() || places == 0 || self.crowded && !self.running.is_empty() {
            return;
        }
        let list: Vec<_> = self.waiting.iter().map(Job::waiting).collect();
        let (waiting, engine, empty) = (&self.waiting, &self.engine, &self.empty);
        let need = |job: &Job<'_>| (job.left() + AHEAD).min(engine.ctx() - job.held());
        let sequences = self.running.iter();
        let mut needs: Vec<_> = sequences
            .filter_map(|j| Some((j.seq.as_ref()?, need(j))))
            .collect();
        let mut fits = |i: usize| {
            needs.push((empty, need(&waiting[i])));
            // One alone always enters.
            needs.len() == 1 || engine.has_room(&needs)
        };
        let chosen = self.policy.admit(&list, places, &mut fits);
        let mut jobs: Vec<_> = self.waiting.drain(..).map(Some).collect();
        let mut entering: VecDeque<_> = chosen.iter().filter_map(|i| jobs[*i].take()).collect();
        self.waiting.extend(jobs.into_iter().flatten());
        let mut later = VecDeque::new();
        while let Some(job) = entering.pop_front() {
            if self.running.iter().any(|r| r.is_ahead_of(&job)) {
                later.push_back(job);
            } else if let Some(job) = self.enter(job) {
                entering.push_front(job);
                break;
            }
        }
        // Those that found no memory after all wait in front, and those whose beginning is just being read.
        later.append(&mut entering);
        while let Some(job) = later.pop_back() {
            self.waiting.push_front(job);
        }
    }

    /// Lets one enter; given back if there is no memory for it now.
    fn enter(&mut self, mut job: Job<'t>) -> Option<Job<'t>> {
        let engine = &mut self.engine;
        match guarded(&mut self.stats, || job.enter(engine)) {
            Ok(()) => {
                if job.ticket.is_none() {
                    self.tickets += 1;
                    let learned = || self.guessers.pop().unwrap_or_else(Speculation::lookup);
                    let guesses = self.options.guess.then(learned);
                    job.started(self.tickets, guesses);
                }
                self.running.push(job);
                None
            }
            Err(Error::Memory { .. }) if !self.running.is_empty() => Some(job),
            Err(Error::Interrupted) => {
                self.shared.resume();
                Some(job)
            }
            Err(error) => {
                self.end(job, Event::Failed(error));
                None
            }
        }
    }

    /// A request has ended.
    fn end(&mut self, job: Job<'t>, last: Event) {
        match last {
            Event::Failed(_) => self.stats.failed += 1,
            _ => self.stats.finished += 1,
        }
        let (mail, guesses) = job.leave(last);
        if self.options.guess && self.guessers.len() < self.options.streams {
            self.guessers.push(guesses);
        }
        self.leaving.push(mail);
    }

    /// Decides what each contributes to the next pass; the number of rows.
    fn share(&mut self) -> usize {
        let batch = self.engine.batch();
        let goes = |job: &Job<'_>| !job.is_paused() && job.is_answering();
        let decoding = self.running.iter().filter(|j| goes(j)).count().min(batch);
        let room = batch - decoding;
        let most = match decoding {
            0 => room,
            _ => self.cost.prompt_rows(decoding, room, self.options.step),
        };
        let list: Vec<_> = self.running.iter().map(Job::running).collect();
        let mut reads = self.policy.read(&list, most);
        reads.resize(list.len(), 0);
        // More of them than rows: those that have waited longest come first.
        if self.running.len() > batch {
            self.running.rotate_left(1);
            reads.rotate_left(1);
        }
        let (mut left, mut rows) = (batch, 0);
        for (job, reads) in self.running.iter_mut().zip(reads) {
            let asked = match goes(job) {
                true => 1 + job.known(),
                false => reads.min(job.left()),
            };
            job.guesses = 0;
            job.rows = asked.min(left);
            left -= job.rows;
            rows += job.rows;
        }
        if self.options.guess && rows == decoding && decoding > 1 {
            rows += self.guess(decoding, left);
        }
        rows
    }

    /// Decides how many guesses those that answer verify; their number.
    fn guess(&mut self, decoding: usize, most: usize) -> usize {
        let mut chances = Vec::with_capacity(self.running.len());
        for job in &mut self.running {
            let verify = job.seq.as_ref().map_or(1, Sequence::verify_batch);
            // What is known to follow is not guessed.
            let max = if job.rows == 1 { verify - 1 } else { 0 };
            chances.push(job.answer.chances(max));
        }
        let guesses = self.cost.guesses(decoding, most, &chances);
        for (job, n) in self.running.iter_mut().zip(&guesses) {
            job.guesses = *n;
            job.rows += *n;
        }
        guesses.iter().sum()
    }

    /// One pass over all that go on; the time it took.
    fn step(&mut self) -> Duration {
        self.resume();
        let mut rows = self.share();
        while rows > 0 && !self.has_room() && self.preempt() {
            rows = self.share();
        }
        if rows == 0 {
            return Duration::ZERO;
        }
        let alone = self.running.iter().filter(|j| j.rows > 0).count() == 1;
        for job in self.running.iter_mut().filter(|j| j.rows > 0) {
            let Some(seq) = &mut job.seq else { continue };
            let guesses = match alone {
                true => Guesses::Tuned,
                false => Guesses::Of(job.guesses),
            };
            let draft = &mut Draft::new(&mut self.engine, seq);
            job.rows = job.answer.plan(draft, job.rows, guesses).ids.len();
        }
        let (time, done) = self.pass(alone);
        match done {
            Ok(ends) => self.settle(ends),
            Err(Error::Interrupted) => self.shared.resume(),
            Err(error) => {
                let message = error.to_string();
                for job in std::mem::take(&mut self.running) {
                    self.end(job, Event::Failed(Error::Panic(message.clone())));
                }
            }
        }
        time
    }

    /// Those whose constraint was late go on where it is not any more.
    fn resume(&mut self) {
        let mut ends = Vec::new();
        for (i, job) in self.running.iter_mut().enumerate() {
            if job.answer.is_late() {
                let stats = &mut self.stats;
                let progress = guarded(stats, || job.answer.resume());
                ends.extend(tell(job, progress, stats).err().map(|event| (i, event)));
            }
        }
        if !ends.is_empty() {
            self.settle(ends);
        }
    }

    /// Those that have ended go. What was computed for them stays for others while there is room.
    fn settle(&mut self, ends: Vec<(usize, Event)>) {
        let ended = |i: usize| ends.iter().any(|(n, _)| *n == i);
        for (i, job) in self.running.iter_mut().enumerate() {
            if let Some(seq) = &job.seq
                && (std::mem::take(&mut job.has_read) || ended(i))
            {
                // Without a copy a later request reads more; that is all.
                _ = self.engine.keep_state(seq);
            }
        }
        self.crowded = false;
        for (i, event) in ends.into_iter().rev() {
            let lacks = matches!(
                event,
                Event::Failed(Error::Pages { .. } | Error::Memory { .. })
            );
            if lacks && self.running.len() > 1 {
                // It goes on when others have made room.
                self.crowded = true;
                continue;
            }
            let job = self.running.remove(i);
            self.end(job, event);
        }
        if self.crowded {
            self.preempt();
        }
    }

    /// Whether there are pages for what is planned.
    fn has_room(&self) -> bool {
        let all = self.running.iter();
        let needs: Vec<_> = all
            .filter_map(|j| Some((j.seq.as_ref()?, j.rows)))
            .collect();
        self.engine.has_room(&needs)
    }

    /// Takes its pages from the one that the policy chooses; it waits in front of all others. False if none may be
    /// chosen.
    fn preempt(&mut self) -> bool {
        let list: Vec<_> = self.running.iter().map(Job::running).collect();
        let Some(i) = self.policy.preempt(&list) else {
            return false;
        };
        let mut job = self.running.remove(i);
        job.seq = None;
        self.stats.preemptions += 1;
        self.waiting.push_front(job);
        true
    }

    /// Evaluates what was planned, and lets each take its logits: the time of the pass, and who has ended how.
    fn pass(&mut self, alone: bool) -> (Duration, Result<Vec<(usize, Event)>>) {
        let Self {
            engine,
            running,
            stats,
            cost,
            ..
        } = self;
        let vocab = engine.model().config().vocab;
        let mut spans = Vec::with_capacity(running.len());
        for job in running.iter_mut().filter(|j| j.rows > 0) {
            let (Some(seq), plan) = (&mut job.seq, job.answer.planned()) else {
                continue;
            };
            let input = Segment::Tokens(plan.ids);
            let want = plan.want;
            spans.push(Span { seq, input, want });
        }
        let start = Instant::now();
        let stepped = guarded(stats, || engine.step(&mut spans));
        let time = start.elapsed();
        drop(spans);
        let mut out = match stepped {
            Ok(out) => out,
            Err(error) => return (time, Err(error)),
        };
        let rows: usize = running.iter().map(|j| j.rows).sum();
        stats.steps += 1;
        stats.rows += rows;
        cost.record(rows, time);
        let planned = running.iter_mut().enumerate().filter(|(_, j)| j.rows > 0);
        let mut ends = Vec::new();
        for (span, (i, job)) in planned.enumerate() {
            let failed = out.failed.iter().position(|(n, _)| *n == span);
            let done = match failed.map(|at| out.failed.swap_remove(at).1) {
                Some(error) => job.answer.failed(error).err().map(Event::Failed),
                None => take(job, out.of(span, vocab), alone.then_some(time), stats),
            };
            ends.extend(done.map(|event| (i, event)));
        }
        (time, Ok(ends))
    }
}

/// Lets a request take the logits of its rows, `[rows, vocab]`; its last event if it ends. `time`: what the pass
/// took, if it was its alone.
fn take(
    job: &mut Job<'_>,
    logits: &[f32],
    time: Option<Duration>,
    stats: &mut SchedulerStats,
) -> Option<Event> {
    let held = job.held();
    if let Some((done, total)) = job.answer.evaluated(held, time) {
        job.has_read = done == total;
        job.send(Event::Prefill { done, total });
    }
    let told = job.answer.weigh_prompt(logits);
    if !told.is_empty() {
        job.send(Event::Prompt(told));
    }
    loop {
        let progress = guarded(stats, || job.answer.accept(logits));
        match tell(job, progress, stats) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(last) => return Some(last),
        }
    }
}

/// Tells the reader what a token brought; whether there was one. The last event where it ends.
fn tell(
    job: &mut Job<'_>,
    progress: Result<Option<Progress>>,
    stats: &mut SchedulerStats,
) -> Result<bool, Event> {
    let Some(progress) = progress.map_err(Event::Failed)? else {
        return Ok(false);
    };
    let done = progress.done;
    let chosen = progress.id.is_some() || progress.log_prob.is_some();
    stats.tokens += usize::from(progress.id.is_some());
    if chosen || !progress.text.is_empty() {
        job.send(Event::Token(progress));
    }
    match done {
        Some(reason) => {
            let timings = *job.answer.timings();
            Err(Event::Done { reason, timings })
        }
        None => Ok(true),
    }
}

/// Calls `f`; a panic is counted and becomes an error.
fn guarded<R>(stats: &mut SchedulerStats, f: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        stats.panics += 1;
        Err(Error::Panic(message(&*panic)))
    })
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

impl Shared {
    /// A pass was ended because nobody waited for it. If somebody does now, the next one may go on.
    fn resume(&self) {
        if self.handles.load(Ordering::Relaxed) > 0 {
            self.stop.store(false, Ordering::Relaxed);
        }
    }
}
