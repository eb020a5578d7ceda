//! How far the weights of a file are from those of its source, tensor by tensor.

use std::sync::atomic::{AtomicBool, Ordering};

use geb_kernels::Kernels;
use geb_kernels::dtype::Dtype;

use geb::error::{Error, Result};
use geb::gguf::{GgufFile, TensorView};
use geb::threads;

/// Weights of a block whose error is watched: the least block length of the quantized types.
pub const BLOCK: usize = 32;

/// A block with so many times the mean square error stands out.
pub const EVIDENT: f64 = 4.0;

/// The difference of one tensor.
#[derive(Clone, Debug)]
pub struct TensorError {
    /// GGUF name.
    pub name: String,
    /// Type in the compared file.
    pub dtype: Dtype,
    /// Weights.
    pub elements: u64,
    /// Σ x² of the source.
    pub xx: f64,
    /// Σ (x − y)².
    pub dd: f64,
    /// Largest ‖x − y‖ / ‖x‖ of [`BLOCK`] weights, among the blocks whose ‖x − y‖² is at least
    /// [`EVIDENT`] times the mean one. The others are left out: of a block that is small beside its
    /// neighbours, coarse types rightly keep little.
    pub worst: f64,
    /// Index of the first weight of that block.
    pub worst_at: u64,
}

impl TensorError {
    /// ‖x − y‖ / ‖x‖; 0 for two tensors of zeros.
    pub fn relative(&self) -> f64 {
        if self.dd == 0.0 {
            0.0
        } else {
            (self.dd / self.xx).sqrt()
        }
    }
}

/// Compares all tensors of `other` of two and more dimensions with those of the same name and
/// shape in `base`, on `threads` threads, in the order of the file. Others are left out.
///
/// # Errors
/// [`Error::Interrupted`] once `cancel` is set.
pub fn compare(
    kernels: &Kernels,
    base: &GgufFile,
    other: &GgufFile,
    threads: usize,
    cancel: &AtomicBool,
) -> Result<Vec<TensorError>> {
    let pairs: Vec<(TensorView<'_>, TensorView<'_>)> = other
        .tensors()
        .filter(|t| t.info().dims.len() > 1)
        .filter_map(|t| Some((base.tensor(&t.info().name)?, t)))
        .filter(|(a, b)| a.info().dims == b.info().dims)
        .filter(|(a, b)| kernels.supports(a.dtype()) && kernels.supports(b.dtype()))
        .collect();
    let found = threads::spread(threads.max(1), &pairs, |(a, b)| {
        let go_on = !cancel.load(Ordering::Relaxed);
        go_on.then(|| tensor(kernels, a, b))
    });
    let all: Option<Vec<_>> = found.into_iter().collect();
    all.ok_or(Error::Interrupted)
}

/// One tensor, row by row.
fn tensor(kernels: &Kernels, base: &TensorView<'_>, other: &TensorView<'_>) -> TensorError {
    let (cols, rows) = (other.info().cols(), other.info().rows());
    let (mut x, mut y) = (vec![0f32; cols], vec![0f32; cols]);
    // [‖x‖², ‖x − y‖²] per block.
    let mut blocks: Vec<[f32; 2]> = Vec::with_capacity(rows * cols.div_ceil(BLOCK));
    let (mut xx, mut dd) = (0.0, 0.0);
    let row = |t: &TensorView<'_>, r: usize, out: &mut [f32]| {
        let bytes = t.bytes().len() / rows.max(1);
        kernels.dequantize(t.dtype(), &t.bytes()[r * bytes..(r + 1) * bytes], out);
    };
    for r in 0..rows {
        row(base, r, &mut x);
        row(other, r, &mut y);
        for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
            let pairs = x.iter().zip(y).map(|(&x, &y)| (f64::from(x), f64::from(y)));
            let (size, difference) = pairs.fold((0.0, 0.0), |(s, d), (x, y)| {
                (s + x * x, d + (x - y) * (x - y))
            });
            xx += size;
            dd += difference;
            blocks.push([size as f32, difference as f32]);
        }
    }
    let least = (EVIDENT * dd / blocks.len().max(1) as f64) as f32;
    let evident = blocks
        .iter()
        .enumerate()
        .filter(|(_, b)| b[1] >= least && b[0] > 0.0);
    let (block, worst) = evident
        .map(|(i, b)| (i, f64::from(b[1] / b[0])))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or_default();
    let per_row = cols.div_ceil(BLOCK).max(1);
    TensorError {
        name: other.info().name.clone(),
        dtype: other.dtype(),
        elements: other.info().elements(),
        xx,
        dd,
        worst: worst.sqrt(),
        worst_at: (block / per_row * cols + block % per_row * BLOCK) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use geb::gguf::writer::{MetaValue, Plan, write_to};

    /// A file with one Q8_0 or F32 matrix of 3 rows.
    fn file(dtype: Dtype, bytes: &[u8]) -> GgufFile {
        let mut plan = Plan {
            metadata: vec![("general.architecture".into(), MetaValue::Str("x".into()))],
            tensors: Vec::new(),
        };
        plan.push_tensor("w", dtype, [64, 3]);
        let mut out = Vec::new();
        write_to(&mut out, &plan, &mut |_, w| {
            w.write_all(bytes).map_err(Error::io("memory"))
        })
        .expect("written");
        GgufFile::from_bytes(out).expect("valid")
    }

    #[test]
    fn a_doubled_scale_is_the_worst_block() {
        let kernels = Kernels::best().expect("kernels");
        let weights: Vec<f32> = (0..192).map(|i| ((i * 37) % 64) as f32 - 31.5).collect();
        let mut bytes = vec![0; 192 / 32 * 34];
        kernels.quantize(Dtype::Q8_0, &weights, &mut bytes);
        let floats: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let base = file(Dtype::F32, &floats);
        let run = |bytes: &[u8]| {
            let cancel = AtomicBool::new(false);
            let other = file(Dtype::Q8_0, bytes);
            compare(kernels, &base, &other, 2, &cancel).expect("compared")[0].clone()
        };
        let good = run(&bytes);
        assert!(good.relative() > 0.0 && good.relative() < 0.01, "{good:?}");
        assert!(good.worst < 0.02, "{good:?}");

        // Exponent of the fourth block's scale (half precision, little-endian).
        bytes[3 * 34 + 1] += 4;
        let bad = run(&bytes);
        assert!((bad.worst - 1.0).abs() < 0.02, "{bad:?}");
        assert_eq!(bad.worst_at, 96);
        let cancel = AtomicBool::new(true);
        assert!(compare(kernels, &base, &base, 1, &cancel).is_err());
    }
}
