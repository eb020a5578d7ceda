//! Quantization with error feedback: the error of each weight is made up for by those after it.
//!
//! For inputs `x` with second moments `H = mean(x x^T)` the output error of a row is
//! `(w - q) H (w - q)^T`. With `H = R R^T`, `R` upper triangular (`H` made safe by a small multiple of the
//! identity), it is a sum over columns (GPTQ, arXiv 2210.17323, as nearest-plane search):
//!
//! ```text
//! error = sum over j of R[j][j]^2 (t[j] - q[j])^2,   t[j] = w[j] + sum over i < j of (w[i] - q[i]) R[i][j] / R[j][j]
//! for each block of the format, from the first column on:
//!     scales = the format's own search for t under the weights R[j][j]^2
//!     for each column j of the block: q[j] = the value nearest to t[j]; update the t after it
//!     once more with scales for the t that were reached; keep the better block
//! ```
//! Columns are taken in groups; what earlier groups add to `t` is one product of matrices. Rows do
//! not see each other, so the bytes do not depend on threads.

use geb_kernels::dtype::Dtype;
use geb_kernels::{ActKind, Activations, Effort, Grid, Kernels, MatMut, Scratch, Search};

use super::cholesky;
use crate::calibrate::Covariance;
use crate::error::{Error, Result};

/// Columns of a group, at least one block.
const GROUP: usize = 256;
/// First share of the mean square that is added to the diagonal; ten times more until it is enough.
const DAMPING: f32 = 0.01;
/// Searches for the scales of a block: first for the targets, then for those that were reached.
const ROUNDS: usize = 3;

/// How the errors of an input's columns make up for each other.
pub(super) struct Feedback {
    cols: usize,
    /// `R[j][j]^2`.
    weights: Vec<f32>,
    groups: Vec<Group>,
}

/// `R[i][j] / R[j][j]` for the columns `j` of a group.
struct Group {
    first: usize,
    width: usize,
    /// `[width, first]`: row `j - first`, column `i < first`.
    before: Vec<f32>,
    /// `[width, width]`: row `i - first`, column `j - first`; zero unless `i < j`.
    within: Vec<f32>,
}

impl Feedback {
    /// Whether `dtype` can be written this way.
    pub fn can(dtype: Dtype) -> bool {
        Grid::has(dtype)
    }

    /// Factors the second moments of an input.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when they are none.
    pub fn new(h: &Covariance<'_>) -> Result<Feedback> {
        let n = h.cols();
        let mean = (0..n).map(|j| f64::from(h.at(j, j))).sum::<f64>() / n as f64;
        if !mean.is_finite() {
            return Err(Error::NonFinite {
                what: "second moments".into(),
                index: 0,
                value: mean as f32,
            });
        }
        let mut damping = DAMPING * (mean as f32).max(f32::MIN_POSITIVE / DAMPING);
        // The factor of the matrix with rows and columns reversed is R reversed.
        let mut l = vec![0f32; n * n];
        loop {
            for i in 0..n {
                for j in 0..=i {
                    l[i * n + j] = h.at(n - 1 - i, n - 1 - j);
                }
                l[i * n + i] += damping;
            }
            if cholesky::factor(&mut l, n) {
                break;
            }
            damping *= 10.0;
            if !damping.is_finite() {
                return Err(Error::NonFinite {
                    what: "second moments: factor".into(),
                    index: 0,
                    value: damping,
                });
            }
        }
        let r = |i: usize, j: usize| l[(n - 1 - i) * n + (n - 1 - j)];
        let groups = (0..n).step_by(GROUP).map(|first| {
            let width = GROUP.min(n - first);
            let (mut before, mut within) = (vec![0.0; width * first], vec![0.0; width * width]);
            for i in 0..first + width {
                for k in 0..width {
                    let j = first + k;
                    if i < first {
                        before[k * first + i] = r(i, j) / r(j, j);
                    } else if i < j {
                        within[(i - first) * width + k] = r(i, j) / r(j, j);
                    }
                }
            }
            Group {
                first,
                width,
                before,
                within,
            }
        });
        Ok(Feedback {
            cols: n,
            groups: groups.collect(),
            weights: (0..n).map(|j| r(j, j) * r(j, j)).collect(),
        })
    }

