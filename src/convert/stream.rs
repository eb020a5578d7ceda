//! Streaming the rows of one output tensor: read, check, quantize, measure, write in order.
//!
//! ```text
//! units = the tensor's rows in pieces of about UNIT weights      (the same for any thread count)
//! for each group of units:
//!     in parallel: rows -> f32 -> finite? -> quantize -> dequantize -> error sums
//!     meanwhile:   the previous group's bytes go to the file
//! ```
//! Memory is bounded by two groups of units. Sums are added in the order of the units, so the
//! report and the bytes do not depend on the number of threads.

use std::io::Write;

use geb_kernels::dtype::Dtype;
use geb_kernels::{Kernels, Search};
use rayon::prelude::*;

use super::checkpoint::{Checkpoint, float_type};
use super::feedback::Feedback;
use super::rows::Part;
use super::{Progress, Source};
use crate::error::{Error, Result};

/// Weights per unit: 1 MiB as f32.
const UNIT: usize = 1 << 18;
/// Units per thread and group.
const UNITS_PER_THREAD: usize = 4;

/// Error sums of what was written against the source.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Sums {
    /// Weights.
    pub n: u64,
    /// Σ x².
    pub xx: f64,
    /// Σ y².
    pub yy: f64,
    /// Σ xy.
    pub xy: f64,
    /// Σ (x − y)².
    pub dd: f64,
    /// max |x − y|.
    pub max: f64,
}

impl Sums {
    /// Adds the sums of a later part.
    pub fn add(&mut self, other: &Sums) {
        self.n += other.n;
        self.xx += other.xx;
        self.yy += other.yy;
        self.xy += other.xy;
        self.dd += other.dd;
        self.max = self.max.max(other.max);
    }

    fn measure(x: &[f32], y: &[f32]) -> Sums {
        let mut s = Sums {
            n: x.len() as u64,
            ..Sums::default()
        };
        for (&x, &y) in x.iter().zip(y) {
            let (x, y) = (f64::from(x), f64::from(y));
            if !(x.is_finite() && y.is_finite()) {
                continue;
            }
            s.xx += x * x;
            s.yy += y * y;
            s.xy += x * y;
            s.dd += (x - y) * (x - y);
            s.max = s.max.max((x - y).abs());
        }
        s
    }

    /// √(Σ(x−y)² / Σx²); 0 for an all-zero tensor.
    pub fn relative_rms(&self) -> f64 {
        if self.xx > 0.0 {
            (self.dd / self.xx).sqrt()
        } else {
            0.0
        }
    }

    /// Σxy / √(Σx² Σy²); 1 for an all-zero tensor.
    pub fn cosine(&self) -> f64 {
        let d = (self.xx * self.yy).sqrt();
        if d > 0.0 { (self.xy / d).min(1.0) } else { 1.0 }
    }
}

/// One tensor to be streamed.
pub(super) struct Job<'a> {
    pub checkpoint: &'a Checkpoint,
    pub kernels: &'static Kernels,
    pub search: Search<'a>,
    /// Set when errors of columns make up for each other.
    pub feedback: Option<&'a Feedback>,
    pub pool: &'a rayon::ThreadPool,
    pub name: &'a str,
    /// GGUF dimensions, contiguous first.
    pub dims: &'a [u64],
    pub source: &'a Source,
    pub dtype: Dtype,
    pub allow_nonfinite: bool,
}

/// What came out of a unit.
struct Done {
    bytes: Vec<u8>,
    sums: Sums,
    /// Source bytes read.
    read: u64,
    nonfinite: u64,
}

/// The sums of a tensor and how many of its weights are not finite (with `allow_nonfinite`).
#[derive(Default)]
pub(super) struct Outcome {
    pub sums: Sums,
    pub nonfinite: u64,
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

    /// Source rows of each unit, in output order.
    fn units(&self, parts: &[Part]) -> Vec<(usize, std::ops::Range<usize>)> {
        let step = (UNIT / self.row_len()).max(1);
        let mut units = Vec::new();
        for (p, part) in parts.iter().enumerate() {
            let n = part.rows.len();
            units.extend(
                (0..n)
                    .step_by(step)
                    .map(|first| (p, first..n.min(first + step))),
            );
        }
        units
    }

