//! An opened, validated GGUF file: bytes plus index, with typed access.

use std::ops::Range;
use std::path::{Path, PathBuf};

use geb_kernels::dtype::Dtype;

use super::parse::Index;
use super::shape::TensorInfo;
use super::value::{ArrayRef, Value, ValueType};
use crate::error::{Error, Result};
use crate::kinds;
use crate::mmap::{self, Advice, Bytes, Load};

/// What is asked for, in messages.
const WANTED: &str = "a GGUF file";

/// A validated GGUF file; also one in several parts, which look like one.
pub struct GgufFile {
    bytes: Bytes,
    /// Of all parts: the ranges of later parts follow those of earlier ones.
    index: Index,
    path: PathBuf,
    /// Tensors in the first part.
    own: usize,
    /// The other parts with the position of their first byte.
    rest: Vec<(usize, GgufFile)>,
}

/// A tensor whose type, shape and bytes have been checked against each other.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    info: &'a TensorInfo,
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// Name, type and dimensions.
    pub fn info(&self) -> &'a TensorInfo {
        self.info
    }

    /// Type of the weights.
    pub fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// All bytes, row after row.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl GgufFile {
    /// Opens one file, whatever its metadata says about others.
    pub(super) fn open_single(path: &Path, load: Load) -> Result<GgufFile> {
        let bytes = mmap::open(path, load)?;
        let mut file = Self::from_bytes(bytes.clone()).map_err(|e| {
            let named = match e {
                Error::Format { rule: 1 | 2, .. } => kinds::instead(path, bytes.as_ref(), WANTED),
                Error::Format { .. } => kinds::unfinished(path, WANTED),
                _ => None,
            };
            named.unwrap_or(e)
        })?;
        file.path = path.to_owned();
        Ok(file)
    }

    /// Validates bytes that are already in memory.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<GgufFile> {
        let bytes = bytes.into();
        let index = Index::parse(bytes.as_ref())?;
        let own = index.tensors.len();
        let (path, rest) = (PathBuf::new(), Vec::new());
        Ok(GgufFile {
            bytes,
            index,
            path,
            own,
            rest,
        })
    }

    /// Adds a part behind those that are there.
    pub(super) fn join(&mut self, part: GgufFile) -> Result<()> {
        let start = self.file_bytes() as usize;
        self.index.append(&part.index, start)?;
        self.rest.push((start, part));
        Ok(())
    }

    /// The parts (one, as a rule), each with its path; it is empty for bytes in memory.
    pub fn parts(&self) -> impl Iterator<Item = (&GgufFile, &Path)> {
        let all = std::iter::once(self).chain(self.rest.iter().map(|p| &p.1));
        all.map(|p| (p, p.path.as_path()))
    }

    /// The tensors of this part alone.
    pub fn own_tensors(&self) -> &[TensorInfo] {
        &self.index.tensors[..self.own]
    }

    /// The bytes behind this part.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Size of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.parts().map(|p| p.0.data().len() as u64).sum()
    }

    /// The validated structure.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The whole file, or its first part.
    pub fn data(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The bytes of a [`TensorInfo::range`], in whichever part they are.
    pub fn slice(&self, range: &Range<usize>) -> &[u8] {
        let (part, range) = self.part_of(range);
        &part.data()[range]
    }

    /// The part that holds a range, and where.
    fn part_of(&self, range: &Range<usize>) -> (&GgufFile, Range<usize>) {
        let after = self.rest.partition_point(|p| p.0 <= range.start);
        match after.checked_sub(1).and_then(|i| self.rest.get(i)) {
            Some((start, part)) => (part, range.start - start..range.end - start),
            None => (self, range.clone()),
        }
    }

    /// Says what will become of the bytes of a range.
    pub(crate) fn advise(&self, range: &Range<usize>, advice: Advice) {
        let (part, range) = self.part_of(range);
        part.bytes.advise(range, advice);
    }

    /// All metadata in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let data = self.bytes.as_ref();
        self.index
            .entries
            .iter()
            .filter_map(move |e| Some((e.key(data), e.value(data)?)))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let data = self.bytes.as_ref();
        self.index.find_key(data, key)?.value(data)
    }

    /// Tensors in file order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.index.tensors.iter().map(|info| self.view(info))
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        Some(self.view(self.index.tensor(name)?))
    }

    fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        TensorView {
            info,
            bytes: self.slice(&info.range),
        }
    }

    fn wrong(key: &str, value: Value<'_>, allowed: &str) -> Error {
        let value = match value {
            Value::Array(a) => format!("an array of {}", a.elem.name()),
            v if v.as_int().is_some() => {
                format!("{} ({})", v.as_int().unwrap_or_default(), v.ty().name())
            }
            v => format!("of type {}", v.ty().name()),
        };
        Error::Key {
            key: key.to_owned(),
            value,
            allowed: allowed.to_owned(),
        }
    }

    /// An integer key of any width inside `range`; `None` when absent.
    pub fn int(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let allowed = || format!("an integer in {}..={}", range.start(), range.end());
        let v = value
            .as_int()
            .and_then(|v| u64::try_from(v).ok())
            .filter(|v| range.contains(v));
        v.map(Some)
            .ok_or_else(|| Self::wrong(key, value, &allowed()))
    }

    /// A finite float key (`f32` or `f64`); `None` when absent.
    pub fn float(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) if v.is_finite() => Ok(Some(v)),
            Some(Value::F64(v)) if (v as f32).is_finite() => Ok(Some(v as f32)),
            Some(Value::F32(_) | Value::F64(_)) => Err(Error::Key {
                key: key.into(),
                value: "not finite".into(),
                allowed: "a finite float".into(),
            }),
            Some(v) => Err(Self::wrong(key, v, "a finite float")),
        }
    }

    /// A bool key; `None` when absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(v)),
            Some(v) => Err(Self::wrong(key, v, "a bool")),
        }
    }

    /// A string key; `None` when absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Str(v)) => Ok(Some(v)),
            Some(v) => Err(Self::wrong(key, v, "a string")),
        }
    }

    /// An array key with elements of type `elem`; `None` when absent.
    pub fn array(&self, key: &str, elem: ValueType) -> Result<Option<ArrayRef<'_>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(a)) if a.elem == elem => Ok(Some(a)),
            Some(v) => Err(Self::wrong(key, v, &format!("an array of {}", elem.name()))),
        }
    }

    /// Turns an absent optional into the error that names the key.
    pub fn require<T>(key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::Key {
            key: key.into(),
            value: "absent".into(),
            allowed: "a value".into(),
        })
    }
}
