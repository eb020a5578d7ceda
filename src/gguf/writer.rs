//! Planning and streaming a GGUF file: version 3, little-endian, tensors in the given order,
//! gaps filled with zeros.
//!
//! Planning is pure: [`Plan::layout`] encodes the header and passes it through the same
//! parser that reads files, so a plan that breaks a rule of docs/format.md fails before a
//! byte is written. [`write_file`] adds atomicity.

use std::io::{self, Write};
use std::path::Path;

use geb_kernels::dtype::Dtype;
use sha2::{Digest, Sha256};

pub use super::meta::MetaValue;
use super::meta::string;
pub use super::output::write_file;
use super::parse::{self, Index};
use super::{GgufFile, Value, shape};
use crate::error::{Error, Result};
pub use crate::files::same_file;
use crate::limits;

/// A tensor to be written: name, type, dimensions with the contiguous one first.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTensor {
    /// GGUF name.
    pub name: String,
    /// Type on disk.
    pub dtype: Dtype,
    /// Dimensions in GGUF order.
    pub dims: Vec<u64>,
}

/// What a file will contain. The data comes later, tensor by tensor.
///
/// The alignment is the value of the key `general.alignment` (a `u32`) when the metadata
/// holds one, otherwise 32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Metadata in file order.
    pub metadata: Vec<(String, MetaValue)>,
    /// Tensors in file order.
    pub tensors: Vec<PlannedTensor>,
}

/// Where everything goes, computed before anything is written.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Header, metadata and tensor table, padded to the start of the data.
    pub header: Vec<u8>,
    /// Alignment of tensor data.
    pub alignment: u32,
    /// Absolute byte range of each tensor, in plan order.
    pub tensors: Vec<std::ops::Range<u64>>,
    /// Size of the whole file; the last tensor is padded like the others.
    pub file_bytes: u64,
}

