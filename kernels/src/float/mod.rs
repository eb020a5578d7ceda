//! Everything between the products: norms, activations, softmax, rope, attention.
//!
//! Each operation is one generic loop over fixed arrays of `LANES` floats, which the compiler
//! turns into the vector instructions of the level it is stamped for (`dispatch.rs`). There are
//! no intrinsics here. Sums run over `LANES` partial sums that are added in one fixed tree, so a
//! result depends neither on the thread count nor on how a batch is cut.

mod attention;
mod elementwise;
mod kv;
mod likelihood;
mod product;

pub use attention::{AttnQuery, AttnScratch, SPLIT};
pub(crate) use attention::{attend, finish, merge};
pub(crate) use elementwise::{add, gelu_mul, layer_norm, rms_norm, rms_norm_each, rope, silu_mul};
pub(crate) use kv::store;
pub use kv::{BLOCK, KvHead, KvRows, KvShape, KvSide, KvType};
pub(crate) use likelihood::{divergence, exp_sum};

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
