//! What the threads of a cache share.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was written and found so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskStats {
    /// Files written.
    pub written: u64,
    /// Pages and states left out because too many waited.
    pub dropped: u64,
    /// Files that could not be written or read.
    pub failed: u64,
    /// Files that were found, checked and read.
    pub found: u64,
    /// Files that were not what their name says: never used, and deleted.
    pub refused: u64,
    /// Files deleted to keep to the limit.
    pub deleted: u64,
    /// Bytes of all files, as far as this process knows.
    pub bytes: u64,
}

/// What all threads of a cache see.
pub(super) struct Shared {
    pub(super) folder: PathBuf,
    /// Bytes of all files.
    pub(super) limit: u64,
    /// Files handed over and not done.
    pub(super) waiting: AtomicUsize,
    pub(super) stats: Mutex<DiskStats>,
}

impl Shared {
    /// Changes the counts.
    pub(super) fn count(&self, f: impl FnOnce(&mut DiskStats)) {
        f(&mut lock(&self.stats));
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
