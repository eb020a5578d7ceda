//! What a forward pass shows to those who look into it.

use std::ops::Range;

use geb_kernels::Kernels;
use geb_kernels::team::Leader;

use super::weights::{Bias, QMatrix};
use crate::cache::KvView;

/// Told what a forward pass computes, in its order, by the leader between the steps of the team. A pass that
/// nobody observes prepares nothing for it.
pub trait Observer: Send {
    /// `x`, `[tokens, cols]`, is about to be multiplied with `weight`.
    fn input(&mut self, weight: &QMatrix, x: &[f32], team: (&'static Kernels, &mut Leader<'_>)) {
        _ = (weight, x, team);
    }

    /// What the heads of a layer of self-attention have found; changes count.
    fn heads(&mut self, heads: &mut Heads<'_>) {
        _ = heads;
    }

    /// The residual stream behind `depth` layers, `[tokens, E]`; the first token is at position `first`.
    fn residual(&mut self, depth: usize, first: usize, x: &[f32]) {
        _ = (depth, first, x);
    }
}

/// The heads of one layer after attention to an F32 cache, before the matrix that mixes them.
pub struct Heads<'a> {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Position of the first token of the batch.
    pub first: usize,
    /// Query heads, H.
    pub count: usize,
    /// Elements of a head, d.
    pub size: usize,
    /// What they have found, `[tokens, H d]`.
    pub out: &'a mut [f32],
    /// Queries as they are compared with keys, and the distance between tokens.
    pub(super) queries: (&'a [f32], usize),
    /// Query heads that share keys and values.
    pub(super) group: usize,
    pub(super) cache: KvView<'a>,
    pub(super) bias: Option<&'a Bias>,
    pub(super) window: usize,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
}

impl Heads<'_> {
    /// Tokens of the batch.
    pub fn tokens(&self) -> usize {
        self.out.len() / (self.count * self.size)
    }

    /// Positions that a token of the batch sees.
    pub fn seen(&self, token: usize) -> Range<usize> {
        let position = self.first + token;
        (position + 1).saturating_sub(self.window)..position + 1
    }

    /// Softmax weights of a head for each of the positions that a token sees; their sum is 1.
    pub fn weights(&self, head: usize, token: usize) -> Vec<f32> {
        let (q, stride) = self.queries;
        let q = &q[token * stride + head * self.size..][..self.size];
        let rows = self.cache.rows(self.layer, head / self.group);
        let position = (self.first + token) as isize;
        let seen = self.seen(token);
        let score = |p: usize, product: f32| {
            let bias = self.bias.map(|b| b.at(head, p as isize - position));
            let scaled = self.scale * product;
            let capped = self.softcap.map_or(scaled, |s| s * (scaled / s).tanh());
            f64::from(capped + bias.unwrap_or(0.0))
        };
        let scores: Vec<f64> = match self.bias {
            Some(_) => {
                let product = |key: &[f32]| q.iter().zip(key).map(|(q, k)| q * k).sum();
                seen.map(|p| score(p, product(rows.key(p)))).collect()
            }
            None => rows
                .products(q, seen.clone())
                .zip(seen)
                .map(|(product, p)| score(p, product))
                .collect(),
        };
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|p| (p / sum) as f32).collect()
    }

    /// The value that a head finds at a position, `[d]`.
    pub fn value(&self, head: usize, position: usize) -> Vec<f32> {
        let rows = self.cache.rows(self.layer, head / self.group);
        rows.value(position).to_vec()
    }

    /// A head has found nothing: zeros for every token.
    pub fn silence(&mut self, head: usize) {
        let rows = self.out.chunks_exact_mut(self.count * self.size);
        rows.for_each(|row| row[head * self.size..(head + 1) * self.size].fill(0.0));
    }
}
