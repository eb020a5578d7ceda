//! The thread that writes and deletes the files of the cache.

use std::fs::{self, DirBuilder};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::SystemTime;

use super::entry::SUFFIX;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::files::{remove_leftovers_of, write_private};

/// A part of the limit: so much is written before the folder is looked at again, which others write too, and so
/// much more than needed is deleted, so that not every file asks for another look.
const STEP: u64 = 16;

/// What the thread is told.
pub(super) enum Message {
    /// A new file, whose bytes are made here.
    Write {
        path: PathBuf,
        size: u64,
        bytes: Box<dyn FnOnce() -> Vec<u8> + Send>,
    },
    /// All before it is done.
    Reached(SyncSender<()>),
}

/// A file of the cache.
struct Entry {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

pub(super) struct Writer<'a> {
    shared: &'a Shared,
    /// Bytes of all files when the folder was last looked at, and of those written since.
    total: u64,
    since: u64,
}

impl Writer<'_> {
    /// Writes what it is told until nobody can tell it any more.
    pub(super) fn run(shared: &Shared, messages: &Receiver<Message>) {
        let mut writer = Writer {
            shared,
            total: 0,
            since: 0,
        };
        model_folders(&shared.folder).for_each(|folder| remove_leftovers_of(&folder));
        writer.look(0);
        for message in messages {
            match message {
                Message::Write { path, size, bytes } => {
                    let done = writer.write(&path, size, bytes);
                    shared.waiting.fetch_sub(1, Ordering::AcqRel);
                    match done {
                        Ok(new) => shared.count(|s| s.written += u64::from(new)),
                        Err(_) => shared.count(|s| s.failed += 1),
                    }
                }
                Message::Reached(tell) => _ = tell.send(()),
            }
        }
    }

    /// Writes a file that is not there yet; whether it was not.
    fn write(&mut self, path: &Path, size: u64, bytes: impl FnOnce() -> Vec<u8>) -> Result<bool> {
        if fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == size) {
            return Ok(false);
        }
        if size > self.shared.limit {
            return Err(Error::Request {
                what: format!("size of {}", path.display()),
                value: format!("{size} bytes"),
                allowed: format!("at most {}, the limit of the cache", self.shared.limit),
            });
        }
        if self.total + size > self.shared.limit || self.since > self.shared.limit / STEP {
            self.look(size);
        }
        if let Some(folder) = path.parent() {
            private_folder(folder)?;
        }
        write_private(path, &bytes())?;
        self.total += size;
        self.since += size;
        self.shared.count(|s| s.bytes = self.total);
        Ok(true)
    }

    /// Counts the bytes of all files, and deletes those least recently used where `more` would exceed the limit.
    fn look(&mut self, more: u64) {
        let mut entries = entries(&self.shared.folder);
        (self.total, self.since) = (entries.iter().map(|e| e.size).sum(), 0);
        let limit = self.shared.limit;
        if self.total.saturating_add(more) > limit {
            entries.sort_unstable_by_key(|e| e.used);
            let wanted = limit.saturating_sub(limit / STEP).saturating_sub(more);
            for entry in entries {
                if self.total <= wanted {
                    break;
                }
                if fs::remove_file(&entry.path).is_ok() {
                    self.total -= entry.size;
                    self.shared.count(|s| s.deleted += 1);
                }
            }
        }
        self.shared.count(|s| s.bytes = self.total);
    }
}

/// Makes a folder, and those above it, that only this user can enter.
pub(super) fn private_folder(folder: &Path) -> Result<()> {
    let mut options = DirBuilder::new();
    options.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        options.mode(0o700);
    }
    options.create(folder).map_err(Error::io(folder))
}

/// Folders in a folder whose names `is` accepts; links are none.
fn folders(of: &Path, is: fn(&str) -> bool) -> impl Iterator<Item = PathBuf> + use<> {
    let all = fs::read_dir(of).into_iter().flatten().flatten();
    all.filter(move |e| e.file_name().to_str().is_some_and(is))
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
}

/// The folders that hold files of the cache.
fn model_folders(cache: &Path) -> impl Iterator<Item = PathBuf> {
    folders(cache, is_hash).flat_map(|model| folders(&model, |name| name.contains('-')))
}

/// All files of the cache; others are none of its business.
fn entries(cache: &Path) -> Vec<Entry> {
    let files = model_folders(cache).flat_map(|f| fs::read_dir(f).into_iter().flatten().flatten());
    let ours = files.filter(|e| {
        let name = e.file_name();
        let hash = name.to_str().and_then(|n| n.strip_suffix(SUFFIX));
        hash.is_some_and(is_hash)
    });
    ours.filter_map(|e| {
        let meta = e.metadata().ok().filter(|m| m.is_file())?;
        Some(Entry {
            used: meta.modified().ok()?,
            size: meta.len(),
            path: e.path(),
        })
    })
    .collect()
}

/// 64 hex digits.
fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}
