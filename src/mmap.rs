//! File bytes in memory: mapped or copied. The only `unsafe` of this crate.
//!
//! A mapping of a file that another process truncates faults when read (SIGBUS). Programs
//! call [`install_sigbus_handler`] first, so that this ends in one line and exit code 74.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::ram;

/// Exit code of a program whose mapped file was cut under it.
pub const EXIT_TRUNCATED: i32 = 74;

/// How the bytes of a file come into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Load {
    /// Map the file; pages are read when first touched. Nothing is copied.
    #[default]
    Map,
    /// Read the file into memory; immune to later changes of the file.
    Copy,
}

/// What will become of some bytes of a mapped file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// They are about to be used: read them ahead.
    Needed,
    /// They are not used for a while: their memory may go. They are read again when touched.
    Dropped,
}

/// Read-only bytes of a file or of the program itself.
#[derive(Clone)]
pub enum Bytes {
    /// A mapped file.
    Map(Arc<Mapped>),
    /// A copy in memory.
    Heap(Arc<Vec<u8>>),
    /// Bytes compiled into the program.
    Static(&'static [u8]),
}

/// A mapped file, kept open with a shared advisory lock where the file system has locks.
pub struct Mapped {
    map: memmap2::Mmap,
    file: File,
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Map(m) => &m.map,
            Self::Heap(v) => v,
            Self::Static(s) => s,
        }
    }
}

impl Bytes {
    /// Says that the file will be read front to back, so that the system reads further ahead.
    pub fn advise_sequential(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Map(m) = self {
            // An advice: without it reading is slower, not wrong.
            let _ = rustix::fs::fadvise(&m.file, 0, None, rustix::fs::Advice::Sequential);
        }
    }

