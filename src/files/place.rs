//! Where an output leads, and what may be replaced there.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::folder_of;
use crate::error::{Error, Result};

/// Links followed, as many as the system does.
const MAX_LINKS: usize = 40;
/// Bytes of an old file that are looked at.
const HEAD_BYTES: u64 = 64 << 10;

/// Which old file may be replaced. An empty one always may.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// What may be replaced, for messages.
    pub name: &'static str,
    /// Whether a file that begins with these bytes is such a file.
    pub is: fn(&[u8]) -> bool,
}

impl Over {
    /// Any file.
    pub const ANY: Over = Over {
        name: "any file",
        is: |_| true,
    };
    /// None.
    pub const NOTHING: Over = Over {
        name: "an empty file",
        is: |_| false,
    };
    /// A model in GGUF.
    pub const MODEL: Over = Over {
        name: "a GGUF file of a model",
        is: |head| head.starts_with(b"GGUF") && matches!(gguf_type(head), None | Some(b"model")),
    };
    /// An adapter in GGUF.
    pub const ADAPTER: Over = Over {
        name: "a GGUF file of an adapter",
        is: |head| head.starts_with(b"GGUF") && gguf_type(head) == Some(b"adapter"),
    };
    /// An importance matrix in GGUF.
    pub const IMATRIX: Over = Over {
        name: "a GGUF file of an importance matrix",
        is: |head| head.starts_with(b"GGUF") && gguf_type(head) == Some(b"imatrix"),
    };

    /// This rule, or any file where that is wanted.
    pub fn or_any(self, force: bool) -> Over {
        match force {
            true => Over::ANY,
            false => self,
        }
    }
}

/// The value of `general.type`, which writers put among the first keys.
fn gguf_type(head: &[u8]) -> Option<&[u8]> {
    // Name, the type id of strings, the length of the value.
    const KEY: &[u8] = b"\x0c\0\0\0\0\0\0\0general.type\x08\0\0\0";
    let at = head.windows(KEY.len()).position(|w| w == KEY)? + KEY.len();
    let (length, rest) = head.get(at..)?.split_first_chunk::<8>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// What an output path leads to, links followed.
#[derive(Debug)]
pub struct Place {
    /// As it was given.
    pub shown: PathBuf,
    pub(super) to: To,
}

#[derive(Debug)]
pub(super) enum To {
    /// A regular file, or a name that is free.
    File {
        path: PathBuf,
        name: OsString,
        old: Option<Metadata>,
    },
    /// Standard output or standard error of this process.
    Own(Own),
    /// A pipe or a device.
    Through(PathBuf),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Own {
    Out,
    Err,
}

impl Place {
    /// Follows the links of `path`.
    ///
    /// # Errors
    /// [`Error::Request`] for a folder, a block device and a path without a name; [`Error::Io`].
    pub fn of(path: &Path) -> Result<Place> {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Some(name) = at.file_name().map(ToOwned::to_owned) else {
                return Err(refuse(path, "not a file name"));
            };
            if at.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(refuse(path, "a directory"));
            }
            let meta = match fs::symlink_metadata(&at) {
                Ok(meta) => Some(meta),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(Error::io(path)(e)),
            };
            let to = match meta {
                Some(m) if m.is_symlink() => match descriptor(&at) {
                    Some(to) => to,
                    None => {
                        let link = fs::read_link(&at).map_err(Error::io(path))?;
                        at = folder_of(&at).join(link);
                        continue;
                    }
                },
                Some(m) if m.is_dir() => return Err(refuse(path, "a directory")),
                Some(m) if !m.is_file() => through(path, &at, &m)?,
                old => To::File {
                    path: at,
                    name,
                    old,
                },
            };
            let shown = path.to_owned();
            return Ok(Place { shown, to });
        }
        Err(refuse(path, "a link that leads nowhere"))
    }

    /// Path and name of the regular file, links followed.
    ///
    /// # Errors
    /// [`Error::Request`] for a device or pipe.
    pub fn regular(self) -> Result<(PathBuf, OsString)> {
        match self.to {
            To::File { path, name, .. } => Ok((path, name)),
            _ => Err(Error::Request {
                what: format!("output {}", self.shown.display()),
                value: "not a regular file".into(),
                allowed: "a new name or a regular file".into(),
            }),
        }
    }

    /// Refuses to replace a file that is none of `over`, and a folder that is not there.
    ///
    /// # Errors
    /// [`Error::Occupied`], [`Error::Io`].
    pub fn check(&self, over: Over) -> Result<()> {
        let To::File { path, old, .. } = &self.to else {
            return Ok(());
        };
        let folder = folder_of(path);
        fs::metadata(&folder).map_err(Error::io(&folder))?;
        if old.as_ref().is_none_or(|m| m.len() == 0) || over.name == Over::ANY.name {
            return Ok(());
        }
        let mut head = Vec::new();
        let opened = super::open_regular(path)?.0;
        let read = opened.take(HEAD_BYTES).read_to_end(&mut head);
        read.map_err(Error::io(path))?;
        match (over.is)(&head) {
            true => Ok(()),
            false => Err(Error::Occupied {
                path: self.shown.clone(),
                found: kind(&head, old.as_ref().map_or(0, Metadata::len)),
                allowed: over.name,
            }),
        }
    }

    /// The file that is there now.
    pub(super) fn old(&self) -> Option<&Metadata> {
        match &self.to {
            To::File { old, .. } => old.as_ref(),
            _ => None,
        }
    }
}

