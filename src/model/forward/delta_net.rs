//! Gated delta nets (arXiv 2412.06464): a matrix for each head of values, from keys to values, that decays and is
//! corrected by what it gets wrong.
//!
//! ```text
//! S = decay S;  u = rate (v - S k);  S += u k^T;  o = S q
//! ```
//! Matrices are multiplied with all tokens of a batch; the recurrence goes token by token, the heads shared among
//! the threads. A row of S belongs to one number of the value, and needs no other row.

use geb_kernels::mat::MatMut;

use super::convolution::Convolution;
use super::mamba::{LANES, columns, of, silu, softplus};
use super::{Acts, Buffers, Pass, take};
use crate::model::Recurrent;
use crate::model::weights::DeltaNet;

/// Under the root of the norm of queries and keys.
const EPSILON: f32 = 1e-6;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Adds up what `f` returns for the numbers at one place of `s`, `k` and `q`, in one fixed order.
fn sum(s: &mut [f32], k: &[f32], q: &[f32], f: impl Fn(&mut f32, f32, f32) -> f32) -> f32 {
    let (s, s_end) = s.as_chunks_mut::<LANES>();
    let (k, k_end) = k.as_chunks::<LANES>();
    let (q, q_end) = q.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for ((s, k), q) in s.iter_mut().zip(k).zip(q) {
        for i in 0..LANES {
            sums[i] += f(&mut s[i], k[i], q[i]);
        }
    }
    let end = s_end.iter_mut().zip(k_end).zip(q_end);
    for (sum, ((s, k), q)) in sums.iter_mut().zip(end) {
        *sum += f(s, *k, *q);
    }
    sums.iter().sum()
}

/// One row of a state sees one token; returns what the query finds.
fn step(s: &mut [f32], k: &[f32], q: &[f32], decay: f32, rate: f32, v: f32) -> f32 {
    let found = sum(s, k, q, |s, k, _| {
        *s *= decay;
        *s * k
    });
    let change = rate * (v - found);
    sum(s, k, q, |s, k, q| {
        *s += change * k;
        *s * q
    })
}

/// `x` becomes `scale x / |x|`.
fn normalise(x: &mut [f32], scale: f32) {
    let mut sums = [0.0; LANES];
    for (i, v) in x.iter().enumerate() {
        sums[i % LANES] += v * v;
    }
    let factor = scale / (sums.iter().sum::<f32>() + EPSILON).sqrt();
    x.iter_mut().for_each(|v| *v *= factor);
}

/// What a mixer works with, a row for each token: what is convolved `[2 G n + D]`, the gate `[D]`, how much is
/// corrected and what is left of the state `[heads]` each, and room.
struct Parts<'a> {
    u: &'a mut [f32],
    z: &'a mut [f32],
    rates: &'a mut [f32],
    decays: &'a mut [f32],
    rest: &'a mut [f32],
}

/// What goes into the recurrence, a row for each token.
struct Inputs<'a> {
    /// Queries, keys and values, `[2 G n + D]`.
    x: &'a [f32],
    /// How much is corrected, `[heads]`.
    rates: &'a [f32],
    /// What is left of the state, `[heads]`.
    decays: &'a [f32],
}

