//! What the engine's thread and those who ask share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::channel::{Bell, Sender};
use super::request::{Event, Request, SchedulerStats};

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
    pub(super) requests: Vec<(Request, Sender<Event>)>,
    /// Requests that the lead has taken out and that wait.
    pub(super) waiting: usize,
    pub(super) closed: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A pass was ended because nobody waited for it. If somebody does now, the next one may go on.
    pub(super) fn resume(&self) {
        if self.handles.load(Ordering::Relaxed) > 0 {
            self.stop.store(false, Ordering::Relaxed);
        }
    }
}
