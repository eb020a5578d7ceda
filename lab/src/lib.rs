//! Operators of published architectures for which no public weights exist: Mixture-of-Depths
//! (arXiv 2404.02258), MH-MoE (2404.15045), Infini-attention (2404.07143), KAN layers (2404.19756)
//! and LoReFT edits (2404.03592).
//!
//! No graph calls them. They are the formulas in plain loops over `f32`, checked by numbers, so that
//! a checkpoint that appears one day finds its arithmetic here. Matrices are row-major with a row per
//! output; sequences have a row per token.

pub mod depths;
pub mod infini;
pub mod kan;
pub mod reft;
pub mod sub_tokens;

use std::cmp::Ordering;

/// `matrix [out, in] * x [in]`.
///
/// # Panics
/// If `matrix` is not made of rows of `x.len()`.
pub(crate) fn product(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    assert_eq!(matrix.len() % x.len(), 0, "rows of {}", x.len());
    matrix
        .chunks_exact(x.len())
        .map(|row| dot(row, x))
        .collect()
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// `values` become positive numbers with sum 1.
pub(crate) fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
}

/// Indices of the `k` largest values, the largest first; of equals the first.
pub(crate) fn largest(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal));
    order.truncate(k);
    order
}

#[cfg(test)]
pub(crate) mod tests {
    /// Numbers in (-1, 1), always the same.
    pub fn numbers(seed: u32, n: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    pub fn near(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{i}: {a} and {b}");
        }
    }
}