fn refuse(path: &Path, value: &str) -> Error {
    Error::Request {
        what: format!("output {}", path.display()),
        value: value.into(),
        allowed: "a new name or a regular file".into(),
    }
}

/// What an old file is, for messages.
fn kind(head: &[u8], length: u64) -> String {
    let kinds: [(&[u8], &str); 7] = [
        (b"GGUF", "a GGUF file"),
        (b"\x7fELF", "a program"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"SQLite format 3", "a database"),
        (b"\x89PNG", "an image"),
        (b"%PDF", "a PDF document"),
    ];
    let known = kinds.iter().find(|(magic, _)| head.starts_with(magic));
    let text = || match std::str::from_utf8(head) {
        Ok(text) if !text.contains('\0') => "a text file",
        Err(e) if e.error_len().is_none() && !head.contains(&0) => "a text file",
        _ => "a file of another kind",
    };
    let what = known.map_or_else(text, |k| k.1);
    format!("{what} of {length} bytes")
}

/// An open descriptor, as `/dev/stdout` or `/dev/fd/3` lead to. What it is open on keeps its name.
#[cfg(unix)]
fn descriptor(at: &Path) -> Option<To> {
    let folder = fs::canonicalize(folder_of(at)).ok()?;
    let mut parts = folder.strip_prefix("/proc").ok()?.iter();
    let process: u32 = parts.next()?.to_str()?.parse().ok()?;
    if folder.file_name()? != "fd" {
        return None;
    }
    let number: u32 = at.file_name()?.to_str()?.parse().ok()?;
    Some(match (process == std::process::id(), number) {
        (true, 1) => To::Own(Own::Out),
        (true, 2) => To::Own(Own::Err),
        _ => To::Through(at.to_owned()),
    })
}

#[cfg(not(unix))]
fn descriptor(_: &Path) -> Option<To> {
    None
}

/// Pipes and character devices are written through; a disk is not.
#[cfg(unix)]
fn through(shown: &Path, at: &Path, meta: &Metadata) -> Result<To> {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    match kind.is_fifo() || kind.is_char_device() {
        true => Ok(To::Through(at.to_owned())),
        false if kind.is_block_device() => Err(refuse(shown, "a disk")),
        false => Err(refuse(shown, "a socket")),
    }
}

#[cfg(not(unix))]
fn through(shown: &Path, _: &Path, _: &Metadata) -> Result<To> {
    Err(refuse(shown, "not a regular file"))
}

/// Opens what is written through. A pipe gets `PATIENCE` for somebody to read it.
#[cfg(unix)]
pub(super) fn open_through(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::{Duration, Instant};
    const PATIENCE: Duration = Duration::from_secs(10);
    let started = Instant::now();
    let mut options = OpenOptions::new();
    options.append(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    loop {
        match options.open(path) {
            Ok(file) => {
                // Writing waits again.
                let flags = rustix::fs::fcntl_getfl(&file)
                    .map_err(io::Error::from)
                    .map_err(Error::io(path))?;
                rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)
                    .map_err(io::Error::from)
                    .map_err(Error::io(path))?;
                return Ok(file);
            }
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) && started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(Error::io(path)(e)),
        }
    }
}

#[cfg(not(unix))]
pub(super) fn open_through(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().append(true).open(path);
    opened.map_err(Error::io(path))
}
