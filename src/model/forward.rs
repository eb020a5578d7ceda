//! The one layer loop: a batch of tokens through all layers, for every architecture.
//!
//! ```text
//! x = token_embd[tokens]
//! for each layer:
//!     h = norm(x);  q, k, v = W h;  rotate q, k;  store k, v
//!     x += W_o attention(q)
//!     h = norm(x);  x += W_down( silu(W_gate h) * W_up h )
//! logits = W_out norm(x)
//! ```
//! The leader runs this as sequential code; each product, and with many tokens each pass over
//! rows, is a step of the team. Row passes of a single token stay on the leader.

use std::sync::atomic::{AtomicBool, Ordering};

use geb_kernels::float::{AttnQuery, KvRows, KvSide, SPLIT};
use geb_kernels::mat::MatMut;
use geb_kernels::team::Leader;
use geb_kernels::{ActKind, Activations, Kernels};

use super::arch::RopePairing;
use super::bind::{GateUp, Layer, Linear, QMatrix, Qkv};
use super::rope::RopeTable;
use super::{Config, Model};
use crate::cache::KvCache;
use crate::error::{Error, Result};

/// Up to this many rows a pass over rows stays on the leader.
const SERIAL_ROWS: usize = 4;
/// Query rows of one attention tile.
const TILE_ROWS: usize = 48;

/// Kinds of activations, each with its own buffer.
const KINDS: [ActKind; 3] = [ActKind::F32, ActKind::Bf16, ActKind::Q8];

/// Buffers of a batch, sized once for the largest batch. Shapes are `[tokens, width]`.
pub(crate) struct Buffers {
    x: Vec<f32>,
    h: Vec<f32>,
    qkv: Vec<f32>,
    attn: Vec<f32>,
    gate_up: Vec<f32>,
    pieces: Vec<f32>,
    acts: [Activations; KINDS.len()],
}

impl Buffers {
    pub(crate) fn new(c: &Config, batch: usize) -> Buffers {
        let zeros = |width: usize| vec![0f32; width * batch];
        Buffers {
            x: zeros(c.embedding_length),
            h: zeros(c.embedding_length),
            qkv: zeros(c.q_width() + 2 * c.kv_width()),
            attn: zeros(c.q_width()),
            gate_up: zeros(2 * c.feed_forward_length),
            pieces: Vec::new(),
            acts: Default::default(),
        }
    }

    /// Bytes the buffers of a batch take, activations in their packed form included.
    pub(crate) fn bytes(c: &Config, batch: usize) -> u64 {
        let width =
            3 * c.embedding_length + 3 * c.q_width() + 2 * c.kv_width() + 4 * c.feed_forward_length;
        (4 * width * batch) as u64
    }
}

/// One forward pass of a batch.
pub(crate) struct Pass<'a, 'l> {
    pub(crate) model: &'a Model,
    pub(crate) kernels: &'static Kernels,
    pub(crate) lead: &'a mut Leader<'l>,
    pub(crate) cache: &'a mut KvCache,
    pub(crate) rope: &'a RopeTable,
    /// Position of the batch's first token.
    pub(crate) first: usize,
    /// Layers to run; fewer than the model has for an early exit.
    pub(crate) layers: usize,
    pub(crate) cancel: Option<&'a AtomicBool>,
}

