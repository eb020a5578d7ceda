//! File bytes in memory: mapped or copied. The only `unsafe` of this crate.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::Load;

/// Read-only bytes of a file or of the program itself.
#[derive(Clone)]
pub enum Bytes {
    /// A mapped file.
    Map(Arc<memmap2::Mmap>),
    /// A copy in memory.
    Heap(Arc<Vec<u8>>),
    /// Bytes compiled into the program.
    Static(&'static [u8]),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Map(m) => m,
            Self::Heap(v) => v,
            Self::Static(s) => s,
        }
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
#[allow(unsafe_code)]
pub fn open(path: &Path, load: Load) -> Result<Bytes> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let meta = file.metadata().map_err(Error::io(path))?;
    if !meta.is_file() {
        return Err(Error::Request {
            what: format!("{}", path.display()),
            value: if meta.is_dir() {
                "a directory"
            } else {
                "not a regular file"
            }
            .into(),
            allowed: "a regular file".into(),
        });
    }
    if load == Load::Copy || meta.len() == 0 {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        return Ok(bytes.into());
    }
    // SAFETY: the mapping is private to this process and never written. Another process that
    // truncates the file makes reads fault (documented; `Load::Copy` avoids it); one that
    // rewrites it in place can change weights, which every kernel tolerates as any bytes.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    Ok(Bytes::Map(Arc::new(map)))
}