    /// Quantizes rows: `x` is `[rows, cols]`, `out` their bytes.
    pub fn encode(&self, kernels: &'static Kernels, dtype: Dtype, x: &[f32], out: &mut [u8]) {
        let n = self.cols;
        let rows = x.len() / n;
        let row_bytes = out.len() / rows.max(1);
        let mut errors = vec![0f32; rows * n];
        let (mut acts, mut scratch) = (Activations::default(), Scratch::new());
        for group in &self.groups {
            let (first, width) = (group.first, group.width);
            let mut targets = vec![0f32; rows * width];
            if first > 0 {
                let known: Vec<f32> = errors
                    .chunks_exact(n)
                    .flat_map(|row| &row[..first])
                    .copied()
                    .collect();
                acts.reshape(kernels, ActKind::F32, rows, first);
                acts.fill(kernels, &known);
                let block = MatMut::new(&mut targets, rows, width, width);
                let weights = bytemuck::cast_slice(&group.before);
                kernels.mat_mul(Dtype::F32, weights, first, &acts, block, &mut scratch);
            }
            let at = dtype.row_bytes(first).unwrap_or(0);
            let bytes = dtype.row_bytes(width).unwrap_or(0);
            for row in 0..rows {
                let x = &x[row * n + first..][..width];
                let targets = &mut targets[row * width..][..width];
                targets.iter_mut().zip(x).for_each(|(t, x)| *t += x);
                let job = Row {
                    kernels,
                    dtype,
                    group,
                    weights: &self.weights[first..first + width],
                    x,
                };
                let errors = &mut errors[row * n + first..][..width];
                job.run(targets, errors, &mut out[row * row_bytes + at..][..bytes]);
            }
        }
    }
}

/// One row in the columns of a group.
struct Row<'a> {
    kernels: &'static Kernels,
    dtype: Dtype,
    group: &'a Group,
    weights: &'a [f32],
    x: &'a [f32],
}

impl Row<'_> {
    fn run(&self, targets: &mut [f32], errors: &mut [f32], out: &mut [u8]) {
        let (len, width) = (self.dtype.block_len(), self.group.width);
        for (at, out) in (0..width)
            .step_by(len)
            .zip(out.chunks_exact_mut(self.dtype.block_bytes()))
        {
            let errors = &mut errors[at..at + len];
            self.block(at, &targets[at..at + len], errors, out);
            let (_, rest) = targets.split_at_mut(at + len);
            for (i, e) in errors.iter().enumerate() {
                let row = &self.group.within[(at + i) * width..][at + len..width];
                rest.iter_mut().zip(row).for_each(|(t, r)| *t += e * r);
            }
        }
    }

    /// Quantizes the block of columns `at ..`: the best of a few scales.
    fn block(&self, at: usize, targets: &[f32], errors: &mut [f32], out: &mut [u8]) {
        let weights = &self.weights[at..at + targets.len()];
        let mut least = f64::INFINITY;
        let mut wanted = targets.to_vec();
        let mut made = errors.to_vec();
        let mut bytes = vec![0; out.len()];
        for _ in 0..ROUNDS {
            let search = Search {
                effort: Effort::Fast,
                importance: Some(weights),
            };
            self.kernels
                .quantize_with(self.dtype, &wanted, search, &mut bytes);
            let Some(mut grid) = Grid::of(self.dtype, &bytes) else {
                return;
            };
            wanted.copy_from_slice(targets);
            let error = self.walk(at, &mut wanted, &mut made, &mut grid);
            if error < least {
                least = error;
                grid.put(&mut bytes);
                out.copy_from_slice(&bytes);
                errors.copy_from_slice(&made);
            }
        }
    }

    /// Column by column: `targets` become those that were reached, `errors` are `w - q`. Returns the
    /// error of the outputs.
    fn walk(&self, at: usize, targets: &mut [f32], errors: &mut [f32], grid: &mut Grid) -> f64 {
        let width = self.group.width;
        let mut sum = 0.0;
        for j in 0..targets.len() {
            let q = grid.snap(j, targets[j]);
            let miss = f64::from(targets[j] - q);
            sum += f64::from(self.weights[at + j]) * miss * miss;
            let error = self.x[at + j] - q;
            errors[j] = error;
            let after = &mut targets[j + 1..];
            let row = &self.group.within[(at + j) * width + at + j + 1..];
            after.iter_mut().zip(row).for_each(|(t, r)| *t += error * r);
        }
        sum
    }
}
