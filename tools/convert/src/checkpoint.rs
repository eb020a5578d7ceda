//! Opening a checkpoint: safetensors or PyTorch files, one or many, as one list of tensors.
//!
//! Files are mapped; a tensor is a name, a type, a shape and a byte range. Every range is
//! checked here, so that reading rows later cannot fail.

use std::collections::{HashMap, HashSet};

use geb_kernels::dtype::Dtype;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::folder::{Fields, Folder, bad, short};
use super::tensor::{Files, byte_count, check_shape};
use super::torch;
use super::wrapped::core;
use geb::error::{Error, Result};
use geb::gguf::checksums::hex;
use geb::gguf::{GgufFile, Load};
use geb::kinds;
use geb::limits;
use geb::mmap::{self, Bytes};

pub use super::tensor::{Elem, SourceTensor, float_type};

/// An opened checkpoint.
pub struct Checkpoint {
    files: Files,
    tensors: Vec<SourceTensor>,
    names: HashMap<String, usize>,
    /// By their names without what programs put before them; the first of equal ones.
    cores: HashMap<String, usize>,
    /// The name of the output matrix, where an index has it and no file.
    pub(super) lost_output: Option<String>,
}

impl Checkpoint {
    /// Without files.
    pub(super) fn empty() -> Checkpoint {
        Checkpoint {
            files: Files::default(),
            tensors: Vec::new(),
            names: HashMap::new(),
            cores: HashMap::new(),
            lost_output: None,
        }
    }

    /// The tensors of a GGUF file, of all its parts.
    pub fn from_gguf(file: &GgufFile) -> Checkpoint {
        let mut out = Self::empty();
        for (n, (part, path)) in file.parts().enumerate() {
            let name = path.file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            part.bytes().advise_sequential();
            out.files.0.push((name, part.bytes().clone()));
            for info in part.own_tensors() {
                out.names.insert(info.name.clone(), out.tensors.len());
                out.tensors.push(SourceTensor {
                    name: info.name.clone(),
                    elem: Elem::Float(info.dtype),
                    shape: info.dims.iter().rev().copied().collect(),
                    file: n,
                    range: info.range.clone(),
                    coded: None,
                });
            }
        }
        out
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// Name of the file that holds the tensor of exactly this name.
    pub(super) fn holder(&self, name: &str) -> Option<&str> {
        let tensor = self.names.get(name)?;
        Some(self.files.0[self.tensors[*tensor].file].0.as_str())
    }

    /// Position in [`Checkpoint::tensors`] of the tensor with this name, or of one whose name differs in what
    /// programs put before it (`model.`, `module.`, `language_model.`).
    pub fn find(&self, name: &str) -> Option<usize> {
        let found = self.names.get(name);
        found.or_else(|| self.cores.get(&core(name))).copied()
    }

    /// Copies bytes of a tensor, starting `at` bytes into it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Verify`] when they do not lie in the tensor.
    pub fn read(&self, tensor: usize, at: usize, out: &mut [u8]) -> Result<()> {
        let t = &self.tensors[tensor];
        if at + out.len() > t.range.len() {
            return Err(Error::Verify(format!("rows beyond the end of {}", t.name)));
        }
        match &t.coded {
            Some(coded) => coded.read(&self.files, at, out),
            None => self.files.read(t, at, out),
        }
    }

    /// Puts other tensors in the place of these.
    pub(super) fn set_tensors(&mut self, list: Vec<SourceTensor>) -> Result<()> {
        self.names.clear();
        self.cores.clear();
        for (i, t) in list.iter().enumerate() {
            self.cores.entry(core(&t.name)).or_insert(i);
            if self.names.insert(t.name.clone(), i).is_some() {
                let file = &self.files.0[t.file].0;
                return Err(bad(file, "tensor name", &t.name, "names that occur once"));
            }
        }
        self.tensors = list;
        Ok(())
    }

    /// The weight files.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Names of the weight files.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.0.iter().map(|f| f.0.as_str())
    }

