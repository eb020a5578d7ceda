//! Norm, gate, residual and rope: one pass over a row each.

use super::{FloatIsa, LANES, exp, reduce};

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn rms_scale<F: FloatIsa>(x: &[f32], eps: f32) -> f32 {
    let mut acc = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    for (i, v) in chunks.remainder().iter().enumerate() {
        acc[i] = v * v;
    }
    for c in chunks {
        for i in 0..LANES {
            acc[i] = F::fma(c[i], c[i], acc[i]);
        }
    }
    1.0 / (reduce(acc) / x.len() as f32 + eps).sqrt()
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` (RMSNorm, arXiv 1910.07467).
#[inline(always)]
pub(crate) fn rms_norm<F: FloatIsa>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(
        x.len() == weight.len() && x.len() == out.len(),
        "rms_norm: lengths differ"
    );
    let scale = rms_scale::<F>(x, eps);
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * scale * w;
    }
}

/// The same in place, for each `weight.len()` values of `x`.
#[inline(always)]
pub(crate) fn rms_norm_each<F: FloatIsa>(x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(
        x.len().is_multiple_of(weight.len()),
        "rms_norm_each: lengths differ"
    );
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = rms_scale::<F>(x, eps);
        for (v, w) in x.iter_mut().zip(weight) {
            *v = *v * scale * w;
        }
    }
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` (LayerNorm, arXiv 1607.06450).
#[inline(always)]
pub(crate) fn layer_norm<F: FloatIsa>(
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    eps: f32,
    out: &mut [f32],
) {
    let n = x.len();
    assert!(
        [weight.len(), bias.len(), out.len()] == [n; 3],
        "layer_norm: lengths differ"
    );
    let mut acc = [0f32; LANES];
    for (i, v) in x.iter().enumerate() {
        acc[i % LANES] += v;
    }
    let mean = reduce(acc) / n as f32;
    for (o, v) in out.iter_mut().zip(x) {
        *o = v - mean;
    }
    let scale = rms_scale::<F>(out, eps);
    for ((o, w), b) in out.iter_mut().zip(weight).zip(bias) {
        *o = F::fma(*o * scale, *w, *b);
    }
}

/// `x += y`.
#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: lengths differ");
    for (a, b) in x.iter_mut().zip(y) {
        *a += b;
    }
}

/// `gate = silu(gate) * up`, with `silu(x) = x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu_mul<F: FloatIsa>(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "silu_mul: lengths differ");
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<F>(-*g)) * u;
    }
}

/// `gate = gelu(gate) * up`, with `gelu(x) = x / (1 + e^-2u)`, `u = sqrt(2 / pi) (x + 0.044715 x^3)`:
/// the tanh form of arXiv 1606.08415.
#[inline(always)]
pub(crate) fn gelu_mul<F: FloatIsa>(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gelu_mul: lengths differ");
    const ROOT: f32 = 2.0 * 0.797_884_6;
    for (g, u) in gate.iter_mut().zip(up) {
        let x = *g;
        let inner = ROOT * x * F::fma(0.044715 * x, x, 1.0);
        *g = x / (1.0 + exp::<F>(-inner)) * u;
    }
}

/// Rotates one head in place by the angles of one position (RoPE, arXiv 2104.09864).
///
/// `cos`, `sin`: one value per pair. Pairs are `(2i, 2i+1)` when `adjacent`, else `(i, i + pairs)`;
/// elements past the pairs stay as they are.
#[inline(always)]
pub(crate) fn rope<F: FloatIsa>(head: &mut [f32], cos: &[f32], sin: &[f32], adjacent: bool) {
    let pairs = cos.len();
    assert!(
        sin.len() == pairs && head.len() >= 2 * pairs,
        "rope: head shorter than its pairs"
    );
    if adjacent {
        for ((p, c), s) in head[..2 * pairs].chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b) = (p[0], p[1]);
            p[0] = F::fma(a, *c, -(b * s));
            p[1] = F::fma(a, *s, b * c);
        }
    } else {
        let (lo, hi) = head[..2 * pairs].split_at_mut(pairs);
        for (((x, y), c), s) in lo.iter_mut().zip(hi).zip(cos).zip(sin) {
            let (a, b) = (*x, *y);
            *x = F::fma(a, *c, -(b * s));
            *y = F::fma(a, *s, b * c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fused, Plain};
    use super::*;

    #[test]
    fn rope_matches_the_published_vectors() {
        // d = r = 8, base 10000, position 3 (docs: numeric check of both pairings).
        let angles = [3.0f64, 0.3, 0.03, 0.003];
        let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        let x: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        let norm = [
            -1.272233, -1.838865, 1.683929, 4.707907, 4.817777, 6.147278, 6.975969, 8.020964,
        ];
        let neox = [
            -1.695593, 0.137552, 2.788682, 3.975982, -4.808842, 6.323059, 7.086837, 8.011964,
        ];
        for (adjacent, want) in [(true, norm), (false, neox)] {
            let mut got = x.clone();
            rope::<Fused>(&mut got, &cos, &sin, adjacent);
            for (g, w) in got.iter().zip(want) {
                assert!((g - w as f32).abs() < 1e-5, "{g} {w}");
            }
        }
    }

    #[test]
    fn layer_norm_and_gelu_match_f64() {
        for n in [1usize, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0 + 1.0).collect();
            let w: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
            let b: Vec<f32> = (0..n).map(|i| i as f32 * -0.02).collect();
            let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
            let var = x
                .iter()
                .map(|v| (f64::from(*v) - mean).powi(2))
                .sum::<f64>()
                / n as f64;
            let (mut out, mut gate, mut each) = (vec![0.0; n], x.clone(), x.clone());
            layer_norm::<Plain>(&x, [&w, &b], 1e-5, &mut out);
            gelu_mul::<Plain>(&mut gate, &w);
            rms_norm_each::<Plain>(&mut each, &w, 1e-5);
            let mut rms = vec![0.0; n];
            rms_norm::<Plain>(&x, &w, 1e-5, &mut rms);
            assert_eq!(each, rms);
            for i in 0..n {
                let v = f64::from(x[i]);
                let want = (v - mean) / (var + 1e-5).sqrt() * f64::from(w[i]) + f64::from(b[i]);
                assert!((f64::from(out[i]) - want).abs() < 1e-4, "{} {want}", out[i]);
                let u = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3));
                let want = 0.5 * v * (1.0 + u.tanh()) * f64::from(w[i]);
                assert!((f64::from(gate[i]) - want).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn rms_norm_and_silu_match_f64() {
        for n in [1usize, 15, 16, 17, 64, 100] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
            let w: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
            let ms = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
            let mut out = vec![0.0; n];
            rms_norm::<Plain>(&x, &w, 1e-5, &mut out);
            let mut gate = x.clone();
            silu_mul::<Plain>(&mut gate, &w);
            for i in 0..n {
                let want = f64::from(x[i]) / (ms + 1e-5).sqrt() * f64::from(w[i]);
                assert!((f64::from(out[i]) - want).abs() < 1e-5);
                let v = f64::from(x[i]);
                let want = v / (1.0 + (-v).exp()) * f64::from(w[i]);
                assert!((f64::from(gate[i]) - want).abs() < 1e-5);
            }
        }
    }
}
