//! One row of logits: its most probable tokens, and how it compares with the base's row.

use geb::logits::{log_sum, top_k};
use geb_kernels::Kernels;
use serde::{Deserialize, Serialize};

use super::bits;

/// Most probable tokens whose agreement is counted.
pub(super) const TOP: usize = 5;

/// What one counted token contributes, for one model.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Point {
    /// Negative log-likelihood of the token that follows, nats.
    pub nll: f32,
    /// KL divergence from the base, nats; 0 for the base.
    pub kl: f32,
    /// [`agreement`] with the base.
    pub top: u8,
}

/// The table of one model: a line per counted token, window after window.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Column {
    #[serde(with = "bits")]
    pub nll: Vec<f32>,
    #[serde(with = "bits")]
    pub kl: Vec<f32>,
    #[serde(with = "bits")]
    pub top: Vec<u8>,
}

impl Column {
    /// Adds a token.
    pub fn push(&mut self, p: &Point) {
        self.nll.push(p.nll);
        self.kl.push(p.kl);
        self.top.push(p.top);
    }

    /// Adds the tokens of another part of the text.
    pub fn append(&mut self, mut other: Column) {
        self.nll.append(&mut other.nll);
        self.kl.append(&mut other.kl);
        self.top.append(&mut other.top);
    }
}

/// Compares row `i` of every model with that of the base, the first one. `rows`: per model `[vocab]`;
/// `target`: the token that follows, inside the vocabulary.
pub(super) fn compare(kernels: &Kernels, rows: &[&[f32]], target: usize, out: &mut [Point]) {
    let Some(&base) = rows.first() else { return };
    let (base_top, base_log) = summary(kernels, base);
    for ((i, &row), out) in rows.iter().enumerate().zip(out) {
        let (top, log, kl) = if i == 0 {
            (base_top, base_log, 0.0)
        } else {
            let (top, log) = summary(kernels, row);
            (top, log, kernels.divergence(base, row, [base_log, log]))
        };
        *out = Point {
            nll: (log - f64::from(row[target])) as f32,
            kl: kl as f32,
            top: agreement(&base_top, &top),
        };
    }
}

/// The most probable tokens and the logarithm of the softmax's denominator.
fn summary(kernels: &Kernels, row: &[f32]) -> ([u32; TOP], f64) {
    let mut ids = [u32::MAX; TOP];
    let best = top_k(row, TOP);
    for (slot, (id, _)) in ids.iter_mut().zip(&best) {
        *slot = *id;
    }
    let largest = best.first().map_or(0.0, |(_, v)| *v);
    (ids, log_sum(kernels, row, largest))
}

/// Bit 3: the same most probable token; bits 0 to 2: how many of the [`TOP`] are the same.
fn agreement(a: &[u32; TOP], b: &[u32; TOP]) -> u8 {
    let common = a.iter().filter(|id| b.contains(id)).count() as u8;
    u8::from(a[0] == b[0]) << 3 | common
}

/// The same most probable token, 0 or 1.
pub(super) fn same_top1(top: u8) -> f64 {
    f64::from(top >> 3)
}

/// Share of the [`TOP`] most probable tokens that are the same.
pub(super) fn same_top5(top: u8) -> f64 {
    f64::from(top & 7) / TOP as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels() -> &'static Kernels {
        Kernels::best().unwrap()
    }

    #[test]
    fn likelihood_and_divergence_of_known_rows() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), q shifted
        let p = [2f32.ln(), 0.0, 0.0];
        let q = [3.0, 3.0 + 2f32.ln(), 3.0];
        let mut out = [Point::default(); 2];
        compare(kernels(), &[&p, &q], 1, &mut out);
        let ln2 = std::f32::consts::LN_2;
        assert!((out[0].nll - 2.0 * ln2).abs() < 1e-6 && (out[1].nll - ln2).abs() < 1e-6);
        assert_eq!((out[0].kl, same_top1(out[0].top)), (0.0, 1.0));
        assert!((out[1].kl - 0.25 * ln2).abs() < 1e-6);
        assert_eq!(same_top1(out[1].top), 0.0);
    }

    #[test]
    fn agreement_counts_common_tokens() {
        let a = [9, 3, 5, 1, 2];
        assert_eq!(same_top5(agreement(&a, &a)), 1.0);
        let swapped = [3, 9, 5, 1, 2];
        assert_eq!(same_top1(agreement(&a, &swapped)), 0.0);
        assert_eq!(same_top5(agreement(&a, &swapped)), 1.0);
        let other = [9, 30, 50, 1, 20];
        let top = agreement(&a, &other);
        assert_eq!((same_top1(top), same_top5(top)), (1.0, 0.4));
    }
}
