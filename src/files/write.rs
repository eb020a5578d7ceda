//! Writing: a regular file is replaced as a whole, a device or pipe is written through.
//!
//! ```text
//! follow links; look at what is there
//! create .<name>.geb-new-<random> (exclusive, locked) in the folder of the file
//! write; take over the old file's mode and owner; fsync; rename; fsync the folder
//! ```
//! Any failure before the rename removes the temporary file. What a killed process leaves is
//! removed by the next one that writes the same name.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::place::{Over, Own, Place, To, open_through};
use super::{folder_of, identity, open_folder, retry, sync_folder};
use crate::error::{Error, Result};

/// Between the name of the file and random digits.
const INFIX: &str = ".geb-new-";
const DIGITS: usize = 16;
/// Characters of the name that a temporary name repeats.
const NAME_CHARS: usize = 50;
/// A name is random; more attempts than this mean that the folder is at fault.
const ATTEMPTS: usize = 16;

/// Writes `bytes` to `path`: afterwards it holds them all, or what it held before.
///
/// # Errors
/// As [`NewFile::create`], [`Error::Io`].
pub fn write(path: &Path, bytes: &[u8], over: Over) -> Result<()> {
    let mut file = NewFile::create(path, over)?;
    let written = file.writer().write_all(bytes);
    written.map_err(Error::io(path))?;
    file.finish()
}

/// Writes a file that only its owner can read, in a folder of such files: afterwards it holds all of `bytes`, or
/// what it held before. What killed writers left there is for [`remove_leftovers_of`].
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    let mut temp = Temp::open(path, &prefix(name), true)?;
    temp.file.write_all(bytes).map_err(Error::io(path))?;
    temp.finish(path, None)
}

/// A file being written. Dropped before [`NewFile::finish`], it leaves nothing behind.
pub struct NewFile {
    place: Place,
    over: Over,
    out: Out,
}

enum Out {
    Temp(Temp),
    Own(Own),
    Through(File),
}

impl NewFile {
    /// Begins to write `path`; an old file there must be one of `over`.
    ///
    /// # Errors
    /// As [`Place::of`], [`Place::check`]; [`Error::Io`].
    pub fn create(path: &Path, over: Over) -> Result<NewFile> {
        let place = Place::of(path)?;
        place.check(over)?;
        let out = match &place.to {
            To::Own(own) => Out::Own(*own),
            To::Through(path) => Out::Through(open_through(path)?),
            To::File { path, name, old } => Out::Temp(Temp::create(path, name, old.is_some())?),
        };
        Ok(NewFile { place, over, out })
    }

    /// Where the bytes go.
    pub fn writer(&mut self) -> Box<dyn Write + '_> {
        match &mut self.out {
            Out::Temp(temp) => Box::new(&mut temp.file),
            Out::Through(file) => Box::new(file),
            Out::Own(Own::Out) => Box::new(io::stdout().lock()),
            Out::Own(Own::Err) => Box::new(io::stderr().lock()),
        }
    }

    /// Gives the file its name, durably.
    ///
    /// # Errors
    /// [`Error::Occupied`] when meanwhile another file took the name, [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        let shown = self.place.shown.clone();
        self.writer().flush().map_err(Error::io(&shown))?;
        let Out::Temp(mut temp) = self.out else {
            return Ok(());
        };
        let now = Place::of(&shown)?;
        now.check(self.over)?;
        temp.finish(&shown, now.old())
    }
}

struct Temp {
    path: PathBuf,
    target: PathBuf,
    folder: PathBuf,
    /// Kept open so that the last step cannot fail for want of a descriptor.
    handle: Option<File>,
    file: File,
    done: bool,
}

impl Temp {
    fn create(target: &Path, name: &OsStr, replaces: bool) -> Result<Temp> {
        let prefix = prefix(name);
        remove_leftovers(&folder_of(target), |name| name.strip_prefix(&prefix));
        // Until it has the mode of the old file nobody else reads it.
        Self::open(target, &prefix, replaces)
    }

