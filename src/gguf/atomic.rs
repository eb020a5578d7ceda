//! Atomic output: the target holds the old file or the complete, verified new one.
//!
//! ```text
//! open folder, refuse bad targets, remove leftovers, check free space
//! create .<out>.geb-partial-<pid> (exclusive, locked)
//! stream; flush; fsync; re-open, check header, table, padding and every tensor's SHA-256
//! rename onto the target; fsync the folder
//! ```
//! Any failure before the rename removes the temporary file. A killed process leaves it
//! behind; the next run removes it once no living process holds it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::journal;
use super::process::{alive, no_link};
use crate::error::{Error, Result};
use crate::files::{
    Over, Place, folder_of, identity, open_folder, open_regular, retry, sync_folder, take_over,
};

const INFIX: &str = ".geb-partial-";

/// The place to write to: an existing folder and a name in it.
pub(super) struct Target {
    pub path: PathBuf,
    pub folder: PathBuf,
    pub name: OsString,
    /// Kept open so that the last step cannot fail for want of a descriptor.
    #[cfg_attr(not(unix), allow(dead_code))]
    folder_handle: Option<File>,
}

fn refuse(path: &Path, value: &str) -> Error {
    Error::Request {
        what: format!("output {}", path.display()),
        value: value.into(),
        allowed: "a new name or a regular file".into(),
    }
}

impl Target {
    /// The file that `path` leads to, links followed; what is there must be one of `over`.
    pub fn check(path: &Path, over: Over) -> Result<Target> {
        let place = Place::of(path)?;
        place.check(over)?;
        let (path, name) = place.regular()?;
        let folder = folder_of(&path);
        let folder_handle = open_folder(&folder)?;
        Ok(Target {
            path,
            folder,
            name,
            folder_handle,
        })
    }

    /// `.<out>.geb-partial-`, which the process id follows.
    fn temp_prefix(&self) -> OsString {
        let mut prefix = OsString::from(".");
        prefix.push(&self.name);
        prefix.push(INFIX);
        prefix
    }

    /// The temporary file of process `pid`, or what belongs to it.
    pub fn temp_path(&self, pid: u32, suffix: &str) -> PathBuf {
        let mut name = self.temp_prefix();
        name.push(pid.to_string());
        name.push(suffix);
        self.folder.join(name)
    }

    /// What is left of earlier runs, by the process id in its name: the temporary files
    /// (`suffix` empty) or what belongs to them. In order of the ids.
    pub fn leftovers(&self, suffix: &str) -> Vec<(u32, PathBuf)> {
        let prefix = self.temp_prefix();
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|e| Some((suffix_pid(&e.file_name(), &prefix, suffix)?, e.path())))
            .collect();
        found.sort_unstable();
        found
    }

    /// Removes partial files of this target whose process is gone, but for those of the run that
    /// is continued. Best effort: a leftover that cannot be removed costs disk space, not
    /// correctness.
    pub fn remove_leftovers(&self, except: Option<u32>) {
        for suffix in ["", journal::SUFFIX] {
            for (pid, path) in self.leftovers(suffix) {
                if Some(pid) != except && abandoned(&path, pid) {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }

    /// Removes the old file, if there is one.
    pub fn remove_old(&self) -> Result<()> {
        match retry(|| fs::remove_file(&self.path)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io(&self.path)),
        }
    }

    /// Refuses early when the planned size cannot fit. A full disk is still handled later.
    #[cfg(unix)]
    pub fn check_space(&self, needed: u64) -> Result<()> {
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else {
            return Ok(());
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        // Some network file systems report no sizes at all.
        if stat.f_blocks == 0 || needed <= free {
            return Ok(());
        }
        let text = format!("{needed} bytes are needed, {free} are free");
        let source = io::Error::new(io::ErrorKind::StorageFull, text);
        Err(Error::Io {
            path: self.folder.clone(),
            source,
        })
    }

    #[cfg(not(unix))]
    pub fn check_space(&self, _needed: u64) -> Result<()> {
        Ok(())
    }

    /// Makes names in the folder durable.
    pub fn sync_folder(&self) -> Result<()> {
        match &self.folder_handle {
            Some(handle) => sync_folder(&self.folder, handle),
            None => Ok(()),
        }
    }
}

fn suffix_pid(name: &OsStr, prefix: &OsStr, suffix: &str) -> Option<u32> {
    let rest = name
        .as_encoded_bytes()
        .strip_prefix(prefix.as_encoded_bytes())?
        .strip_suffix(suffix.as_bytes())?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

/// A partial file is abandoned when nobody holds its lock and its process does not exist.
fn abandoned(path: &Path, pid: u32) -> bool {
    let Ok((file, _)) = open_regular(path) else {
        return false;
    };
    !alive(pid) && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Targets this process is writing now: two threads must not share one temporary name.
static BUSY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub(super) struct FileLock(PathBuf);

impl FileLock {
    pub fn enter(target: &Target) -> Result<FileLock> {
        let folder = fs::canonicalize(&target.folder).map_err(Error::io(&target.folder))?;
        let path = folder.join(&target.name);
        let mut list = BUSY.lock().unwrap_or_else(|e| e.into_inner());
        if list.contains(&path) {
            return Err(refuse(&target.path, "being written by this process"));
        }
        list.push(path.clone());
        Ok(FileLock(path))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        BUSY.lock()
            .unwrap_or_else(|e| e.into_inner())
            .retain(|p| *p != self.0);
    }
}

/// The temporary file; removed when dropped before it was published, unless it is kept.
pub(super) struct Temp {
    pub path: PathBuf,
    pub file: File,
    pub keep: bool,
}

impl Temp {
    pub fn create(target: &Target) -> Result<Temp> {
        let path = target.temp_path(std::process::id(), "");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if target.path.exists() {
            // Until it has the mode of the old file nobody else reads it.
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        Self::open(path, &options)
    }

    /// Opens what process `pid` left, or begins it again.
    pub fn reopen(target: &Target, pid: u32) -> Result<Temp> {
        let path = target.temp_path(pid, "");
        let mut options = OpenOptions::new();
        no_link(options.write(true).create(true).truncate(false));
        Self::open(path, &options)
    }

    fn open(path: PathBuf, options: &OpenOptions) -> Result<Temp> {
        let file = options.open(&path).map_err(Error::io(&path))?;
        // The lock tells other runs that the file is alive; not every file system has locks.
        let _ = file.try_lock();
        let keep = false;
        Ok(Temp { path, file, keep })
    }

    /// Bytes in the file.
    pub fn len(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(Error::io(&self.path))?;
        Ok(meta.len())
    }

    /// Renames onto the target, then makes the rename durable.
    pub fn publish(&mut self, target: &Target) -> Result<()> {
        let named = fs::symlink_metadata(&self.path).map_err(Error::io(&self.path))?;
        let ours = self.file.metadata().map_err(Error::io(&self.path))?;
        if identity(&self.path, &named)? != identity(&self.path, &ours)? {
            return Err(Error::Verify(format!(
                "{} was replaced while it was written",
                self.path.display()
            )));
        }
        if let Ok(old) = fs::metadata(&target.path) {
            take_over(&self.file, &old);
        }
        retry(|| fs::rename(&self.path, &target.path)).map_err(Error::io(&target.path))?;
        self.keep = true;
        target.sync_folder()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.keep {
            let _ = retry(|| fs::remove_file(&self.path));
        }
    }
}