impl Pass<'_, '_> {
    /// Runs `tokens`; writes the logits of the last `logits.len() / vocab` of them.
    pub(crate) fn run(
        &mut self,
        b: &mut Buffers,
        tokens: &[u32],
        logits: &mut [f32],
    ) -> Result<()> {
        let c = self.model.config();
        let (n, e) = (tokens.len(), c.embedding_length);
        self.embed(tokens, &mut b.x[..n * e]);
        for l in 0..self.layers {
            if self.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(Error::Interrupted);
            }
            let layer = &self.model.weights().layers[l];
            self.attention(b, layer, l, n);
            self.feed_forward(b, layer, n);
        }
        let wanted = logits.len() / c.vocab;
        self.head(b, n - wanted, logits);
        Ok(())
    }

    /// Writes the logits of tokens `from..` of the batch whose last layer is in `b`: `[tokens, vocab]`.
    pub(crate) fn head(&mut self, b: &mut Buffers, from: usize, logits: &mut [f32]) {
        let c = self.model.config();
        let (n, e) = (logits.len() / c.vocab, c.embedding_length);
        if n == 0 {
            return;
        }
        let h = &mut b.h[..n * e];
        let weights = self.model.weights();
        self.norm(&b.x[from * e..(from + n) * e], &weights.output_norm, h);
        self.project(&mut b.acts, h, n, [(&weights.output, logits)]);
    }

    fn embed(&mut self, tokens: &[u32], x: &mut [f32]) {
        let (kernels, table) = (self.kernels, &self.model.weights().token_embd);
        let data = self.model.bytes(table);
        let row_bytes = data.len() / table.rows;
        self.rows(x, table.cols, |t, row| {
            let at = tokens[t] as usize * row_bytes;
            kernels.dequantize(table.dtype, &data[at..at + row_bytes], row);
        });
    }

    fn attention(&mut self, b: &mut Buffers, layer: &Layer, l: usize, n: usize) {
        let c = self.model.config();
        let (e, qw, kw) = (c.embedding_length, c.q_width(), c.kv_width());
        let h = &mut b.h[..n * e];
        self.norm(&b.x[..n * e], &layer.attn_norm, h);
        let qkv = &mut b.qkv[..n * (qw + 2 * kw)];
        // Where q, k and v of token t start, and the distance between tokens.
        let (starts, strides) = match &layer.qkv {
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
        };
        self.rotate(qkv, starts, strides, n);
        self.store(l, qkv, starts, strides, n);
        let attn = &mut b.attn[..n * qw];
        self.attend(l, &qkv[starts[0]..], strides[0], attn, &mut b.pieces);
        self.project(&mut b.acts, attn, n, [(&layer.attn_output, &mut *h)]);
        self.add(&mut b.x[..n * e], h);
    }

    fn feed_forward(&mut self, b: &mut Buffers, layer: &Layer, n: usize) {
        let c = self.model.config();
        let (e, f, kernels) = (c.embedding_length, c.feed_forward_length, self.kernels);
        let h = &mut b.h[..n * e];
        self.norm(&b.x[..n * e], &layer.ffn_norm, h);
        let gate_up = &mut b.gate_up[..2 * n * f];
        match &layer.gate_up {
            GateUp::Split([gate, up]) => {
                let (g, u) = gate_up.split_at_mut(n * f);
                self.project(&mut b.acts, h, n, [(gate, &mut *g), (up, &mut *u)]);
                self.rows(g, f, |t, g| kernels.silu_mul(g, &u[t * f..(t + 1) * f]));
            }
            GateUp::Fused(fused) => {
                self.project(&mut b.acts, h, n, [(fused, &mut *gate_up)]);
                self.rows(gate_up, 2 * f, |_, row| {
                    let (g, u) = row.split_at_mut(f);
                    kernels.silu_mul(g, u);
                });
                for t in 1..n {
                    gate_up.copy_within(2 * t * f..(2 * t + 1) * f, t * f);
                }
            }
        }
        self.project(
            &mut b.acts,
            &gate_up[..n * f],
            n,
            [(&layer.ffn_down, &mut *h)],
        );
        self.add(&mut b.x[..n * e], h);
    }

    /// `out = W x + b` for matrices that share the input `x`: `[n, cols]`; outputs `[n, rows]`.
    fn project<const N: usize>(
        &mut self,
        acts: &mut [Activations; KINDS.len()],
        x: &[f32],
        n: usize,
        mut outs: [(&Linear, &mut [f32]); N],
    ) {
        let kernels = self.kernels;
        let cols = outs[0].0.weight.cols;
        let kind = |m: &QMatrix| kernels.act_kind(m.dtype);
        for (slot, want) in KINDS.into_iter().enumerate() {
            if outs.iter().any(|(w, _)| kind(&w.weight) == want) {
                self.prepare(&mut acts[slot], want, x, n, cols);
            }
        }
        let acts = &*acts;
        let matrices = outs.each_ref().map(|(w, _)| &w.weight);
        let data = matrices.map(|m| self.model.bytes(m));
        let rows: usize = matrices.iter().map(|m| m.rows).sum();
        let threads = self.lead.threads();
        let step = (rows / (threads * 8)).clamp(16, 128).next_multiple_of(16);
        let blocks = outs
            .each_mut()
            .map(|(w, out)| MatMut::new(out, n, w.weight.rows, w.weight.rows));
        self.lead
            .blocks(blocks, (n, step), |i, (_, c), block, local| {
                let row_bytes = data[i].len() / matrices[i].rows;
                let weights = &data[i][c * row_bytes..(c + block.cols()) * row_bytes];
                let acts = &acts[KINDS
                    .iter()
                    .position(|k| *k == kind(matrices[i]))
                    .unwrap_or(0)];
                kernels.mat_mul(
                    matrices[i].dtype,
                    weights,
                    cols,
                    acts,
                    block,
                    &mut local.panel,
                );
            });
        for (w, out) in outs {
            if let Some(bias) = &w.bias {
                self.rows(out, w.weight.rows, |_, row| kernels.add(row, bias));
            }
        }
    }

    /// Packs (and quantizes) the right-hand side of a product.
    fn prepare(&mut self, acts: &mut Activations, kind: ActKind, x: &[f32], n: usize, cols: usize) {
        let kernels = self.kernels;
        acts.reshape(kernels, kind, n, cols);
        let (shape, bytes) = (acts.shape(), acts.tile_bytes());
        if n <= SERIAL_ROWS {
            for (i, tile) in acts.bytes_mut().chunks_mut(bytes).enumerate() {
                kernels.fill_tile(shape, i, x, tile);
            }
        } else {
            self.lead.chunks_mut(acts.bytes_mut(), bytes, |i, tile, _| {
                kernels.fill_tile(shape, i, x, tile)
            });
        }
    }

    /// Calls `f` for each row of `data`: `[rows, width]`.
    fn rows(&mut self, data: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        let n = data.len() / width;
        if n <= SERIAL_ROWS {
            return data
                .chunks_exact_mut(width)
                .enumerate()
                .for_each(|(t, row)| f(t, row));
        }
        let grain = n.div_ceil(self.lead.threads() * 4);
        self.lead.chunks_mut(data, grain * width, |i, piece, _| {
            for (t, row) in piece.chunks_exact_mut(width).enumerate() {
                f(i * grain + t, row);
            }
        });
    }

    fn norm(&mut self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let (kernels, eps, e) = (self.kernels, self.model.config().rms_epsilon, weight.len());
        self.rows(out, e, |t, row| {
            kernels.rms_norm(&x[t * e..(t + 1) * e], weight, eps, row)
        });
    }

    fn add(&mut self, x: &mut [f32], y: &[f32]) {
        let (kernels, e) = (self.kernels, self.model.config().embedding_length);
        self.rows(x, e, |t, row| kernels.add(row, &y[t * e..(t + 1) * e]));
    }

    /// Rotates the q and k heads of every token in place.
    fn rotate(&mut self, qkv: &mut [f32], starts: [usize; 3], strides: [usize; 3], n: usize) {
        let c = self.model.config();
        let (kernels, rope, first) = (self.kernels, self.rope, self.first);
        let (d, pairs) = (c.head_size, c.rope_dimension_count / 2);
        let adjacent = c.arch.rope == RopePairing::Adjacent;
        let turn = |t: usize, heads: &mut [f32]| {
            let (cos, sin) = rope.at(first + t, pairs);
            heads
                .chunks_exact_mut(d)
                .for_each(|head| kernels.rope(head, cos, sin, adjacent));
        };
        let (qw, kw) = (c.q_width(), c.kv_width());
        if strides[0] > qw {
            // Fused rows hold q and k side by side.
            self.rows(&mut qkv[..n * strides[0]], strides[0], |t, row| {
                turn(t, &mut row[..qw + kw])
            });
        } else {
            let (q, rest) = qkv.split_at_mut(starts[1]);
            self.rows(q, qw, turn);
            self.rows(&mut rest[..n * kw], kw, turn);
        }
    }

    /// Writes the keys and values of the batch into the cache.
    fn store(&mut self, l: usize, qkv: &[f32], starts: [usize; 3], strides: [usize; 3], n: usize) {
        let (kernels, shape, first) = (self.kernels, self.cache.shape(), self.first);
        self.cache.will_write(first + n);
        let put = |i: usize, out: &mut [u8]| {
            let (head, side) = (i / 2, i % 2);
            let rows = KvRows {
                x: &qkv[starts[1 + side] + head * shape.head_size()..],
                stride: strides[1 + side],
                tokens: n,
                first,
            };
            kernels.store_kv(shape, [KvSide::Keys, KvSide::Values][side], rows, out);
        };
        let (layer, bytes) = (self.cache.layer_mut(l), shape.head_bytes());
        if n <= SERIAL_ROWS {
            for (i, out) in layer.chunks_exact_mut(bytes).enumerate() {
                put(i, out);
            }
        } else {
            self.lead.chunks_mut(layer, bytes, |i, out, _| put(i, out));
        }
    }

    /// Attention of the batch over the cache; `out`: `[n, H d]`. How the work is cut does not
    /// change a bit of it, so it is cut as suits the threads.
    fn attend(
        &mut self,
        l: usize,
        q: &[f32],
        stride: usize,
        out: &mut [f32],
        pieces: &mut Vec<f32>,
    ) {
        let c = self.model.config();
        let (kernels, cache, first) = (self.kernels, &*self.cache, self.first);
        let (columns, group, width) = (c.group() * c.head_size, c.group(), c.q_width());
        let n = out.len() / width;
        let end = first + n;
        let query = |head: usize, tokens: (usize, usize), positions: (usize, usize)| AttnQuery {
            q,
            stride,
            column: head * columns,
            heads: group,
            tokens,
            first_position: first,
            positions,
            window: c.window,
            scale: c.attention_scale,
        };
        let mut out = MatMut::new(out, n, width, width);
        let start = (first + 1).saturating_sub(c.window) / SPLIT * SPLIT;
        let (splits, heads) = ((end - start).div_ceil(SPLIT), c.head_count_kv);
        if n > kernels.decode_tokens() || splits == 1 || self.lead.threads() == 1 {
            let tile = (TILE_ROWS / group).max(1);
            self.lead
                .blocks([out], (tile, columns), |_, (t, column), block, local| {
                    let head = column / columns;
                    let a = query(head, (t, t + block.rows()), (0, end));
                    kernels.attend(&a, cache.head(l, head), block, &mut local.attention);
                });
            return;
        }
        // Few tokens over a long cache: pieces of positions, then a merge.
        let shape = cache.shape();
        let each = query(0, (0, n), (0, end)).partial_len(shape);
        pieces.resize((heads * splits * each).max(pieces.len()), 0.0);
        let pieces = &mut pieces[..heads * splits * each];
        self.lead.chunks_mut(pieces, each, |i, piece, local| {
            let (head, at) = (i / splits, start + i % splits * SPLIT);
            let a = query(head, (0, n), (at, (at + SPLIT).min(end)));
            kernels.attend_partial(&a, cache.head(l, head), piece, &mut local.attention);
        });
        for pieces in pieces.chunks_exact_mut(splits * each) {
            let (block, rest) = out.split_cols(columns);
            kernels.merge_partials(shape, pieces, each, block);
            out = rest;
        }
    }
}
