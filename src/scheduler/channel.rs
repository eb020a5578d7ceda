//! What is handed over between the engine's thread and those who wait for it: events to one reader, and the bell
//! that wakes the engine. The engine never waits for a reader: a full channel gives the event back, and its reader
//! rings once there is room again.
//!
//! Needs nothing of the crate, so that `tests/loom` can try every order of its steps.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Wakes a thread that has nothing to do. A ring while it works is not lost: the next wait returns at once.
pub(crate) struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            rung: Mutex::new(false),
            wake: Condvar::new(),
        }
    }
}

impl Bell {
    /// Wakes who waits, or will.
    pub(crate) fn ring(&self) {
        *lock(&self.rung) = true;
        self.wake.notify_one();
    }

    /// Waits for a ring since the last wait.
    pub(crate) fn wait(&self) {
        let mut rung = lock(&self.rung);
        while !*rung {
            rung = self.wake.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }
}

/// What was under a lock when its owner panicked is whole: every step below is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State<T> {
    queue: VecDeque<T>,
    /// An event was given back: who takes the next one rings.
    full: bool,
    sender_left: bool,
    reader_left: bool,
    /// A reader that is not a thread.
    waker: Option<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    bell: Arc<Bell>,
    capacity: usize,
}

/// The engine's end.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The reader's end; dropping it says that nobody waits any more.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// A channel of at most `capacity` events whose reader rings `bell` when there is room again and when it leaves.
pub(crate) fn channel<T>(capacity: usize, bell: Arc<Bell>) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            full: false,
            sender_left: false,
            reader_left: false,
            waker: None,
        }),
        arrived: Condvar::new(),
        bell,
        capacity,
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Shared<T> {
    /// Wakes the reader, whatever it is.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Sender<T> {
    /// Hands an event over; given back if there is no room. For a reader that has left it is dropped.
    pub(crate) fn send(&self, event: T) -> Result<(), T> {
        let mut state = lock(&self.0.state);
        if state.reader_left {
            return Ok(());
        }
        if state.queue.len() >= self.0.capacity {
            state.full = true;
            return Err(event);
        }
        state.queue.push_back(event);
        self.0.wake(state);
        Ok(())
    }

    /// What its reader rings.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        self.0.bell.clone()
    }

    /// Whether the reader has left.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.0.state).reader_left
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.sender_left = true;
        self.0.wake(state);
    }
}

impl<T> Receiver<T> {
    /// The next event if there is one: `Ready(None)` when the sender has left and all is read.
    fn take(&self, state: &mut State<T>) -> (Poll<Option<T>>, bool) {
        match state.queue.pop_front() {
            Some(event) => (Poll::Ready(Some(event)), std::mem::take(&mut state.full)),
            None if state.sender_left => (Poll::Ready(None), false),
            None => (Poll::Pending, false),
        }
    }

    /// Waits for the next event; none when the sender has left.
    pub(crate) fn recv(&self) -> Option<T> {
        let mut state = lock(&self.0.state);
        loop {
            let (event, ring) = self.take(&mut state);
            if let Poll::Ready(event) = event {
                drop(state);
                if ring {
                    self.0.bell.ring();
                }
                return event;
            }
            let woken = self.0.arrived.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Receiver::recv`], for a task.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.0.state);
        let (event, ring) = self.take(&mut state);
        if event.is_pending() {
            state.waker = Some(cx.waker().clone());
        }
        drop(state);
        if ring {
            self.0.bell.ring();
        }
        event
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.reader_left = true;
        // What was sent is of no use; a waker of this reader neither.
        let left = (std::mem::take(&mut state.queue), state.waker.take());
        drop(state);
        drop(left);
        self.0.bell.ring();
    }
}
