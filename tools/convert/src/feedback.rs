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

use std::sync::{Arc, Mutex, MutexGuard};

use geb_kernels::dtype::Dtype;
use geb_kernels::{ActKind, Activations, Effort, Grid, Kernels, MatMut, Scratch, Search};

use super::cholesky;
use geb::calibrate::{Covariance, Imatrix, unit_power};
use geb::error::{Error, Result};

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

/// The feedback of one input, shared by the units of the tensors that have it: made by the first unit
/// that asks, dropped with the last, so that memory holds one or two at a time.
pub(super) struct Shared<'a> {
    imatrix: &'a Imatrix,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Units that will still ask.
    left: usize,
    made: Option<Arc<Feedback>>,
}

impl<'a> Shared<'a> {
    pub fn new(imatrix: &'a Imatrix) -> Shared<'a> {
        Shared {
            imatrix,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Announces units that will ask.
    pub fn expect(&self, units: usize) {
        self.lock().left += units;
    }

    /// The feedback for `tensor`; asked for once by each unit, from a thread that is not of `pool`.
    ///
    /// # Errors
    /// As [`Feedback::new`], or when the second moments cannot be read.
    pub fn get(&self, tensor: &str, pool: &rayon::ThreadPool) -> Result<Arc<Feedback>> {
        // A thread of the pool would be given other units while it waits, with the lock held.
        debug_assert!(pool.current_thread_index().is_none());
        let mut state = self.lock();
        let made = match state.made.take() {
            Some(made) => made,
            None => match self.imatrix.covariance(tensor)? {
                Some(h) => Arc::new(pool.install(|| Feedback::new(&h))?),
                None => {
                    return Err(Error::Verify(format!(
                        "{tensor}: no second moments in the importance matrix"
                    )));
                }
            },
        };
        state.left = state.left.saturating_sub(1);
        if state.left > 0 {
            state.made = Some(made.clone());
        }
        Ok(made)
    }
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
        // Only ratios count: of any size the same bits.
        let power = unit_power((0..n).map(|j| h.at(j, j)).fold(0.0, f32::max));
        let at = |row, col| (f64::from(h.at(row, col)) * power) as f32;
        let mean = (0..n).map(|j| f64::from(at(j, j))).sum::<f64>() / n as f64;
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
                    l[i * n + j] = at(n - 1 - i, n - 1 - j);
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
        let (len, block) = (dtype.block_len(), dtype.block_bytes());
        let mut errors = vec![0f32; rows * n];
        let (mut acts, mut scratch) = (Activations::default(), Scratch::new());
        for group in &self.groups {
            let (first, width) = (group.first, group.width);
            let mut targets = vec![0f32; rows * width];
            if first > 0 {
                acts.reshape(kernels, ActKind::F32, rows, first);
                acts.fill(kernels, &cut(&errors, n, 0, first));
                let out = MatMut::new(&mut targets, rows, width, width);
                let weights = bytemuck::cast_slice(&group.before);
                kernels.mat_mul(Dtype::F32, weights, first, &acts, out, &mut scratch);
            }
            for (targets, x) in targets.chunks_exact_mut(width).zip(x.chunks_exact(n)) {
                targets
                    .iter_mut()
                    .zip(&x[first..])
                    .for_each(|(t, x)| *t += x);
            }
            for at in (0..width).step_by(len) {
                let job = Columns {
                    kernels,
                    dtype,
                    group,
                    at,
                    weights: self.weights[first + at..][..len].repeat(rows),
                };
                let (bytes, made) = job.run(&mut targets, &cut(x, n, first + at, len));
                let skip = dtype.row_bytes(first + at).unwrap_or(0);
                for (out, b) in out
                    .chunks_exact_mut(row_bytes)
                    .zip(bytes.chunks_exact(block))
                {
                    out[skip..skip + block].copy_from_slice(b);
                }
                for (errors, made) in errors.chunks_exact_mut(n).zip(made.chunks_exact(len)) {
                    errors[first + at..][..len].copy_from_slice(made);
                }
            }
        }
    }
}

/// Columns `at .. at + len` of rows of `n`.
fn cut(x: &[f32], n: usize, at: usize, len: usize) -> Vec<f32> {
    let rows = x.chunks_exact(n).flat_map(|row| &row[at..at + len]);
    rows.copied().collect()
}

/// The columns of one block, in many rows.
struct Columns<'a> {
    kernels: &'static Kernels,
    dtype: Dtype,
    group: &'a Group,
    /// First column, from that of the group.
    at: usize,
    /// `R[j][j]^2`, once for each row.
    weights: Vec<f32>,
}

impl Columns<'_> {
    /// Quantizes the block of every row: the best of a few scales. `targets`, `[rows, width]`, learn of
    /// the errors; `x` are the weights, `[rows, len]`. Returns blocks and errors.
    fn run(&self, targets: &mut [f32], x: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let (len, size) = (self.dtype.block_len(), self.dtype.block_bytes());
        let (at, width) = (self.at, self.group.width);
        let rows = x.len() / len;
        let start = cut(targets, width, at, len);
        let (mut wanted, mut made) = (start.clone(), vec![0f32; len]);
        let (mut bytes, mut errors) = (vec![0; rows * size], vec![0f32; rows * len]);
        let mut tried = bytes.clone();
        let mut least = vec![f64::INFINITY; rows];
        for _ in 0..ROUNDS {
            let search = Search {
                effort: Effort::Fast,
                importance: Some(&self.weights),
            };
            self.kernels
                .quantize_with(self.dtype, &wanted, search, &mut tried);
            for row in 0..rows {
                let (part, block) = (row * len..row * len + len, row * size..row * size + size);
                let Some(mut grid) = Grid::of(self.dtype, &tried[block.clone()]) else {
                    continue;
                };
                let wanted = &mut wanted[part.clone()];
                wanted.copy_from_slice(&start[part.clone()]);
                let error = self.walk(wanted, &x[part.clone()], &mut made, &mut grid);
                if error < least[row] {
                    least[row] = error;
                    bytes[block.clone()].copy_from_slice(&tried[block.clone()]);
                    grid.put(&mut bytes[block]);
                    errors[part].copy_from_slice(&made);
                }
            }
        }
        for (targets, errors) in targets
            .chunks_exact_mut(width)
            .zip(errors.chunks_exact(len))
        {
            let rest = &mut targets[at + len..];
            for (i, e) in errors.iter().enumerate() {
                let row = &self.group.within[(at + i) * width..][at + len..width];
                rest.iter_mut().zip(row).for_each(|(t, r)| *t += e * r);
            }
        }
        (bytes, errors)
    }

