//! Slow and obvious versions, in F64, that every kernel is tested against.

use crate::dtype::Dtype;
use crate::layout::{ActKind, GROUP};
use crate::level::Level;
use crate::numbers::{Number, fields};
use crate::table::Kernels;

/// Quantized activations of one token: codes, one scale per 32 columns.
pub struct QuantizedRow {
    /// One per column, -127..=127.
    pub codes: Vec<i32>,
    /// One per 32 columns.
    pub scales: Vec<f32>,
}

/// Quantizes one token as the rules in [`crate::Activations`] say.
pub fn quantize_activations(x: &[f32]) -> QuantizedRow {
    let mut q = QuantizedRow {
        codes: Vec::new(),
        scales: Vec::new(),
    };
    for group in x.chunks_exact(GROUP) {
        let max = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if group.iter().any(|v| !v.is_finite()) {
            q.scales.push(f32::NAN);
            q.codes.extend([0; GROUP]);
        } else if max < 2f32.powi(-100) {
            q.scales.push(0.0);
            q.codes.extend([0; GROUP]);
        } else {
            q.scales.push(max / 127.0);
            let inverse = 127.0 / max;
            q.codes
                .extend(group.iter().map(|v| (v * inverse).round_ties_even() as i32));
        }
    }
    q
}

/// The activations a product actually sees, as F64: rounded for `Q8` and `Bf16`, as they are for `F32`.
pub fn seen_activations(kind: ActKind, x: &[f32]) -> Vec<f64> {
    match kind {
        ActKind::F32 => x.iter().map(|&v| f64::from(v)).collect(),
        ActKind::Bf16 => {
            let mut bytes = vec![0; 2 * x.len()];
            scalar().quantize(Dtype::BF16, x, &mut bytes);
            let rounded = dequantize(Dtype::BF16, &bytes);
            rounded.iter().map(|&v| f64::from(v)).collect()
        }
        ActKind::Q8 => {
            let q = quantize_activations(x);
            let scale = |c: usize| f64::from(q.scales[c / GROUP]);
            q.codes
                .iter()
                .enumerate()
                .map(|(c, &v)| f64::from(v) * scale(c))
                .collect()
        }
    }
}

/// One output of a product, and the sum of the magnitudes of its terms, which is what bounds the
/// rounding error of any order of additions.
pub fn dot(weights: &[f32], x: &[f64]) -> (f64, f64) {
    let terms = weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * x);
    terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
}

/// Blocks of arbitrary bytes with finite scales of ordinary size, for every type: what tests and
/// benchmarks use where there is no encoder. `next` gives random numbers.
pub fn sample_blocks(dtype: Dtype, weights: usize, mut next: impl FnMut() -> u32) -> Vec<u8> {
    let bytes = dtype.row_bytes(weights).expect("whole blocks");
    let mut out: Vec<u8> = (0..bytes).map(|_| next() as u8).collect();
    for block in out.chunks_exact_mut(dtype.block_bytes()) {
        for &(at, number) in fields(dtype).unwrap_or_default() {
            // Exponents of about 2^-8, both signs.
            match number {
                Number::E8M0 => block[at] = 115 + (block[at] & 7),
                Number::F16 => block[at + 1] = block[at + 1] & 0x87 | 0x18,
                Number::BF16 => block[at + 1] = block[at + 1] & 0x80 | 0x3c,
                Number::F32 => block[at + 3] = block[at + 3] & 0x80 | 0x3c,
                Number::F64 => block[at + 7] = block[at + 7] & 0x80 | 0x3f,
            }
        }
        if dtype == Dtype::IQ1_M {
            block[55] = block[55] & 0x0f | 0x10; // the high nibble of the scale
        }
    }
    out
}

/// Decodes whole blocks with the portable definition.
pub fn dequantize(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    scalar().dequantize(dtype, bytes, &mut out);
    out
}

fn scalar() -> &'static Kernels {
    Kernels::for_level(Level::Scalar).expect("portable kernels always exist")
}
