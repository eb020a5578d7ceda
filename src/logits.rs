//! What a row of logits says: its most probable tokens, and the logarithm that makes probabilities of them.

use geb_kernels::Kernels;

/// Logarithm of the softmax's denominator of a row whose largest logit is `largest`.
pub fn log_sum(kernels: &Kernels, row: &[f32], largest: f32) -> f64 {
    f64::from(largest) + kernels.exp_sum(row, largest).ln()
}

/// The `k` largest elements with their indices, largest first; of equals the one with the lower
/// index. NaN is never among them.
pub fn top_k(row: &[f32], k: usize) -> Vec<(u32, f32)> {
    /// Elements looked at together; most blocks hold nothing of interest.
    const BLOCK: usize = 64;
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    if k == 0 {
        return best;
    }
    let mut least = f32::NEG_INFINITY;
    for (i, block) in row.chunks(BLOCK).enumerate() {
        let full = best.len() == k;
        if full && !block.iter().fold(false, |any, v| any | (*v > least)) {
            continue;
        }
        for (j, &value) in block.iter().enumerate() {
            if value.is_nan() || (best.len() == k && value <= least) {
                continue;
            }
            let at = best.partition_point(|(_, v)| *v >= value);
            best.insert(at, ((i * BLOCK + j) as u32, value));
            best.truncate(k);
            least = best.last().map_or(least, |(_, v)| *v);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn top_k_is_the_head_of_a_stable_sort(
            row in prop::collection::vec(prop_oneof![-4i32..4, -1000i32..1000], 0..300),
            k in 0usize..20,
        ) {
            let row: Vec<f32> = row.iter().map(|v| *v as f32 / 4.0).collect();
            let mut want: Vec<(u32, f32)> = (0u32..).zip(row.iter().copied()).collect();
            want.sort_by(|a, b| b.1.total_cmp(&a.1));
            want.truncate(k);
            prop_assert_eq!(top_k(&row, k), want);
        }
    }
}
