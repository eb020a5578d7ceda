//! One unit of an output tensor: read, check, quantize, measure.
//!
//! ```text
//! units = the tensor's rows in pieces of about UNIT weights     (the same for any thread count)
//! unit:   rows -> f32 -> finite? -> in range? -> quantize -> dequantize -> error sums
//! ```
//! A unit and what is made of it fit into the second-level cache. Sums are added in the order of
//! the units, so the report and the bytes do not depend on the number of threads.

use std::ops::Range;
use std::sync::Arc;

use geb_kernels::dtype::Dtype;
use geb_kernels::{Effort, Kernels, Search};
use sha2::{Digest, Sha256};

use super::checkpoint::{Checkpoint, float_type};
use super::feedback::Shared;
use super::item::Source;
use super::made::Made;
use super::merge::{self, Change};
use super::range;
use super::rows::Part;
use super::sums::{Outcome, Sums};
use super::tensor::is_integer;
use geb::error::{Error, Result};
use geb::sparsity::worth_packing;

/// Weights per unit: 256 KiB as f32.
const UNIT: usize = 1 << 16;
/// Weights that are measured together where the type has no blocks.
const PLAIN_BLOCK: usize = 32;

/// One tensor to be streamed.
pub(super) struct Job<'a> {
    pub checkpoint: &'a Checkpoint,
    pub kernels: &'static Kernels,
    pub effort: Effort,
    /// A weight for the squared errors of each column, of each matrix of a stack.
    pub importance: Option<Vec<f32>>,
    /// Set when errors of columns make up for each other.
    pub feedback: Option<Arc<Shared<'a>>>,
    /// What is added to the weights first.
    pub changes: &'a [Change],
    pub name: &'a str,
    /// GGUF dimensions, contiguous first.
    pub dims: &'a [u64],
    pub source: &'a Source,
    pub dtype: Dtype,
    pub allow_nonfinite: bool,
}

/// Some rows of a tensor.
pub(super) struct Unit {
    /// Of the source's parts.
    part: usize,
    /// Rows of the part, in output order.
    rows: Range<usize>,
    /// Number of the first row in the output.
    first: usize,
}

/// What came out of a unit.
pub(super) struct Done {
    pub bytes: Vec<u8>,
    pub outcome: Outcome,
    /// Source bytes read.
    pub read: u64,
    /// SHA-256 of them.
    pub source: [u8; 32],
}

/// Memory a thread uses again for every unit.
#[derive(Default)]
pub(super) struct Scratch {
    raw: Vec<u8>,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Job<'_> {
    /// Vectors are rows of one weight, so that they can be permuted like matrices.
    fn row_len(&self) -> usize {
        if self.dims.len() == 1 {
            1
        } else {
            self.dims[0] as usize
        }
    }

    /// The pieces of the tensor, in output order.
    pub fn units(&self) -> Vec<Unit> {
        let parts: Vec<usize> = match self.source {
            Source::Rows(parts) => parts.iter().map(|p| p.rows.len()).collect(),
            Source::Values(values) => vec![values.len()],
            Source::Made(_) => {
                let rows = self.dims.iter().product::<u64>() as usize / self.row_len();
                let whole = Unit {
                    part: 0,
                    rows: 0..rows,
                    first: 0,
                };
                return vec![whole];
            }
        };
        let step = (UNIT / self.row_len()).max(1);
        let matrix = self.matrix_rows();
        let (mut units, mut first) = (Vec::new(), 0);
        for (part, n) in parts.into_iter().enumerate() {
            let mut start = 0;
            while start < n {
                // The matrices of a stack have importances of their own.
                let end = n.min(start + step.min(matrix - first % matrix));
                let rows = start..end;
                units.push(Unit { part, rows, first });
                (first, start) = (first + end - start, end);
            }
        }
        units
    }

    /// Rows of one matrix of a stack.
    fn matrix_rows(&self) -> usize {
        match self.dims {
            [_, rows, _, ..] => (*rows as usize).max(1),
            _ => usize::MAX,
        }
    }

