//! Everything between the products: norms, activations, softmax, rope, attention.
//!
//! Each operation is one generic loop over fixed arrays of [`LANES`] floats, which the compiler
//! turns into the vector instructions of the level it is stamped for (`dispatch.rs`). There are
//! no intrinsics here. Sums run over `LANES` partial sums that are added in one fixed tree, so a
//! result depends neither on the thread count nor on how a batch is cut.

mod attention;
mod elementwise;
mod kv;
mod likelihood;
mod product;

use crate::kernels::Kernels;
use crate::mat::MatMut;

pub use attention::{AttnQuery, AttnScratch, SPLIT};
pub(crate) use attention::{attend, merge};
pub(crate) use elementwise::{add, gelu_mul, layer_norm, rms_norm, rms_norm_each, rope, silu_mul};
pub(crate) use kv::store;
pub use kv::{BLOCK, KvHead, KvRows, KvShape, KvSide, KvType};
pub(crate) use likelihood::{divergence, exp_sum};

type LayerNorm = unsafe fn(&[f32], [&[f32]; 2], f32, &mut [f32]);

/// The float kernels of one level. All pointers require its features.
#[derive(Clone, Copy)]
pub(crate) struct FloatOps {
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub rms_norm_each: unsafe fn(&mut [f32], &[f32], f32),
    pub layer_norm: LayerNorm,
    pub add: unsafe fn(&mut [f32], &[f32]),
    pub silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub rope: unsafe fn(&mut [f32], &[f32], &[f32], bool),
    pub attend: unsafe fn(&AttnQuery<'_>, KvHead<'_>, &mut [f32], &mut AttnScratch),
    pub merge: unsafe fn(KvShape, &mut [f32], &[f32]),
    pub store: unsafe fn(KvShape, KvSide, KvRows<'_>, &mut [u8]),
    pub exp_sum: unsafe fn(&[f32], f32) -> f64,
    pub divergence: unsafe fn(&[f32], &[f32], [f64; 2]) -> f64,
}

// The kernels are safe code that checks its own slices; only the features need an argument.
impl Kernels {
    /// `out = x / sqrt(mean(x^2) + eps) * weight` (RMSNorm, arXiv 1910.07467). All slices `[width]`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.rms_norm)(x, weight, eps, out) }
    }

