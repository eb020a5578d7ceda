//! What this machine has: kernels and threads.

use geb_kernels::Kernels;

use geb::error::{Error, Result};
use geb::threads;

/// The kernels of this machine; a bad `GEB_ISA` is an error, not a fallback.
pub(super) fn kernels() -> Result<&'static Kernels> {
    Kernels::best().map_err(|e| Error::Request {
        what: "GEB_ISA".into(),
        value: e.to_string(),
        allowed: "a level this machine has".into(),
    })
}

pub(super) fn thread_pool(threads: Option<usize>) -> Result<rayon::ThreadPool> {
    let n = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    if !(1..=1024).contains(&n) {
        return Err(Error::Request {
            what: "threads".into(),
            value: n.to_string(),
            allowed: "1..=1024".into(),
        });
    }
    let builder = rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .thread_name(|i| format!("convert-{i}"));
    builder.build().map_err(|e| threads::refused(n, e))
}