    /// A new one; `private`: for the owner alone.
    fn open(target: &Path, prefix: &str, private: bool) -> Result<Temp> {
        let folder = folder_of(target);
        for _ in 0..ATTEMPTS {
            let random = RandomState::new().hash_one(prefix);
            let path = folder.join(format!("{prefix}{random:0DIGITS$x}"));
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            if private {
                use std::os::unix::fs::OpenOptionsExt;
                options.mode(0o600);
            }
            let file = match options.open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(Error::io(target))?,
            };
            let mut temp = Temp {
                path,
                target: target.to_owned(),
                folder: folder.clone(),
                handle: None,
                file,
                done: false,
            };
            temp.handle = open_folder(&folder)?;
            // The lock tells other runs that the file is alive; before it was taken, one of them
            // may have removed it.
            let _ = temp.file.try_lock();
            if temp.is_there()? {
                return Ok(temp);
            }
            temp.done = true;
        }
        let source = io::Error::other("no temporary name is free");
        Err(Error::io(target)(source))
    }

    /// Whether the temporary name still leads to this file.
    fn is_there(&self) -> Result<bool> {
        let ours = self.file.metadata().map_err(Error::io(&self.path))?;
        match fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(&self.path)(e)),
            Ok(named) => Ok(identity(&self.path, &named)? == identity(&self.path, &ours)?),
        }
    }

    fn finish(&mut self, shown: &Path, old: Option<&Metadata>) -> Result<()> {
        if let Some(old) = old {
            take_over(&self.file, old);
        }
        self.file.sync_all().map_err(Error::io(shown))?;
        if !self.is_there()? {
            self.done = true;
            let text = format!("{} was replaced while it was written", self.path.display());
            return Err(Error::Verify(text));
        }
        retry(|| fs::rename(&self.path, &self.target)).map_err(Error::io(shown))?;
        self.done = true;
        match &self.handle {
            Some(handle) => sync_folder(&self.folder, handle),
            None => Ok(()),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.done {
            let _ = retry(|| fs::remove_file(&self.path));
        }
    }
}

/// Gives a new file the mode of the old one and, where that is allowed, its owner. Best effort: the
/// new file is whole without them, and no more open than it was created.
pub(crate) fn take_over(file: &File, old: &Metadata) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
        let owned = fchown(file, Some(old.uid()), Some(old.gid()));
        // Of another owner, a file for everybody of a group would be one for another group.
        let mask = if owned.is_ok() { 0o777 } else { 0o707 };
        let mode = fs::Permissions::from_mode(old.mode() & mask);
        let _ = file.set_permissions(mode);
    }
    #[cfg(not(unix))]
    let _ = (file, old);
}

/// `.<name>.geb-new-`, which random digits follow.
fn prefix(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    let short: String = name.chars().take(NAME_CHARS).collect();
    format!(".{short}{INFIX}")
}

/// Removes what killed runs of [`write_private`] left in a folder. Best effort.
pub(crate) fn remove_leftovers_of(folder: &Path) {
    remove_leftovers(folder, |name| {
        name.strip_prefix('.')?
            .split_once(INFIX)
            .map(|parts| parts.1)
    });
}

/// Removes what killed runs left: files that nobody holds and whose names are `digits_of` some digits. Best effort.
fn remove_leftovers(folder: &Path, digits_of: impl Fn(&str) -> Option<&str>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digits = name.to_str().and_then(&digits_of);
        let ours = digits
            .is_some_and(|d| d.len() == DIGITS && d.bytes().all(|b| b.is_ascii_hexdigit()))
            && entry.file_type().is_ok_and(|t| t.is_file());
        if ours
            && let Ok((file, _)) = super::open_regular(&entry.path())
            && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(all(test, unix))]
mod tests;