    /// [`rms_norm`](Self::rms_norm) in place, for each `weight.len()` values of `x`.
    pub fn rms_norm_each(&self, x: &mut [f32], weight: &[f32], eps: f32) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.rms_norm_each)(x, weight, eps) }
    }

    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias` (LayerNorm, arXiv 1607.06450).
    /// All slices `[width]`.
    pub fn layer_norm(&self, x: &[f32], weight_bias: [&[f32]; 2], eps: f32, out: &mut [f32]) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.layer_norm)(x, weight_bias, eps, out) }
    }

    /// `x += y`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.add)(x, y) }
    }

    /// `gate = silu(gate) * up`.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.silu_mul)(gate, up) }
    }

    /// `gate = gelu(gate) * up`, the tanh form (arXiv 1606.08415).
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.gelu_mul)(gate, up) }
    }

    /// Rotates one head in place by the angles of one position (RoPE, arXiv 2104.09864).
    ///
    /// `cos`, `sin`: one value per pair. Pairs are `(2i, 2i+1)` when `adjacent`, else
    /// `(i, i + pairs)`; elements past the pairs stay as they are.
    pub fn rope(&self, head: &mut [f32], cos: &[f32], sin: &[f32], adjacent: bool) {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.rope)(head, cos, sin, adjacent) }
    }

    /// Attends one tile of tokens over all positions of `query`. `out`: `[tokens, heads *
    /// head_size]`. A row that sees nothing gets zeros.
    pub fn attend(
        &self,
        query: &AttnQuery<'_>,
        kv: KvHead<'_>,
        out: MatMut<'_>,
        scratch: &mut AttnScratch,
    ) {
        let mut total = core::mem::take(&mut scratch.total);
        total.resize(query.partial_len(kv.shape), 0.0);
        self.attend_partial(query, kv, &mut total, scratch);
        attention::finish(kv.shape, &total, out);
        scratch.total = total;
    }

    /// The same for some of the positions, with the result still to be merged and normalised:
    /// `partial` has [`AttnQuery::partial_len`] values. Merging the pieces of [`SPLIT`] positions
    /// in order gives the bits of [`attend`](Self::attend).
    pub fn attend_partial(
        &self,
        query: &AttnQuery<'_>,
        kv: KvHead<'_>,
        partial: &mut [f32],
        scratch: &mut AttnScratch,
    ) {
        // SAFETY: `self` proves the features; the kernel checks its slices.
        unsafe { (self.float.attend)(query, kv, partial, scratch) }
    }

    /// Merges the partial results of one tile, in the order of their positions, and normalises
    /// them into `out`. `pieces` holds them one after the other; the first one becomes the total.
    pub fn merge_partials(&self, shape: KvShape, pieces: &mut [f32], each: usize, out: MatMut<'_>) {
        let (total, rest) = pieces.split_at_mut(each);
        for piece in rest.chunks_exact(each) {
            // SAFETY: as above.
            unsafe { (self.float.merge)(shape, total, piece) }
        }
        attention::finish(shape, total, out);
    }

    /// `sum e^(x - shift)` of a row of logits, F64; relative error below 3e-7. With the largest
    /// logit as `shift`, `shift + ln(sum)` is the logarithm of the softmax's denominator.
    pub fn exp_sum(&self, x: &[f32], shift: f32) -> f64 {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.exp_sum)(x, shift) }
    }

    /// Kullback-Leibler divergence KL(p || q) in nats between the softmax of two rows of logits;
    /// `log_sums` are the logarithms of their denominators. Never below 0; small values keep their
    /// digits (`float/likelihood.rs`).
    ///
    /// # Panics
    /// If the rows differ in length.
    pub fn divergence(&self, p: &[f32], q: &[f32], log_sums: [f64; 2]) -> f64 {
        // SAFETY: `self` proves the features.
        unsafe { (self.float.divergence)(p, q, log_sums) }
    }

    /// Stores rows of one head in a block of its cache, of [`KvShape::block_bytes`].
    ///
    /// # Panics
    /// If the rows are more than the block has room for, a length is wrong or `block` is not aligned to
    /// four bytes.
    pub fn store_kv(&self, shape: KvShape, side: KvSide, rows: KvRows<'_>, block: &mut [u8]) {
        let fits = block.len() == shape.block_bytes() && rows.slot + rows.tokens <= BLOCK;
        assert!(fits, "KV head: rows and block differ");
        // SAFETY: as above.
        unsafe { (self.float.store)(shape, side, rows, block) }
    }
}

/// Partial sums per reduction.
pub(crate) const LANES: usize = 16;

/// The one arithmetic difference between levels: whether multiply-add is a single instruction.
pub(crate) trait FloatIsa: Copy {
    /// `a * b + c`, fused where the level has it.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// Levels with a fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Fused;

/// The scalar level: two roundings.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl FloatIsa for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl FloatIsa for Plain {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Adds the lanes in a fixed tree: halves, quarters, eighths.
#[inline(always)]
pub(crate) fn reduce(mut v: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            v[i] += v[i + width];
        }
        width /= 2;
    }
    v[0]
}

/// `e^x`, relative error below 2e-7 for x in -87..88; 0 below, the largest finite value above.
///
/// Cody and Waite range reduction to |r| <= ln(2)/2, then the Taylor polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp<F: FloatIsa>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = F::fma(clamped, core::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = F::fma(n, -0.693_145_75, clamped);
    let r = F::fma(n, -1.428_606_8e-6, r);
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = F::fma(p, r, c);
    }
    // The low bits of `shifted` hold n as an integer; move it into the exponent.
    let scale = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000));
    let y = p * scale;
    if x < -87.3 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_std() {
        let mut worst = 0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp::<Fused>(x)) - want) / want).abs());
            worst = worst.max(((f64::from(exp::<Plain>(x)) - want) / want).abs());
        }
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!(exp::<Fused>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<Fused>(f32::NAN).is_nan());
    }
}