    /// The importances of the matrix that a unit is of.
    fn importance_of(&self, unit: &Unit) -> Option<&[f32]> {
        let all = self.importance.as_deref()?;
        let matrices = (all.len() / self.row_len()).max(1);
        all.chunks_exact(self.row_len())
            .nth(unit.first / self.matrix_rows() % matrices)
    }

    /// Reads and encodes one unit; parallel work runs on `pool`, whose thread this is not.
    pub fn run(
        &self,
        unit: &Unit,
        pool: &rayon::ThreadPool,
        scratch: &mut Scratch,
    ) -> Result<Done> {
        let mut sum = Sha256::new();
        let parts = match self.source {
            Source::Rows(parts) => parts,
            Source::Values(values) => {
                let x = &values[unit.rows.clone()];
                hash_values(x, &mut sum);
                return self.plain(x, 0, (unit, pool), scratch, sum);
            }
            Source::Made(made) => {
                let x = made.values(self.checkpoint)?;
                self.hash_made(made, &mut sum)?;
                let read = made.source_bytes(self.checkpoint);
                return self.plain(&x, read, (unit, pool), scratch, sum);
            }
        };
        let (part, rows) = (&parts[unit.part], &unit.rows);
        let source = &self.checkpoint.tensors()[part.tensor];
        let cols = self.row_len();
        let from = self.load(part, rows, scratch, &mut sum)?;
        let Scratch { raw, x, y } = scratch;
        if is_integer(from) {
            if from != self.dtype || part.moves() || !self.changes.is_empty() {
                return Err(self.misfit(self.dtype));
            }
            return Ok(Done {
                read: raw.len() as u64,
                bytes: raw.clone(),
                outcome: Outcome::default(),
                source: sum.finalize().into(),
            });
        }
        let index = |at: usize| {
            let (row, col) = (part.rows.at(rows.start + at / cols), part.column(at % cols));
            let (row, col) = (row as u64, col as u64);
            match part.transposed {
                true => col * source.cols() as u64 + row,
                false => row * cols as u64 + col,
            }
        };
        let nonfinite = self.check(x, index, &source.name)?;
        let same = part.offset == 0.0 && part.scale == 1.0;
        if !same {
            x.iter_mut()
                .for_each(|v| *v = *v * part.scale + part.offset);
        }
        merge::apply(self.changes, unit.first, cols, x);
        let changed = !same || part.moves() || !self.changes.is_empty();
        let (bytes, mut outcome) = if from == self.dtype && !changed {
            let bytes = match from {
                Dtype::F32 if cfg!(target_endian = "little") => bytemuck::cast_slice(x).to_vec(),
                _ => raw.clone(),
            };
            let (sums, worst) = Sums::measure(x, x, self.block_len(), 0);
            let outcome = Outcome {
                sums,
                worst,
                nonfinite: 0,
                zeros: self.zeros(x),
            };
            (bytes, outcome)
        } else {
            self.encode(x, (unit, pool), y, index)?
        };
        outcome.nonfinite = nonfinite;
        let whole = source.range.len().max(1) as u128;
        let read = (u128::from(source.stored()) * raw.len() as u128 / whole) as u64;
        Ok(Done {
            bytes,
            outcome,
            read,
            source: sum.finalize().into(),
        })
    }

    /// Encodes values that are no rows of the source.
    fn plain(
        &self,
        x: &[f32],
        read: u64,
        at: (&Unit, &rayon::ThreadPool),
        scratch: &mut Scratch,
        sum: Sha256,
    ) -> Result<Done> {
        let (bytes, outcome) = self.encode(x, at, &mut scratch.y, |at| at as u64)?;
        Ok(Done {
            bytes,
            outcome,
            read,
            source: sum.finalize().into(),
        })
    }

