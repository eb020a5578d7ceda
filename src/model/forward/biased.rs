//! Attention whose scores have a bias by head and distance. Few models have one, so this is plain code
//! over an F32 cache with a row for each position; the kernels' layout is not used.

use geb_kernels::mat::MatMut;

use super::Pass;
use crate::model::weights::Bias;

/// Tokens of one tile.
const TILE: usize = 16;

impl Pass<'_, '_> {
    /// Attention of the batch over the cache or, without a bias, over the text that an encoder has read;
    /// `out`: `[n, H d]`. A row's result depends on its query and what it sees only.
    pub(super) fn attend_biased(
        &mut self,
        l: usize,
        (q, stride): (&[f32], usize),
        out: &mut [f32],
        bias: Option<&Bias>,
    ) {
        let (c, width) = (self.model.config(), self.model.config().layers[l].q_width());
        let mut rest = out;
        for i in 0..self.spans.len() {
            let rows = self.spans[i].rows.clone();
            let (out, later) = rest.split_at_mut(rows.len() * width);
            rest = later;
            self.attend_span(i, l, (&q[rows.start * stride..], stride), out, bias);
        }
        debug_assert!(rest.is_empty() && c.layers.len() > l);
    }

    fn attend_span(
        &mut self,
        span: usize,
        l: usize,
        (q, stride): (&[f32], usize),
        out: &mut [f32],
        bias: Option<&Bias>,
    ) {
        let c = self.model.config();
        let span = &self.spans[span];
        let (cache, end) = match (bias, span.text) {
            (None, Some(text)) => (text.view(), text.positions()),
            _ => (self.pages.view(span.table), span.end()),
        };
        let (d, group, width) = (c.head_size, c.layers[l].group(), c.layers[l].q_width());
        let n = out.len() / width;
        let (scale, first, window) = (c.attention_scale, span.first, c.windows[l]);
        let cap = |score: f32| match c.attention_softcap {
            Some(s) => s * (score / s).tanh(),
            None => score,
        };
        let whole = bias.is_none() || !self.causal;
        let out = MatMut::new(out, n, width, width);
        let work = |t: usize, column: usize, block: &mut MatMut<'_>| {
            let head = column / d;
            let rows = cache.rows(l, head / group);
            let mut scores = Vec::new();
            for i in 0..block.rows() {
                let position = first + t + i;
                let seen = match whole {
                    true => 0..end,
                    false => (position + 1).saturating_sub(window)..position + 1,
                };
                let query = &q[(t + i) * stride + column..][..d];
                let score = |p: usize| {
                    let distance = p as isize - position as isize;
                    let bias = bias.map_or(0.0, |b| b.at(head, distance));
                    cap(scale * dot(query, rows.key(p))) + bias
                };
                scores.clear();
                scores.extend(seen.clone().map(score));
                soften(&mut scores);
                let row = block.row_mut(i);
                row.fill(0.0);
                for (p, weight) in seen.zip(&scores) {
                    let values = rows.value(p).iter().zip(row.iter_mut());
                    values.for_each(|(v, out)| *out += weight * v);
                }
            }
        };
        self.lead
            .blocks([out], (TILE, d), |_, (t, column), mut block, _| {
                work(t, column, &mut block);
            });
    }
}

/// Scores become weights with the sum 1.
fn soften(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for s in scores.iter_mut() {
        *s = (*s - max).exp();
        sum += *s;
    }
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// A sum in eight lanes, so that it is done many numbers at a time.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
