//! The file of an importance matrix: llama.cpp's GGUF form, and second moments beside it; its older form is read
//! too ([`super::legacy`]).
//!
//! | | |
//! |---|---|
//! | `general.type` | `imatrix` |
//! | `imatrix.datasets` | names of the texts |
//! | `imatrix.chunk_count`, `imatrix.chunk_size` | chunks and tokens per chunk |
//! | tensor `NAME.in_sum2` | F32 `[columns, matrices]`: sums of squares |
//! | tensor `NAME.counts` | F32 `[1, matrices]`: tokens |
//! | tensor `NAME.in_cov` | F32 `[columns, columns]`: second moments (ours; others ignore it) |
//! | `geb.imatrix.text`, `geb.imatrix.model`, `geb.imatrix.readers`, `geb.imatrix.covariances` | SHA-256 of text and model; tensor names, and under which name each one's second moments are |

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use geb_kernels::dtype::Dtype;
use sha2::{Digest, Sha256};

use super::entry::Entry;
use super::legacy;
use crate::error::{Error, Result};
use crate::gguf::writer::{self, Plan};
use crate::gguf::{GgufFile, Load, ValueType};
use crate::limits;
use crate::model::inputs::{Input, InputStats};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const MOMENTS: &str = ".in_cov";
const TYPE: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const TEXT: &str = "geb.imatrix.text";
const MODEL: &str = "geb.imatrix.model";
const READERS: &str = "geb.imatrix.readers";
const COVARIANCES: &str = "geb.imatrix.covariances";

/// What a matrix was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Name of the text, without folders.
    pub dataset: String,
    /// SHA-256 of the text, hexadecimal.
    pub text: String,
    /// Tokens of a chunk.
    pub chunk_size: u32,
    /// SHA-256 of the model, hexadecimal; empty where it does not matter.
    pub model: String,
}

impl Origin {
    /// Of a text file.
    pub fn new(path: &Path, text: &str, chunk_size: u32) -> Origin {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let sum = Sha256::digest(text.as_bytes());
        Origin {
            dataset: name.to_string_lossy().into_owned(),
            text: sum.iter().map(|b| format!("{b:02x}")).collect(),
            chunk_size,
            model: String::new(),
        }
    }

    /// The same text read by this model.
    pub fn by(mut self, model: String) -> Origin {
        self.model = model;
        self
    }
}

/// Writes the sums of `chunks` chunks, whole or not at all.
///
/// # Errors
/// As [`writer::write_file`].
pub fn write(path: &Path, origin: &Origin, chunks: usize, stats: &InputStats) -> Result<()> {
    let mut plan = Plan::default();
    plan.push_meta(TYPE, "imatrix");
    plan.push_meta(DATASETS, vec![origin.dataset.clone()]);
    plan.push_meta(CHUNK_COUNT, u32::try_from(chunks).unwrap_or(u32::MAX));
    plan.push_meta(CHUNK_SIZE, origin.chunk_size);
    plan.push_meta(TEXT, origin.text.as_str());
    if !origin.model.is_empty() {
        plan.push_meta(MODEL, origin.model.as_str());
    }
    let mut sorted: Vec<_> = stats
        .inputs()
        .iter()
        .flat_map(|input| input.names.iter().map(move |name| (name, input)))
        .collect();
    sorted.sort_by_key(|(name, _)| *name);
    let covariance = |(_, i): &&(&String, &Input)| !i.moments.is_empty();
    if sorted.iter().any(|s| covariance(&s)) {
        let of = |f: fn(&(&String, &Input)) -> String| {
            sorted.iter().filter(covariance).map(f).collect::<Vec<_>>()
        };
        plan.push_meta(READERS, of(|(name, _)| (*name).clone()));
        plan.push_meta(COVARIANCES, of(|(_, i)| i.names[0].clone()));
    }
    let mut values: Vec<Vec<u8>> = Vec::new();
    let mut matrices: Vec<&[f32]> = Vec::new();
    for (name, input) in &sorted {
        let (n, matrices) = (input.cols as u64, input.tokens.len() as u64);
        plan.push_tensor(format!("{name}{SUMS}"), Dtype::F32, [n, matrices]);
        values.push(input.squares.iter().flat_map(|v| v.to_le_bytes()).collect());
        plan.push_tensor(format!("{name}{COUNTS}"), Dtype::F32, [1, matrices]);
        let counts = input.tokens.iter().map(|n| *n as f32);
        values.push(counts.flat_map(f32::to_le_bytes).collect());
    }
    for (name, input) in &sorted {
        if !input.moments.is_empty() && input.names.first() == Some(*name) {
            let n = input.cols as u64;
            plan.push_tensor(format!("{name}{MOMENTS}"), Dtype::F32, [n, n]);
            matrices.push(&input.moments);
        }
    }
    let small = values.len();
    writer::write_file(path, &plan, &mut |i, out| match values.get(i) {
        Some(bytes) => out.write_all(bytes).map_err(Error::io(path)),
        None => numbers(matrices[i - small], out).map_err(Error::io(path)),
    })
}

