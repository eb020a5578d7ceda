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
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::writer::{Fill, Layout, Plan, stream};
use super::{GgufFile, Load};
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 1 << 20;
const INFIX: &str = ".geb-partial-";

/// Writes the planned file atomically: `path` holds what it held before, or the complete new
/// file, which has been read back and compared. Memory: the header and one write buffer.
///
/// # Errors
/// Plan errors as in [`Plan::layout`]; [`Error::Request`] when `path` is a directory, a link
/// or not a regular file, or is being written by this process already; [`Error::Io`];
/// [`Error::Verify`] when `fill` does not keep to the plan or the bytes do not read back;
/// whatever `fill` returns.
pub fn write_file(path: &Path, plan: &Plan, fill: &mut Fill<'_>) -> Result<()> {
    let layout = plan.layout()?;
    let target = Target::check(path)?;
    let _busy = Busy::enter(&target)?;
    target.remove_leftovers();
    target.check_space(layout.file_bytes)?;
    let mut temp = Temp::create(&target)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, &temp.file);
    let sums = stream(&mut out, plan, &layout, path, fill);
    // On failure the buffer is dropped without a last attempt to write it.
    let (_, rest) = out.into_parts();
    let sums = sums?;
    if !matches!(rest, Ok(ref b) if b.is_empty()) {
        return Err(Error::Verify("the write buffer was not emptied".into()));
    }
    temp.file.sync_all().map_err(Error::io(path))?;
    verify(&temp.path, &layout, &sums)?;
    temp.publish(&target)
}

/// Whether both paths lead to the same file, also through symbolic or hard links. A path
/// that does not exist is the same as nothing.
pub fn same_file(a: &Path, b: &Path) -> Result<bool> {
    let id = |p: &Path| match fs::metadata(p) {
        Ok(meta) => identity(p, &meta).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: p.to_owned(),
            source,
        }),
    };
    Ok(matches!((id(a)?, id(b)?), (Some(a), Some(b)) if a == b))
}

#[cfg(unix)]
fn identity(_: &Path, meta: &fs::Metadata) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path, _: &fs::Metadata) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(Error::io(path))
}

