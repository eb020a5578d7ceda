//! Header, metadata and tensor table, checked in file order by the rules of docs/format.md.
//!
//! The result is an [`Index`]: validated names, types and byte ranges. It holds no
//! reference to the file, and no array of the file is copied.

use std::collections::HashMap;
use std::ops::Range;

use geb_kernels::dtype::Dtype;

use super::reader::Reader;
use super::value::{ArrayRef, Value, ValueType};
use crate::error::{Error, Result};
use crate::limits;

/// One tensor of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// GGUF name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Type of the weights.
    pub dtype: Dtype,
    /// Dimensions as stored: the first one is contiguous (`ne[0]`, the row length).
    pub dims: Vec<u64>,
    /// Byte range in the file.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Weights in the tensor.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Row length: the contiguous dimension.
    pub fn cols(&self) -> usize {
        self.dims[0] as usize
    }

    /// Number of rows: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }
}

/// Where a metadata value lies.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) ty: ValueType,
    /// First byte of the value (for arrays: of the first element).
    pub(super) at: usize,
    /// Element type, count and end of an array.
    pub(super) array: Option<(ValueType, usize, usize)>,
}

/// The validated structure of a GGUF file.
#[derive(Clone, Debug)]
pub struct Index {
    /// Format version: 2 or 3.
    pub version: u32,
    /// Alignment of tensor data.
    pub alignment: u32,
    /// Byte offset at which tensor data starts.
    pub data_start: usize,
    /// Bytes of header, metadata and tensor table.
    pub metadata_bytes: usize,
    /// Tensors in file order.
    pub tensors: Vec<TensorInfo>,
    /// What is legal but odd: said once, to the user.
    pub warnings: Vec<String>,
    pub(super) entries: Vec<Entry>,
    pub(super) keys: HashMap<String, usize>,
    pub(super) names: HashMap<String, usize>,
}

fn bad(rule: u8, field: impl Into<String>, value: impl ToString, allowed: impl Into<String>, offset: usize) -> Error {
    Error::Format { rule, field: field.into(), value: value.to_string(), allowed: allowed.into(), offset: offset as u64 }
}

impl Index {
    /// Parses and validates `data`, the whole file.
    pub fn parse(data: &[u8]) -> Result<Index> {
        let (version, n_tensors, n_keys, mut r) = header(data)?;
        let (entries, keys) = metadata(&mut r, n_keys)?;
        let alignment = alignment(data, &entries, &keys)?;
        let mut index = Index {
            version,
            alignment,
            data_start: 0,
            metadata_bytes: 0,
            tensors: Vec::new(),
            warnings: Vec::new(),
            entries,
            keys,
            names: HashMap::new(),
        };
        index.tensor_table(&mut r, n_tensors, data.len())?;
        index.check_overlap()?;
        Ok(index)
    }

    /// Rules 7 to 9: the table itself, then each tensor against the data section.
    fn tensor_table(&mut self, r: &mut Reader<'_>, count: u64, file_len: usize) -> Result<()> {
        let mut raw = Vec::new();
        for i in 0..count {
            raw.push((r.pos(), tensor_info(r, i)?));
        }
        self.metadata_bytes = r.pos();
        let align = self.alignment as usize;
        // A file without tensors may end before the padding.
        self.data_start = r.pos().next_multiple_of(align).min(file_len.max(r.pos()));
        let data_len = file_len.saturating_sub(self.data_start) as u64;
        for (at, (name, dtype, dims, offset, bytes)) in raw {
            let field = |what: &str| format!("tensor {name}: {what}");
            if !offset.is_multiple_of(align as u64) {
                return Err(bad(9, field("offset"), offset, format!("a multiple of {align}"), at));
            }
            if offset > data_len || bytes > data_len - offset {
                let value = format!("{offset} + {bytes} bytes");
                return Err(bad(9, field("offset + size"), value, format!("at most {data_len} bytes of data"), at));
            }
            let start = self.data_start + offset as usize;
            if self.names.insert(name.clone(), self.tensors.len()).is_some() {
                return Err(bad(7, "tensor name", name, "unique names", at));
            }
            self.tensors.push(TensorInfo { name, dtype, dims, range: start..start + bytes as usize });
        }
        Ok(())
    }