    /// The weight files and the SHA-256 of each.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hashes(&self) -> Result<Vec<(String, String)>> {
        let one = |(name, bytes): &(String, Bytes)| {
            let mut sha = Sha256::new();
            let mut piece = vec![0; 1 << 20];
            let length = bytes.as_ref().len();
            for at in (0..length).step_by(piece.len()) {
                let piece = &mut piece[..(length - at).min(1 << 20)];
                bytes.read_at(at, piece).map_err(Error::io(name))?;
                sha.update(piece);
            }
            Ok((name.clone(), hex(&sha.finalize())))
        };
        self.files.0.iter().map(one).collect()
    }

    /// Adds the tensors of a file.
    pub(super) fn add_file(&mut self, folder: &Folder, name: &str) -> Result<()> {
        let absent = || bad(name, "file", "absent", "a file of weights");
        let path = folder.inside(name)?.ok_or_else(absent)?;
        let bytes = mmap::open(&path, Load::Map)?;
        bytes.advise_sequential();
        let data = bytes.as_ref();
        let (list, wanted) = if name.ends_with(".safetensors") {
            (safetensors(name, data), "a safetensors file")
        } else {
            (torch::torch_file(name, data), "a PyTorch checkpoint")
        };
        let list = list.map_err(|e| {
            let path = folder.path(name);
            let other = kinds::instead(&path, data, wanted);
            let other = other.filter(|o| !o.to_string().contains(&format!("is {wanted},")));
            other
                .or_else(|| kinds::unfinished(&path, wanted))
                .unwrap_or(e)
        })?;
        let file = self.files.0.len();
        for mut tensor in list {
            tensor.file = file;
            if self.tensors.len() >= limits::MAX_CHECKPOINT_TENSORS {
                let max = limits::MAX_CHECKPOINT_TENSORS;
                return Err(bad(
                    name,
                    "tensor count",
                    "more than the limit",
                    format!("at most {max}"),
                ));
            }
            if self
                .names
                .insert(tensor.name.clone(), self.tensors.len())
                .is_some()
            {
                return Err(bad(
                    name,
                    "tensor name",
                    &tensor.name,
                    "names that occur once",
                ));
            }
            let at = self.tensors.len();
            self.cores.entry(core(&tensor.name)).or_insert(at);
            self.tensors.push(tensor);
        }
        self.files.0.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// The entries of a JSON object in order, repeated names included.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Entries, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if out.len() > limits::MAX_CHECKPOINT_TENSORS {
                        return Err(serde::de::Error::custom("more tensors than the limit"));
                    }
                    out.push(entry);
                }
                Ok(Entries(out))
            }
        }
        d.deserialize_map(Visit)
    }
}

/// safetensors element types: name, type, bytes per element.
const SAFETENSORS_TYPES: &[(&str, Elem, u64)] = &[
    ("F32", Elem::Float(Dtype::F32), 4),
    ("F16", Elem::Float(Dtype::F16), 2),
    ("BF16", Elem::Float(Dtype::BF16), 2),
    ("F64", Elem::Float(Dtype::F64), 8),
    ("BOOL", Elem::Other("BOOL"), 1),
    ("U8", Elem::Other("U8"), 1),
    ("I8", Elem::Other("I8"), 1),
    ("F8_E4M3", Elem::Other("F8_E4M3"), 1),
    ("F8_E5M2", Elem::Other("F8_E5M2"), 1),
    ("F8_E8M0", Elem::Other("F8_E8M0"), 1),
    ("I16", Elem::Other("I16"), 2),
    ("U16", Elem::Other("U16"), 2),
    ("I32", Elem::Other("I32"), 4),
    ("U32", Elem::Other("U32"), 4),
    ("I64", Elem::Other("I64"), 8),
    ("U64", Elem::Other("U64"), 8),
];

