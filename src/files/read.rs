//! Reading: regular files, and where that makes sense pipes and devices, of a bounded size.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::error::{Error, Result};

/// How often the wish to stop is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Opens without waiting: a pipe that nobody writes would otherwise hold the program before its
/// kind can be looked at.
fn open(path: &Path) -> Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    let file = options.open(path).map_err(Error::io(path))?;
    let meta = file.metadata().map_err(Error::io(path))?;
    Ok((file, meta))
}

fn refuse(path: &Path, meta: &Metadata, allowed: &str) -> Error {
    let value = match meta.is_dir() {
        true => "a directory",
        false => "not a regular file",
    };
    Error::Request {
        what: path.display().to_string(),
        value: value.into(),
        allowed: allowed.into(),
    }
}

fn too_long(path: &Path, max: u64) -> Error {
    Error::Request {
        what: format!("size of {}", path.display()),
        value: format!("more than {max} bytes"),
        allowed: format!("at most {max} bytes"),
    }
}

/// Opens a regular file and says its length; folders, pipes and devices are refused on the opened
/// handle.
///
/// # Errors
/// [`Error::Request`] for anything but a regular file, [`Error::Io`].
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let (file, meta) = open(path)?;
    match meta.is_file() {
        true => Ok((file, meta.len())),
        false => Err(refuse(path, &meta, "a regular file")),
    }
}

/// The bytes of a regular file; `None` when there are more than `max`.
///
/// # Errors
/// As [`open_regular`].
pub fn read_up_to(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let (file, length) = open_regular(path)?;
    if length > max {
        return Ok(None);
    }
    let mut out = Vec::new();
    let read = file.take(max + 1).read_to_end(&mut out);
    read.map_err(Error::io(path))?;
    Ok((out.len() as u64 <= max).then_some(out))
}

/// The bytes of a regular file of at most `max` bytes.
///
/// # Errors
/// [`Error::Request`] for another kind of file and for a longer one, [`Error::Io`].
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    read_up_to(path, max)?.ok_or_else(|| too_long(path, max))
}

/// As [`read`], also of a pipe or a character device, as of `<(command)` in a shell. While there
/// is nothing to read, `stop` is looked at now and then.
///
/// # Errors
/// As [`read`]; [`Error::Interrupted`].
pub fn read_stream(path: &Path, max: u64, stop: &AtomicBool) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    if meta.is_file() {
        return read(path, max);
    }
    if !is_stream(&meta) {
        return Err(refuse(path, &meta, "a regular file or a pipe"));
    }
    // Opening and reading may wait for ever; a thread that still does so when the work is stopped
    // ends with the program.
    let (tell, told) = channel();
    let from = path.to_owned();
    let work = move || {
        let mut bytes = Vec::new();
        let read = File::open(&from).and_then(|f| f.take(max + 1).read_to_end(&mut bytes));
        let _ = tell.send(read.map(|_| bytes));
    };
    let started = std::thread::Builder::new().name("read".into()).spawn(work);
    started.map_err(Error::io(path))?;
    let bytes = loop {
        match told.recv_timeout(LOOK) {
            Ok(read) => break read.map_err(Error::io(path))?,
            Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::SeqCst) => {}
            Err(_) => return Err(Error::Interrupted),
        }
    };
    match bytes.len() as u64 > max {
        true => Err(too_long(path, max)),
        false => Ok(bytes),
    }
}

#[cfg(unix)]
fn is_stream(meta: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    meta.file_type().is_fifo() || meta.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_stream(_: &Metadata) -> bool {
    false
}

/// Bytes of a file as text.
///
/// # Errors
/// [`Error::Request`] that says where the bytes are not UTF-8.
pub fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| Error::Request {
        what: path.display().to_string(),
        value: format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
        allowed: "text in UTF-8".into(),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_waited_for_and_nothing_is_endless() {
        let dir = tempfile::tempdir().expect("a folder");
        let (pipe, file) = (dir.path().join("pipe"), dir.path().join("file"));
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        );
        made.expect("a pipe");
        std::fs::write(&file, "12345").expect("written");
        let go = AtomicBool::new(false);
        assert_eq!(read(&file, 5).expect("read"), b"12345");
        assert_eq!(read_stream(&file, 5, &go).expect("read"), b"12345");
        for (path, value) in [
            (file.as_path(), "more than 4 bytes"),
            (&pipe, "not a regular file"),
            (dir.path(), "a directory"),
            (Path::new("/dev/zero"), "not a regular file"),
            (Path::new("/dev/null"), "not a regular file"),
        ] {
            let error = read(path, 4).expect_err("refused").to_string();
            assert!(error.contains(value), "{error}");
        }
        let zero = read_stream(Path::new("/dev/zero"), 1000, &go).expect_err("endless");
        assert!(zero.to_string().contains("more than 1000 bytes"), "{zero}");
        assert!(
            read_stream(Path::new("/dev/null"), 4, &go)
                .expect("empty")
                .is_empty()
        );
        assert!(read_stream(dir.path(), 4, &go).is_err());
        std::thread::scope(|s| {
            s.spawn(|| std::fs::write(&pipe, "from a pipe").expect("written"));
            let bytes = read_stream(&pipe, 100, &go).expect("read");
            assert_eq!(bytes, b"from a pipe");
        });
        // Nobody writes: the wish to stop ends the wait.
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                go.store(true, Ordering::SeqCst);
            });
            let stopped = read_stream(&pipe, 100, &go);
            assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        });
    }
}