    /// Whether these are the bytes of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self, Self::Map(_))
    }

    /// What tells a mapped file from others and from what it was before: length, seconds and nanoseconds of its last
    /// change, inode (0 where there are none); `None` for bytes in memory.
    pub(crate) fn stamp(&self) -> std::io::Result<Option<[i64; 4]>> {
        let Self::Map(m) = self else {
            return Ok(None);
        };
        let meta = m.file.metadata()?;
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt;
            ([meta.mtime(), meta.mtime_nsec()], meta.ino() as i64)
        };
        #[cfg(not(unix))]
        let (changed, inode) = {
            let since = meta.modified()?.duration_since(std::time::UNIX_EPOCH);
            let since = since.map_err(std::io::Error::other)?;
            ([since.as_secs() as i64, i64::from(since.subsec_nanos())], 0)
        };
        Ok(Some([meta.len() as i64, changed[0], changed[1], inode]))
    }

    /// Says what will become of `range`; of bytes in memory nothing does.
    #[allow(unsafe_code)]
    pub fn advise(&self, range: Range<usize>, advice: Advice) {
        #[cfg(unix)]
        if let Self::Map(m) = self
            && range.end <= m.map.len()
        {
            // Without it memory is used longer or bytes come later, nothing else.
            match advice {
                Advice::Needed => {
                    let need = memmap2::Advice::WillNeed;
                    let _ = m.map.advise_range(need, range.start, range.len());
                }
                Advice::Dropped => {
                    // Whole pages inside only: the ends belong to neighbours too.
                    let page = rustix::param::page_size();
                    let start = range.start.next_multiple_of(page);
                    let end = range.end / page * page;
                    if start >= end {
                        return;
                    }
                    let drop = memmap2::UncheckedAdvice::DontNeed;
                    // SAFETY: the mapping is of a file, shared and never written: dropped pages are
                    // read from the file again with the same contents, also while other threads read.
                    let _ = unsafe { m.map.unchecked_advise_range(drop, start, end - start) };
                }
            }
        }
        #[cfg(not(unix))]
        let _ = (range, advice);
    }

    /// Copies the bytes at `at`. A mapped file is read, not touched: its pages do not count as
    /// memory of this process, and a file cut meanwhile is an error.
    ///
    /// # Errors
    /// Those of reading; `UnexpectedEof` when the range does not lie inside.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> std::io::Result<()> {
        #[cfg(unix)]
        if let Self::Map(m) = self {
            use std::os::unix::fs::FileExt;
            return m.file.read_exact_at(out, at as u64);
        }
        let end = at.checked_add(out.len());
        let held = end.and_then(|end| self.as_ref().get(at..end));
        out.copy_from_slice(held.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Self {
        Self::Heap(Arc::new(v))
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(s: &'static [u8]) -> Self {
        Self::Static(s)
    }
}

/// Opens a regular file; directories, pipes and devices are refused on the opened handle.
///
/// # Errors
/// [`Error::Request`] for anything but a regular file, [`Error::Memory`] when a copy does not
/// fit, [`Error::Io`].
pub fn open(path: &Path, load: Load) -> Result<Bytes> {
    let (file, length) = open_regular(path)?;
    if load == Load::Copy || length == 0 {
        return copy(path, file, length);
    }
    map(path, file)
}

/// Reads at most `len` bytes: a file that grows meanwhile cannot make the copy grow.
fn copy(path: &Path, file: File, len: u64) -> Result<Bytes> {
    let what = || path.display().to_string();
    ram::check(what, len)?;
    let mut bytes = Vec::new();
    let reserved = usize::try_from(len).map(|n| bytes.try_reserve_exact(n));
    if !matches!(reserved, Ok(Ok(()))) {
        return Err(ram::refused(what(), len));
    }
    in_huge_pages(&mut bytes);
    file.take(len)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    Ok(bytes.into())
}

/// Asks for huge pages under what `bytes` has room for: a walk over weights then misses no address translation.
#[allow(unsafe_code)]
fn in_huge_pages(bytes: &mut Vec<u8>) {
    #[cfg(target_os = "linux")]
    {
        let room = bytes.spare_capacity_mut();
        let page = rustix::param::page_size();
        let before = room.as_ptr().align_offset(page);
        if let Some(room) = room.get_mut(before..) {
            let whole = room.len() / page * page;
            // SAFETY: `room` is memory of this process, `get_mut` has checked its bounds and `whole` is at most its
            // length. The advice changes how the system keeps the pages, never what is in them; without it they
            // stay small.
            let _ = unsafe {
                rustix::mm::madvise(
                    room.as_mut_ptr().cast(),
                    whole,
                    rustix::mm::Advice::LinuxHugepage,
                )
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

#[allow(unsafe_code)]
fn map(path: &Path, file: File) -> Result<Bytes> {
    // Advisory: writers that lock before they change a file in place will wait or fail.
    let _ = file.try_lock_shared();
    // SAFETY: the mapping is read-only and never written by this process. Another process that
    // truncates the file makes reads fault (see the module text; `Load::Copy` avoids it); one
    // that rewrites it in place can change weights, which every kernel tolerates as any bytes.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    let now = file.metadata().map_err(Error::io(path))?.len();
    if now < map.len() as u64 {
        return Err(Error::Verify(format!(
            "{} was truncated while it was opened",
            path.display()
        )));
    }
    Ok(Bytes::Map(Arc::new(Mapped { map, file })))
}

/// Makes reading a truncated mapped file end the program with one line on standard error and
/// exit code [`EXIT_TRUNCATED`]. For programs, not for libraries: the handler is process-wide.
/// Does nothing where there is no SIGBUS.
#[allow(unsafe_code)]
pub fn install_sigbus_handler() {
    #[cfg(unix)]
    {
        extern "C" fn handler(_: libc::c_int) {
            const TEXT: &[u8] = b"error: a mapped file was truncated or could not be read\n";
            // SAFETY: `write` and `_exit` are async-signal-safe; the pointer and length are
            // those of a constant.
            unsafe {
                libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
                libc::_exit(EXIT_TRUNCATED);
            }
        }
        handle(libc::SIGBUS, handler);
    }
}

/// Exit code of a program that aborts: no memory is left, or no stack.
pub const EXIT_MEMORY: i32 = 5;

/// Makes an abort end the program with `code()` instead of a signal. The standard library aborts when an
/// allocation or the stack fails, and has said so in one line. For programs, as above; `code` may only look at
/// atomics, since it runs in a signal handler.
#[allow(unsafe_code)]
pub fn install_abort_handler(code: fn() -> i32) {
    #[cfg(unix)]
    {
        static CODE: std::sync::OnceLock<fn() -> i32> = std::sync::OnceLock::new();
        extern "C" fn handler(_: libc::c_int) {
            let code = CODE.get().map_or(EXIT_MEMORY, |code| code());
            // SAFETY: `_exit` is async-signal-safe.
            unsafe { libc::_exit(code) }
        }
        _ = CODE.set(code);
        handle(libc::SIGABRT, handler);
    }
    #[cfg(not(unix))]
    let _ = code;
}

/// Sets the handler of a signal.
#[cfg(unix)]
#[allow(unsafe_code)]
fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: zeros are a valid `sigaction`; the mask is initialised by `sigemptyset`; the
    // handler has the signature that the flags without SA_SIGINFO ask for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}
/// Lets the C library keep at most `n` heaps (glibc; nothing elsewhere). By default it has 8 for each processor, deals
/// threads out to them, and keeps what was freed in each: a program whose threads come and go grows by that.
#[allow(unsafe_code)]
pub fn limit_heaps(n: u8) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and no memory; with a number that it refuses it does nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, i32::from(n));
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = n;
}
