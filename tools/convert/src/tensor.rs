//! A tensor of a checkpoint: a name, a type, a shape and where its bytes are, or how its rows are decoded.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use geb_kernels::dtype::Dtype;

use super::folder::bad;
use geb::error::{Error, Result};
use geb::limits;
use geb::mmap::Bytes;

/// Type of the elements of a checkpoint tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elem {
    /// A type that rows can be read from.
    Float(Dtype),
    /// Anything else (integer and bool buffers), listed but never read.
    Other(&'static str),
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct SourceTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Type of the elements.
    pub elem: Elem,
    /// Shape, outermost dimension first (PyTorch order).
    pub shape: Vec<u64>,
    /// Which of the checkpoint's files.
    pub(super) file: usize,
    /// Bytes in that file, row-major; of a decoded matrix, those it would have in F32.
    pub(super) range: Range<usize>,
    /// How rows are decoded, of a quantized matrix.
    pub(super) coded: Option<Coded>,
}

impl SourceTensor {
    /// Row length: the innermost dimension; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().map_or(1, |&d| d as usize)
    }

    /// Bytes of the source that hold it.
    pub(super) fn stored(&self) -> u64 {
        let coded = self.coded.as_ref().map(|c| c.decode.stored());
        coded.unwrap_or(self.range.len() as u64)
    }

    /// Number of rows: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product::<u64>() as usize
    }
}

/// The files of a checkpoint: names and bytes.
#[derive(Default)]
pub(super) struct Files(pub Vec<(String, Bytes)>);

impl Files {
    /// Copies bytes that the files hold, starting `at` bytes into a tensor.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Verify`] when they do not lie in the tensor.
    pub fn read(&self, t: &SourceTensor, at: usize, out: &mut [u8]) -> Result<()> {
        if at + out.len() > t.range.len() {
            return Err(Error::Verify(format!("rows beyond the end of {}", t.name)));
        }
        let (name, bytes) = &self.0[t.file];
        let read = bytes.read_at(t.range.start + at, out);
        read.map_err(Error::io(name))
    }
}

/// Decodes the rows of a matrix.
pub(super) trait Decode: Debug + Send + Sync {
    /// Some rows as floats, one after the other.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NonFinite`] for scales.
    fn rows(&self, files: &Files, rows: &[usize], out: &mut [f32]) -> Result<()>;

    /// Bytes of the source.
    fn stored(&self) -> u64;
}

/// A matrix that is decoded when it is read.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    /// What decodes it.
    pub decode: Arc<dyn Decode>,
    /// Length of a row.
    pub cols: usize,
    /// Rows are outputs, also in families whose checkpoints have inputs there.
    pub linear: bool,
}

impl Coded {
    /// Bytes of the matrix in F32, little-endian, from `at`.
    ///
    /// # Errors
    /// As [`Decode::rows`].
    pub fn read(&self, files: &Files, at: usize, out: &mut [u8]) -> Result<()> {
        let size = 4 * self.cols.max(1);
        let mut row = vec![0.0; self.cols];
        let mut done = 0;
        while done < out.len() {
            let (number, skip) = ((at + done) / size, (at + done) % size);
            self.decode.rows(files, &[number], &mut row)?;
            let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
            let n = (size - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&bytes[skip..skip + n]);
            done += n;
        }
        Ok(())
    }
}

/// Bytes of a tensor. The product of all dimensions, zeros left out, must stay in bounds, so that
/// no partial product of an accepted shape overflows.
pub(super) fn byte_count(file: &str, name: &str, shape: &[u64], elem_bytes: u64) -> Result<u64> {
    let product = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1)));
    let elements = product
        .filter(|&n| n <= limits::MAX_ELEMENTS)
        .ok_or_else(|| {
            let value = format!("{shape:?}");
            bad(
                file,
                format!("{name}: shape"),
                value,
                "at most 2^48 elements",
            )
        })?;
    let empty = shape.contains(&0);
    Ok(if empty { 0 } else { elements * elem_bytes })
}

/// At most [`limits::MAX_DIMS`] dimensions of at most [`limits::MAX_DIM`].
pub(super) fn check_shape(file: &str, name: &str, shape: &[u64]) -> Result<()> {
    let ok = shape.len() <= 8 && shape.iter().all(|&d| d <= limits::MAX_DIM);
    if ok && name.len() <= 1024 && !name.is_empty() {
        return Ok(());
    }
    let cut: String = name.chars().take(80).collect();
    Err(bad(
        file,
        format!("{cut}: shape"),
        format!("{:?}", &shape[..shape.len().min(9)]),
        "at most 8 dimensions of at most 2^40, a name of 1..=1024 bytes",
    ))
}

/// The type rows are read from.
///
/// # Errors
/// [`Error::Unsupported`] for integer, bool and 8-bit float tensors.
pub fn float_type(t: &SourceTensor) -> Result<Dtype> {
    match t.elem {
        Elem::Float(dtype) => Ok(dtype),
        Elem::Other(name) => Err(Error::Unsupported {
            what: "weight type",
            value: format!("{name} of {}", t.name),
            known: "F32, F16, BF16, F64".into(),
        }),
    }
}

/// Types that are no weights: their bytes are copied as they are.
pub(super) fn is_integer(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64)
}
