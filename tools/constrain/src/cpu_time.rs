//! What a thread has worked, however long it waited for a processor.

use std::time::Duration;

/// The processor time of a thread from one moment on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    #[cfg(target_os = "linux")]
    thread: rustix::thread::Pid,
    #[cfg(target_os = "linux")]
    before: Duration,
}

#[cfg(target_os = "linux")]
impl CpuTime {
    /// That of the calling thread, from now on.
    pub(crate) fn now() -> CpuTime {
        use rustix::time::{ClockId, clock_gettime};
        let now = clock_gettime(ClockId::ThreadCPUTime);
        CpuTime {
            thread: rustix::thread::gettid(),
            before: Duration::new(now.tv_sec as u64, now.tv_nsec as u32),
        }
    }

    /// What the thread has worked since; `None` where the system does not tell. For any thread of the process.
    pub(crate) fn so_far(&self) -> Option<Duration> {
        let path = format!("/proc/self/task/{}/schedstat", self.thread.as_raw_nonzero());
        let text = std::fs::read_to_string(path).ok()?;
        let worked = text.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(worked).saturating_sub(self.before))
    }
}

#[cfg(not(target_os = "linux"))]
impl CpuTime {
    /// That of the calling thread, from now on.
    pub(crate) fn now() -> CpuTime {
        CpuTime {}
    }

    /// Not told here.
    pub(crate) fn so_far(&self) -> Option<Duration> {
        None
    }
}
