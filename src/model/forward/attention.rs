//! Self-attention of a batch over the KV cache.

use geb_kernels::float::{AttnQuery, BLOCK, KvRows, KvSide, SPLIT};
use geb_kernels::mat::MatMut;

use super::{Buffers, Pass, SERIAL_ROWS, scale};
use crate::cache::put_rows;
use crate::model::arch::{QkNorm, RopePairing};
use crate::model::observer::Heads;
use crate::model::weights::{Attention, Bias, Qkv};

/// Query rows of one attention tile.
const TILE_ROWS: usize = 48;

impl Pass<'_, '_> {
    /// What `b.h` says of each token, `[n, E]`, becomes what attention makes of it.
    pub(super) fn attention(
        &mut self,
        b: &mut Buffers,
        (a, bias): (&Attention, Option<&Bias>),
        l: usize,
        n: usize,
    ) {
        let c = self.model.config();
        let (e, sizes) = (c.embedding_length, c.layers[l]);
        let (qw, kw) = (sizes.q_width(), sizes.kv_width());
        let h = &mut b.h[..n * e];
        let qkv = &mut b.qkv[..n * (qw + 2 * kw)];
        // Where q, k and v of token t start, and the distance between tokens.
        let (starts, strides) = match &a.qkv {
            Qkv::Fused(fused) => {
                self.project(&mut b.acts, h, n, [(fused, &mut *qkv)]);
                ([0, qw, qw + kw], [qw + 2 * kw; 3])
            }
            Qkv::Split([wq, wk, wv]) => {
                let (q, kv) = qkv.split_at_mut(n * qw);
                let (k, v) = kv.split_at_mut(n * kw);
                self.project(&mut b.acts, h, n, [(wq, q), (wk, k), (wv, v)]);
                ([0, n * qw, n * (qw + kw)], [qw, kw, kw])
            }
            Qkv::Gated([wq, wk, wv]) => {
                let (q, kv) = qkv.split_at_mut(n * qw);
                let (k, v) = kv.split_at_mut(n * kw);
                let both = &mut b.mix[..2 * n * qw];
                let outs = [(wq, &mut *both), (wk, k), (wv, v)];
                self.project(&mut b.acts, h, n, outs);
                let both = &*both;
                self.rows(q, qw, |t, row| {
                    let heads = both[2 * t * qw..2 * (t + 1) * qw].chunks_exact(2 * c.head_size);
                    let pairs = row.chunks_exact_mut(c.head_size).zip(heads);
                    pairs.for_each(|(q, both)| q.copy_from_slice(&both[..c.head_size]));
                });
                ([0, n * qw, n * (qw + kw)], [qw, kw, kw])
            }
        };
        self.mix(b, (a.qk_norm.as_ref(), bias), l, n, (starts, strides));
        let q = (&b.qkv[starts[0]..], strides[0]);
        self.show_heads(l, q, bias, &mut b.attn[..n * qw]);
        if let Qkv::Gated(_) = &a.qkv {
            self.gate_heads(&mut b.attn[..n * qw], &b.mix, qw);
        }
        let (h, attn) = (&mut b.h[..n * e], &b.attn[..n * qw]);
        self.project(&mut b.acts, attn, n, [(&a.output, h)]);
    }

    /// What the heads have found, `[n, H d]`, times the sigmoid of its gates; `both`: each head's query and gate.
    fn gate_heads(&mut self, attn: &mut [f32], both: &[f32], width: usize) {
        let d = self.model.config().head_size;
        self.rows(attn, width, |t, row| {
            let heads = both[2 * t * width..2 * (t + 1) * width].chunks_exact(2 * d);
            for (row, both) in row.chunks_exact_mut(d).zip(heads) {
                for (v, gate) in row.iter_mut().zip(&both[d..]) {
                    *v /= 1.0 + (-gate).exp();
                }
            }
        });
    }

    /// Shows what the heads have found, `[n, H d]`, to the observer, if there is one.
    fn show_heads(
        &mut self,
        l: usize,
        queries: (&[f32], usize),
        bias: Option<&Bias>,
        out: &mut [f32],
    ) {
        let Some(observer) = self.observer.as_deref_mut() else {
            return;
        };
        let c = self.model.config();
        observer.heads(&mut Heads {
            layer: l,
            first: self.places.at(0),
            count: c.layers[l].head_count,
            size: c.head_size,
            out,
            queries,
            group: c.layers[l].group(),
            cache: self.pages.view(self.spans[0].table),
            bias,
            window: c.windows[l],
            scale: c.attention_scale,
            softcap: c.attention_softcap,
        });
    }

