//! Everything between the products.

use crate::float::{AttnQuery, AttnScratch, BLOCK, KvHead, KvRows, KvShape, KvSide, finish};
use crate::mat::MatMut;
use crate::table::Kernels;

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
        finish(kv.shape, &total, out);
        scratch.total = total;
    }

    /// The same for some of the positions, with the result still to be merged and normalised:
    /// `partial` has [`AttnQuery::partial_len`] values. Merging the pieces of [`SPLIT`](crate::float::SPLIT) positions
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
        finish(shape, total, out);
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
