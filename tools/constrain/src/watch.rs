//! Work that is cut short when it takes too long: processor time, where the system tells that of a thread, so that a
//! machine with much to do refuses nothing that an idle one takes.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use geb::error::{Error, Result};
use llguidance::{CancellationHandle, Matcher};

use crate::cpu_time::CpuTime;
use crate::source;

/// What a grammar may take until it has said what an answer may begin with.
pub const FIRST: Duration = Duration::from_secs(2);
/// What each later step may take.
pub const STEP: Duration = Duration::from_millis(250);
/// On the clock they may take so many times as long.
const PATIENCE: u32 = 16;

/// Ends of what runs now, and how each is cut short.
#[derive(Default)]
struct Watch {
    ends: Mutex<Ends>,
    sooner: Condvar,
}

#[derive(Default)]
struct Ends {
    /// By when to look, and by number.
    list: BTreeMap<(Instant, u64), Work>,
    count: u64,
}

/// What runs.
struct Work {
    handle: CancellationHandle,
    cpu_time: CpuTime,
    limit: Duration,
    /// When it is cut short whatever it has worked.
    last: Instant,
}

impl Work {
    /// What it may still take; `None` if it is late.
    fn rest(&self, now: Instant) -> Option<Duration> {
        let rest = self.limit.checked_sub(self.cpu_time.so_far()?)?;
        let is_early = !rest.is_zero() && now < self.last;
        is_early.then(|| rest.max(Duration::from_millis(1)))
    }
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
    let number = watch().add(limit, handle);
    let done = f(matcher);
    watch().lock().list.retain(|(_, n), _| *n != number);
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

    fn add(&self, limit: Duration, handle: CancellationHandle) -> u64 {
        let now = Instant::now();
        let work = Work {
            handle,
            cpu_time: CpuTime::now(),
            limit,
            last: now + PATIENCE * limit,
        };
        let mut ends = self.lock();
        ends.count += 1;
        let key = (now + limit, ends.count);
        ends.list.insert(key, work);
        if ends.list.keys().next() == Some(&key) {
            self.sooner.notify_one();
        }
        key.1
    }

    /// Cuts short what is late, for ever.
    fn run(&self) {
        let mut ends = self.lock();
        loop {
            let now = Instant::now();
            while let Some(first) = ends.list.first_entry().filter(|e| e.key().0 <= now) {
                let ((_, number), work) = first.remove_entry();
                match work.rest(now) {
                    Some(rest) => _ = ends.list.insert((now + rest, number), work),
                    None => work.handle.cancel(),
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities};
    use llguidance::{Matcher, ParserFactory};

    fn matcher() -> Matcher {
        let env = ApproximateTokEnv::single_byte_env();
        let abilities = InferenceCapabilities::default();
        let factory = ParserFactory::new(&env, abilities, &[]).expect("a factory");
        let grammar = TopLevelGrammar::from_regex("[a-z]+");
        Matcher::new(factory.create_parser(grammar)).into_cancellable()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_waits_is_not_cut_short() {
        let limit = Duration::from_millis(100);
        let done = within(limit, &mut matcher(), |_| {
            std::thread::sleep(3 * limit);
            Ok(CpuTime::now().so_far().is_some())
        });
        assert!(done.expect("it has not worked"));
    }

    #[test]
    fn what_takes_too_long_is_cut_short_and_nothing_else() {
        let limit = Duration::from_millis(20);
        let (mut slow, mut quick) = (matcher(), matcher());
        let done = within(limit, &mut slow, |matcher| {
            while !matcher.is_cancelled() {
                std::thread::yield_now();
            }
            Ok(())
        });
        assert!(
            matches!(done, Err(Error::Slow { limit_ms: 20 })),
            "{done:?}"
        );
        let mask = within(Duration::from_secs(60), &mut quick, Matcher::compute_mask);
        assert!(mask.expect("in time").is_allowed(u32::from(b'a')));
        let again = within(limit, &mut slow, Matcher::compute_mask);
        assert!(
            matches!(again, Err(Error::Slow { .. })),
            "it stays cut short"
        );
    }
}
