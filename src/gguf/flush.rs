//! Writing to disk beside the work: without it the system holds everything back until the last
//! fsync, and the disk idles while weights are computed.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Bytes after which the disk gets work.
const BATCH: u64 = 64 << 20;

/// A thread that syncs a file now and then.
pub(super) struct Flusher {
    ask: SyncSender<File>,
    thread: JoinHandle<io::Result<()>>,
    waiting: u64,
}

impl Flusher {
    pub fn start() -> io::Result<Flusher> {
        let (ask, asked) = sync_channel::<File>(1);
        let work = move || asked.iter().try_for_each(|file| file.sync_data());
        let thread = Builder::new().name("flush".into()).spawn(work)?;
        let waiting = 0;
        Ok(Flusher {
            ask,
            thread,
            waiting,
        })
    }

    /// `bytes` more are in the file. While the thread is busy, they wait for the next time.
    pub fn written(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.waiting += bytes;
        if self.waiting >= BATCH && self.ask.try_send(file.try_clone()?).is_ok() {
            self.waiting = 0;
        }
        Ok(())
    }

    /// Ends the thread. An error it met is told here: the system tells it only once.
    pub fn finish(self) -> io::Result<()> {
        drop(self.ask);
        self.thread
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p))
    }
}
