//! Mixture-of-Depths: a router lets only some tokens through a block, the others pass it by.
//!
//! `score_t = w · x_t`; for the `capacity` tokens of the highest score `x_t += score_t · block(x)_t`, where
//! the block sees these tokens alone, in their order. While generating, the future is unknown: a
//! predictor `σ(p · x_t) > 0.5` decides for each token by itself.

use super::{dot, largest};

/// Tokens (rows of `x [n, width]`) that take part, in order: the `capacity` best by `router [width]`.
pub fn chosen(x: &[f32], router: &[f32], capacity: usize) -> Vec<usize> {
    let scores: Vec<f32> = x
        .chunks_exact(router.len())
        .map(|t| dot(router, t))
        .collect();
    let mut tokens = largest(&scores, capacity);
    tokens.sort_unstable();
    tokens
}

/// Whether a token takes part when later ones are not known, by a linear `predictor [width]`.
pub fn predicted(token: &[f32], predictor: &[f32]) -> bool {
    // σ(z) > 0.5 where z > 0.
    dot(predictor, token) > 0.0
}

/// Runs `block` over the chosen rows of `x [n, width]` and adds what it returns (as many rows), times
/// each token's score.
pub fn route(
    x: &mut [f32],
    router: &[f32],
    tokens: &[usize],
    block: impl FnOnce(&[f32]) -> Vec<f32>,
) {
    let width = router.len();
    let row = |t: usize| t * width..(t + 1) * width;
    let inputs: Vec<f32> = tokens.iter().flat_map(|&t| x[row(t)].to_vec()).collect();
    let outputs = block(&inputs);
    for (&t, out) in tokens.iter().zip(outputs.chunks_exact(width)) {
        let score = dot(router, &x[row(t)]);
        for (x, out) in x[row(t)].iter_mut().zip(out) {
            *x += score * out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{near, numbers};

    /// A block that mixes tokens: each becomes the sum of the chosen ones up to itself.
    fn sums(rows: &[f32], width: usize) -> Vec<f32> {
        let mut sum = vec![0.0; width];
        let mut out = Vec::new();
        for row in rows.chunks_exact(width) {
            sum.iter_mut().zip(row).for_each(|(s, r)| *s += r);
            out.extend_from_slice(&sum);
        }
        out
    }

    #[test]
    fn only_the_best_tokens_pass_the_block() {
        let (n, width, capacity) = (9, 4, 3);
        let (x, router) = (numbers(1, n * width), numbers(2, width));
        let mut got = x.clone();
        let tokens = chosen(&x, &router, capacity);
        route(&mut got, &router, &tokens, |rows| sums(rows, width));

        // A token is in when fewer than `capacity` tokens have a higher score.
        let score = |t: usize| {
            (0..width)
                .map(|i| router[i] * x[t * width + i])
                .sum::<f32>()
        };
        let inside = |t: usize| (0..n).filter(|&u| score(u) > score(t)).count() < capacity;
        let mut want = x.clone();
        for t in (0..n).filter(|&t| inside(t)) {
            for i in 0..width {
                let seen: f32 = (0..=t)
                    .filter(|&u| inside(u))
                    .map(|u| x[u * width + i])
                    .sum();
                want[t * width + i] += score(t) * seen;
            }
        }
        near(&got, &want);
        assert_eq!((0..n).filter(|&t| inside(t)).collect::<Vec<_>>(), tokens);
        assert_ne!(got, x);
    }

    #[test]
    fn the_predictor_decides_at_one_half() {
        assert!(predicted(&[1.0, -1.0], &[2.0, 1.0]));
        assert!(!predicted(&[1.0, 2.0], &[2.0, -1.0]));
        assert!(!predicted(&[-1.0, 0.5], &[2.0, 1.0]));
    }
}
