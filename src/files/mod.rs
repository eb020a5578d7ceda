//! Files as they are opened, read and written: one way for every input of a bounded size, and one
//! for every output.
//!
//! `read` never waits for a pipe that nobody writes, and never reads more than it was told.
//! `place` says where an output leads: through links to a regular file, or to a device or pipe.
//! `write` replaces regular files as a whole, and writes devices and pipes through.

mod place;
mod read;
mod write;

use std::io;
use std::path::{Path, PathBuf};

pub use place::{Over, Place};
pub use read::{open_regular, read, read_stream, read_up_to, utf8};
pub use write::{NewFile, write};
pub(crate) use write::{remove_leftovers_of, take_over, write_private};

use crate::error::{Error, Result};

/// Whether both paths lead to the same file, also through symbolic or hard links. A path
/// that does not exist is the same as nothing.
///
/// # Errors
/// [`Error::Io`].
pub fn same_file(a: &Path, b: &Path) -> Result<bool> {
    let id = |p: &Path| match std::fs::metadata(p) {
        Ok(meta) => identity(p, &meta).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: p.to_owned(),
            source,
        }),
    };
    Ok(matches!((id(a)?, id(b)?), (Some(a), Some(b)) if a == b))
}

/// What tells a file from others.
#[cfg(unix)]
pub(crate) fn identity(_: &Path, meta: &std::fs::Metadata) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
pub(crate) fn identity(path: &Path, _: &std::fs::Metadata) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(Error::io(path))
}

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A folder, opened to make names in it durable.
pub(crate) fn open_folder(folder: &Path) -> Result<Option<std::fs::File>> {
    match cfg!(unix) {
        true => std::fs::File::open(folder)
            .map_err(Error::io(folder))
            .map(Some),
        false => Ok(None),
    }
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(folder: &Path, handle: &std::fs::File) -> Result<()> {
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
        other => other.map_err(Error::io(folder)),
    }
}

/// The standard library repeats interrupted reads, writes and syncs, but not these.
pub(crate) fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
