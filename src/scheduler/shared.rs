//! Requests, their events, and what the two sides of a scheduler share.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::channel::{self, Bell};
use crate::adapter::Adapter;
use crate::engine::{Scope, Stored};
use crate::error::Error;
use crate::generate::{GenerateOptions, Progress, StopReason, Timings, Weighed};

/// Most requests that run side by side.
pub const MAX_STREAMS: usize = 256;

/// How requests share an engine.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Most requests that run side by side; at most [`MAX_STREAMS`].
    pub streams: usize,
    /// Most requests that wait.
    pub queue: usize,
    /// How long a step may last while somebody answers, unless that alone takes half of it.
    pub step: Duration,
    /// Guess by earlier text where it pays.
    pub guess: bool,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            streams: 32,
            queue: 256,
            step: Duration::from_millis(100),
            guess: true,
        }
    }
}

/// What is asked for.
#[derive(Clone, Default)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// What to generate and when to stop.
    pub options: GenerateOptions,
    /// Adapters of this model, each with its scale.
    pub adapters: Vec<(Arc<Adapter>, f32)>,
    /// Who may find what was computed for it, and for whom what is found was computed.
    pub scope: Scope,
    /// Who asks: owners are served in turn.
    pub owner: u64,
    /// The beginning of its prompt as it was found on disk.
    pub stored: Option<Arc<Stored>>,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// It has entered.
    Started {
        /// Tokens of the prompt.
        prompt: usize,
        /// Of these, found and not evaluated again.
        cached: usize,
    },
    /// So many tokens of the prompt are read.
    Prefill {
        /// Tokens read.
        done: usize,
        /// Tokens to be read.
        total: usize,
    },
    /// The next tokens of the prompt, from the second on, if [`GenerateOptions::prompt_log_probs`] asks for them.
    Prompt(Vec<Weighed>),
    /// A token, or the text that was held back at the end.
    Token(Progress),
    /// The answer is whole; the last event.
    Done {
        /// Why it ended.
        reason: StopReason,
        /// Counts and times.
        timings: Timings,
    },
    /// It could not go on; the last event.
    Failed(Error),
}

/// What the engine's thread has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages that those that run hold, of the layers of which they hold the largest share.
    pub pages_held: usize,
    /// All pages of these layers.
    pub pages: usize,
    /// Passes.
    pub steps: usize,
    /// Rows of these passes.
    pub rows: usize,
    /// Tokens chosen.
    pub tokens: usize,
    /// Requests that ended by themselves.
    pub finished: usize,
    /// Requests that ended with an error.
    pub failed: usize,
    /// Requests whose handle was dropped.
    pub cancelled: usize,
    /// How often a request made room for older ones.
    pub preemptions: usize,
    /// Panics that were caught.
    pub panics: usize,
    /// Time in passes.
    pub passing: Duration,
    /// Time outside of passes, waiting apart.
    pub outside: Duration,
}

/// What is written by one side and read by the other.
pub(super) struct Shared {
    pub(super) bell: Arc<Bell>,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) stats: Mutex<SchedulerStats>,
    /// Handles that somebody holds.
    pub(super) handles: AtomicUsize,
    /// Ends a pass at its next layer: nobody waits for it.
    pub(super) stop: Arc<AtomicBool>,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) requests: Vec<(Request, channel::Sender<Event>)>,
    /// Requests that the lead has taken out and that wait.
    pub(super) waiting: usize,
    pub(super) closed: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
