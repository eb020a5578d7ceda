//! The one layer loop: a batch of tokens through all layers, for every architecture.
//!
//! ```text
//! x = token_embd[tokens]
//! for each layer:
//!     h = norm(x);  q, k, v = W h;  norm and rotate q, k;  store k, v
//!     x += norm(W_o attention(q))                 or later, where both branches see the same x
//!     h = norm(x);  x += norm(W_down( silu(W_gate h) * W_up h ))
//! logits = W_out norm(x)
//! ```
//! Which of the norms there are, and factors, are the architecture's answers (`model/arch`).
//! The leader runs this as sequential code; each product, and with many tokens each pass over
//! rows, is a step of the team. Row passes of a single token stay on the leader.

mod attention;
mod biased;
mod convolution;
mod cross;
mod delta_net;
mod experts;
mod feed_forward;
mod heads;
mod mamba;
mod mixture;
pub(super) mod packing;
mod rwkv;
mod short_conv;
mod span;

use std::sync::atomic::{AtomicBool, Ordering};

use geb_kernels::Kernels;
use geb_kernels::mat::MatMut;
use geb_kernels::team::Leader;

use super::config::LayerSizes;
use super::observer::Observer;
use super::operand::Operand;
use super::packed::Packed;
use super::resident::Residents;
use super::rope::Ropes;
use super::weights::{Bias, Branch, Cross, Ffn, Layer, Linear, Mixer, Norm, QMatrix};
use super::{Config, Model};
use crate::cache::PagePool;
use crate::error::{Error, Result};
use crate::ram;
use packing::{Acts, KINDS, slot};
use packing::{SERIAL_ROWS, pack};
pub use span::Segment;
pub(crate) use span::{Places, SpanView};

/// Buffers of a batch, sized once for the largest batch. Shapes are `[tokens, width]`.
pub(crate) struct Buffers {
    x: Vec<f32>,
    h: Vec<f32>,
    qkv: Vec<f32>,
    attn: Vec<f32>,
    gate_up: Vec<f32>,
    /// What attention made, until the feed-forward layer beside it is done.
    side: Vec<f32>,
    pieces: Vec<f32>,
    /// What recurrent branches work with.
    mix: Vec<f32>,
    /// The input of such a branch before each span, `[spans, E]`.
    before: Vec<f32>,
    acts: Acts,
    mixture: mixture::Mixture,
}

/// Numbers of each buffer of a batch.
pub(crate) struct BufferSizes {
    x: usize,
    qkv: usize,
    attn: usize,
    gate_up: usize,
    side: usize,
    mix: usize,
    /// Bytes of activations in their packed form, at most.
    packed: u64,
    mixture: mixture::MixtureSizes,
}

impl BufferSizes {
    /// For batches of at most `batch` rows.
    pub(crate) fn new(c: &Config, batch: usize) -> BufferSizes {
        let e = c.embedding_length;
        let (q, ffn) = (
            c.widest(LayerSizes::q_width),
            c.widest(|l| l.feed_forward_length),
        );
        let inner = c.recurrent.map_or(0, |r| r.inner);
        BufferSizes {
            x: e * batch,
            qkv: c.widest(|l| l.q_width() + 2 * l.kv_width()) * batch,
            attn: q * batch,
            gate_up: gate_up(c, batch),
            side: if c.parallel { e * batch } else { 0 },
            mix: c.scratch * batch,
            packed: 4 * ((e + q.max(inner) + 2 * ffn) * batch) as u64,
            mixture: mixture::MixtureSizes::new(c, batch),
        }
    }

    /// Bytes of all.
    pub(crate) fn bytes(&self) -> u64 {
        let floats = 2 * self.x + self.qkv + self.attn + self.gate_up + self.side + self.mix;
        4 * floats as u64 + self.packed + self.mixture.bytes()
    }
}

