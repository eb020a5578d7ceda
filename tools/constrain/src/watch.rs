//! Work that is cut short when it takes too long.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use geb::error::{Error, Result};
use llguidance::{CancellationHandle, Matcher};

use crate::source;

/// Ends of what runs now, and how each is cut short.
#[derive(Default)]
struct Watch {
    ends: Mutex<Ends>,
    sooner: Condvar,
}

#[derive(Default)]
struct Ends {
    list: BTreeMap<(Instant, u64), CancellationHandle>,
    count: u64,
}

/// Calls `f`, which is cut short after `limit`.
pub(crate) fn within<R>(
    limit: Duration,
    matcher: &mut Matcher,
    f: impl FnOnce(&mut Matcher) -> anyhow::Result<R>,
) -> Result<R> {
    let slow = Error::Slow {
        limit_ms: limit.as_millis() as u64,
    };
    let Some(handle) = matcher.cancellation_handle() else {
        return Err(Error::Panic("a grammar that cannot be cut short".into()));
    };
    let key = watch().add(Instant::now() + limit, handle);
    let done = f(matcher);
    watch().lock().list.remove(&key);
    match done {
        Ok(_) | Err(_) if matcher.is_cancelled() => Err(slow),
        Ok(done) => Ok(done),
        Err(e) => Err(Error::Constraint(source::said(&e.to_string()))),
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, end: Instant, handle: CancellationHandle) -> (Instant, u64) {
        let mut ends = self.lock();
        ends.count += 1;
        let key = (end, ends.count);
        ends.list.insert(key, handle);
        if ends.list.keys().next() == Some(&key) {
            self.sooner.notify_one();
        }
        key
    }

    /// Cuts short what is late, for ever.
    fn run(&self) {
        let mut ends = self.lock();
        loop {
            let now = Instant::now();
            while let Some(first) = ends.list.first_entry().filter(|e| e.key().0 <= now) {
                first.remove().cancel();
            }
            let next = ends.list.keys().next().map(|key| key.0 - now);
            ends = match next {
                Some(wait) => {
                    let woken = self.sooner.wait_timeout(ends, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => (self.sooner.wait(ends)).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The one of this process, with its thread. Where there is no thread for it nothing is cut short.
fn watch() -> &'static Watch {
    static WATCH: OnceLock<&Watch> = OnceLock::new();
    WATCH.get_or_init(|| {
        let watch: &Watch = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("geb-watch".into());
        _ = thread.spawn(|| watch.run());
        watch
    })
}
