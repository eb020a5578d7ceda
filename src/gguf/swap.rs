//! A set of files in the place of an older one of the same names, at one moment for whoever opens it.
//!
//! ```text
//! .<first name>.geb-swap/old/*     hard links to the old parts
//!                       /new/*     hard links to the new ones
//!                       /set       a link to "old"
//! each NAME becomes a link to .geb-swap/set/NAME       (leads to the same bytes as before)
//! set is replaced by a link to "new"                   (the moment)
//! each NAME becomes the new file itself                (the same bytes again)
//! the folder is removed
//! ```
//! A kill between two of these steps leaves a set that is whole, old or new; the next run makes files
//! of the links. Where a file system has no links, [`replace`] says so and changes nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::atomic::{Target, Temp};
use crate::error::{Error, Result};
use crate::files::{open_folder, retry, sync_folder, take_over};

const SUFFIX: &str = ".geb-swap";
const SET: &str = "set";
const OLD: &str = "old";
const NEW: &str = "new";
/// Where a link is made before it takes the place of another file.
const NEXT: &str = "next";

/// A part: where it goes, and the new file under its temporary name.
pub(super) struct Swapped<'a> {
    pub target: &'a Target,
    pub temp: &'a mut Temp,
}

/// The folder of a swap, locked while it is used.
struct Swap {
    folder: PathBuf,
    handle: Option<File>,
    _lock: File,
}

/// Replaces a whole old set. False, with nothing changed, where there is none, or where the file
/// system has no links.
///
/// # Errors
/// [`Error::Io`]; the old set or the new one is there then.
pub(super) fn replace(parts: &mut [Swapped<'_>]) -> Result<bool> {
    let one_folder = |p: &Swapped<'_>| p.target.folder == parts[0].target.folder;
    let file = |p: &Swapped<'_>| fs::symlink_metadata(&p.target.path).is_ok_and(|m| m.is_file());
    if !cfg!(unix) || !parts.iter().all(|p| one_folder(p) && file(p)) {
        return Ok(false);
    }
    let Some(swap) = Swap::create(parts[0].target)? else {
        return Ok(false);
    };
    for p in parts.iter() {
        if let Ok(old) = fs::metadata(&p.target.path) {
            take_over(&p.temp.file, &old);
        }
    }
    if let Err(error) = swap.prepare(parts) {
        swap.end(parts.iter().map(|p| p.target));
        return match unsupported(&error) {
            true => Ok(false),
            false => Err(error),
        };
    }
    let done = swap.turn(parts);
    // After an error too: whichever set is in force gets its own names.
    swap.end(parts.iter().map(|p| p.target));
    done.map(|()| true)
}

/// Makes files of the links that a killed run left in the place of these targets.
///
/// # Errors
/// [`Error::Request`] when another process is at it.
pub(super) fn heal(path: &Path, paths: &[PathBuf]) -> Result<()> {
    let folder = crate::files::folder_of(path);
    let name = path.file_name().unwrap_or_default();
    let at = folder.join(swap_name(name));
    if !fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let lock = lock(&at)?;
    let swap = Swap {
        handle: open_folder(&folder)?,
        folder: at,
        _lock: lock,
    };
    match swap.restore(paths.iter().map(PathBuf::as_path)) {
        true => Ok(()),
        // Written through such a link, a part would be lost with the folder.
        false => Err(Error::io(&swap.folder)(io::Error::other(
            "links of an earlier run could not be made files again",
        ))),
    }
}

fn swap_name(name: &OsStr) -> OsString {
    let mut out = OsString::from(".");
    out.push(name);
    out.push(SUFFIX);
    out
}

fn lock(folder: &Path) -> Result<File> {
    let file = File::open(folder).map_err(Error::io(folder))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::Request {
            what: format!("output {}", folder.display()),
            value: "being replaced by another process".into(),
            allowed: "one writer at a time".into(),
        }),
        // Not every file system has locks.
        _ => Ok(file),
    }
}

/// Whether a file system has no such links.
fn unsupported(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::CrossesDevices
            | io::ErrorKind::InvalidFilename
    )
}

impl Swap {
    /// Makes the folder; `None` where its name would be too long.
    fn create(first: &Target) -> Result<Option<Swap>> {
        let folder = first.folder.join(swap_name(&first.name));
        let handle = open_folder(&first.folder)?;
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(e) if unsupported(&Error::io(&folder)(io::Error::from(e.kind()))) => {
                return Ok(None);
            }
            Err(e) => return Err(Error::io(&folder)(e)),
        }
        let lock = lock(&folder);
        if lock.is_err() {
            let _ = fs::remove_dir(&folder);
        }
        Ok(Some(Swap {
            folder,
            handle,
            _lock: lock?,
        }))
    }

    fn at(&self, which: &str, name: &OsStr) -> PathBuf {
        self.folder.join(which).join(name)
    }

    /// Names for both sets, and a link to the old one.
    fn prepare(&self, parts: &[Swapped<'_>]) -> Result<()> {
        for which in [OLD, NEW] {
            let folder = self.folder.join(which);
            fs::create_dir(&folder).map_err(Error::io(&folder))?;
            for p in parts {
                let from = match which {
                    OLD => &p.target.path,
                    _ => &p.temp.path,
                };
                let to = self.at(which, &p.target.name);
                retry(|| fs::hard_link(from, &to)).map_err(Error::io(&to))?;
            }
            sync(&folder)?;
        }
        self.link(OLD, &self.folder.join(SET))?;
        sync(&self.folder)
    }

    /// The three steps at names that others see.
    fn turn(&self, parts: &mut [Swapped<'_>]) -> Result<()> {
        let own = self.folder.file_name().unwrap_or_default();
        for p in parts.iter() {
            let to = Path::new(own).join(SET).join(&p.target.name);
            self.link(&to, &p.target.path)?;
        }
        self.sync_names()?;
        self.link(NEW, &self.folder.join(SET))?;
        sync(&self.folder)?;
        for p in parts.iter_mut() {
            p.temp.publish(p.target)?;
        }
        Ok(())
    }

    /// Puts a link to `to` in the place of `at`, whatever is there.
    fn link(&self, to: impl AsRef<Path>, at: &Path) -> Result<()> {
        let next = self.folder.join(NEXT);
        let _ = fs::remove_file(&next);
        retry(|| symlink(to.as_ref(), &next)).map_err(Error::io(&next))?;
        retry(|| fs::rename(&next, at)).map_err(Error::io(at))
    }

    fn sync_names(&self) -> Result<()> {
        match &self.handle {
            Some(handle) => sync_folder(&self.folder, handle),
            None => Ok(()),
        }
    }

    fn end<'a>(&self, targets: impl Iterator<Item = &'a Target>) {
        self.restore(targets.map(|t| t.path.as_path()));
    }

    /// Gives the files of the set in force their names, where links stand there, and removes the
    /// folder once no link needs it; says whether none does. Best effort: links lead to the same bytes.
    fn restore<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> bool {
        let mut all = true;
        for path in paths {
            let ours = |link: PathBuf| {
                let own = self.folder.file_name().map(Path::new);
                link.parent().and_then(Path::parent) == own
            };
            if !fs::read_link(path).is_ok_and(ours) {
                continue;
            }
            let file = self.at(SET, path.file_name().unwrap_or_default());
            all &= retry(|| fs::rename(&file, path)).is_ok();
        }
        if all && self.sync_names().is_ok() {
            let _ = fs::remove_dir_all(&self.folder);
        }
        all
    }
}

fn sync(folder: &Path) -> Result<()> {
    match open_folder(folder)? {
        Some(handle) => sync_folder(folder, &handle),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