impl Buffers {
    /// Buffers of these sizes; those of packed activations grow with use.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(crate) fn new(sizes: &BufferSizes) -> Result<Buffers> {
        let zeros = |floats: usize| {
            let refused = |()| ram::refused("buffers of a batch", 4 * floats as u64);
            bytemuck::allocation::try_zeroed_vec::<f32>(floats).map_err(refused)
        };
        Ok(Buffers {
            x: zeros(sizes.x)?,
            h: zeros(sizes.x)?,
            qkv: zeros(sizes.qkv)?,
            attn: zeros(sizes.attn)?,
            gate_up: zeros(sizes.gate_up)?,
            side: zeros(sizes.side)?,
            pieces: Vec::new(),
            mix: zeros(sizes.mix)?,
            before: Vec::new(),
            acts: Default::default(),
            mixture: mixture::Mixture::new(&sizes.mixture),
        })
    }
}

/// Numbers that gate and up of a batch have, or of a wave of experts.
fn gate_up(c: &Config, batch: usize) -> usize {
    let dense = 2 * c.widest(|l| l.feed_forward_length) * batch;
    let experts = c.experts.as_ref().map_or(0, |r| {
        let rows = batch.max(mixture::WAVE_ROWS).min(batch * r.used);
        2 * (r.width * rows).max(r.shared_width * batch)
    });
    dense.max(experts)
}

/// The layers that run.
struct Stack<'a> {
    layers: &'a [Layer],
    /// What is added to the scores.
    bias: Option<&'a Bias>,
    /// Looks at the text that an encoder has read, one for each layer.
    cross: &'a [Branch<Cross>],
}

/// One forward pass of a batch.
pub(crate) struct Pass<'a, 'l> {
    pub(crate) model: &'a Model,
    pub(crate) kernels: &'static Kernels,
    pub(crate) lead: &'a mut Leader<'l>,
    pub(crate) ropes: &'a Ropes,
    /// The sequences of the batch; their rows lie one behind the other.
    pub(crate) spans: Vec<SpanView<'a>>,
    /// Keys and values of the sequences.
    pub(crate) pages: &'a mut PagePool,
    /// Positions of the rows.
    pub(crate) places: Places<'a>,
    /// Whether a token sees none after its own; otherwise each sees the whole batch.
    pub(crate) causal: bool,
    /// Layers to run; fewer than the model has for an early exit.
    pub(crate) layers: usize,
    pub(crate) cancel: Option<&'a AtomicBool>,
    /// Matrices that are not read from the file.
    pub(crate) packed: Option<&'a Packed>,
    /// Told what is computed; a pass that is observed has one span.
    pub(crate) observer: Option<&'a mut dyn Observer>,
    /// Told which experts are about to be used, where memory is limited.
    pub(crate) residents: Option<&'a mut Residents>,
}

