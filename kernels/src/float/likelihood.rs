//! What an evaluation asks of a row of logits: the normaliser of its softmax, and the
//! Kullback-Leibler divergence between two rows.
//!
//! Exponentials are F32, sums F64. The divergence is summed as
//! ```text
//! KL(p || q) = sum p log(p / q) = sum (p d - p + q)      d = log p - log q
//! ```
//! (`p` and `q` both add up to 1). Every term of the right side is at least 0, and rounding errors
//! of `p`, `q` and the normalisers enter it only multiplied with `d`: so small divergences, between
//! a model and its 8-bit copy say, keep their digits, where the plain sum would lose them.

use super::{FloatIsa, LANES, exp};

/// Up to this |d| a term is `p` times the series of `e^-d - 1 + d`, above it is formed as written.
const NEAR: f32 = 1.0;

/// `sum e^(x - shift)`.
#[inline(always)]
pub(crate) fn exp_sum<F: FloatIsa>(x: &[f32], shift: f32) -> f64 {
    let mut acc = [0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    for (a, v) in acc.iter_mut().zip(chunks.remainder()) {
        *a += f64::from(exp::<F>(v - shift));
    }
    for c in chunks {
        for i in 0..LANES {
            acc[i] += f64::from(exp::<F>(c[i] - shift));
        }
    }
    acc.iter().sum()
}

/// One element's share of the divergence.
#[inline(always)]
fn term<F: FloatIsa>(x: f32, y: f32, [log_p, log_q, offset]: [f32; 3]) -> f64 {
    let (p, q) = (exp::<F>(x - log_p), exp::<F>(y - log_q));
    let d = (x - y) - offset;
    let near = p * (d * d * series::<F>(d.clamp(-NEAR, NEAR)));
    let far = F::fma(p, d, q - p);
    f64::from(if d.abs() <= NEAR { near } else { far })
}

/// KL(p || q) in nats of two rows of logits with the logarithms of their softmax sums.
#[inline(always)]
pub(crate) fn divergence<F: FloatIsa>(p: &[f32], q: &[f32], log_sums: [f64; 2]) -> f64 {
    assert_eq!(p.len(), q.len(), "divergence: lengths differ");
    let [log_p, log_q] = log_sums.map(|s| s as f32);
    let offset = (log_sums[0] - log_sums[1]) as f32;
    let shifts = [log_p, log_q, offset];
    let mut acc = [0f64; LANES];
    let (xs, ys) = (p.chunks_exact(LANES), q.chunks_exact(LANES));
    for ((a, x), y) in acc.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
        *a += term::<F>(*x, *y, shifts);
    }
    for (x, y) in xs.zip(ys) {
        for i in 0..LANES {
            acc[i] += term::<F>(x[i], y[i], shifts);
        }
    }
    acc.iter().sum()
}

/// `(e^-d - 1 + d) / d^2` for |d| <= 1: the sum of `(-d)^k / (k + 2)!` for k = 0..=9, relative error
/// below 2e-8 plus rounding.
#[inline(always)]
fn series<F: FloatIsa>(d: f32) -> f32 {
    let mut sum = -1.0 / 39_916_800.0;
    for c in [
        1.0 / 3_628_800.0,
        -1.0 / 362_880.0,
        1.0 / 40_320.0,
        -1.0 / 5_040.0,
        1.0 / 720.0,
        -1.0 / 120.0,
        1.0 / 24.0,
        -1.0 / 6.0,
        0.5,
    ] {
        sum = F::fma(sum, d, c);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::{Fused, Plain};
    use super::*;

    /// The definition in F64.
    fn plain(p: &[f32], q: &[f32]) -> ([f64; 2], f64) {
        let log_sum = |x: &[f32]| {
            let max = x.iter().fold(f64::MIN, |a, v| a.max(f64::from(*v)));
            let sum: f64 = x.iter().map(|v| (f64::from(*v) - max).exp()).sum();
            max + sum.ln()
        };
        let logs = [log_sum(p), log_sum(q)];
        let kl = p.iter().zip(q).map(|(x, y)| {
            let (a, b) = (f64::from(*x) - logs[0], f64::from(*y) - logs[1]);
            a.exp() * (a - b)
        });
        (logs, kl.sum())
    }

    /// Logits like those of a model: a few large, many small; `q` near to `p` by `noise`.
    fn rows(n: usize, noise: f32) -> (Vec<f32>, Vec<f32>) {
        let mut state = 12_345u64 + n as u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let p: Vec<f32> = (0..n).map(|_| 25.0 * uniform().powi(4) - 8.0).collect();
        let q = p
            .iter()
            .map(|x| x + 3.0 + noise * (uniform() - 0.5))
            .collect();
        (p, q)
    }

    #[test]
    fn normalisers_match_f64() {
        for n in [1usize, 15, 16, 17, 1000, 49_152] {
            let (p, _) = rows(n, 0.0);
            let max = p.iter().copied().fold(f32::MIN, f32::max);
            let want = plain(&p, &p).0[0];
            for sum in [exp_sum::<Fused>(&p, max), exp_sum::<Plain>(&p, max)] {
                let got = f64::from(max) + sum.ln();
                assert!((got - want).abs() < 3e-7, "{n}: {got} {want}");
            }
        }
    }

    #[test]
    fn divergences_match_f64_down_to_the_smallest() {
        // Divergences from 1e-9 to 10 nats, all to one part in 10^4 or better.
        for noise in [1e-4f32, 1e-3, 0.03, 0.3, 3.0, 30.0] {
            for n in [17usize, 1000, 49_152] {
                let (p, q) = rows(n, noise);
                let (logs, want) = plain(&p, &q);
                for got in [
                    divergence::<Fused>(&p, &q, logs),
                    divergence::<Plain>(&p, &q, logs),
                ] {
                    let off = (got - want).abs() / want;
                    // The reference itself is the difference of numbers near 1.
                    assert!(
                        off < 2e-5 + 1e-14 / want,
                        "noise {noise}, n {n}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn equal_rows_diverge_by_nothing_and_impossible_tokens_count() {
        let (p, _) = rows(1000, 0.0);
        let shifted: Vec<f32> = p.iter().map(|x| x + 4.0).collect();
        let (logs, _) = plain(&p, &shifted);
        assert!(divergence::<Fused>(&p, &p, [logs[0]; 2]) == 0.0);
        assert!(divergence::<Fused>(&p, &shifted, logs) < 1e-11);
        // p is sure of the first token, q of the second: d reaches 200, p underflows.
        let (p, q) = ([200f32, 0.0], [0f32, 200.0]);
        let got = divergence::<Fused>(&p, &q, [200.0, 200.0]);
        assert!((got - 200.0).abs() < 1e-4, "{got}");
    }
}
