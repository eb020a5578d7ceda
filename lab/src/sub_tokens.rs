//! MH-MoE: a token is cut into sub-tokens, each of which chooses its own experts.
//!
//! `x' = W_head x`; each of the `heads` pieces of `x'` goes to the `used` experts of the highest router
//! probability and becomes the sum of their outputs, weighted by these probabilities (made to sum
//! to 1); the pieces joined are multiplied by `W_merge`.

use super::{dot, largest, product, softmax};

/// An expert: from a sub-token to one of the same width.
pub type Expert<'a> = &'a dyn Fn(&[f32]) -> Vec<f32>;

/// Weights of a layer; `width` is that of a token, `part = width / heads`.
pub struct SubTokens<'a> {
    /// `[width, width]`.
    pub head: &'a [f32],
    /// `[width, width]`.
    pub merge: &'a [f32],
    /// `[experts, part]`.
    pub router: &'a [f32],
    /// One per row of the router.
    pub experts: &'a [Expert<'a>],
    /// Pieces of a token.
    pub heads: usize,
    /// Experts of a piece.
    pub used: usize,
}

impl SubTokens<'_> {
    /// The layer for one token `x [width]`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let split = product(self.head, x);
        let part = x.len() / self.heads;
        let parts = split.chunks_exact(part).flat_map(|p| self.route(p));
        product(self.merge, &parts.collect::<Vec<_>>())
    }

    fn route(&self, part: &[f32]) -> Vec<f32> {
        let mut chances: Vec<f32> = self
            .router
            .chunks_exact(part.len())
            .map(|row| dot(row, part))
            .collect();
        softmax(&mut chances);
        let best = largest(&chances, self.used);
        let total: f32 = best.iter().map(|&e| chances[e]).sum();
        let mut out = vec![0.0; part.len()];
        for e in best {
            let weight = chances[e] / total;
            let made = (self.experts[e])(part);
            out.iter_mut().zip(made).for_each(|(o, m)| *o += weight * m);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{near, numbers};

    #[test]
    fn sub_tokens_choose_their_own_experts() {
        let (width, heads, part) = (6, 3, 2);
        let (head, merge) = (numbers(3, width * width), numbers(4, width * width));
        let (router, x) = (numbers(5, 4 * part), numbers(6, width));
        let scaled = |s: f32| move |p: &[f32]| p.iter().map(|v| s * v * v).collect::<Vec<f32>>();
        let (a, b, c, d) = (scaled(1.0), scaled(-2.0), scaled(3.0), scaled(0.5));
        let experts: [Expert; 4] = [&a, &b, &c, &d];
        let layer = SubTokens {
            head: &head,
            merge: &merge,
            router: &router,
            experts: &experts,
            heads,
            used: 2,
        };
        let got = layer.apply(&x);

        // The same, index by index, with the logits' exponentials instead of a softmax.
        let times = |m: &[f32], v: &[f32], i: usize| {
            (0..width).map(|j| m[i * width + j] * v[j]).sum::<f32>()
        };
        let split: Vec<f32> = (0..width).map(|i| times(&head, &x, i)).collect();
        let mut joined = vec![0.0; width];
        let mut choices = Vec::new();
        for h in 0..heads {
            let p = &split[h * part..][..part];
            let weight: Vec<f32> = (0..4)
                .map(|e| (router[e * part] * p[0] + router[e * part + 1] * p[1]).exp())
                .collect();
            let first = (0..4)
                .max_by(|&i, &j| weight[i].total_cmp(&weight[j]))
                .expect("four");
            let others = (0..4).filter(|&e| e != first);
            let second = others
                .max_by(|&i, &j| weight[i].total_cmp(&weight[j]))
                .expect("three");
            let scale = [1.0, -2.0, 3.0, 0.5];
            let mean = (weight[first] * scale[first] + weight[second] * scale[second])
                / (weight[first] + weight[second]);
            for i in 0..part {
                joined[h * part + i] = mean * p[i] * p[i];
            }
            choices.push((first, second));
        }
        near(
            &got,
            &(0..width)
                .map(|i| times(&merge, &joined, i))
                .collect::<Vec<_>>(),
        );
        assert!(choices.windows(2).any(|c| c[0] != c[1]), "{choices:?}");
    }
}