    /// Attention of the queries, keys and values in `b.qkv`, into `b.attn`.
    pub(super) fn mix(
        &mut self,
        b: &mut Buffers,
        (norms, bias): (Option<&[Vec<f32>; 2]>, Option<&Bias>),
        l: usize,
        n: usize,
        (starts, strides): ([usize; 3], [usize; 3]),
    ) {
        let c = self.model.config();
        let (qw, kw) = (c.layers[l].q_width(), c.layers[l].kv_width());
        let qkv = &mut b.qkv[..n * (qw + 2 * kw)];
        if let Some(limit) = c.clamp {
            self.rows(qkv, qw + 2 * kw, |_, row| {
                row.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
            });
        }
        self.rotate(norms, l, qkv, (starts, strides));
        let attn = &mut b.attn[..n * qw];
        match bias {
            None => {
                self.store(l, qkv, starts, strides, n);
                self.attend(l, (&qkv[starts[0]..], strides[0]), attn, &mut b.pieces);
            }
            Some(bias) => {
                let side = |s: usize| (&qkv[starts[s]..], strides[s]);
                for span in &mut self.spans {
                    let start = span.rows.start;
                    let sides =
                        [side(1), side(2)].map(|(x, stride)| (&x[start * stride..], stride));
                    put_rows(self.pages, span.table, l, span.first..span.end(), sides);
                }
                self.attend_biased(l, (&qkv[starts[0]..], strides[0]), attn, Some(bias));
            }
        }
    }

    /// Norms and rotates the q and k heads of every token in place, and lengthens q, each where the
    /// architecture does.
    fn rotate(
        &mut self,
        norms: Option<&[Vec<f32>; 2]>,
        l: usize,
        qkv: &mut [f32],
        (starts, strides): ([usize; 3], [usize; 3]),
    ) {
        let c = self.model.config();
        let (kernels, places) = (self.kernels, self.places);
        let table = self.ropes.table(c.windows[l] != usize::MAX);
        let pairs = match c.rotated[l] {
            true => c.rope_dimension_count / 2,
            false => 0,
        };
        if pairs == 0 && norms.is_none() && c.temperature.is_none() {
            return;
        }
        let adjacent = c.arch.rope == RopePairing::Adjacent;
        let (early, late) = match c.arch.qk_norm {
            QkNorm::HeadRotated => (None, norms),
            QkNorm::None | QkNorm::Head | QkNorm::Width => (norms, None),
        };
        let turn = |t: usize, heads: &mut [f32], side: usize| {
            if let Some(weights) = early {
                kernels.rms_norm_each(heads, &weights[side], c.norm_epsilon);
            }
            let (cos, sin) = table.at(places.at(t), pairs);
            heads
                .chunks_exact_mut(c.head_size)
                .for_each(|head| kernels.rope(head, cos, sin, adjacent));
            if let Some(weights) = late {
                kernels.rms_norm_each(heads, &weights[side], c.norm_epsilon);
            }
            if let (0, Some(temperature)) = (side, c.temperature) {
                scale(heads, temperature.at(places.at(t)));
            }
        };
        let (qw, kw) = (c.layers[l].q_width(), c.layers[l].kv_width());
        if strides[0] > qw {
            // Fused rows hold q and k side by side.
            self.rows(qkv, strides[0], |t, row| {
                let (q, rest) = row.split_at_mut(qw);
                turn(t, q, 0);
                turn(t, &mut rest[..kw], 1);
            });
        } else {
            let (q, rest) = qkv.split_at_mut(starts[1]);
            self.rows(q, qw, |t, q| turn(t, q, 0));
            let keys = starts[2] - starts[1];
            self.rows(&mut rest[..keys], kw, |t, k| turn(t, k, 1));
        }
    }

    /// Writes the keys and values of the batch into the pages.
    fn store(&mut self, l: usize, qkv: &[f32], starts: [usize; 3], strides: [usize; 3], n: usize) {
        let (kernels, spans) = (self.kernels, &self.spans);
        let shape = self.pages.shape(l);
        let tables: Vec<_> = spans.iter().map(|s| (s.table, s.first..s.end())).collect();
        let written = self.pages.written(l, &tables);
        let puts = written.into_iter().flat_map(|written| {
            let (span, positions) = (&spans[written.span], written.positions);
            let row = span.rows.start + positions.start - span.first;
            let parts = written.layer.chunks_exact_mut(shape.block_bytes());
            parts.enumerate().map(move |(i, block)| {
                let (head, side) = (i / 2, i % 2);
                let stride = strides[1 + side];
                let at = starts[1 + side] + row * stride + head * shape.head_size();
                let rows = KvRows {
                    x: &qkv[at..],
                    stride,
                    tokens: positions.len(),
                    slot: positions.start % BLOCK,
                };
                ([KvSide::Keys, KvSide::Values][side], rows, block)
            })
        });
        if n <= SERIAL_ROWS {
            puts.for_each(|(side, rows, block)| kernels.store_kv(shape, side, rows, block));
        } else {
            let mut jobs: Vec<_> = puts.map(Some).collect();
            self.lead.chunks_mut(&mut jobs, 1, |_, jobs, _| {
                for (side, rows, block) in jobs.iter_mut().filter_map(Option::take) {
                    kernels.store_kv(shape, side, rows, block);
                }
            });
        }
    }