fn numbers(values: &[f32], out: &mut dyn Write) -> std::io::Result<()> {
    values.chunks(4096).try_for_each(|part| {
        let bytes: Vec<u8> = part.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes)
    })
}

/// The second moments of an input, as they lie in the file.
pub struct Covariance<'a> {
    bytes: &'a [u8],
    count: f32,
    cols: usize,
}

impl<'a> Covariance<'a> {
    /// Sums over `count` tokens, F32 little-endian `[cols, cols]`.
    pub fn new(bytes: &'a [u8], count: f32, cols: usize) -> Covariance<'a> {
        Covariance { bytes, count, cols }
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `mean over tokens of x[row] x[col]`.
    pub fn at(&self, row: usize, col: usize) -> f32 {
        let at = 4 * (row * self.cols + col);
        let mut le = [0; 4];
        le.copy_from_slice(&self.bytes[at..at + 4]);
        f32::from_le_bytes(le) / self.count
    }
}

/// An importance matrix read from a file. Second moments stay in the file until they are asked for.
pub struct Imatrix {
    path: PathBuf,
    form: Form,
    datasets: Vec<String>,
    chunks: u32,
    chunk_size: u32,
    entries: BTreeMap<String, Entry>,
    /// Tensor names, and under which name their second moments are.
    covariances: BTreeMap<String, String>,
}

/// What a matrix was read from.
enum Form {
    Gguf(Box<GgufFile>),
    Legacy {
        /// SHA-256 of the file.
        hash: String,
    },
}

impl Imatrix {
    /// Opens and checks a file; its content says of which form it is.
    ///
    /// # Errors
    /// [`Error::Imatrix`] for another kind of file, a sum that is negative, NaN or infinite, a count
    /// that is no positive number, and sums without counts.
    pub fn open(path: &Path) -> Result<Imatrix> {
        if let Some(data) = older_form(path)? {
            return Imatrix::from_legacy(path, &data);
        }
        let file = GgufFile::open(path, Load::Map)?;
        let texts = |key: &str| -> Result<Vec<String>> {
            let list = file.array(key, ValueType::Str)?;
            let list = list.map(|a| {
                a.strings()
                    .map(|s| String::from_utf8_lossy(s).into_owned())
                    .collect()
            });
            Ok(list.unwrap_or_default())
        };
        let number = |key: &str| -> Result<u32> {
            let n = GgufFile::require(key, file.int(key, 0..=u64::from(u32::MAX))?)?;
            Ok(n as u32)
        };
        let bad = |field: &str, value: String, allowed: &str| bad(path, field, value, allowed);
        let kind = file.str(TYPE)?.unwrap_or("absent");
        if kind != "imatrix" {
            return Err(bad(TYPE, kind.into(), "imatrix"));
        }
        let (datasets, chunks, chunk_size) =
            (texts(DATASETS)?, number(CHUNK_COUNT)?, number(CHUNK_SIZE)?);
        let (readers, names) = (texts(READERS)?, texts(COVARIANCES)?);
        if readers.len() != names.len() {
            let value = format!("{} names", names.len());
            return Err(bad(COVARIANCES, value, "one for each of the readers"));
        }
        let mut entries = BTreeMap::new();
        for tensor in file.tensors() {
            let field = &tensor.info().name;
            if let Some(name) = field.strip_suffix(SUMS) {
                entries.insert(name.to_owned(), entry(path, &file, name)?);
            } else if let Some(name) = field.strip_suffix(COUNTS)
                && file.tensor(&format!("{name}{SUMS}")).is_none()
            {
                return Err(bad(field, "alone".into(), "counts beside sums"));
            }
        }
        if entries.is_empty() {
            let allowed = "tensors named *.in_sum2 and *.counts";
            return Err(bad("tensors", "none of importance".into(), allowed));
        }
        let matrix = Imatrix {
            path: path.to_owned(),
            datasets,
            chunks,
            chunk_size,
            entries,
            covariances: readers.into_iter().zip(names).collect(),
            form: Form::Gguf(Box::new(file)),
        };
        for name in matrix.covariances.keys() {
            matrix.covariance(name)?;
        }
        Ok(matrix)
    }

    fn from_legacy(path: &Path, data: &[u8]) -> Result<Imatrix> {
        let legacy = legacy::parse(data);
        let read = legacy.map_err(|(field, value, allowed)| bad(path, &field, value, &allowed))?;
        Ok(Imatrix {
            path: path.to_owned(),
            form: Form::Legacy {
                hash: hexadecimal(data),
            },
            datasets: read.dataset.into_iter().collect(),
            chunks: read.chunks,
            chunk_size: 0,
            entries: read.entries,
            covariances: BTreeMap::new(),
        })
    }

    fn file(&self) -> Option<&GgufFile> {
        match &self.form {
            Form::Gguf(file) => Some(file),
            Form::Legacy { .. } => None,
        }
    }

    /// Names of the calibration texts.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Chunks that were evaluated.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Tensors with statistics.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; never true of an opened file.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// SHA-256 of the file, hexadecimal.
    pub fn hash(&self) -> String {
        match &self.form {
            Form::Gguf(file) => hexadecimal(file.data()),
            Form::Legacy { hash } => hash.clone(),
        }
    }

    /// Name of the file, without folders.
    pub fn file_name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Checks that every entry is a tensor of the model, with its columns. `tensors` are names and
    /// GGUF dimensions; those for which `needed` holds must have an entry.
    ///
    /// # Errors
    /// [`Error::Imatrix`] naming the first tensor that does not fit.
    pub fn check<'a>(
        &self,
        tensors: impl Iterator<Item = (&'a str, &'a [u64])> + Clone,
        needed: impl Fn(&str, &[u64]) -> bool,
    ) -> Result<()> {
        for (name, e) in &self.entries {
            let Some((_, dims)) = tensors.clone().find(|t| t.0 == name) else {
                let allowed = "the name of a tensor of this model (a matrix of another model?)";
                return Err(self.bad(name, "unknown".into(), allowed));
            };
            let cols = dims.first().copied().unwrap_or(0);
            let matrices: u64 = dims.iter().skip(2).product();
            if self.file().is_none() && e.cols as u64 == cols.saturating_mul(matrices) {
                continue;
            }
            if e.counts.len() > 1 && e.counts.len() as u64 != matrices {
                let allowed = format!("{matrices}, those of the model's tensor");
                let value = e.counts.len().to_string();
                return Err(self.bad(&format!("matrices of {name}"), value, &allowed));
            }
            if cols != e.cols as u64 {
                let allowed = format!("{cols}, those of the model's tensor");
                return Err(self.bad(&format!("columns of {name}"), e.cols.to_string(), &allowed));
            }
        }
        for (name, dims) in tensors {
            if needed(name, dims) && !self.entries.contains_key(name) {
                return Err(self.bad(name, "absent".into(), "statistics of each matrix"));
            }
        }
        Ok(())
    }

    /// Mean square of each column of the input of a tensor with `cols` columns, `[matrices, cols]`, times a power of
    /// two that makes it of ordinary size. A column that was always zero gets a trace of importance, so that its
    /// weights stay defined; in a matrix that no token reached all columns are alike.
    pub fn importance(&self, name: &str, cols: usize) -> Option<Vec<f32>> {
        let e = self.entries.get(name)?;
        let mut out = e.sums.clone();
        for (i, out) in out.chunks_mut(cols.max(1)).enumerate() {
            scale_to_one(out);
            let count = e.counts.get(i).or(e.counts.first()).copied();
            let count = count.unwrap_or(1.0).max(1.0);
            out.iter_mut().for_each(|v| *v /= count);
            let mean = out.iter().map(|v| f64::from(*v)).sum::<f64>() / out.len() as f64;
            let trace = if mean > 0.0 { 1e-6 * mean as f32 } else { 1.0 };
            out.iter_mut().for_each(|v| *v += trace);
            scale_to_one(out);
        }
        Some(out)
    }

    /// Whether the file has second moments.
    pub fn has_covariances(&self) -> bool {
        !self.covariances.is_empty()
    }

    /// Under which name the second moments of a tensor's input are stored; tensors with one input
    /// share them.
    pub fn moments(&self, name: &str) -> Option<&str> {
        self.covariances.get(name).map(String::as_str)
    }

    /// The second moments of a tensor's input, if the file has them.
    ///
    /// # Errors
    /// [`Error::Imatrix`] for a wrong shape or type.
    pub fn covariance(&self, name: &str) -> Result<Option<Covariance<'_>>> {
        let Some(under) = self.covariances.get(name) else {
            return Ok(None);
        };
        let field = format!("{under}{MOMENTS}");
        let Some(entry) = self.entries.get(under) else {
            return Err(self.bad(&field, "absent".into(), "a tensor with sums"));
        };
        let tensor = self.file().and_then(|file| file.tensor(&field));
        let n = entry.cols as u64;
        let tensor = tensor.filter(|t| t.dtype() == Dtype::F32 && t.info().dims[..] == [n, n]);
        let tensor = tensor.ok_or_else(|| {
            let allowed = format!("F32 [{n}, {n}]");
            self.bad(&field, "absent or of another shape".into(), &allowed)
        })?;
        Ok(Some(Covariance {
            bytes: tensor.bytes(),
            count: entry.counts[0],
            cols: entry.cols,
        }))
    }