    /// Source type and f32 (or raw) rows of one unit.
    fn run_unit(&self, part: &Part, rows: std::ops::Range<usize>) -> Result<Done> {
        let source = &self.checkpoint.tensors()[part.tensor];
        let from = float_type(source)?;
        let cols = self.row_len();
        let row_bytes = from.row_bytes(cols).ok_or_else(|| self.misfit(from))?;
        let all = self.checkpoint.bytes(part.tensor);
        let row = |i: usize| {
            let start = part.rows.at(i) * row_bytes;
            &all[start..start + row_bytes]
        };
        let mut raw = Vec::with_capacity(rows.len() * row_bytes);
        for i in rows.clone() {
            raw.extend_from_slice(row(i));
        }
        let mut x = vec![0f32; rows.len() * cols];
        self.to_f32(from, &raw, &mut x);
        let index = |at: usize| {
            part.rows.at(rows.start + at / cols) as u64 * cols as u64 + (at % cols) as u64
        };
        let nonfinite = self.check(&x, index, &source.name)?;
        let read = raw.len() as u64;
        if from == self.dtype {
            let sums = Sums::measure(&x, &x);
            return Ok(Done {
                bytes: raw,
                sums,
                read,
                nonfinite,
            });
        }
        let (bytes, sums) = self.encode(&x, index)?;
        Ok(Done {
            bytes,
            sums,
            read,
            nonfinite,
        })
    }

    fn misfit(&self, dtype: Dtype) -> Error {
        Error::Verify(format!(
            "tensor {}: rows of {} weights cannot be {dtype}",
            self.name,
            self.row_len()
        ))
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
        let Some(at) = x.iter().position(|v| !v.is_finite()) else {
            return Ok(0);
        };
        if !self.allow_nonfinite || self.dtype.block_len() > 1 {
            return Err(Error::NonFinite {
                what: format!("tensor {source}"),
                index: index(at),
                value: x[at],
            });
        }
        Ok(x[at..].iter().filter(|v| !v.is_finite()).count() as u64)
    }

    /// Quantizes whole rows and measures what the file will hold.
    fn encode(&self, x: &[f32], index: impl Fn(usize) -> u64) -> Result<(Vec<u8>, Sums)> {
        let len = self
            .dtype
            .row_bytes(x.len())
            .ok_or_else(|| self.misfit(self.dtype))?;
        let mut bytes = vec![0u8; len];
        match self.feedback {
            Some(f) => f.encode(self.kernels, self.dtype, x, &mut bytes),
            None => (self.kernels).quantize_with(self.dtype, x, self.search, &mut bytes),
        }
        let mut y = vec![0f32; x.len()];
        self.kernels.dequantize(self.dtype, &bytes, &mut y);
        if let Some(at) = y
            .iter()
            .zip(x)
            .position(|(y, x)| !y.is_finite() && x.is_finite())
            && (!self.allow_nonfinite || self.dtype.block_len() > 1)
        {
            let what = format!(
                "tensor {} as {} (the value is too large for the type)",
                self.name, self.dtype
            );
            return Err(Error::NonFinite {
                what,
                index: index(at),
                value: x[at],
            });
        }
        let sums = Sums::measure(x, &y);
        Ok((bytes, sums))
    }

    /// Streams the tensor to `out`.
    pub fn run(&self, out: &mut dyn Write, progress: &mut dyn Progress) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let parts = match self.source {
            Source::Rows(parts) => parts,
            Source::Values(values) => {
                let (bytes, sums) = self.encode(values, |at| at as u64)?;
                out.write_all(&bytes).map_err(Error::io("output"))?;
                outcome.sums = sums;
                return Ok(outcome);
            }
        };
        let units = self.units(parts);
        let group = self.pool.current_num_threads().max(1) * UNITS_PER_THREAD;
        let mut ready: Vec<Done> = Vec::new();
        let mut groups = units.chunks(group);
        loop {
            let next = groups.next();
            let mut computed: Vec<Result<Done>> = Vec::new();
            let mut written = Ok(());
            self.pool.in_place_scope(|scope| {
                if let Some(next) = next {
                    let computed = &mut computed;
                    scope.spawn(move |_| {
                        *computed = next
                            .par_iter()
                            .map(|(p, rows)| self.run_unit(&parts[*p], rows.clone()))
                            .collect();
                    });
                }
                written = ready.iter().try_for_each(|d| out.write_all(&d.bytes));
            });
            written.map_err(Error::io("output"))?;
            for done in ready.drain(..) {
                outcome.sums.add(&done.sums);
                outcome.nonfinite += done.nonfinite;
                progress.advance(done.read);
            }
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            // In unit order, so that the first bad weight is named whatever the thread count.
            ready = computed.into_iter().collect::<Result<_>>()?;
            if next.is_none() {
                return Ok(outcome);
            }
        }
    }
}