    /// Reads rows of a part as F32 into `scratch.x`, and their bytes into `scratch.raw` where they are
    /// of another type; returns that type. All that is read goes through `sum`.
    fn load(
        &self,
        part: &Part,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        sum: &mut Sha256,
    ) -> Result<Dtype> {
        let source = &self.checkpoint.tensors()[part.tensor];
        let from = float_type(source)?;
        let cols = self.row_len();
        let row_bytes = from.row_bytes(cols).ok_or_else(|| self.misfit(from))?;
        let Scratch { raw, x, .. } = scratch;
        x.resize(rows.len() * cols, 0.0);
        raw.resize(rows.len() * row_bytes, 0);
        if is_integer(from) {
            self.read(part, rows, row_bytes, raw, sum)?;
        } else if part.transposed {
            self.read_columns(part, rows, (from, cols), (raw, x), sum)?;
        } else if let Some(coded) = &source.coded {
            let list: Vec<usize> = rows.clone().map(|i| part.rows.at(i)).collect();
            coded.decode.rows(self.checkpoint.files(), &list, x)?;
            hash_values(x, sum);
        } else if from == Dtype::F32 && cfg!(target_endian = "little") {
            self.read(part, rows, row_bytes, bytemuck::cast_slice_mut(x), sum)?;
        } else {
            self.read(part, rows, row_bytes, raw, sum)?;
            self.to_f32(from, raw, x);
        }
        part.reorder(x);
        Ok(from)
    }

    /// SHA-256 over the [`Done::source`] of all units, from the source as it is now.
    pub fn source_hash(&self) -> Result<[u8; 32]> {
        let (mut all, mut scratch) = (Sha256::new(), Scratch::default());
        for unit in self.units() {
            let mut sum = Sha256::new();
            match self.source {
                Source::Values(values) => hash_values(&values[unit.rows.clone()], &mut sum),
                Source::Made(made) => self.hash_made(made, &mut sum)?,
                Source::Rows(parts) => {
                    self.load(&parts[unit.part], &unit.rows, &mut scratch, &mut sum)?;
                }
            }
            all.update(sum.finalize());
        }
        Ok(all.finalize().into())
    }

    fn hash_made(&self, made: &Made, sum: &mut Sha256) -> Result<()> {
        let mut piece = vec![0; UNIT];
        for i in made.tensors() {
            let length = self.checkpoint.tensors()[i].range.len();
            for at in (0..length).step_by(UNIT) {
                let piece = &mut piece[..UNIT.min(length - at)];
                self.checkpoint.read(i, at, piece)?;
                sum.update(piece);
            }
        }
        Ok(())
    }

    /// Copies rows of a part, neighbours at once.
    fn read(
        &self,
        part: &Part,
        rows: &Range<usize>,
        row_bytes: usize,
        out: &mut [u8],
        sum: &mut Sha256,
    ) -> Result<()> {
        let mut at = rows.start;
        let mut out = out;
        while at < rows.end {
            let start = part.rows.at(at);
            let together = (at + 1..rows.end)
                .take_while(|&i| part.rows.at(i) == start + i - at)
                .count();
            let n = together + 1;
            let (now, later) = out.split_at_mut(n * row_bytes);
            self.checkpoint.read(part.tensor, start * row_bytes, now)?;
            sum.update(&now);
            (at, out) = (at + n, later);
        }
        Ok(())
    }

    /// Columns of a part as rows of `cols` numbers, from row after row of the source.
    fn read_columns(
        &self,
        part: &Part,
        rows: &Range<usize>,
        (from, cols): (Dtype, usize),
        (raw, x): (&mut [u8], &mut [f32]),
        sum: &mut Sha256,
    ) -> Result<()> {
        let tensor = &self.checkpoint.tensors()[part.tensor];
        let size = |n: usize| from.row_bytes(n).ok_or_else(|| self.misfit(from));
        let first = part.rows.at(rows.start);
        let together = (rows.clone()).all(|i| part.rows.at(i) == first + i - rows.start);
        if !together || from.block_len() > 1 {
            return Err(self.misfit(from));
        }
        let mut line = vec![0.0; rows.len()];
        let raw = &mut raw[..size(rows.len())?];
        for col in 0..cols {
            let at = size(col * tensor.cols() + first)?;
            self.checkpoint.read(part.tensor, at, raw)?;
            sum.update(&raw);
            self.to_f32(from, raw, &mut line);
            for (x, v) in x[col..].iter_mut().step_by(cols).zip(&line) {
                *x = *v;
            }
        }
        Ok(())
    }

    fn misfit(&self, dtype: Dtype) -> Error {
        Error::Verify(format!(
            "tensor {}: rows of {} weights cannot be {dtype}",
            self.name,
            self.row_len()
        ))
    }