    /// Puts the sums back into `stats`; returns the chunks that are in them.
    pub(super) fn restore(&self, origin: &Origin, stats: &mut InputStats) -> Result<usize> {
        let key = |key| match self.file() {
            Some(file) => Ok(file.str(key)?.unwrap_or("absent")),
            None => Ok::<_, Error>("absent"),
        };
        let text = key(TEXT)?;
        if text != origin.text {
            return Err(self.bad(TEXT, text.into(), &format!("{}, the text", origin.text)));
        }
        let model = key(MODEL)?;
        if !origin.model.is_empty() && model != origin.model {
            let allowed = format!("{}, the model", origin.model);
            return Err(self.bad(MODEL, model.into(), &allowed));
        }
        if self.chunk_size != origin.chunk_size {
            let allowed = origin.chunk_size.to_string();
            return Err(self.bad(CHUNK_SIZE, self.chunk_size.to_string(), &allowed));
        }
        let tokens = u64::from(self.chunks) * u64::from(self.chunk_size);
        let names: usize = stats.inputs().iter().map(|i| i.names.len()).sum();
        if names != self.entries.len() {
            let value = format!("{} tensors", self.entries.len());
            return Err(self.bad("tensors", value, &format!("{names}, as in the model")));
        }
        for input in stats.inputs_mut() {
            let name = input.names.first().map_or("", String::as_str);
            let entry = self.entries.get(name).filter(|e| e.cols == input.cols);
            let entry = entry.ok_or_else(|| {
                self.bad(name, "absent or of other columns".into(), "as in the model")
            })?;
            match &mut input.tokens[..] {
                [one] => *one = tokens,
                each if each.len() == entry.counts.len() => {
                    let counts = each.iter_mut().zip(&entry.counts);
                    counts.for_each(|(n, count)| *n = *count as u64);
                }
                each => {
                    let value = entry.counts.len().to_string();
                    let allowed = format!("{}, as in the model", each.len());
                    return Err(self.bad(&format!("matrices of {name}"), value, &allowed));
                }
            }
            input.squares.copy_from_slice(&entry.sums);
            let field = format!("{name}{MOMENTS}");
            let moments = self.file().and_then(|file| file.tensor(&field));
            if moments.is_some() == input.moments.is_empty() {
                let value = if moments.is_some() { "there" } else { "absent" };
                let allowed = "as asked for now";
                return Err(self.bad(&format!("{name}{MOMENTS}"), value.into(), allowed));
            }
            if let Some(c) = self.covariance(name)? {
                for (v, b) in input.moments.iter_mut().zip(c.bytes.as_chunks::<4>().0) {
                    *v = f32::from_le_bytes(*b);
                }
            }
        }
        Ok(self.chunks as usize)
    }