/// The place to write to: an existing folder and a name in it.
struct Target {
    path: PathBuf,
    folder: PathBuf,
    name: OsString,
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
    fn check(path: &Path) -> Result<Target> {
        let name = path
            .file_name()
            .ok_or_else(|| refuse(path, "not a file name"))?
            .to_owned();
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        match fs::symlink_metadata(path) {
            Ok(m) if m.is_dir() => return Err(refuse(path, "a directory")),
            Ok(m) if m.is_symlink() => return Err(refuse(path, "a symbolic link")),
            Ok(m) if !m.is_file() => return Err(refuse(path, "not a regular file")),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        }
        let folder_handle = if cfg!(unix) {
            Some(File::open(&folder).map_err(Error::io(&folder))?)
        } else {
            None
        };
        Ok(Target {
            path: path.to_owned(),
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

    fn temp_path(&self, pid: u32) -> PathBuf {
        let mut name = self.temp_prefix();
        name.push(pid.to_string());
        self.folder.join(name)
    }

    /// Removes partial files of this target whose process is gone. Best effort: a leftover
    /// that cannot be removed costs disk space, not correctness.
    fn remove_leftovers(&self) {
        let prefix = self.temp_prefix();
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(pid) = suffix_pid(&name, &prefix)
                && abandoned(&entry.path(), pid)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Refuses early when the planned size cannot fit. A full disk is still handled later.
    #[cfg(unix)]
    fn check_space(&self, needed: u64) -> Result<()> {
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
    fn check_space(&self, _needed: u64) -> Result<()> {
        Ok(())
    }

    fn sync_folder(&self) -> Result<()> {
        let Some(handle) = &self.folder_handle else {
            return Ok(());
        };
        match handle.sync_all() {
            // Some file systems cannot sync a folder.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            other => other.map_err(Error::io(&self.folder)),
        }
    }
}

fn suffix_pid(name: &OsStr, prefix: &OsStr) -> Option<u32> {
    let rest = name
        .as_encoded_bytes()
        .strip_prefix(prefix.as_encoded_bytes())?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

/// A partial file is abandoned when nobody holds its lock and its process does not exist.
/// Its own process id counts as gone: [`Busy`] rules out a second writer in this process.
fn abandoned(path: &Path, pid: u32) -> bool {
    let alive = pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists();
    let Ok(file) = OpenOptions::new().read(true).open(path) else {
        return false;
    };
    !alive && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Targets this process is writing now: two threads must not share one temporary name.
static BUSY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

struct Busy(PathBuf);

impl Busy {
    fn enter(target: &Target) -> Result<Busy> {
        let folder = fs::canonicalize(&target.folder).map_err(Error::io(&target.folder))?;
        let path = folder.join(&target.name);
        let mut list = BUSY.lock().unwrap_or_else(|e| e.into_inner());
        if list.contains(&path) {
            return Err(refuse(&target.path, "being written by this process"));
        }
        list.push(path.clone());
        Ok(Busy(path))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.lock()
            .unwrap_or_else(|e| e.into_inner())
            .retain(|p| *p != self.0);
    }
}

/// The temporary file; removed when dropped before it was published.
struct Temp {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temp {
    fn create(target: &Target) -> Result<Temp> {
        let path = target.temp_path(std::process::id());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        // The lock tells other runs that the file is alive; not every file system has locks.
        let _ = file.try_lock();
        Ok(Temp {
            path,
            file,
            published: false,
        })
    }

    /// Renames onto the target, then makes the rename durable.
    fn publish(&mut self, target: &Target) -> Result<()> {
        let named = fs::symlink_metadata(&self.path).map_err(Error::io(&self.path))?;
        let ours = self.file.metadata().map_err(Error::io(&self.path))?;
        if identity(&self.path, &named)? != identity(&self.path, &ours)? {
            return Err(Error::Verify(format!(
                "{} was replaced while it was written",
                self.path.display()
            )));
        }
        retry(|| fs::rename(&self.path, &target.path)).map_err(Error::io(&target.path))?;
        self.published = true;
        target.sync_folder()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            let _ = retry(|| fs::remove_file(&self.path));
        }
    }
}

/// The standard library repeats interrupted reads, writes and syncs, but not these.
fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Reads the file back: same header bytes, same table by our own parser, zero padding, and
/// the SHA-256 of every tensor as it was handed over.
fn verify(path: &Path, layout: &Layout, sums: &[[u8; 32]]) -> Result<()> {
    let fail = |what: String| Err(Error::Verify(format!("{}: {what}", path.display())));
    let file = GgufFile::open(path, Load::Map)?;
    let data = file.data();
    if data.len() as u64 != layout.file_bytes {
        return fail(format!(
            "{} bytes were written, planned: {}",
            data.len(),
            layout.file_bytes
        ));
    }
    if !data.starts_with(&layout.header) {
        return fail("header or metadata differ from the plan".into());
    }
    let mut at = layout.header.len();
    if file.index().tensors.len() != layout.tensors.len() || sums.len() != layout.tensors.len() {
        return fail("the tensor table differs from the plan".into());
    }
    for ((view, planned), sum) in file.tensors().zip(&layout.tensors).zip(sums) {
        let info = view.info();
        if info.range.start as u64 != planned.start || info.range.end as u64 != planned.end {
            return fail(format!("tensor {} is not where it was planned", info.name));
        }
        let gap = data.get(at..info.range.start);
        if gap.is_none_or(|g| g.iter().any(|&b| b != 0)) {
            return fail(format!("padding before tensor {} is not zero", info.name));
        }
        if Sha256::digest(view.bytes())[..] != sum[..] {
            return fail(format!(
                "SHA-256 of tensor {} differs from what was written",
                info.name
            ));
        }
        at = info.range.end;
    }
    if data.get(at..).is_none_or(|g| g.iter().any(|&b| b != 0)) {
        return fail("padding at the end is not zero".into());
    }
    Ok(())
}