    /// Column by column: `targets` become those that were reached, `errors` are `x - q`. Returns the
    /// error of the outputs.
    fn walk(&self, targets: &mut [f32], x: &[f32], errors: &mut [f32], grid: &mut Grid) -> f64 {
        let (at, width) = (self.at, self.group.width);
        let mut sum = 0.0;
        for j in 0..targets.len() {
            let q = grid.quantize_one(j, targets[j]);
            let miss = f64::from(targets[j] - q);
            sum += f64::from(self.weights[j]) * miss * miss;
            errors[j] = x[j] - q;
            let after = &mut targets[j + 1..];
            let row = &self.group.within[(at + j) * width + at + j + 1..];
            after
                .iter_mut()
                .zip(row)
                .for_each(|(t, r)| *t += errors[j] * r);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use geb_kernels::Level;

    use super::*;

    const COLS: usize = 320;

    fn noise(i: usize) -> f32 {
        let bits = (i as u32)
            .wrapping_mul(0x9e37_79b9)
            .rotate_left(13)
            .wrapping_mul(0x85eb_ca6b);
        (bits >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Inputs whose columns depend on each other, and on 40 common causes.
    fn moments(cols: usize, tokens: usize) -> Vec<u8> {
        let x = |t: usize, c: usize| -> f32 {
            let common: f32 = (0..40)
                .map(|k| noise(t * 40 + k) * noise(7_777 + k * cols + c))
                .sum();
            common + 0.3 * noise(99_999 + t * cols + c)
        };
        let rows: Vec<Vec<f32>> = (0..tokens)
            .map(|t| (0..cols).map(|c| x(t, c)).collect())
            .collect();
        let mut sums = vec![0f32; cols * cols];
        for row in &rows {
            for i in 0..cols {
                for j in 0..cols {
                    sums[i * cols + j] += row[i] * row[j];
                }
            }
        }
        sums.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn output_error(h: &Covariance<'_>, w: &[f32], q: &[f32]) -> f64 {
        let d: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(w - q)).collect();
        let n = d.len();
        (0..n)
            .map(|i| d[i] * (0..n).map(|j| f64::from(h.at(i, j)) * d[j]).sum::<f64>())
            .sum()
    }

    /// For each type the error of the outputs is well below that of the search without feedback, and
    /// rows do not see each other.
    #[test]
    fn feedback_lowers_the_error_of_outputs() {
        let kernels = Kernels::for_level(Level::Scalar).expect("scalar");
        for dtype in Dtype::ALL.iter().copied().filter(|t| Feedback::can(*t)) {
            let cols = if dtype.block_len() == 256 { 512 } else { COLS };
            let bytes = moments(cols, 600);
            let h = Covariance::new(&bytes, 600.0, cols);
            let feedback = Feedback::new(&h).expect("a factor");
            let w: Vec<f32> = (0..3 * cols).map(|i| 0.1 * noise(31 * i)).collect();
            let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
            let mut best = vec![0; 3 * row_bytes];
            feedback.encode(kernels, dtype, &w, &mut best);
            let mut alone = vec![0; row_bytes];
            feedback.encode(kernels, dtype, &w[cols..2 * cols], &mut alone);
            assert_eq!(alone, best[row_bytes..2 * row_bytes], "{dtype}");

            let weights: Vec<f32> = (0..cols).map(|j| h.at(j, j)).collect();
            let search = Search {
                effort: Effort::Best,
                importance: Some(&weights),
            };
            let mut plain = best.clone();
            kernels.quantize_with(dtype, &w, search, &mut plain);
            let error = |bytes: &[u8]| {
                let mut q = vec![0.0; w.len()];
                kernels.dequantize(dtype, bytes, &mut q);
                let rows = w.chunks(cols).zip(q.chunks(cols));
                rows.map(|(w, q)| output_error(&h, w, q)).sum::<f64>()
            };
            let (with, without) = (error(&best), error(&plain));
            assert!(with < 0.7 * without, "{dtype}: {with} beside {without}");
        }
    }

    /// What the walk adds up is the error of the outputs.
    #[test]
    fn the_factor_gives_the_error_of_outputs() {
        let bytes = moments(64, 200);
        let h = Covariance::new(&bytes, 200.0, 64);
        let feedback = Feedback::new(&h).expect("a factor");
        let d: Vec<f32> = (0..64).map(|i| noise(5 * i)).collect();
        let group = &feedback.groups[0];
        let mut sum = 0.0;
        for j in 0..64 {
            let before: f32 = (0..j).map(|i| d[i] * group.within[i * 64 + j]).sum();
            sum += f64::from(feedback.weights[j]) * f64::from(before + d[j]).powi(2);
        }
        let mean: f32 = (0..64).map(|j| h.at(j, j)).sum::<f32>() / 64.0;
        let damped: f32 = d.iter().map(|v| v * v * mean * DAMPING).sum();
        let expected = output_error(&h, &d, &[0.0; 64]) + f64::from(damped);
        // The factor is that of the moments times a power of two.
        let expected = expected * unit_power((0..64).map(|j| h.at(j, j)).fold(0.0, f32::max));
        assert!((sum / expected - 1.0).abs() < 1e-4, "{sum} {expected}");
    }

    #[test]
    fn an_input_that_was_always_zero_does_no_harm() {
        let kernels = Kernels::for_level(Level::Scalar).expect("scalar");
        let bytes = vec![0; 4 * 64 * 64];
        let feedback = Feedback::new(&Covariance::new(&bytes, 1.0, 64)).expect("a factor");
        let w: Vec<f32> = (0..64).map(noise).collect();
        let (mut out, mut q) = (vec![0; 36], vec![0.0; 64]);
        feedback.encode(kernels, Dtype::Q4_0, &w, &mut out);
        kernels.dequantize(Dtype::Q4_0, &out, &mut q);
        assert!(w.iter().zip(&q).all(|(w, q)| (w - q).abs() < 0.2));
    }
}
