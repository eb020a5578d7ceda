//! Beginnings that sequences had, kept on disk for later runs.
//!
//! ```text
//! <folder>/<model>/<cache type>-<level>/<SHA-256 of key and ids>.gebkv     one page of 64 positions, or one state
//! engine    hands a new page over, and never waits: where too many wait, it is left out and counted
//! writer    a thread: temporary file, fsync, rename, fsync of the folder; deletes the least recently used
//! reader    any thread but the engine's: files -> [`Stored`] -> [`Engine::restore`](super::Engine::restore)
//! ```
//! A file is used only if every byte of its header is what was looked for and its hash is that of its bytes;
//! any other is deleted and counted. Ids and keys of users are in it: 0600, in folders 0700.

mod entry;
mod shared;
mod writer;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::SystemTime;

use geb_kernels::Kernels;
use geb_kernels::float::BLOCK;

use super::key::{Scope, SeqKey};
use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::model::adapters::Adapters;
use crate::threads;
pub(crate) use entry::Kind;
use entry::{Name, Names};
pub use shared::DiskStats;
use shared::{Shared, lock};
use writer::{Message, Writer, private_folder};

/// Files that wait to be written: two batches of the engine.
const QUEUE: usize = 16;

/// A folder of beginnings for any number of engines and models, also of several processes, and the thread that
/// writes it. When it is dropped, what waits is written first.
pub struct DiskCache {
    shared: Arc<Shared>,
    messages: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskCache {
    /// Opens a folder, or makes it. `limit`: bytes of all files in it; those least recently used go. What is in
    /// the folder besides is left alone.
    ///
    /// A process sees what others write when it has written a part of the limit itself: several together may
    /// exceed it by a sixteenth each.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] for no folder and for one that everybody can write: who could plant files
    /// there could choose what is answered. [`Error::Threads`].
    pub fn open(folder: &Path, limit: u64) -> Result<DiskCache> {
        private_folder(folder)?;
        check_folder(folder)?;
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            limit,
            waiting: AtomicUsize::new(0),
            stats: Mutex::default(),
        });
        let (messages, received) = sync_channel(QUEUE);
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("geb-disk".into());
        let thread = thread.spawn(move || Writer::run(&theirs, &received));
        Ok(DiskCache {
            shared,
            messages: Some(messages),
            thread: Some(thread.map_err(|e| threads::refused(1, e))?),
        })
    }

    /// What was written and found so far.
    pub fn stats(&self) -> DiskStats {
        *lock(&self.shared.stats)
    }

    /// Waits until all that was handed over is written.
    pub fn wait(&self) {
        let (tell, told) = sync_channel(1);
        let messages = self.messages.as_ref();
        if messages.is_some_and(|m| m.send(Message::Reached(tell)).is_ok()) {
            _ = told.recv();
        }
    }

    /// Hands a file over, unless too many wait.
    fn write(&self, message: Message) -> bool {
        let waiting = &self.shared.waiting;
        waiting.fetch_add(1, Ordering::AcqRel);
        let sent = match &self.messages {
            Some(messages) => messages.try_send(message),
            None => Err(TrySendError::Disconnected(message)),
        };
        if sent.is_err() {
            waiting.fetch_sub(1, Ordering::AcqRel);
            self.shared.count(|s| s.dropped += 1);
        }
        sent.is_ok()
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// Refuses what is no folder, and one that everybody can write.
fn check_folder(folder: &Path) -> Result<()> {
    let meta = fs::metadata(folder).map_err(Error::io(folder))?;
    #[cfg(unix)]
    let open = std::os::unix::fs::MetadataExt::mode(&meta) & 0o002 != 0;
    #[cfg(not(unix))]
    let open = false;
    let value = match (meta.is_dir(), open) {
        (true, false) => return Ok(()),
        (true, true) => "a folder that everybody can write",
        (false, _) => "not a folder",
    };
    Err(Error::Request {
        what: format!("folder of the cache {}", folder.display()),
        value: value.into(),
        allowed: "a folder that others cannot write".into(),
    })
}

/// What the cache on disk holds for engines of one model, cache type and level; any thread may ask.
pub struct DiskPages {
    cache: Arc<DiskCache>,
    kind: Kind,
    folder: PathBuf,
    /// What the engine has in memory, and need not be read.
    held: Mutex<HashSet<Name>>,
    model: Arc<Model>,
    kernels: &'static Kernels,
    /// A state behind all tokens, not pages behind each 64.
    is_state: bool,
}

/// The beginning of a prompt as it was on disk, for [`Engine::restore`](super::Engine::restore).
pub struct Stored {
    pub(super) kind: Kind,
    pub(super) key: SeqKey,
    /// The tokens from the first one on.
    pub(super) tokens: Vec<u32>,
    /// Blocks of 64 tokens before the first page, which were in memory.
    pub(super) skipped: usize,
    /// For each later block the parts of its pages; of a recurrent model one, the state behind all tokens.
    pub(super) parts: Vec<Vec<u8>>,
}

impl Stored {
    /// Tokens that were read from disk.
    pub fn tokens(&self) -> usize {
        self.tokens.len() - BLOCK * self.skipped
    }
}

impl DiskPages {
    pub(super) fn new(
        cache: Arc<DiskCache>,
        kind: Kind,
        model: Arc<Model>,
        kernels: &'static Kernels,
        is_state: bool,
    ) -> DiskPages {
        DiskPages {
            folder: cache.shared.folder.join(kind.folder()),
            cache,
            kind,
            held: Mutex::default(),
            model,
            kernels,
            is_state,
        }
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<DiskCache> {
        &self.cache
    }

    /// What sequences are found by: who may find them, the adapters with their scales, the text of an encoder.
    ///
    /// # Errors
    /// As [`Engine::set_adapters`](super::Engine::set_adapters).
    pub fn key(&self, scope: &Scope, adapters: &[(&Adapter, f32)], text: &[u32]) -> Result<SeqKey> {
        let adapters = match adapters {
            [] => None,
            some => Some(Adapters::new(&self.model, self.kernels, some)?.identity()),
        };
        Ok(SeqKey::new(scope, adapters, text))
    }

    /// Reads the longest beginning of `prompt` that is on disk and not in memory. It reads and hashes files, so it
    /// is not for the thread that leads the engine.
    pub fn read(&self, key: &SeqKey, prompt: &[u32]) -> Stored {
        let mut stored = Stored {
            kind: self.kind.clone(),
            key: *key,
            tokens: Vec::new(),
            skipped: 0,
            parts: Vec::new(),
        };
        match self.is_state {
            true => self.read_state(&mut stored, prompt),
            false => self.read_pages(&mut stored, prompt),
        }
        stored
    }

    /// Page after page, until one is missing.
    fn read_pages(&self, stored: &mut Stored, prompt: &[u32]) {
        let mut names = Names::new(&stored.key, prompt);
        let mut read = Vec::new();
        for end in (BLOCK..=prompt.len()).step_by(BLOCK) {
            let name = names.of(end);
            if stored.parts.is_empty() && self.holds(&name) {
                stored.skipped = end / BLOCK;
                continue;
            }
            let Some(parts) = self.read_file(&name, &stored.key, &prompt[..end]) else {
                break;
            };
            stored.parts.push(parts);
            read.push(name);
        }
        let blocks = stored.skipped + stored.parts.len();
        stored.tokens.extend_from_slice(&prompt[..BLOCK * blocks]);
        // The last one first: what needs others is never older than they are.
        read.iter().rev().for_each(|name| self.touch(name));
    }

    /// The state behind the most tokens; one token is left to evaluate.
    fn read_state(&self, stored: &mut Stored, prompt: &[u32]) {
        let mut names = Names::new(&stored.key, prompt);
        let names: Vec<Name> = (1..prompt.len()).map(|n| names.of(n)).collect();
        for (i, name) in names.iter().enumerate().rev() {
            let ids = &prompt[..i + 1];
            if self.holds(name) {
                return;
            }
            if let Some(parts) = self.read_file(name, &stored.key, ids) {
                stored.tokens.extend_from_slice(ids);
                stored.parts.push(parts);
                self.touch(name);
                return;
            }
        }
    }

    /// The parts of a file, if it is there; one that is not what it should be is deleted.
    fn read_file(&self, name: &Name, key: &SeqKey, ids: &[u32]) -> Option<Vec<u8>> {
        let path = entry::path(&self.folder, name);
        let size = self.kind.size(ids.len()) as u64;
        let read = match files::read_up_to(&path, size) {
            Ok(read) => read,
            Err(Error::Io { source, .. }) => {
                let absent = [ErrorKind::NotFound, ErrorKind::NotADirectory];
                let failed = u64::from(!absent.contains(&source.kind()));
                self.cache.shared.count(|s| s.failed += failed);
                return None;
            }
            // No file at all.
            Err(_) => None,
        };
        let parts = read.and_then(|mut bytes| {
            let parts = self.kind.decode(key, ids, &bytes)?;
            bytes.truncate(parts.end);
            bytes.drain(..parts.start);
            Some(bytes)
        });
        match parts {
            Some(_) => self.cache.shared.count(|s| s.found += 1),
            None => {
                _ = fs::remove_file(&path);
                self.cache.shared.count(|s| s.refused += 1);
            }
        }
        parts
    }

    /// Notes that a file was used. Best effort: without it, the file goes earlier.
    fn touch(&self, name: &Name) {
        let file = File::open(entry::path(&self.folder, name));
        _ = file.and_then(|f| f.set_modified(SystemTime::now()));
    }

    fn holds(&self, name: &Name) -> bool {
        lock(&self.held).contains(name)
    }

    /// The engine has this in memory from now on, or no longer.
    pub(super) fn set_held(&self, key: &SeqKey, ids: &[u32], holds: bool) {
        let name = entry::name(key, ids);
        let mut held = lock(&self.held);
        match holds {
            true => held.insert(name),
            false => held.remove(&name),
        };
    }

    /// Whether a file that is handed over now will be taken; one that is not is counted.
    pub(super) fn has_room(&self) -> bool {
        let room = self.cache.shared.waiting.load(Ordering::Acquire) < QUEUE;
        if !room {
            self.cache.shared.count(|s| s.dropped += 1);
        }
        room
    }

    /// Hands over what was computed for `ids`; false if it is left out.
    pub(super) fn write(&self, key: SeqKey, ids: Vec<u32>, parts: Vec<u8>) -> bool {
        let path = entry::path(&self.folder, &entry::name(&key, &ids));
        let (size, kind) = (self.kind.size(ids.len()) as u64, self.kind.clone());
        let bytes = Box::new(move || kind.encode(&key, &ids, &parts));
        self.cache.write(Message::Write { path, size, bytes })
    }

    /// Whether it holds states, not pages.
    pub(super) fn is_state(&self) -> bool {
        self.is_state
    }

    /// Whether files of this kind are of use to the engine.
    pub(super) fn is_of(&self, kind: &Kind) -> bool {
        self.kind == *kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message whose bytes come when `go` is closed.
    fn message(folder: &Path, n: usize, go: Option<std::sync::mpsc::Receiver<()>>) -> Message {
        let bytes = move || {
            _ = go.map(|go| go.recv());
            vec![7; n]
        };
        Message::Write {
            path: folder.join("m").join(n.to_string()),
            size: n as u64,
            bytes: Box::new(bytes),
        }
    }

    #[test]
    fn a_full_channel_drops_and_counts_and_nobody_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = DiskCache::open(dir.path(), 1 << 20).expect("cache");
        let (slow, go) = sync_channel(0);
        assert!(cache.write(message(dir.path(), 1000, Some(go))));
        // Whether the thread has taken the first one or not, so many more find room.
        let took = (0..2 * QUEUE).filter(|n| cache.write(message(dir.path(), *n, None)));
        let took = took.count();
        assert!((QUEUE - 1..=QUEUE).contains(&took), "{took}");
        assert_eq!(cache.stats().dropped, (2 * QUEUE - took) as u64);
        drop(slow);
        cache.wait();
        let stats = cache.stats();
        assert_eq!(
            (stats.written, stats.failed),
            (took as u64 + 1, 0),
            "{stats:?}"
        );
        assert!(cache.write(message(dir.path(), 999, None)));
        drop(cache);
        let written = fs::read(dir.path().join("m/999")).expect("written before the end");
        assert_eq!(written, [7; 999]);
    }
}