    fn bad(&self, field: &str, value: String, allowed: &str) -> Error {
        bad(&self.path, field, value, allowed)
    }
}

fn bad(path: &Path, field: &str, value: String, allowed: &str) -> Error {
    let name = path.file_name().unwrap_or(path.as_os_str());
    Error::Imatrix {
        file: name.to_string_lossy().into_owned(),
        field: field.into(),
        value,
        allowed: allowed.into(),
    }
}

/// The bytes of a file of the older form; `None` for all other files.
fn older_form(path: &Path) -> Result<Option<Vec<u8>>> {
    let about = std::fs::metadata(path).map_err(Error::io(path))?;
    // What is no regular file is refused with the words of all other files.
    if !about.is_file() || about.len() > limits::MAX_LEGACY_IMATRIX_BYTES {
        return Ok(None);
    }
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut data = vec![0; about.len().min(1 << 16) as usize];
    file.read_exact(&mut data).map_err(Error::io(path))?;
    if data.starts_with(b"GGUF") || !legacy::looks_like(&data) {
        return Ok(None);
    }
    let rest = limits::MAX_LEGACY_IMATRIX_BYTES;
    file.take(rest)
        .read_to_end(&mut data)
        .map_err(Error::io(path))?;
    Ok(Some(data))
}

