//! The Cholesky factor of a large symmetric matrix, in blocks and in parallel.
//!
//! Sums run in sixteen lanes of F32 over pieces of 256 columns, pieces in F64: for any number of
//! threads the same bits.

use rayon::prelude::*;

/// Columns of a block.
const BLOCK: usize = 64;

/// Replaces the lower triangle of `a`, `[n, n]` and symmetric, by `L` with `a = L L^T`. Returns whether
/// `a` is positive definite; if not, `a` is spoiled.
pub(super) fn factor(a: &mut [f32], n: usize) -> bool {
    for first in (0..n).step_by(BLOCK) {
        let end = n.min(first + BLOCK);
        let (head, tail) = a.split_at_mut(end * n);
        for i in first..end {
            let (before, row) = head.split_at_mut(i * n);
            for j in first..i {
                let other = &before[j * n..];
                row[j] = ((f64::from(row[j]) - dot(&row[..j], &other[..j])) / f64::from(other[j]))
                    as f32;
            }
            let pivot = f64::from(row[i]) - dot(&row[..i], &row[..i]);
            if !(pivot > 0.0 && pivot.is_finite()) {
                return false;
            }
            row[i] = pivot.sqrt() as f32;
        }
        let head = &*head;
        tail.par_chunks_mut(n).for_each(|row| {
            for j in first..end {
                let other = &head[j * n..];
                row[j] = ((f64::from(row[j]) - dot(&row[..j], &other[..j])) / f64::from(other[j]))
                    as f32;
            }
        });
    }
    true
}

/// The sum of products of two rows of the same length.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sum = 0.0;
    for (a, b) in a.chunks(256).zip(b.chunks(256)) {
        let mut lanes = [0f32; 16];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
        for (a, b) in a.iter().zip(b) {
            for k in 0..16 {
                lanes[k] += a[k] * b[k];
            }
        }
        let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>();
        sum += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `B B^T + I` for a wavy `B`.
    fn example(n: usize) -> Vec<f32> {
        let b = |i: usize, k: usize| ((i * 31 + k * 17) as f32 * 0.37).sin();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                let sum: f32 = (0..n / 2).map(|k| b(i, k) * b(j, k)).sum();
                a[i * n + j] = sum + if i == j { 1.0 } else { 0.0 };
            }
        }
        a
    }

    #[test]
    fn the_product_of_the_factor_is_the_matrix_for_any_threads() {
        for n in [1, 2, 63, 64, 65, 200] {
            let a = example(n);
            let mut l = a.clone();
            assert!(factor(&mut l, n));
            for i in 0..n {
                for j in 0..=i {
                    let sum = (0..=j).map(|k| f64::from(l[i * n + k]) * f64::from(l[j * n + k]));
                    let error = sum.sum::<f64>() - f64::from(a[i * n + j]);
                    assert!(error.abs() < 1e-4 * n as f64, "{n} {i} {j}: {error}");
                }
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
            let mut other = a.clone();
            assert!(pool.expect("pool").install(|| factor(&mut other, n)));
            assert_eq!(l, other);
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_is_refused() {
        assert!(!factor(&mut [1.0, 2.0, 2.0, 1.0], 2));
        assert!(!factor(&mut [f32::NAN], 1));
    }
}