    /// Block length of the output, for measurements.
    fn block_len(&self) -> usize {
        match self.dtype.block_len() {
            1 => PLAIN_BLOCK,
            n => n,
        }
    }

    fn to_f32(&self, from: Dtype, raw: &[u8], x: &mut [f32]) {
        if from == Dtype::F64 {
            for (x, b) in x.iter_mut().zip(raw.chunks_exact(8)) {
                let mut le = [0; 8];
                le.copy_from_slice(b);
                *x = f64::from_le_bytes(le) as f32;
            }
        } else {
            self.kernels.dequantize(from, raw, x);
        }
    }

    /// Counts what is not finite, or fails naming tensor and index.
    fn check(&self, x: &[f32], index: impl Fn(usize) -> u64, source: &str) -> Result<u64> {
        if all_finite(x) {
            return Ok(0);
        }
        let at = x.iter().position(|v| !v.is_finite()).unwrap_or(0);
        if !self.allow_nonfinite || self.dtype.block_len() > 1 {
            return Err(Error::NonFinite {
                what: format!("tensor {source}"),
                index: index(at),
                value: x[at],
            });
        }
        Ok(x.iter().filter(|v| !v.is_finite()).count() as u64)
    }

    /// Quantizes whole rows and measures what the file will hold.
    fn encode(
        &self,
        x: &[f32],
        (unit, pool): (&Unit, &rayon::ThreadPool),
        y: &mut Vec<f32>,
        index: impl Fn(usize) -> u64,
    ) -> Result<(Vec<u8>, Outcome)> {
        let len = self.dtype.row_bytes(x.len());
        let len = len.ok_or_else(|| self.misfit(self.dtype))?;
        let strict = !self.allow_nonfinite || self.dtype.block_len() > 1;
        if strict && let Some(at) = range::outside(self.dtype, x) {
            let [low, high] = range::range(self.dtype);
            return Err(self.too_large(index(at), x[at], format!("{low:e}..={high:e}")));
        }
        let mut bytes = vec![0u8; len];
        let search = Search {
            effort: self.effort,
            importance: self.importance_of(unit),
        };
        match &self.feedback {
            Some(f) => (f.get(self.name, pool)?).encode(self.kernels, self.dtype, x, &mut bytes),
            None => (self.kernels).quantize_with(self.dtype, x, search, &mut bytes),
        }
        y.resize(x.len(), 0.0);
        self.kernels.dequantize(self.dtype, &bytes, y);
        // What is inside the range of the type can still be too much for the scale of its block.
        let overflow = |(y, x): (&f32, &f32)| !y.is_finite() && x.is_finite();
        if strict
            && !all_finite(y)
            && let Some(at) = y.iter().zip(x).position(overflow)
        {
            let most = format!("blocks whose scale an F16 of {} holds", self.dtype);
            return Err(self.too_large(index(at), x[at], most));
        }
        let block = self.block_len();
        let first = (unit.first * self.row_len() / block) as u64;
        let (sums, worst) = Sums::measure(x, y, block, first);
        let outcome = Outcome {
            sums,
            worst,
            nonfinite: 0,
            zeros: self.zeros(y),
        };
        Ok((bytes, outcome))
    }

    fn too_large(&self, index: u64, value: f32, allowed: String) -> Error {
        Error::OutOfRange {
            what: format!("tensor {} as {}", self.name, self.dtype),
            index,
            value,
            allowed,
        }
    }

    /// Zeros among the weights as the file holds them, if anybody will ask.
    fn zeros(&self, y: &[f32]) -> u64 {
        match worth_packing(self.dtype, self.dims) {
            true => y.iter().map(|v| u64::from(*v == 0.0)).sum(),
            false => 0,
        }
    }
}

fn hash_values(values: &[f32], sum: &mut Sha256) {
    match cfg!(target_endian = "little") {
        true => sum.update(bytemuck::cast_slice::<f32, u8>(values)),
        false => values.iter().for_each(|v| sum.update(v.to_le_bytes())),
    }
}

/// Without an early end, so that it is done many numbers at a time.
fn all_finite(x: &[f32]) -> bool {
    x.iter().fold(true, |all, v| all & v.is_finite())
}