impl<'a> Pass<'a, '_> {
    /// Runs the spans; writes the logits of the rows that each wants, span after span.
    pub(crate) fn run(&mut self, b: &mut Buffers, logits: &mut [f32]) -> Result<()> {
        let c = self.model.config();
        let e = c.embedding_length;
        let n = self.spans.last().map_or(0, |s| s.rows.end);
        self.embed(b);
        let embedding_norm = &self.model.weights().embedding_norm;
        if !matches!(embedding_norm, Norm::None) {
            self.norm(&b.x[..n * e], embedding_norm, &mut b.h[..n * e]);
            b.x[..n * e].copy_from_slice(&b.h[..n * e]);
        }
        self.run_layers(b, n)?;
        if self.observer.is_some() {
            let (h, weights) = (&mut b.h[..n * e], self.model.weights());
            self.output_norm(&b.x[..n * e], h);
            self.observe(&weights.output.weight, h);
        }
        self.head(b, logits);
        Ok(())
    }

    /// The layers of the decoder or, for tokens that see each other, of the encoder if there is one.
    fn stack(&self) -> Stack<'a> {
        let w = self.model.weights();
        match &w.encoder {
            Some(encoder) if !self.causal => Stack {
                layers: &encoder.layers,
                bias: Some(&encoder.bias),
                cross: &[],
            },
            encoder => Stack {
                layers: &w.layers,
                bias: w.bias.as_ref(),
                cross: encoder.as_ref().map_or(&[], |e| &e.cross),
            },
        }
    }

    /// Takes `b.x` of `n` tokens through the layers.
    fn run_layers(&mut self, b: &mut Buffers, n: usize) -> Result<()> {
        let c = self.model.config();
        let e = c.embedding_length;
        let stack = self.stack();
        self.show(0, &b.x[..n * e]);
        for l in 0..self.layers {
            self.check_cancel()?;
            if l + 1 == c.block_count {
                let keep = |s: &mut SpanView<'_>| s.keep_trunk(&b.x, e);
                self.spans.iter_mut().for_each(keep);
            }
            let layer = &stack.layers[l];
            self.mixer(b, &stack, layer, (l, n));
            self.feed_forward(b, layer, (l, n));
            if c.rescale_every > 0 && (l + 1).is_multiple_of(c.rescale_every) {
                self.rows(&mut b.x[..n * e], e, |_, row| scale(row, 0.5));
            }
            self.show(l + 1, &b.x[..n * e]);
        }
        Ok(())
    }

    fn check_cancel(&self) -> Result<()> {
        match self.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// The part of a layer that mixes tokens, and its look at the encoder's text.
    fn mixer(&mut self, b: &mut Buffers, stack: &Stack<'_>, layer: &Layer, (l, n): (usize, usize)) {
        let c = self.model.config();
        let e = c.embedding_length;
        self.norm(&b.x[..n * e], &layer.mixer.norm, &mut b.h[..n * e]);
        match &layer.mixer.body {
            Mixer::Attention(a) => self.attention(b, (a, stack.bias), l, n),
            Mixer::Experts(a) => self.expert_attention(b, a, l, n),
            Mixer::Rwkv6(m) => self.rwkv6(b, m, l, n),
            Mixer::Rwkv7(m) => self.rwkv7(b, m, l, n),
            Mixer::Mamba(m) => self.mamba(b, m, l, n),
            Mixer::ShortConv(m) => self.short_conv(b, m, l, n),
            Mixer::DeltaNet(m) => self.delta_net(b, m, l, n),
        }
        if c.parallel {
            std::mem::swap(&mut b.h, &mut b.side);
        } else {
            self.add(&mut b.x[..n * e], &mut b.h[..n * e], &layer.mixer.post_norm);
        }
        if let Some(cross) = stack.cross.get(l) {
            self.norm(&b.x[..n * e], &cross.norm, &mut b.h[..n * e]);
            self.cross(b, &cross.body, l, n);
            self.add(&mut b.x[..n * e], &mut b.h[..n * e], &cross.post_norm);
        }
    }

    /// The part of a layer that works on each token alone.
    fn feed_forward(&mut self, b: &mut Buffers, layer: &Layer, (l, n): (usize, usize)) {
        let c = self.model.config();
        let e = c.embedding_length;
        if matches!(layer.ffn.body, Ffn::None) {
            return;
        }
        self.norm(&b.x[..n * e], &layer.ffn.norm, &mut b.h[..n * e]);
        match &layer.ffn.body {
            Ffn::Gated { gate_up, down } => self.gated(b, (gate_up, down), n),
            Ffn::Plain { up, down } => self.plain(b, (up, down), n),
            Ffn::Experts(w) => self.experts(b, w, n),
            Ffn::ChannelMix(m) => self.channel_mix(b, m, l, n),
            Ffn::None => {}
        }
        if c.parallel {
            let side = &mut b.side[..n * e];
            self.add(&mut b.x[..n * e], side, &layer.mixer.post_norm);
        }
        self.add(&mut b.x[..n * e], &mut b.h[..n * e], &layer.ffn.post_norm);
    }

    /// Shows the residual stream behind `depth` layers to the observer, if there is one.
    fn show(&mut self, depth: usize, x: &[f32]) {
        if let Some(observer) = self.observer.as_deref_mut() {
            observer.residual(depth, self.places.at(0), x);
        }
    }

    /// Writes the logits of the wanted rows of the batch whose last layer is in `b`: `[rows, vocab]`.
    pub(crate) fn head(&mut self, b: &mut Buffers, logits: &mut [f32]) {
        let (e, mut n) = (self.model.config().embedding_length, 0);
        for i in 0..self.spans.len() {
            let (start, wanted) = (self.spans[i].rows.start, self.spans[i].wanted.clone());
            let rows = start + wanted.start..start + wanted.end;
            let to = n..n + wanted.len();
            self.output_norm(
                &b.x[rows.start * e..rows.end * e],
                &mut b.h[to.start * e..to.end * e],
            );
            self.spans[i].part = to;
            n += wanted.len();
        }
        if n > 0 {
            let weights = self.model.weights();
            self.project(
                &mut b.acts,
                &b.h[..n * e],
                n,
                [(&weights.output, &mut *logits)],
            );
            self.scale_logits(logits);
        }
        self.spans.iter_mut().for_each(|s| s.part = s.rows.clone());
    }

    /// Writes the logits of `states`, `[rows, E]`, as if the last layer of the one span had made them.
    pub(crate) fn lens(&mut self, b: &mut Buffers, states: &[f32], logits: &mut [f32]) {
        b.x[..states.len()].copy_from_slice(states);
        let rows = states.len() / self.model.config().embedding_length;
        self.spans[0].rows = 0..rows;
        self.spans[0].wanted = 0..rows;
        self.head(b, logits);
    }

    /// Writes what the layers made of the batch in `b`, after the output norm: `[tokens, E]`.
    pub(crate) fn hidden(&mut self, b: &Buffers, out: &mut [f32]) {
        self.output_norm(&b.x[..out.len()], out);
    }

    fn scale_logits(&mut self, logits: &mut [f32]) {
        let c = self.model.config();
        if c.logit_scale != 1.0 {
            self.rows(logits, c.vocab, |_, row| scale(row, c.logit_scale));
        }
        if let Some(cap) = c.logit_softcap {
            let soften = |v: &mut f32| *v = cap * (*v / cap).tanh();
            self.rows(logits, c.vocab, |_, row| row.iter_mut().for_each(soften));
        }
    }

    /// Writes what stands for the inputs of all spans into `b.x`.
    fn embed(&mut self, b: &mut Buffers) {
        let (kernels, model, places) = (self.kernels, self.model, self.places);
        let weights = model.weights();
        let factor = model.config().embedding_scale;
        let e = weights.token_embd.cols;
        let read = |table: &QMatrix, row: usize, out: &mut [f32]| {
            let data = model.bytes(table);
            let bytes = data.len() / table.rows;
            kernels.dequantize(table.dtype, &data[row * bytes..(row + 1) * bytes], out);
        };
        for i in 0..self.spans.len() {
            let (input, rows) = (self.spans[i].input, self.spans[i].rows.clone());
            self.rows(
                &mut b.x[rows.start * e..rows.end * e],
                e,
                |t, row| match input {
                    Segment::Tokens(ids) => {
                        read(&weights.token_embd, ids[t] as usize, row);
                        if factor != 1.0 {
                            scale(row, factor);
                        }
                    }
                    Segment::Vectors(x) => row.copy_from_slice(&x[t * e..(t + 1) * e]),
                },
            );
        }
        if let Some(table) = &weights.position_embd {
            let n = self.spans.last().map_or(0, |s| s.rows.end);
            let (x, h) = (&mut b.x[..n * e], &mut b.h[..n * e]);
            self.rows(h, e, |t, row| read(table, places.at(t), row));
            let h = &*h;
            self.rows(x, e, |t, row| kernels.add(row, &h[t * e..(t + 1) * e]));
        }
    }

    /// Tells the observer, if there is one, what `weight` is multiplied with.
    fn observe(&mut self, weight: &QMatrix, x: &[f32]) {
        if let Some(observer) = self.observer.as_deref_mut() {
            observer.input(weight, x, (self.kernels, self.lead));
        }
    }

    /// `out = W x + b` for matrices that share the input `x`: `[n, cols]`; outputs `[n, rows]`.
    fn project<const N: usize>(
        &mut self,
        acts: &mut Acts,
        x: &[f32],
        n: usize,
        mut outs: [(&Linear, &mut [f32]); N],
    ) {
        let kernels = self.kernels;
        let matrices = outs.each_ref().map(|(w, _)| &w.weight);
        self.prepare(acts, matrices, x, n);
        let acts = &*acts;
        let operands = matrices.map(|m| Operand::new(self.model, self.packed, m));
        let rows: usize = matrices.iter().map(|m| m.rows).sum();
        let cols = matrices[0].cols;
        let threads = self.lead.threads();
        let step = (rows / (threads * 8)).clamp(16, 32).next_multiple_of(16);
        let blocks = outs
            .each_mut()
            .map(|(w, out)| MatMut::new(out, n, w.weight.rows, w.weight.rows));
        self.lead.columns(blocks, step, |i, c, block, local| {
            let acts = &acts[slot(kernels.act_kind(matrices[i].dtype))];
            operands[i].multiply(kernels, c, acts, block, &mut local.panel);
        });
        let alone = self.spans.len() == 1;
        for span in &mut self.spans {
            let Some(adapters) = span.adapters.as_deref_mut() else {
                continue;
            };
            let rows = if alone { 0..n } else { span.part.clone() };
            let outs = outs.each_mut().map(|(w, out)| {
                let width = w.weight.rows;
                (&w.weight, &mut out[rows.start * width..rows.end * width])
            });
            let x = &x[rows.start * cols..rows.end * cols];
            adapters.add((kernels, self.lead), x, rows.len(), outs);
        }
        for (w, out) in outs {
            if let Some(bias) = &w.bias {
                self.rows(out, w.weight.rows, |_, row| kernels.add(row, bias));
            }
        }
    }

    /// Packs (and quantizes) the input of `matrices`, `[n, cols]`, for each kind of product they are.
    fn prepare<const N: usize>(
        &mut self,
        acts: &mut Acts,
        matrices: [&QMatrix; N],
        x: &[f32],
        n: usize,
    ) {
        self.observe(matrices[0], x);
        for (acts, kind) in acts.iter_mut().zip(KINDS) {
            let is = |m: &&QMatrix| self.kernels.act_kind(m.dtype) == kind;
            if matrices.iter().any(is) {
                let cols = matrices[0].cols;
                pack((self.kernels, self.lead), acts, kind, x, (n, cols));
            }
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

    fn norm(&mut self, x: &[f32], norm: &Norm, out: &mut [f32]) {
        self.norm_with(x, norm, self.model.config().norm_epsilon, out);
    }

    fn output_norm(&mut self, x: &[f32], out: &mut [f32]) {
        let (norm, c) = (&self.model.weights().output_norm, self.model.config());
        self.norm_with(x, norm, c.output_norm_epsilon, out);
    }

    fn norm_with(&mut self, x: &[f32], norm: &Norm, eps: f32, out: &mut [f32]) {
        let (kernels, e) = (self.kernels, self.model.config().embedding_length);
        let row = |t: usize| &x[t * e..(t + 1) * e];
        match norm {
            Norm::None => out.copy_from_slice(x),
            Norm::Rms(weight) => {
                self.rows(out, e, |t, out| kernels.rms_norm(row(t), weight, eps, out))
            }
            Norm::Layer(weight, bias) => self.rows(out, e, |t, out| {
                kernels.layer_norm(row(t), [weight, bias], eps, out)
            }),
        }
    }

    /// Adds what attention or feed-forward made to the residual stream, after its norm.
    fn add(&mut self, x: &mut [f32], y: &mut [f32], norm: &Option<Vec<f32>>) {
        let (kernels, c) = (self.kernels, self.model.config());
        let (e, factor) = (c.embedding_length, c.residual_scale);
        if let Some(weight) = norm {
            self.rows(y, e, |_, row| {
                kernels.rms_norm_each(row, weight, c.norm_epsilon)
            });
        }
        if factor != 1.0 {
            self.rows(y, e, |_, row| scale(row, factor));
        }
        self.rows(x, e, |t, row| kernels.add(row, &y[t * e..(t + 1) * e]));
    }
}

/// The first `len` floats of `rest`, which keeps the others.
fn take<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|v| *v *= factor);
}
