//! Header, metadata and tensor table, checked in file order by the rules of docs/format.md.
//!
//! The result is an [`Index`]: validated names, types and byte ranges. It holds no
//! reference to the file; keys and values stay in the file as ranges and no array is copied.
//! Heap use is bounded by construction: per key 48 bytes and per tensor about 130 bytes plus
//! its name, against limits of 65,536 each.

use std::hash::{BuildHasher, RandomState};

use geb_kernels::dtype::TypeIdError;
use hashbrown::HashTable;

use super::reader::{Reader, bad};
use super::shape::{TensorInfo, tensor_entry};
use super::value::{ArrayRef, Value, ValueType};
use crate::error::{Error, Result};
use crate::limits;
use crate::shown::Shown;

/// The key that sets the alignment of tensor data.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// Where a metadata key and its value lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    key_at: usize,
    /// First byte of the value (for arrays: of the first element).
    at: usize,
    /// End of the value.
    end: usize,
    key_len: u16,
    ty: ValueType,
    /// Element type and count of an array.
    elem: ValueType,
    len: u32,
}

// Counts and lengths are stored narrow; the limits make that lossless.
const _: () = assert!(limits::MAX_KEY_BYTES <= u16::MAX as u64);
const _: () = assert!(limits::MAX_ARRAY_LEN <= u32::MAX as u64);

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
    /// Positions in `entries` and `tensors` by name. The hasher is seeded per file, so no
    /// file can be made whose names collide.
    keys: HashTable<u32>,
    names: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    /// Parses and validates `data`, the whole file.
    pub fn parse(data: &[u8]) -> Result<Index> {
        Self::parse_planned(data, data.len() as u64)
    }

    /// Validates a header whose tensor data is not there yet: `file_len` is the size the whole
    /// file will have. The writer plans with this, so both directions obey one set of rules.
    pub(super) fn parse_planned(data: &[u8], file_len: u64) -> Result<Index> {
        let (version, n_tensors, n_keys, mut r) = header(data)?;
        let mut index = Index {
            version,
            alignment: limits::DEFAULT_ALIGNMENT,
            data_start: 0,
            metadata_bytes: 0,
            tensors: Vec::new(),
            warnings: Vec::new(),
            entries: Vec::new(),
            keys: HashTable::new(),
            names: HashTable::new(),
            hasher: RandomState::new(),
        };
        index.metadata(data, &mut r, n_keys)?;
        index.read_alignment(data)?;
        let pending = index.tensor_table(&mut r, n_tensors)?;
        index.place(&pending, r.pos(), file_len)?;
        index.check_overlap()?;
        Ok(index)
    }

    /// Position of a key in `entries`.
    pub(super) fn find_key(&self, data: &[u8], key: &str) -> Option<&Entry> {
        let is = |i: &u32| self.entries[*i as usize].key_bytes(data) == key.as_bytes();
        let i = self.keys.find(self.hasher.hash_one(key.as_bytes()), is)?;
        Some(&self.entries[*i as usize])
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let is = |i: &u32| self.tensors[*i as usize].name == name;
        let i = self.names.find(self.hasher.hash_one(name.as_bytes()), is)?;
        Some(&self.tensors[*i as usize])
    }

    /// Rules 4 and 5.
    /// Adds the tensors of another part of the file, whose first byte is number `start`.
    pub(super) fn append(&mut self, part: &Index, start: usize) -> Result<()> {
        for t in &part.tensors {
            if self.tensor(&t.name).is_some() {
                let name = Shown::name(&t.name);
                return Err(bad(7, "tensor name", name, "unique names in all parts", 0));
            }
            let range = start + t.range.start..start + t.range.end;
            self.push(TensorInfo { range, ..t.clone() });
        }
        self.warnings.extend(part.warnings.iter().cloned());
        Ok(())
    }

    fn push(&mut self, info: TensorInfo) {
        let hash = self.hasher.hash_one(info.name.as_bytes());
        let (tensors, hasher) = (&self.tensors, &self.hasher);
        let rehash = |&j: &u32| hasher.hash_one(tensors[j as usize].name.as_bytes());
        let position = self.tensors.len() as u32;
        self.names.insert_unique(hash, position, rehash);
        self.tensors.push(info);
    }

    fn metadata(&mut self, data: &[u8], r: &mut Reader<'_>, count: u64) -> Result<()> {
        let (start, mut odd) = (r.pos(), 0u64);
        for i in 0..count {
            let at = r.pos();
            let key = r.string(limits::MAX_KEY_BYTES, 4, format_args!("key {i}"))?;
            if key.is_empty() {
                return Err(bad(
                    4,
                    format_args!("key {i}"),
                    "empty",
                    "1 to 65535 bytes",
                    at,
                ));
            }
            let hash = self.hasher.hash_one(key.as_bytes());
            if self
                .keys
                .find(hash, |&j| {
                    self.entries[j as usize].key_bytes(data) == key.as_bytes()
                })
                .is_some()
            {
                return Err(bad(4, "key", Shown::name(key), "unique keys", at));
            }
            let entry = value(r, key, r.pos() - key.len(), start)?;
            let (entries, hasher) = (&self.entries, &self.hasher);
            let rehash = |&j: &u32| hasher.hash_one(entries[j as usize].key_bytes(data));
            self.keys
                .insert_unique(hash, self.entries.len() as u32, rehash);
            self.entries.push(entry);
            if !key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            {
                odd += 1;
                if odd == 1 {
                    self.warnings.push(format!(
                        "key {} is not a plain ASCII name",
                        Shown::name(key)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Rule 6.
    fn read_alignment(&mut self, data: &[u8]) -> Result<()> {
        let Some(entry) = self.find_key(data, ALIGNMENT_KEY) else {
            return Ok(());
        };
        if entry.ty != ValueType::U32 {
            return Err(alignment_type(entry.ty, entry.at));
        }
        let value = Reader::at(data, entry.at).u32(6, ALIGNMENT_KEY)?;
        self.alignment = check_alignment(value, entry.at)?;
        Ok(())
    }

    /// Rules 7 and 8, entry by entry. Returns (position of the entry, offset, bytes) of each.
    fn tensor_table(&mut self, r: &mut Reader<'_>, count: u64) -> Result<Vec<(usize, u64, u64)>> {
        let mut pending = Vec::new();
        let mut unreadable = Vec::new();
        for i in 0..count {
            let at = r.pos();
            let name = r.string(
                limits::MAX_TENSOR_NAME_BYTES,
                7,
                format_args!("tensor {i}: name"),
            )?;
            if name.is_empty() {
                return Err(bad(
                    7,
                    format_args!("tensor {i}: name"),
                    "empty",
                    "1 to 64 bytes",
                    at,
                ));
            }
            if self.tensor(name).is_some() {
                return Err(bad(7, "tensor name", Shown::name(name), "unique names", at));
            }
            let (dtype, dims, bytes, offset) = match tensor_entry(r, name) {
                Err(Error::Type { tensor, source }) => {
                    // The other tensors of a type that cannot be read are named as well.
                    r.u64(9, format_args!("tensor {tensor}: offset"))?;
                    unreadable.push((tensor, source));
                    continue;
                }
                entry => entry?,
            };
            self.push(TensorInfo {
                name: name.to_owned(),
                dtype,
                dims,
                range: 0..0,
            });
            pending.push((at, offset, bytes));
        }
        match unreadable.first() {
            Some(&(_, source)) => Err(unreadable_type(source, &unreadable)),
            None => Ok(pending),
        }
    }

    /// Rule 9: every tensor against the data section.
    fn place(
        &mut self,
        pending: &[(usize, u64, u64)],
        table_end: usize,
        file_len: u64,
    ) -> Result<()> {
        let align = self.alignment as usize;
        self.metadata_bytes = table_end;
        let file_len = usize::try_from(file_len).map_err(|_| {
            bad(
                9,
                "file size",
                file_len,
                "the address space of this machine",
                0,
            )
        })?;
        // A file without tensors may end before the padding.
        self.data_start = table_end
            .next_multiple_of(align)
            .min(file_len.max(table_end));
        let data_len = file_len.saturating_sub(self.data_start) as u64;
        for (info, &(at, offset, bytes)) in self.tensors.iter_mut().zip(pending) {
            let field = |what: &str| format!("tensor {}: {what}", Shown::name(&info.name));
            if !offset.is_multiple_of(align as u64) {
                return Err(bad(
                    9,
                    field("offset"),
                    offset,
                    format_args!("a multiple of {align}"),
                    at,
                ));
            }
            if offset > data_len || bytes > data_len - offset {
                let value = format_args!("{offset} + {bytes} bytes").to_string();
                let allowed = format_args!("at most {data_len} bytes of data").to_string();
                return Err(bad(9, field("offset + size"), value, allowed, at));
            }
            // Both are at most `data_len`, a slice length.
            let start = self.data_start + offset as usize;
            info.range = start..start + bytes as usize;
        }
        Ok(())
    }

    /// Rule 10: no two tensors share bytes.
    fn check_overlap(&mut self) -> Result<()> {
        let mut order: Vec<u32> = (0..self.tensors.len() as u32).collect();
        order.sort_unstable_by_key(|&i| self.tensors[i as usize].range.start);
        let (mut gaps, mut unused, mut first) = (0usize, 0usize, None);
        let mut before: Option<&TensorInfo> = None;
        for &i in &order {
            let t = &self.tensors[i as usize];
            let end = before.map_or(self.data_start, |b| b.range.end);
            if t.range.start < end {
                let other = before.map_or("", |b| b.name.as_str());
                let allowed =
                    format_args!("no overlap with tensor {}", Shown::name(other)).to_string();
                let field = format_args!("tensor {}: offset", Shown::name(&t.name)).to_string();
                return Err(bad(
                    10,
                    field,
                    t.range.start - self.data_start,
                    allowed,
                    t.range.start,
                ));
            }
            if t.range.start - end >= self.alignment as usize {
                gaps += 1;
                unused += t.range.start - end;
                first.get_or_insert(t.name.as_str());
            }
            before = Some(t);
        }
        if let Some(name) = first {
            let name = Shown::name(name);
            let text = format!(
                "{gaps} gaps with {unused} unused bytes in the data, the first before tensor {name}"
            );
            self.warnings.push(text);
        }
        Ok(())
    }
}

/// The error of a type id that cannot be read, with the tensors that have it.
fn unreadable_type(source: TypeIdError, list: &[(String, TypeIdError)]) -> Error {
    const SHOWN: usize = 100;
    let same: Vec<&str> = list
        .iter()
        .filter(|t| t.1 == source)
        .map(|t| t.0.as_str())
        .collect();
    let mut tensor = same[..same.len().min(SHOWN)].join(", ");
    let more = list.len() - same.len().min(SHOWN);
    if more > 0 {
        tensor.push_str(&format!(" and {more} more of this or other such types"));
    }
    Error::Type { tensor, source }
}

/// Rules 1 to 3.
fn header(data: &[u8]) -> Result<(u32, u64, u64, Reader<'_>)> {
    if data.len() < limits::MIN_FILE_BYTES {
        let allowed = format_args!("{} bytes or more", limits::MIN_FILE_BYTES);
        return Err(bad(
            1,
            "file size",
            format_args!("{} bytes", data.len()),
            allowed,
            0,
        ));
    }
    let mut r = Reader::at(data, 0);
    let magic: [u8; 4] = r.array(2, "magic")?;
    if &magic != b"GGUF" {
        let hint = if &magic == b"FUGG" {
            "GGUF (this is a big-endian file)"
        } else {
            "GGUF"
        };
        return Err(bad(
            2,
            "magic",
            format_args!("\"{}\"", magic.escape_ascii()),
            hint,
            0,
        ));
    }
    let version = r.u32(2, "version")?;
    match version {
        2 | 3 => {}
        1 => {
            return Err(bad(
                2,
                "version",
                "1",
                "2 or 3 (version 1 was never in wide use)",
                4,
            ));
        }
        v if (1..=3).contains(&v.swap_bytes()) => {
            let value = format_args!("{v} (byte-swapped: a big-endian file)").to_string();
            return Err(bad(2, "version", value, "2 or 3, little-endian", 4));
        }
        v => return Err(bad(2, "version", v, "2 or 3", 4)),
    }
    let n_tensors = r.u64(3, "tensor count")?;
    let n_keys = r.u64(3, "key count")?;
    let room = r.remaining();
    let max_tensors = limits::MAX_TENSORS.min(room / limits::MIN_TENSOR_BYTES);
    if n_tensors > max_tensors {
        return Err(bad(
            3,
            "tensor count",
            n_tensors,
            format_args!("0..={max_tensors}"),
            8,
        ));
    }
    let max_keys = limits::MAX_KEYS.min(room / limits::MIN_KEY_BYTES);
    if n_keys > max_keys {
        return Err(bad(
            3,
            "key count",
            n_keys,
            format_args!("0..={max_keys}"),
            16,
        ));
    }
    Ok((version, n_tensors, n_keys, r))
}

/// Rule 5: one value, walked once. `start` is where the metadata begins.
fn value(r: &mut Reader<'_>, key: &str, key_at: usize, start: usize) -> Result<Entry> {
    let ty = value_type(r, key, "value type")?;
    // Lossless: the key length has been checked against its limit.
    let mut entry = Entry {
        key_at,
        at: r.pos(),
        end: 0,
        key_len: key.len() as u16,
        ty,
        elem: ty,
        len: 0,
    };
    if ty == ValueType::Array {
        let (elem, len) = array_head(r, key)?;
        (entry.at, entry.elem, entry.len) = (r.pos(), elem, len);
        array_elements(r, key, elem, len, start)?;
    } else {
        Value::scalar(r, ty, Shown::name(key))?;
    }
    entry.end = r.pos();
    check_total(r, start)?;
    Ok(entry)
}

/// Rule 5: all metadata together.
fn check_total(r: &Reader<'_>, start: usize) -> Result<()> {
    let total = (r.pos() - start) as u64;
    if total > limits::MAX_METADATA_BYTES {
        let allowed = format_args!("at most {} bytes", limits::MAX_METADATA_BYTES);
        return Err(bad(
            5,
            "metadata",
            format_args!("{total} bytes"),
            allowed,
            r.pos(),
        ));
    }
    Ok(())
}

fn value_type(r: &mut Reader<'_>, key: &str, what: &str) -> Result<ValueType> {
    let at = r.pos();
    let id = r.u32(5, format_args!("{}: {what}", Shown::name(key)))?;
    ValueType::from_id(id).ok_or_else(|| {
        bad(
            5,
            format_args!("{}: {what}", Shown::name(key)),
            id,
            "0..=12",
            at,
        )
    })
}

/// Element type and count of an array.
fn array_head(r: &mut Reader<'_>, key: &str) -> Result<(ValueType, u32)> {
    let at = r.pos();
    let elem = value_type(r, key, "element type")?;
    if elem == ValueType::Array {
        return Err(bad(
            5,
            format_args!("{}: element type", Shown::name(key)),
            "array",
            "no nested arrays",
            at,
        ));
    }
    let at = r.pos();
    let count = r.u64(5, format_args!("{}: array length", Shown::name(key)))?;
    let max = limits::MAX_ARRAY_LEN.min(r.remaining() / elem.min_bytes());
    if count > max {
        return Err(bad(
            5,
            format_args!("{}: array length", Shown::name(key)),
            count,
            format_args!("0..={max}"),
            at,
        ));
    }
    // Lossless: at most MAX_ARRAY_LEN.
    Ok((elem, count as u32))
}

fn array_elements(
    r: &mut Reader<'_>,
    key: &str,
    elem: ValueType,
    len: u32,
    start: usize,
) -> Result<()> {
    match elem {
        ValueType::Str | ValueType::Bool => {
            for _ in 0..len {
                Value::scalar(r, elem, Shown::name(key))?;
                check_total(r, start)?;
            }
        }
        _ => {
            r.bytes(u64::from(len) * elem.min_bytes(), 5, Shown::name(key))?;
        }
    }
    Ok(())
}

/// Rule 6, the type.
pub(super) fn alignment_type(ty: ValueType, at: usize) -> Error {
    bad(
        6,
        ALIGNMENT_KEY,
        format_args!("of type {}", ty.name()),
        "type u32",
        at,
    )
}

/// Rule 6, the value.
pub(super) fn check_alignment(value: u32, at: usize) -> Result<u32> {
    if !limits::ALIGNMENT.contains(&value) || !value.is_power_of_two() {
        return Err(bad(
            6,
            ALIGNMENT_KEY,
            value,
            "a power of two, 8..=65536",
            at,
        ));
    }
    Ok(value)
}

impl Entry {
    fn key_bytes<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.key_at..self.key_at + usize::from(self.key_len)]
    }

    /// The key. Empty if the file was changed in place after it was checked.
    pub(super) fn key<'a>(&self, data: &'a [u8]) -> &'a str {
        std::str::from_utf8(self.key_bytes(data)).unwrap_or_default()
    }

    /// The value. `None` if the file was changed in place after it was checked.
    pub(super) fn value<'a>(&self, data: &'a [u8]) -> Option<Value<'a>> {
        let bytes = &data[self.at..self.end];
        if self.ty == ValueType::Array {
            return Some(Value::Array(ArrayRef {
                elem: self.elem,
                len: self.len as usize,
                bytes,
            }));
        }
        Value::scalar(&mut Reader::at(bytes, 0), self.ty, "value").ok()
    }
}