impl Plan {
    /// Appends a key.
    pub fn push_meta(&mut self, key: impl Into<String>, value: impl Into<MetaValue>) -> &mut Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Replaces the value of a key where it stands, or appends the key.
    pub fn set_meta(&mut self, key: &str, value: impl Into<MetaValue>) -> &mut Self {
        let value = value.into();
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// Appends every key of an open file for which `keep` returns true, in file order.
    pub fn copy_meta(
        &mut self,
        from: &GgufFile,
        mut keep: impl FnMut(&str, Value<'_>) -> bool,
    ) -> &mut Self {
        for (key, value) in from.metadata() {
            if keep(key, value) {
                self.metadata
                    .push((key.to_owned(), MetaValue::from_value(value)));
            }
        }
        self
    }

    /// Appends a tensor; `dims` with the contiguous dimension first.
    pub fn push_tensor(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        dims: impl Into<Vec<u64>>,
    ) -> &mut Self {
        self.tensors.push(PlannedTensor {
            name: name.into(),
            dtype,
            dims: dims.into(),
        });
        self
    }

    /// Computes the header and all offsets, and checks rules 3 to 10 of docs/format.md.
    ///
    /// # Errors
    /// [`Error::Format`] with the rule, field and value that would make the file unreadable.
    pub fn layout(&self) -> Result<Layout> {
        let alignment = self.alignment()?;
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            string(key, &mut header);
            value.encode(&mut header);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            string(&t.name, &mut header);
            header.extend((t.dims.len() as u32).to_le_bytes());
            header.extend(t.dims.iter().flat_map(|d| d.to_le_bytes()));
            header.extend(t.dtype.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            let bytes = shape::tensor_bytes(&t.name, t.dtype, &t.dims, header.len())?;
            offset = padded(&t.name, offset.checked_add(bytes), alignment)?;
        }
        let data_start = padded("header", Some(header.len() as u64), alignment)?;
        let file_bytes = data_start
            .checked_add(offset)
            .filter(|&n| n <= i64::MAX as u64);
        let file_bytes = file_bytes.ok_or_else(|| too_big("file"))?;
        let index = Index::parse_planned(&header, file_bytes)?;
        header.resize(data_start as usize, 0);
        let tensors = index
            .tensors
            .iter()
            .map(|t| t.range.start as u64..t.range.end as u64)
            .collect();
        Ok(Layout {
            header,
            alignment,
            tensors,
            file_bytes,
        })
    }

    /// The alignment the metadata asks for; a wrong value is left to the parser to name.
    fn alignment(&self) -> Result<u32> {
        let value = self
            .metadata
            .iter()
            .find(|(k, _)| k == parse::ALIGNMENT_KEY)
            .map(|(_, v)| v);
        match value {
            None => Ok(limits::DEFAULT_ALIGNMENT),
            Some(&MetaValue::U32(v)) => parse::check_alignment(v, 0),
            Some(other) => Err(parse::alignment_type(other.ty().0, 0)),
        }
    }
}

fn too_big(what: &str) -> Error {
    Error::Format {
        rule: 9,
        field: format!("{what}: end"),
        value: "more than 2^63 bytes".into(),
        allowed: "a file size".into(),
        offset: 0,
    }
}

fn padded(what: &str, end: Option<u64>, alignment: u32) -> Result<u64> {
    end.and_then(|e| e.checked_next_multiple_of(alignment.into()))
        .ok_or_else(|| too_big(what))
}

/// Hands out the data of a tensor: called once per tensor, in order, with its index.
/// It must write exactly the planned number of bytes.
pub type Fill<'a> = dyn FnMut(usize, &mut dyn Write) -> Result<()> + 'a;

/// Writes the planned file to any writer. No atomicity: for memory and tests.
///
/// # Errors
/// Plan errors as in [`Plan::layout`]; [`Error::Verify`] when `fill` writes too few or too
/// many bytes; [`Error::Io`] when `out` fails; whatever `fill` returns.
pub fn write_to(out: &mut dyn Write, plan: &Plan, fill: &mut Fill<'_>) -> Result<()> {
    let layout = plan.layout()?;
    stream(out, plan, &layout, Path::new("output"), fill)?;
    Ok(())
}

/// Streams header, tensors and padding; returns the SHA-256 of each tensor as handed over.
pub fn stream(
    out: &mut dyn Write,
    plan: &Plan,
    layout: &Layout,
    path: &Path,
    fill: &mut Fill<'_>,
) -> Result<Vec<[u8; 32]>> {
    out.write_all(&layout.header).map_err(Error::io(path))?;
    let mut at = layout.header.len() as u64;
    let mut sums = Vec::with_capacity(layout.tensors.len());
    for (i, range) in layout.tensors.iter().enumerate() {
        pad(out, range.start - at).map_err(Error::io(path))?;
        let mut fill = |out: &mut dyn Write| fill(i, out);
        sums.push(tensor(out, plan, layout, i, path, &mut fill)?);
        at = range.end;
    }
    pad(out, layout.file_bytes - at).map_err(Error::io(path))?;
    out.flush().map_err(Error::io(path))?;
    Ok(sums)
}

/// Streams one tensor; returns the SHA-256 of what was handed over.
pub(super) fn tensor(
    out: &mut dyn Write,
    plan: &Plan,
    layout: &Layout,
    i: usize,
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> Result<()>,
) -> Result<[u8; 32]> {
    let planned = layout.tensors[i].end - layout.tensors[i].start;
    let mut sink = Exact {
        out,
        left: planned,
        over: false,
        failed: None,
        sha: Sha256::new(),
    };
    let result = fill(&mut sink);
    if sink.over || (result.is_ok() && sink.left > 0) {
        let name = plan.tensors.get(i).map_or("", |t| t.name.as_str());
        let got = if sink.over {
            format!("more than {planned}")
        } else {
            (planned - sink.left).to_string()
        };
        return Err(Error::Verify(format!(
            "tensor {name}: {got} bytes were produced, planned: {planned}"
        )));
    }
    // A failed write is reported with its own path, whatever `fill` made of it.
    if let Some(source) = sink.failed.take() {
        return Err(Error::Io {
            path: path.to_owned(),
            source,
        });
    }
    result?;
    Ok(sink.sha.finalize().into())
}

fn pad(out: &mut dyn Write, mut n: u64) -> io::Result<()> {
    const ZEROS: [u8; 256] = [0; 256];
    while n > 0 {
        let len = n.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..len as usize])?;
        n -= len;
    }
    Ok(())
}

/// Lets exactly `left` more bytes through and hashes them.
struct Exact<'a> {
    out: &'a mut dyn Write,
    left: u64,
    over: bool,
    failed: Option<io::Error>,
    sha: Sha256,
}

impl Write for Exact<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() as u64 > self.left {
            self.over = true;
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more bytes than the plan allows",
            ));
        }
        match self.out.write(buf) {
            Ok(n) => {
                let n = n.min(buf.len());
                self.sha.update(&buf[..n]);
                self.left -= n as u64;
                if n == 0 && !buf.is_empty() {
                    self.failed = Some(io::ErrorKind::WriteZero.into());
                }
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let told = io::Error::new(e.kind(), e.to_string());
                self.failed = Some(e);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