    /// Rule 10: no two tensors share bytes.
    fn check_overlap(&mut self) -> Result<()> {
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_unstable_by_key(|&i| self.tensors[i].range.start);
        for pair in order.windows(2) {
            let (a, b) = (&self.tensors[pair[0]], &self.tensors[pair[1]]);
            if b.range.start < a.range.end {
                let field = format!("tensor {}: offset", b.name);
                let allowed = format!("no overlap with tensor {}", a.name);
                return Err(bad(10, field, b.range.start - self.data_start, allowed, b.range.start));
            }
            if b.range.start - a.range.end >= self.alignment as usize {
                let gap = b.range.start - a.range.end;
                self.warnings.push(format!("{gap} unused bytes before tensor {}", b.name));
            }
        }
        Ok(())
    }
}

/// Rules 1 to 3.
fn header(data: &[u8]) -> Result<(u32, u64, u64, Reader<'_>)> {
    if data.len() < limits::MIN_FILE_BYTES {
        let allowed = format!("{} bytes or more", limits::MIN_FILE_BYTES);
        return Err(bad(1, "file size", format!("{} bytes", data.len()), allowed, 0));
    }
    let mut r = Reader::at(data, 0);
    let magic: [u8; 4] = r.array(2, "magic")?;
    if &magic != b"GGUF" {
        let value = String::from_utf8_lossy(&magic).escape_default().to_string();
        let hint = if &magic == b"FUGG" { "GGUF (this is a big-endian file)" } else { "GGUF" };
        return Err(bad(2, "magic", format!("\"{value}\""), hint, 0));
    }
    let version = r.u32(2, "version")?;
    match version {
        2 | 3 => {}
        1 => return Err(bad(2, "version", "1", "2 or 3 (version 1 was never in wide use)", 4)),
        v if (1..=3).contains(&v.swap_bytes()) => {
            return Err(bad(2, "version", format!("{v} (byte-swapped: a big-endian file)"), "2 or 3, little-endian", 4));
        }
        v => return Err(bad(2, "version", v, "2 or 3", 4)),
    }
    let n_tensors = r.u64(3, "tensor count")?;
    let n_keys = r.u64(3, "key count")?;
    let room = r.remaining();
    let max_tensors = limits::MAX_TENSORS.min(room / limits::MIN_TENSOR_BYTES);
    if n_tensors > max_tensors {
        return Err(bad(3, "tensor count", n_tensors, format!("0..={max_tensors}"), 8));
    }
    let max_keys = limits::MAX_KEYS.min(room / limits::MIN_KEY_BYTES);
    if n_keys > max_keys {
        return Err(bad(3, "key count", n_keys, format!("0..={max_keys}"), 16));
    }
    Ok((version, n_tensors, n_keys, r))
}

/// Rules 4 and 5.
fn metadata(r: &mut Reader<'_>, count: u64) -> Result<(Vec<Entry>, HashMap<String, usize>)> {
    let (mut entries, mut keys) = (Vec::new(), HashMap::new());
    let start = r.pos();
    for i in 0..count {
        let at = r.pos();
        let key = r.string(limits::MAX_KEY_BYTES, 4, &format!("key {i}"))?;
        if key.is_empty() {
            return Err(bad(4, format!("key {i}"), "empty", "1 to 65535 bytes", at));
        }
        let ty = value_type(r, key)?;
        let array = if ty == ValueType::Array { Some(array(r, key)?) } else { None };
        let value_at = array.map_or(r.pos(), |(_, _, first, _)| first);
        if array.is_none() {
            Value::scalar(r, ty, key)?;
        }
        if (r.pos() - start) as u64 > limits::MAX_METADATA_BYTES {
            let allowed = format!("at most {} bytes", limits::MAX_METADATA_BYTES);
            return Err(bad(5, "metadata", format!("{} bytes", r.pos() - start), allowed, at));
        }
        if keys.insert(key.to_owned(), entries.len()).is_some() {
            return Err(bad(4, "key", key, "unique keys", at));
        }
        let array = array.map(|(elem, len, _, end)| (elem, len, end));
        entries.push(Entry { key: key.to_owned(), ty, at: value_at, array });
    }
    Ok((entries, keys))
}

fn value_type(r: &mut Reader<'_>, key: &str) -> Result<ValueType> {
    let at = r.pos();
    let id = r.u32(5, key)?;
    ValueType::from_id(id).ok_or_else(|| bad(5, format!("{key}: value type"), id, "0..=12", at))
}