fn hexadecimal(data: &[u8]) -> String {
    let sum = Sha256::digest(data);
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

/// The power of two that brings a positive number to `1..2`; 1 for others and for what is not finite.
pub fn unit_power(v: f32) -> f64 {
    if !(v > 0.0 && v.is_finite()) {
        return 1.0;
    }
    // The exponent field of F64, for which no F32 is too small, negated.
    let exponent = f64::from(v).to_bits() >> 52;
    f64::from_bits((2 * 1023 - exponent) << 52)
}

/// Scales by a power of two until the largest number is in `1..2`: only ratios count, and neither sums nor
/// squares of errors overflow or vanish.
fn scale_to_one(values: &mut [f32]) {
    let power = unit_power(values.iter().copied().fold(0.0, f32::max));
    for v in values {
        *v = (f64::from(*v) * power) as f32;
    }
}

/// Reads and checks sums and counts of a tensor.
fn entry(path: &Path, file: &GgufFile, name: &str) -> Result<Entry> {
    let read = |suffix: &str| -> Result<(Vec<u64>, Vec<f32>)> {
        let field = format!("{name}{suffix}");
        let tensor = file.tensor(&field);
        let tensor = tensor.filter(|t| t.dtype() == Dtype::F32);
        let tensor =
            tensor.ok_or_else(|| bad(path, &field, "absent or of another type".into(), "F32"))?;
        let values = tensor.bytes().as_chunks::<4>().0.iter();
        let values = values.map(|b| f32::from_le_bytes(*b)).collect();
        Ok((tensor.info().dims.clone(), values))
    };
    let ((dims, sums), (_, counts)) = (read(SUMS)?, read(COUNTS)?);
    let allowed = "finite numbers that are not negative";
    if let Some(i) = sums.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        let field = format!("{name}{SUMS}[{i}]");
        return Err(bad(path, &field, sums[i].to_string(), allowed));
    }
    // An expert may be one that no token reached.
    let least = if counts.len() > 1 {
        0.0
    } else {
        f32::MIN_POSITIVE
    };
    if let Some(i) = counts.iter().position(|v| !(v.is_finite() && *v >= least)) {
        let field = format!("{name}{COUNTS}[{i}]");
        return Err(bad(path, &field, counts[i].to_string(), "more than zero"));
    }
    let cols = dims.first().map_or(0, |n| *n as usize);
    if cols == 0 || sums.len() != cols * counts.len() {
        let field = format!("{name}{COUNTS}");
        let value = format!("{} counts for {} sums", counts.len(), sums.len());
        return Err(bad(path, &field, value, "one for each matrix"));
    }
    Ok(Entry { cols, sums, counts })
}
