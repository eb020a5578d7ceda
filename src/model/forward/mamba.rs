//! Selective state spaces: Mamba (arXiv 2312.00752) and Mamba 2 (arXiv 2405.21060).
//!
//! Matrices are multiplied with all tokens of a batch; the convolution is over rows, and the scan goes
//! token by token, the channels (or heads) shared among the threads.

use std::ops::Range;

use geb_kernels::mat::MatMut;

use super::convolution::Convolution;
use super::{Acts, Buffers, Pass, SpanView, take};
use crate::model::Recurrent;
use crate::model::weights::{Linear, Mamba};

/// Channels of one claim of a thread in the scan of Mamba 1.
const CHANNELS: usize = 32;
/// Running sums of a scalar product, so that it is many at a time in one fixed order.
pub(super) const LANES: usize = 8;

/// `ln(1 + exp(x))`, as PyTorch computes it.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// One channel: `s = s decay + input B`; returns the sum of `s C`.
fn step(s: &mut [f32], decay: impl Fn(usize) -> f32, input: f32, b: &[f32], c: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (i, ((s, b), c)) in s.iter_mut().zip(b).zip(c).enumerate() {
        *s = *s * decay(i) + input * b;
        sums[i % LANES] += *s * c;
    }
    sums.iter().sum()
}

/// Some channels of a span: their state, and their columns of what comes out.
pub(super) struct Columns<'a> {
    /// Which of the chunks of channels.
    pub(super) chunk: usize,
    /// Rows of the span.
    pub(super) rows: Range<usize>,
    pub(super) state: &'a mut [f32],
    pub(super) out: MatMut<'a>,
}

/// Chunks of `width` channels of all spans, `n` numbers of state each, which follow the `past` inputs of
/// the convolution in layer `l`; `out`: `[rows, d]`.
pub(super) fn columns<'a>(
    spans: &'a mut [SpanView<'_>],
    (l, past): (usize, usize),
    (out, d): (&'a mut [f32], usize),
    (width, n): (usize, usize),
) -> Vec<Columns<'a>> {
    let mut jobs = Vec::new();
    let mut below = out;
    for span in spans {
        let count = span.rows.len();
        let (rows, later) = below.split_at_mut(count * d);
        below = later;
        let mut rest = MatMut::new(rows, count, d, d);
        let state = &mut span.state.mixer_mut(l)[past..];
        for (chunk, state) in state.chunks_mut(width * n).enumerate() {
            let width = rest.cols().min(width);
            let (out, others) = rest.split_cols(width);
            rest = others;
            jobs.push(Columns {
                chunk,
                rows: span.rows.clone(),
                state,
                out,
            });
        }
    }
    jobs
}

/// Rows of a matrix with rows of `width`.
pub(super) fn of<'a>(x: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &x[rows.start * width..rows.end * width]
}

/// What a mixer works with, a row for each token: its input, the gate, what comes out, what goes into the
/// convolution and what it makes, and room.
struct Parts<'a> {
    h: &'a [f32],
    z: &'a mut [f32],
    y: &'a mut [f32],
    u: &'a mut [f32],
    x: &'a mut [f32],
    rest: &'a mut [f32],
}

impl Mamba {
    fn convolution(&self) -> Convolution<'_> {
        Convolution {
            factors: &self.conv,
            bias: &self.conv_bias,
            channels: self.conv_bias.len(),
            act: silu,
        }
    }
}

impl Pass<'_, '_> {
    /// The mixer on the batch `b.h`, `[n, E]`, in place.
    pub(super) fn mamba(&mut self, b: &mut Buffers, m: &Mamba, l: usize, n: usize) {
        let c = self.model.config();
        let Some(r) = c.recurrent else { return };
        let (d, kernels) = (r.inner, self.kernels);
        let channels = m.conv_bias.len();
        let h = &mut b.h[..n * c.embedding_length];
        let mut rest = &mut b.mix[..];
        let [z, y] = [(); 2].map(|()| take(&mut rest, n * d));
        let [u, x] = [(); 2].map(|()| take(&mut rest, n * channels));
        let parts = Parts {
            h,
            z: &mut *z,
            y: &mut *y,
            u,
            x,
            rest,
        };
        match (&m.step, &m.input[..]) {
            (Some(step), [wz, wu]) => self.mamba1(&mut b.acts, (m, step), [wz, wu], l, parts),
            (_, [wz, wu, wt]) => self.mamba2(&mut b.acts, m, [wz, wu, wt], l, parts),
            _ => {}
        }
        let y = &*y;
        self.rows(z, d, |t, z| kernels.silu_mul(z, &y[t * d..(t + 1) * d]));
        if !m.norm.is_empty() {
            let (eps, group) = (c.norm_epsilon, d / r.groups);
            self.rows(z, d, |_, z| {
                for (z, weight) in z.chunks_exact_mut(group).zip(m.norm.chunks_exact(group)) {
                    kernels.rms_norm_each(z, weight, eps);
                }
            });
        }
        self.project(&mut b.acts, z, n, [(&m.output, &mut *h)]);
    }