/// Reads the header of a safetensors file: `u64` length, JSON, data.
///
/// Rules: the header lies in the file and below [`limits::MAX_SAFETENSORS_HEADER`]; names occur
/// once; each range has the size its type and shape ask for, lies in the data and overlaps no other.
///
/// # Errors
/// [`Error::Checkpoint`] naming `file` and the tensor's field.
pub fn safetensors(file: &str, data: &[u8]) -> Result<Vec<SourceTensor>> {
    let Some((head, rest)) = data.split_first_chunk::<8>() else {
        return Err(bad(
            file,
            "size",
            format!("{} bytes", data.len()),
            "8 bytes or more",
        ));
    };
    let header_len = u64::from_le_bytes(*head);
    let max = limits::MAX_SAFETENSORS_HEADER.min(rest.len() as u64);
    if header_len < 2 || header_len > max {
        return Err(bad(file, "header length", header_len, format!("2..={max}")));
    }
    let (header, body) = rest.split_at(header_len as usize);
    if header[0] != b'{' {
        return Err(bad(
            file,
            "header",
            format!("starting with byte {}", header[0]),
            "a JSON object",
        ));
    }
    let Entries(entries) = serde_json::from_slice(header).map_err(|e| {
        bad(
            file,
            "header",
            format!("malformed ({e})"),
            "a JSON object of tensors",
        )
    })?;
    let start = 8 + header_len as usize;
    let mut out = Vec::with_capacity(entries.len());
    let mut seen = HashSet::with_capacity(entries.len());
    for (name, value) in entries {
        if !seen.insert(name.clone()) {
            return Err(bad(file, "tensor name", name, "names that occur once"));
        }
        if name != "__metadata__" {
            out.push(safetensors_entry(
                file,
                name,
                &value,
                start,
                body.len() as u64,
            )?);
        }
    }
    no_overlap(file, &out)?;
    Ok(out)
}

fn safetensors_entry(
    file: &str,
    name: String,
    value: &Value,
    start: usize,
    len: u64,
) -> Result<SourceTensor> {
    let field = |what: &str| format!("{name}: {what}");
    let fields = Fields { file, value };
    let dtype = fields.str(&["dtype"])?.unwrap_or("absent");
    let Some(&(_, elem, elem_bytes)) = SAFETENSORS_TYPES.iter().find(|t| t.0 == dtype) else {
        let known: Vec<_> = SAFETENSORS_TYPES.iter().map(|t| t.0).collect();
        return Err(bad(file, field("dtype"), dtype, known.join(", ")));
    };
    let ints = |key: &'static str| -> Result<Vec<u64>> {
        let list = value.get(key).and_then(Value::as_array);
        let ints = list.and_then(|l| l.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        ints.ok_or_else(|| {
            let found = value.get(key).map_or("absent".into(), short);
            bad(file, field(key), found, "an array of unsigned integers")
        })
    };
    let shape = ints("shape")?;
    check_shape(file, &name, &shape)?;
    let bytes = byte_count(file, &name, &shape, elem_bytes)?;
    let &[first, end] = ints("data_offsets")?.as_slice() else {
        return Err(bad(
            file,
            field("data_offsets"),
            "not two numbers",
            "[begin, end]",
        ));
    };
    if first > end || end > len {
        let allowed = format!("a range in the {len} bytes of data");
        return Err(bad(
            file,
            field("data_offsets"),
            format!("[{first}, {end}]"),
            allowed,
        ));
    }
    if end - first != bytes {
        let allowed = format!("{bytes} bytes for {dtype} {shape:?}");
        return Err(bad(
            file,
            field("data_offsets"),
            format!("{} bytes", end - first),
            allowed,
        ));
    }
    Ok(SourceTensor {
        elem,
        shape,
        file: 0,
        range: start + first as usize..start + end as usize,
        coded: None,
        name,
    })
}

fn no_overlap(file: &str, tensors: &[SourceTensor]) -> Result<()> {
    let mut order: Vec<&SourceTensor> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    order.sort_unstable_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let allowed = format!("no bytes shared with {}", pair[0].name);
            return Err(bad(
                file,
                format!("{}: data_offsets", pair[1].name),
                "overlapping",
                allowed,
            ));
        }
    }
    Ok(())
}