/// Walks one array and returns (element type, count, first byte, end).
fn array(r: &mut Reader<'_>, key: &str) -> Result<(ValueType, usize, usize, usize)> {
    let at = r.pos();
    let elem = value_type(r, key)?;
    if elem == ValueType::Array {
        return Err(bad(5, format!("{key}: element type"), "array", "no nested arrays", at));
    }
    let at = r.pos();
    let count = r.u64(5, key)?;
    let max = limits::MAX_ARRAY_LEN.min(r.remaining() / elem.min_bytes());
    if count > max {
        return Err(bad(5, format!("{key}: array length"), count, format!("0..={max}"), at));
    }
    let first = r.pos();
    match elem {
        ValueType::Str | ValueType::Bool => {
            for _ in 0..count {
                Value::scalar(r, elem, key)?;
            }
        }
        _ => {
            r.bytes(count * elem.min_bytes(), 5, key)?;
        }
    }
    Ok((elem, count as usize, first, r.pos()))
}

/// Rule 6.
fn alignment(data: &[u8], entries: &[Entry], keys: &HashMap<String, usize>) -> Result<u32> {
    const KEY: &str = "general.alignment";
    let Some(&i) = keys.get(KEY) else { return Ok(limits::DEFAULT_ALIGNMENT) };
    let entry = &entries[i];
    if entry.ty != ValueType::U32 {
        return Err(bad(6, KEY, format!("of type {}", entry.ty.name()), "type u32", entry.at));
    }
    let value = Reader::at(data, entry.at).u32(6, KEY)?;
    if !limits::ALIGNMENT.contains(&value) || !value.is_power_of_two() {
        return Err(bad(6, KEY, value, "a power of two, 8..=65536", entry.at));
    }
    Ok(value)
}

type RawTensor = (String, Dtype, Vec<u64>, u64, u64);

/// Rules 7 and 8 for one entry of the table: (name, type, dims, offset, bytes).
fn tensor_info(r: &mut Reader<'_>, i: u64) -> Result<RawTensor> {
    let at = r.pos();
    let name = r.string(limits::MAX_TENSOR_NAME_BYTES, 7, &format!("tensor {i}: name"))?.to_owned();
    if name.is_empty() {
        return Err(bad(7, format!("tensor {i}: name"), "empty", "1 to 64 bytes", at));
    }
    let field = |what: &str| format!("tensor {name}: {what}");
    let at = r.pos();
    let n_dims = r.u32(7, &field("dimension count"))?;
    if !(1..=limits::MAX_DIMS).contains(&n_dims) {
        return Err(bad(7, field("dimension count"), n_dims, "1..=4", at));
    }
    let mut dims = Vec::with_capacity(n_dims as usize);
    let mut elements = 1u64;
    for d in 0..n_dims {
        let at = r.pos();
        let dim = r.u64(7, &field("dimension"))?;
        if !(1..=limits::MAX_DIM).contains(&dim) {
            return Err(bad(7, field(&format!("dimension {d}")), dim, "1..=2^40", at));
        }
        elements = elements
            .checked_mul(dim)
            .filter(|&n| n <= limits::MAX_ELEMENTS)
            .ok_or_else(|| bad(7, field("element count"), "more than 2^48", "at most 2^48", at))?;
        dims.push(dim);
    }
    let at = r.pos();
    let id = r.u32(8, &field("type"))?;
    let dtype = Dtype::from_id(id).map_err(|source| Error::Type { tensor: name.clone(), source })?;
    let block = dtype.block_len() as u64;
    if !dims[0].is_multiple_of(block) {
        let allowed = format!("a multiple of {block}, the block length of {dtype}");
        return Err(bad(8, field("row length"), dims[0], allowed, at));
    }
    let bytes = (elements / block)
        .checked_mul(dtype.block_bytes() as u64)
        .ok_or_else(|| bad(8, field("size"), "overflow", "a size that fits 64 bits", at))?;
    let offset = r.u64(9, &field("offset"))?;
    Ok((name, dtype, dims, offset, bytes))
}

impl Entry {
    pub(super) fn value<'a>(&self, data: &'a [u8]) -> Value<'a> {
        match self.array {
            Some((elem, len, end)) => Value::Array(ArrayRef { elem, len, bytes: &data[self.at..end] }),
            None => Value::scalar(&mut Reader::at(data, self.at), self.ty, &self.key)
                .expect("validated when the file was parsed"),
        }
    }
}
