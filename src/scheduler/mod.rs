//! Many requests on one engine: each gets the text that it gets alone, all of them share the passes.
//!
//! ```text
//! submit -> waiting -> admitted -> reads its prompt -> answers -> done
//!              ^                        |
//!              +---- makes room --------+     (the youngest, when pages run out; it reads its tokens again)
//! ```
//! One thread leads the engine and never waits for anybody: a step takes one row of everybody who answers,
//! guesses where they pay, and pieces of prompts for as long as the step may last ([`SchedulerOptions::step`]).
//! A text is a function of model, kernels and request; clocks and load decide when it comes, never what it
//! says. An error in one sequence ends that one. Dropping a [`Handle`] cancels its request.

mod channel;
mod cost;
mod job;
mod lead;
mod policy;
mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::threads;
use crate::tokenizer::Tokenizer;
use channel::{Bell, Receiver, channel};
use lead::Lead;
pub use policy::{Fair, Policy, Running, Waiting};
pub use shared::{Event, MAX_STREAMS, Request, SchedulerOptions, SchedulerStats};
use shared::{Shared, lock};

/// Events that wait for a reader before its request pauses.
const EVENTS: usize = 256;
/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("{waiting} requests are waiting, allowed: {most}")]
    Full {
        /// How many wait.
        waiting: usize,
        /// How many may.
        most: usize,
    },
    /// The scheduler has ended.
    #[error("no requests are taken any more")]
    Closed,
}

/// Many requests on one engine, which a thread of its own leads. Dropping it cancels all of them.
pub struct Scheduler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    queue: usize,
}

impl Scheduler {
    /// Gives the engine to a thread that waits for requests.
    ///
    /// # Errors
    /// [`Error::Request`] for a number of streams out of range, [`Error::Threads`].
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        options: SchedulerOptions,
    ) -> Result<Scheduler> {
        Self::with_policy(engine, tokenizer, options, Box::new(Fair::default()))
    }

    /// As [`Scheduler::new`], with another policy.
    ///
    /// # Errors
    /// As [`Scheduler::new`].
    pub fn with_policy(
        mut engine: Engine,
        tokenizer: Arc<Tokenizer>,
        options: SchedulerOptions,
        policy: Box<dyn Policy>,
    ) -> Result<Scheduler> {
        if !(1..=MAX_STREAMS).contains(&options.streams) {
            return Err(Error::Request {
                what: "streams".into(),
                value: options.streams.to_string(),
                allowed: format!("1..={MAX_STREAMS}"),
            });
        }
        let shared = Arc::new(Shared {
            bell: Arc::new(Bell::default()),
            inbox: Mutex::default(),
            stats: Mutex::default(),
            handles: AtomicUsize::new(0),
            stop: Arc::new(AtomicBool::new(false)),
        });
        engine.cancel = Some(shared.stop.clone());
        let empty = engine.sequence()?;
        let (model, queue) = (engine.model().clone(), options.queue);
        let (texts, theirs) = (tokenizer.clone(), shared.clone());
        let lead = move || {
            let run = || Lead::new(engine, empty, &texts, &theirs, options, policy).run();
            // Whatever happens, nobody waits for a thread that is gone.
            _ = catch_unwind(AssertUnwindSafe(run));
            let mut inbox = lock(&theirs.inbox);
            inbox.closed = true;
            drop(std::mem::take(&mut inbox.requests));
        };
        let thread = std::thread::Builder::new().name("geb-lead".into());
        let thread = thread.spawn(lead).map_err(|e| threads::refused(1, e))?;
        Ok(Scheduler {
            shared,
            thread: Some(thread),
            model,
            tokenizer,
            queue,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// What was done so far.
    pub fn stats(&self) -> SchedulerStats {
        *lock(&self.shared.stats)
    }

    /// Hands a request over. What is wrong with it comes as its first event.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn submit(&self, request: Request) -> Result<Handle, Refusal> {
        let mut inbox = lock(&self.shared.inbox);
        if inbox.closed {
            return Err(Refusal::Closed);
        }
        let waiting = inbox.waiting + inbox.requests.len();
        if waiting >= self.queue {
            return Err(Refusal::Full {
                waiting,
                most: self.queue,
            });
        }
        let (sender, events) = channel(EVENTS, self.shared.bell.clone());
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        inbox.requests.push((request, sender));
        drop(inbox);
        self.shared.bell.ring();
        Ok(Handle {
            events,
            shared: self.shared.clone(),
        })
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        lock(&self.shared.inbox).closed = true;
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// The events of a request. Dropping it cancels the request.
pub struct Handle {
    events: Receiver<Event>,
    shared: Arc<Shared>,
}

impl Handle {
    /// Waits for the next event; none after the last one, or if the scheduler has ended.
    pub fn recv(&self) -> Option<Event> {
        self.events.recv()
    }

    /// Waits for the whole text.
    ///
    /// # Errors
    /// What the request failed with; [`Error::Interrupted`] if the scheduler has ended.
    pub fn text(self) -> Result<String> {
        let mut text = String::new();
        for event in self {
            match event {
                Event::Token(progress) => text.push_str(&progress.text),
                Event::Done { .. } => return Ok(text),
                Event::Failed(error) => return Err(error),
                _ => {}
            }
        }
        Err(Error::Interrupted)
    }

    /// As [`Handle::recv`], for a task.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}

impl Iterator for Handle {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.stop.store(true, Ordering::Relaxed);
        }
    }
}