impl Pass<'_, '_> {
    /// The mixer on the batch `b.h`, `[n, E]`, in place.
    pub(super) fn delta_net(&mut self, b: &mut Buffers, m: &DeltaNet, l: usize, n: usize) {
        let c = self.model.config();
        let Some(r) = c.recurrent else { return };
        let (d, heads, kernels) = (r.inner, r.heads, self.kernels);
        let channels = m.channels();
        let h = &mut b.h[..n * c.embedding_length];
        let mut rest = &mut b.mix[..];
        let [u, x] = [(); 2].map(|()| take(&mut rest, n * channels));
        let [z, y] = [(); 2].map(|()| take(&mut rest, n * d));
        let [rates, decays] = [(); 2].map(|()| take(&mut rest, n * heads));
        let parts = Parts {
            u: &mut *u,
            z: &mut *z,
            rates: &mut *rates,
            decays: &mut *decays,
            rest,
        };
        self.project_delta(&mut b.acts, m, h, parts);
        let conv = Convolution {
            factors: &m.conv,
            bias: &[],
            channels,
            act: silu,
        };
        self.convolve(&conv, l, u, x);
        let (keys, scale) = (r.groups * r.state, 1.0 / (r.state as f32).sqrt());
        self.rows(x, channels, |_, row| {
            let (q, rest) = row.split_at_mut(keys);
            let each = |x: &mut [f32], scale| {
                x.chunks_exact_mut(r.state)
                    .for_each(|x| normalise(x, scale));
            };
            each(q, scale);
            each(&mut rest[..keys], 1.0);
        });
        let inputs = Inputs { x, rates, decays };
        let sizes = (d / heads, r.state);
        let mut jobs = columns(&mut self.spans, (l, conv.past()), (&mut *y, d), sizes);
        self.lead.chunks_mut(&mut jobs, 1, |_, jobs, _| {
            for job in jobs {
                let of = |x, width| of(x, &job.rows, width);
                let inputs = Inputs {
                    x: of(inputs.x, channels),
                    rates: of(inputs.rates, heads),
                    decays: of(inputs.decays, heads),
                };
                let group = match c.arch.grouped_values {
                    true => job.chunk / (heads / r.groups),
                    false => job.chunk % r.groups,
                };
                let at = [job.chunk, group];
                scan(&r, at, &inputs, job.state, &mut job.out);
            }
        });
        let eps = c.norm_epsilon;
        self.rows(y, d, |_, row| {
            let each = row.chunks_exact_mut(d / heads);
            each.for_each(|o| kernels.rms_norm_each(o, &m.norm, eps));
        });
        let y = &*y;
        self.rows(z, d, |t, z| kernels.silu_mul(z, &y[t * d..(t + 1) * d]));
        self.project(&mut b.acts, z, n, [(&m.output, h)]);
    }

    /// What the inputs `[n, E]` become: what is convolved, gates, rates and decays.
    fn project_delta(&mut self, acts: &mut Acts, m: &DeltaNet, h: &[f32], p: Parts<'_>) {
        let Some(r) = self.model.config().recurrent else {
            return;
        };
        let heads = r.heads;
        let n = p.rates.len() / heads;
        let mut rest = p.rest;
        match &m.input[..] {
            [wu, wz, wr, wd] => {
                let outs = [
                    (wu, p.u),
                    (wz, p.z),
                    (wr, &mut *p.rates),
                    (wd, &mut *p.decays),
                ];
                self.project(acts, h, n, outs);
            }
            [wu, wz, both] => {
                let pairs = take(&mut rest, 2 * n * heads);
                let outs = [(wu, p.u), (wz, p.z), (both, &mut *pairs)];
                self.project(acts, h, n, outs);
                let each = heads / r.groups;
                let ends = p.rates.chunks_exact_mut(each);
                let ends = ends.zip(p.decays.chunks_exact_mut(each));
                for ((rates, decays), pair) in ends.zip(pairs.chunks_exact(2 * each)) {
                    rates.copy_from_slice(&pair[..each]);
                    decays.copy_from_slice(&pair[each..]);
                }
            }
            _ => {}
        }
        self.rows(p.rates, heads, |_, row| {
            row.iter_mut().for_each(|v| *v = sigmoid(*v))
        });
        self.rows(p.decays, heads, |_, row| {
            for ((v, bias), a) in row.iter_mut().zip(&m.step_bias).zip(&m.a) {
                *v = (a * softplus(*v + bias)).exp();
            }
        });
    }
}

/// The recurrence of one head of values, which has this head of keys, over the tokens of a span; state
/// `[D / heads, n]`.
fn scan(
    r: &Recurrent,
    [head, group]: [usize; 2],
    inputs: &Inputs<'_>,
    state: &mut [f32],
    out: &mut MatMut<'_>,
) {
    let (n, width, keys) = (r.state, r.inner / r.heads, r.groups * r.state);
    let channels = 2 * keys + r.inner;
    let group = group * n;
    for t in 0..out.rows() {
        let row = &inputs.x[t * channels..(t + 1) * channels];
        let (q, k) = (&row[group..group + n], &row[keys + group..keys + group + n]);
        let v = &row[2 * keys + head * width..2 * keys + (head + 1) * width];
        let at = t * r.heads + head;
        let (rate, decay) = (inputs.rates[at], inputs.decays[at]);
        let rows = out.row_mut(t).iter_mut().zip(state.chunks_exact_mut(n));
        for ((o, s), v) in rows.zip(v) {
            *o = step(s, k, q, decay, rate, *v);
        }
    }
}
