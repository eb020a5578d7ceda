//! LoReFT: hidden states of chosen tokens are edited inside a subspace of low rank.
//!
//! `h ← h + Rᵀ (W h + b - R h)` with orthonormal rows `R [r, width]`: inside the subspace `h` becomes
//! `W h + b`, outside it stays.

use super::product;

/// The edit of one layer.
pub struct Edit<'a> {
    /// `R`, `[r, width]`, rows orthonormal.
    pub subspace: &'a [f32],
    /// `W`, `[r, width]`.
    pub weight: &'a [f32],
    /// `b`, `[r]`.
    pub bias: &'a [f32],
}

impl Edit<'_> {
    /// Edits the hidden state `h [width]` of one token.
    pub fn apply(&self, h: &mut [f32]) {
        let (wanted, there) = (product(self.weight, h), product(self.subspace, h));
        for (i, row) in self.subspace.chunks_exact(h.len()).enumerate() {
            let change = wanted[i] + self.bias[i] - there[i];
            h.iter_mut().zip(row).for_each(|(h, r)| *h += change * r);
        }
    }

    /// Edits the first `first` and the last `last` tokens of a prompt `[n, width]`, each once.
    pub fn apply_ends(&self, states: &mut [f32], width: usize, first: usize, last: usize) {
        let n = states.len() / width;
        for (t, h) in states.chunks_exact_mut(width).enumerate() {
            if t < first || t + last >= n {
                self.apply(h);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{near, numbers};
    use crate::{dot, product};

    const SUBSPACE: [f32; 8] = [0.6, 0.8, 0.0, 0.0, 0.0, 0.0, 0.6, -0.8];

    #[test]
    fn inside_the_subspace_it_is_wh_plus_b_and_outside_unchanged() {
        let (weight, bias, h) = (numbers(30, 8), numbers(31, 2), numbers(32, 4));
        let edit = Edit {
            subspace: &SUBSPACE,
            weight: &weight,
            bias: &bias,
        };
        let mut got = h.clone();
        edit.apply(&mut got);
        let wanted: Vec<f32> = product(&weight, &h)
            .iter()
            .zip(&bias)
            .map(|(w, b)| w + b)
            .collect();
        near(&product(&SUBSPACE, &got), &wanted);
        for outside in [[0.8, -0.6, 0.0, 0.0], [0.0, 0.0, 0.8, 0.6]] {
            near(&[dot(&outside, &got)], &[dot(&outside, &h)]);
        }
        // The formula, element by element.
        let term = |i: usize, k: usize| {
            let inner: f32 = (0..4)
                .map(|j| (weight[k * 4 + j] - SUBSPACE[k * 4 + j]) * h[j])
                .sum();
            SUBSPACE[k * 4 + i] * (inner + bias[k])
        };
        let want: Vec<f32> = (0..4).map(|i| h[i] + term(i, 0) + term(i, 1)).collect();
        near(&got, &want);
    }

    #[test]
    fn only_the_ends_of_a_prompt_are_edited() {
        let (weight, bias, states) = (numbers(33, 8), numbers(34, 2), numbers(35, 6 * 4));
        let edit = Edit {
            subspace: &SUBSPACE,
            weight: &weight,
            bias: &bias,
        };
        for (first, last, edited) in [
            (2, 1, vec![0, 1, 5]),
            (0, 0, vec![]),
            (4, 4, (0..6).collect()),
        ] {
            let mut got = states.clone();
            edit.apply_ends(&mut got, 4, first, last);
            for t in 0..6 {
                let mut want = states[t * 4..][..4].to_vec();
                if edited.contains(&t) {
                    edit.apply(&mut want);
                }
                near(&got[t * 4..][..4], &want);
            }
        }
    }
}