    /// Attention of each span over its cache; `out`: `[n, H d]`. How the work is cut does not
    /// change a bit of it, so it is cut as suits the threads: one step for all spans.
    fn attend(
        &mut self,
        l: usize,
        (q, stride): (&[f32], usize),
        out: &mut [f32],
        pieces: &mut Vec<f32>,
    ) {
        if let [_] = self.spans[..] {
            return self.attend_alone(l, (q, stride), out, pieces);
        }
        let c = self.model.config();
        let (kernels, sizes, group) = (self.kernels, c.layers[l], c.layers[l].group());
        let (columns, width) = (group * c.head_size, sizes.q_width());
        let tile = (TILE_ROWS / group).max(1);
        let mut jobs = Vec::new();
        let mut rest = out;
        for span in &self.spans {
            let n = span.rows.len();
            for t in (0..n).step_by(tile) {
                let rows = tile.min(n - t);
                let (block, below) = rest.split_at_mut(rows * width);
                rest = below;
                let mut block = MatMut::new(block, rows, width, width);
                for head in 0..sizes.head_count_kv {
                    let (now, later) = block.split_cols(columns);
                    block = later;
                    let query = AttnQuery {
                        q: &q[span.rows.start * stride..],
                        stride,
                        column: head * columns,
                        heads: group,
                        tokens: (t, t + rows),
                        first_position: span.first,
                        positions: (0, span.end()),
                        window: c.windows[l],
                        scale: c.attention_scale,
                        softcap: c.attention_softcap,
                    };
                    jobs.push((query, self.pages.head(span.table, l, head), now));
                }
            }
        }
        self.lead.chunks_mut(&mut jobs, 1, |_, jobs, local| {
            for (query, head, out) in jobs {
                kernels.attend(query, *head, out.reborrow(), &mut local.attention);
            }
        });
    }

    /// Attention of the one span over its cache.
    fn attend_alone(
        &mut self,
        l: usize,
        (q, stride): (&[f32], usize),
        out: &mut [f32],
        pieces: &mut Vec<f32>,
    ) {
        let c = self.model.config();
        let (kernels, table, first) = (self.kernels, self.spans[0].table, self.spans[0].first);
        let pages = &*self.pages;
        let (sizes, group) = (c.layers[l], c.layers[l].group());
        let (columns, width) = (group * c.head_size, sizes.q_width());
        let n = out.len() / width;
        let end = first + n;
        // Without a mask all tokens see what one behind the end would.
        let first_position = if self.causal { first } else { end };
        let query = |head: usize, tokens: (usize, usize), positions: (usize, usize)| AttnQuery {
            q,
            stride,
            column: head * columns,
            heads: group,
            tokens,
            first_position,
            positions,
            window: c.windows[l],
            scale: c.attention_scale,
            softcap: c.attention_softcap,
        };
        let mut out = MatMut::new(out, n, width, width);
        let start = (first + 1).saturating_sub(c.windows[l]) / SPLIT * SPLIT;
        let (splits, heads) = ((end - start).div_ceil(SPLIT), sizes.head_count_kv);
        if n > kernels.decode_tokens() || splits == 1 || self.lead.threads() == 1 {
            let tile = (TILE_ROWS / group).max(1);
            self.lead
                .blocks([out], (tile, columns), |_, (t, column), block, local| {
                    let head = column / columns;
                    let a = query(head, (t, t + block.rows()), (0, end));
                    kernels.attend(&a, pages.head(table, l, head), block, &mut local.attention);
                });
            return;
        }
        // Few tokens over a long cache: pieces of positions, then a merge.
        let shape = pages.shape(l);
        let each = query(0, (0, n), (0, end)).partial_len(shape);
        pieces.resize((heads * splits * each).max(pieces.len()), 0.0);
        let pieces = &mut pieces[..heads * splits * each];
        self.lead.chunks_mut(pieces, each, |i, piece, local| {
            let (head, at) = (i / splits, start + i % splits * SPLIT);
            let a = query(head, (0, n), (at, (at + SPLIT).min(end)));
            let head = pages.head(table, l, head);
            kernels.attend_partial(&a, head, piece, &mut local.attention);
        });
        for pieces in pieces.chunks_exact_mut(splits * each) {
            let (block, rest) = out.split_cols(columns);
            kernels.merge_partials(shape, pieces, each, block);
            out = rest;
        }
    }
}