    /// Mamba 1: into `p.z` the gate, into `p.y` what the scan makes.
    fn mamba1(
        &mut self,
        acts: &mut Acts,
        (m, (parts, dt)): (&Mamba, &([Linear; 3], Linear)),
        [wz, wu]: [&Linear; 2],
        l: usize,
        p: Parts<'_>,
    ) {
        let c = self.model.config();
        let Some(r) = c.recurrent else { return };
        let (d, kernels, n) = (r.inner, self.kernels, p.z.len() / r.inner);
        self.project(acts, p.h, n, [(wz, p.z), (wu, &mut *p.u)]);
        self.convolve(&m.convolution(), l, p.u, p.x);
        let mut rest = p.rest;
        let low = take(&mut rest, n * r.rank);
        let [bs, cs] = [(); 2].map(|()| take(&mut rest, n * r.state));
        let [w0, w1, w2] = parts;
        let outs = [(w0, &mut *low), (w1, &mut *bs), (w2, &mut *cs)];
        self.project(acts, p.x, n, outs);
        if r.normed {
            let ones = vec![1.0; r.rank.max(r.state)];
            let parts = [&mut *low, &mut *bs, &mut *cs];
            for (part, width) in parts.into_iter().zip([r.rank, r.state, r.state]) {
                let eps = r.mixer_epsilon;
                self.rows(part, width, |_, row| {
                    kernels.rms_norm_each(row, &ones[..width], eps)
                });
            }
        }
        // The convolution's input is done with: step sizes take its place.
        self.project(acts, low, n, [(dt, &mut *p.u)]);
        self.rows(p.u, d, |_, row| {
            row.iter_mut().for_each(|v| *v = softplus(*v))
        });
        let past = (m.taps() - 1) * m.conv_bias.len();
        let sizes = (CHANNELS, r.state);
        let mut jobs = columns(&mut self.spans, (l, past), (p.y, d), sizes);
        let (u, x, bs, cs) = (&*p.u, &*p.x, &*bs, &*cs);
        self.lead.chunks_mut(&mut jobs, 1, |_, jobs, _| {
            for job in jobs {
                let wide = [u, x].map(|v| of(v, &job.rows, d));
                let [b, c] = [bs, cs].map(|v| of(v, &job.rows, r.state));
                let inputs = [wide[0], wide[1], b, c];
                scan(m, &r, job.chunk * CHANNELS, inputs, job.state, &mut job.out);
            }
        });
    }

    /// Mamba 2: the same.
    fn mamba2(
        &mut self,
        acts: &mut Acts,
        m: &Mamba,
        [wz, wu, wt]: [&Linear; 3],
        l: usize,
        p: Parts<'_>,
    ) {
        let Some(r) = self.model.config().recurrent else {
            return;
        };
        let (d, n) = (r.inner, p.z.len() / r.inner);
        let mut rest = p.rest;
        let steps = take(&mut rest, n * r.heads);
        let outs = [(wz, p.z), (wu, &mut *p.u), (wt, &mut *steps)];
        self.project(acts, p.h, n, outs);
        self.convolve(&m.convolution(), l, p.u, p.x);
        self.rows(steps, r.heads, |_, row| {
            for (v, bias) in row.iter_mut().zip(&m.step_bias) {
                *v = softplus(*v + bias);
            }
        });
        let past = (m.taps() - 1) * m.conv_bias.len();
        let sizes = (d / r.heads, r.state);
        let mut jobs = columns(&mut self.spans, (l, past), (p.y, d), sizes);
        let (steps, x) = (&*steps, &*p.x);
        self.lead.chunks_mut(&mut jobs, 1, |_, jobs, _| {
            for job in jobs {
                let x = of(x, &job.rows, m.conv_bias.len());
                let inputs = [of(steps, &job.rows, r.heads), x];
                scan2(m, &r, job.chunk, inputs, job.state, &mut job.out);
            }
        });
    }
}

/// The scan of Mamba 1 over some channels from `first` on. Inputs: step sizes and `x` `[n, D]`, B and C
/// `[n, N]`; state `[channels, N]`.
fn scan(
    m: &Mamba,
    r: &Recurrent,
    first: usize,
    [steps, x, b, c]: [&[f32]; 4],
    state: &mut [f32],
    out: &mut MatMut<'_>,
) {
    let (d, n) = (r.inner, r.state);
    for t in 0..out.rows() {
        let (b, c) = (&b[t * n..(t + 1) * n], &c[t * n..(t + 1) * n]);
        let y = out.row_mut(t).iter_mut();
        for (i, (y, s)) in y.zip(state.chunks_exact_mut(n)).enumerate() {
            let channel = first + i;
            let (dt, x) = (steps[t * d + channel], x[t * d + channel]);
            let a = &m.a[channel * n..(channel + 1) * n];
            *y = step(s, |j| (dt * a[j]).exp(), dt * x, b, c) + m.d[channel] * x;
        }
    }
}

/// The scan of Mamba 2 over one head. Inputs: step sizes `[n, heads]`; x, B and C in rows of `[channels]`;
/// state `[D / heads, N]`.
fn scan2(
    m: &Mamba,
    r: &Recurrent,
    head: usize,
    [steps, x]: [&[f32]; 2],
    state: &mut [f32],
    out: &mut MatMut<'_>,
) {
    let (n, width, channels) = (r.state, r.inner / r.heads, m.conv_bias.len());
    let group = head / (r.heads / r.groups);
    for t in 0..out.rows() {
        let row = &x[t * channels..(t + 1) * channels];
        let (x, bc) = row.split_at(r.inner);
        let (b, c) = bc.split_at(r.groups * n);
        let (b, c) = (
            &b[group * n..(group + 1) * n],
            &c[group * n..(group + 1) * n],
        );
        let dt = steps[t * r.heads + head];
        let decay = (dt * m.a[head]).exp();
        let x = &x[head * width..(head + 1) * width];
        let rows = out.row_mut(t).iter_mut().zip(state.chunks_exact_mut(n));
        for ((y, s), x) in rows.zip(x) {
            *y = step(s, |_| decay, dt * x, b, c) + m.d[head] * x;
        }
    }
}
