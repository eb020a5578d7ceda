//! Attention whose scores have a bias by head and distance. Few models have one, so this is plain code
//! over an F32 cache with a row for each position; the kernels' layout is not used.

use geb_kernels::mat::MatMut;

use super::Pass;
use crate::model::weights::Bias;

/// Tokens of one tile.
const TILE: usize = 16;

impl Pass<'_, '_> {
    /// Writes the keys and values of the batch into the cache: a row of floats for each position.
    pub(super) fn store_rows(
        &mut self,
        l: usize,
        qkv: &[f32],
        (starts, strides): ([usize; 3], [usize; 3]),
        n: usize,
    ) {
        let (shape, first) = (self.cache.shape(l), self.first);
        let (d, width) = (shape.head_size(), shape.width());
        self.cache.will_write(first + n);
        let rows: &mut [f32] = bytemuck::cast_slice_mut(self.cache.layer_mut(l));
        let sides = rows.chunks_exact_mut(shape.positions() * width);
        for (i, side) in sides.enumerate() {
            let (head, part) = (i / 2, 1 + i % 2);
            for t in 0..n {
                let from = starts[part] + t * strides[part] + head * d;
                let to = (first + t) % shape.positions() * width;
                side[to..to + d].copy_from_slice(&qkv[from..from + d]);
            }
        }
    }

    /// Attention of the batch over the cache; `out`: `[n, H d]`. A row's result depends on its query
    /// and what it sees only.
    pub(super) fn attend_biased(
        &mut self,
        l: usize,
        q: &[f32],
        stride: usize,
        out: &mut [f32],
        bias: &Bias,
    ) {
        let c = self.model.config();
        let (cache, first, causal) = (&*self.cache, self.first, self.causal);
        let (d, group, width) = (c.head_size, c.layers[l].group(), c.layers[l].q_width());
        let n = out.len() / width;
        let (scale, window) = (c.attention_scale, c.windows[l]);
        let out = MatMut::new(out, n, width, width);
        self.lead
            .blocks([out], (TILE, d), |_, (t, column), mut block, _| {
                let head = column / d;
                let rows = cache.rows(l, head / group);
                let mut scores = Vec::new();
                for i in 0..block.rows() {
                    let position = first + t + i;
                    let seen = match causal {
                        true => (position + 1).saturating_sub(window)..position + 1,
                        false => 0..first + n,
                    };
                    let at = (t + i) * stride + column;
                    let query = &q[at..at + d];
                    let distance = |key: usize| key as isize - position as isize;
                    scores.clear();
                    scores.extend(
                        seen.clone()
                            .map(|p| scale * dot(query, rows.key(p)) + bias.at(head, distance(p))),
                    );
                    soften(&mut scores);
                    let row = block.row_mut(i);
                    row.fill(0.0);
                    for (p, weight) in seen.zip(&scores) {
                        let values = rows.value(p).iter().zip(row.iter_mut());
                        values.for_each(|(v, out)| *out += weight * v);
                    }
                }
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
