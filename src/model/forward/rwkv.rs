//! RWKV 6 (arXiv 2404.05892) and 7 (arXiv 2503.14456): time mixing with a matrix per head as
//! state, and channel mixing.
//!
//! The matrices of a layer are multiplied with all tokens of a batch at once; only the recurrence
//! goes token by token, the heads shared among the threads. Every head adds in the order of the tokens,
//! so neither batches nor threads change a bit.

use geb_kernels::mat::MatMut;

use super::{Buffers, Pass, take};
use crate::model::Recurrent;
use crate::model::weights::{ChannelMix, LowRank, Rwkv6, Rwkv7};

/// Rates of decay of RWKV 7 are `exp(-exp(-0.5) sigmoid(x))`.
const DECAY: f32 = -0.606_531;
/// Smallest norm that keys are divided by.
const SMALLEST_NORM: f32 = 1e-12;

/// The input of a branch and the one before it.
#[derive(Clone, Copy)]
struct Shifted<'a> {
    h: &'a [f32],
    /// Input of the token before the batch.
    before: &'a [f32],
}

impl Shifted<'_> {
    /// `out = h + (previous - h) * (lerp + extra)`, with `extra` what `out` held, for token `t`.
    fn mix(&self, t: usize, lerp: &[f32], extra: bool, out: &mut [f32]) {
        let e = out.len();
        let now = &self.h[t * e..(t + 1) * e];
        let previous = match t {
            0 => self.before,
            _ => &self.h[(t - 1) * e..t * e],
        };
        for (((o, x), p), l) in out.iter_mut().zip(now).zip(previous).zip(lerp) {
            let factor = if extra { l + *o } else { *l };
            *o = x + (p - x) * factor;
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Norm of each head of `x` in place, then weight and bias.
fn norm_heads(x: &mut [f32], head: usize, epsilon: f32, [weight, bias]: &[Vec<f32>; 2]) {
    let parts = weight.chunks_exact(head).zip(bias.chunks_exact(head));
    for (x, (weight, bias)) in x.chunks_exact_mut(head).zip(parts) {
        let sum: f64 = x.iter().map(|v| f64::from(*v)).sum();
        let mean = (sum / head as f64) as f32;
        let squares: f64 = x.iter().map(|v| f64::from(v - mean).powi(2)).sum();
        let scale = 1.0 / ((squares / head as f64) as f32 + epsilon).sqrt();
        for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * scale * w + b;
        }
    }
}

/// A token of RWKV 6 in one head; rows of the state belong to keys, columns to values:
/// `out = sum of r_i (u_i k_i v + S_i)`, then `S_i = w_i S_i + k_i v`.
fn wkv6(state: &mut [f32], [r, k, v, w, u]: [&[f32]; 5], out: &mut [f32]) {
    out.fill(0.0);
    let rows = state.chunks_exact_mut(v.len());
    for (((((row, r), k), w), u), _) in rows.zip(r).zip(k).zip(w).zip(u).zip(v) {
        let own = u * k;
        for ((s, v), out) in row.iter_mut().zip(v).zip(out.iter_mut()) {
            *out += r * (own * v + *s);
            *s = w * *s + k * v;
        }
    }
}

/// A token of RWKV 7 in one head; rows of the state belong to keys, columns to values. With `a` the
/// removed keys: `s = -sum of a_j S_j`, then `S_j = w_j S_j + k_j v + a_j rate_j s`, `out = sum of r_j S_j`.
fn wkv7(
    state: &mut [f32],
    [r, w, k, v, a, rate]: [&[f32]; 6],
    out: &mut [f32],
    removed: &mut [f32],
) {
    let n = v.len();
    let removed = &mut removed[..n];
    removed.fill(0.0);
    for (row, a) in state.chunks_exact(n).zip(a) {
        for (s, x) in removed.iter_mut().zip(row) {
            *s -= a * x;
        }
    }
    out.fill(0.0);
    for (j, row) in state.chunks_exact_mut(n).enumerate() {
        let (r, w, k, back) = (r[j], w[j], k[j], a[j] * rate[j]);
        for (((x, v), s), out) in row.iter_mut().zip(v).zip(&*removed).zip(out.iter_mut()) {
            *x = *x * w + v * k + s * back;
            *out += *x * r;
        }
    }
}

/// The columns of each head of `out`, `[n, E]`, with the head's state.
fn heads<'a>(
    state: &'a mut [f32],
    out: &'a mut [f32],
    n: usize,
    r: &Recurrent,
) -> Vec<(&'a mut [f32], MatMut<'a>)> {
    let mut rest = Some(MatMut::new(out, n, r.inner, r.inner));
    let mut jobs = Vec::with_capacity(r.heads);
    for state in state.chunks_exact_mut(r.state * r.state) {
        let Some(all) = rest.take() else { break };
        let (columns, others) = all.split_cols(r.state);
        jobs.push((state, columns));
        rest = (others.cols() > 0).then_some(others);
    }
    jobs
}

/// What comes out of the heads of a token is normed, what the token says of itself is added, and the gate
/// is applied.
fn finish7(m: &Rwkv7, [r, k, v, g]: [&[f32]; 4], y: &mut [f32], sizes: &Recurrent) {
    let size = sizes.state;
    norm_heads(y, size, sizes.mixer_epsilon, &m.norm);
    for (head, y) in y.chunks_exact_mut(size).enumerate() {
        let at = head * size..(head + 1) * size;
        let [r, k, v, g] = [r, k, v, g].map(|x| &x[at.clone()]);
        let own = r.iter().zip(k).zip(&m.r_k[at]);
        let own: f32 = own.map(|((r, k), u)| r * k * u).sum();
        for ((y, v), g) in y.iter_mut().zip(v).zip(g) {
            *y = (*y + v * own) * g;
        }
    }
}

impl Pass<'_, '_> {
    /// `x -> out` through two matrices of low rank; `f` in between.
    fn low_rank(
        &mut self,
        acts: &mut super::Acts,
        x: &[f32],
        (pair, low): (&LowRank, &mut [f32]),
        f: impl Fn(f32) -> f32 + Sync,
        out: &mut [f32],
    ) {
        let rank = pair[0].weight.rows;
        let n = x.len() / pair[0].weight.cols;
        let low = &mut low[..n * rank];
        self.project(acts, x, n, [(&pair[0], &mut *low)]);
        self.rows(low, rank, |_, row| row.iter_mut().for_each(|v| *v = f(*v)));
        self.project(acts, low, n, [(&pair[1], out)]);
    }

    /// Takes the last input from `state` and leaves that of this batch.
    fn exchange(state: &mut [f32], before: &mut [f32], h: &[f32]) {
        let e = before.len();
        before.copy_from_slice(&state[..e]);
        state[..e].copy_from_slice(&h[h.len() - e..]);
    }

    /// Time mixing of RWKV 6 of the batch `b.h`, `[n, E]`, in place.
    pub(super) fn rwkv6(&mut self, b: &mut Buffers, m: &Rwkv6, l: usize, n: usize) {
        let c = self.model.config();
        let (e, kernels) = (c.embedding_length, self.kernels);
        let Some(sizes) = c.recurrent else { return };
        let h = &mut b.h[..n * e];
        Self::exchange(self.state.mixer_mut(l), &mut b.before, h);
        let mut rest = &mut b.mix[..];
        let [x, k, v, r, g, w] = [(); 6].map(|()| take(&mut rest, n * e));
        let rank = m.mix_in[0].weight.rows;
        let ranks = take(&mut rest, 5 * n * rank);
        let low = rest;

        let input = Shifted {
            h,
            before: &b.before,
        };
        self.rows(x, e, |t, x| input.mix(t, &m.lerp_x, false, x));
        let mut parts = ranks.chunks_exact_mut(n * rank);
        let parts = m
            .mix_in
            .each_ref()
            .map(|w| (w, parts.next().unwrap_or_default()));
        self.project(&mut b.acts, x, n, parts);
        self.rows(ranks, rank, |_, z| z.iter_mut().for_each(|v| *v = v.tanh()));
        let outs = [&mut *w, &mut *k, &mut *v, &mut *r, &mut *g];
        for (i, out) in outs.into_iter().enumerate() {
            let z = &ranks[i * n * rank..(i + 1) * n * rank];
            self.project(&mut b.acts, z, n, [(&m.mix_out[i], &mut *x)]);
            self.rows(x, e, |t, x| input.mix(t, &m.lerp[i], true, x));
            if i == 0 {
                self.low_rank(&mut b.acts, x, (&m.decay, &mut *low), f32::tanh, out);
            } else {
                self.project(&mut b.acts, x, n, [(&m.kvrg[i - 1], out)]);
            }
        }
        self.rows(w, e, |_, w| {
            w.iter_mut().for_each(|v| *v = (-v.exp()).exp())
        });
        let (k, v, r, w, y) = (&*k, &*v, &*r, &*w, x);
        let size = sizes.state;
        let state = &mut self.state.mixer_mut(l)[e..];
        let mut jobs = heads(state, y, n, &sizes);
        self.lead.chunks_mut(&mut jobs, 1, |head, job, _| {
            let [(state, out)] = job else { return };
            let u = &m.first[head * size..(head + 1) * size];
            for t in 0..n {
                let at = t * e + head * size;
                let [r, k, v, w] = [r, k, v, w].map(|x| &x[at..at + size]);
                wkv6(state, [r, k, v, w, u], out.row_mut(t));
            }
        });
        drop(jobs);
        let y = &mut *y;
        let epsilon = sizes.mixer_epsilon;
        self.rows(y, e, |_, y| norm_heads(y, size, epsilon, &m.norm));
        let y = &*y;
        self.rows(g, e, |t, g| kernels.silu_mul(g, &y[t * e..(t + 1) * e]));
        self.project(&mut b.acts, g, n, [(&m.output, &mut *h)]);
    }

    /// Time mixing of RWKV 7 of the batch `b.h`, `[n, E]`, in place.
    pub(super) fn rwkv7(&mut self, b: &mut Buffers, m: &Rwkv7, l: usize, n: usize) {
        let c = self.model.config();
        let e = c.embedding_length;
        let Some(sizes) = c.recurrent else { return };
        let size = sizes.state;
        let h = &mut b.h[..n * e];
        Self::exchange(self.state.mixer_mut(l), &mut b.before, h);
        let mut rest = &mut b.mix[..];
        // Values of the first layer stay here for the others.
        let first_v = take(&mut rest, n * e);
        let [x, r, w, k, v, a, g, y] = [(); 8].map(|()| take(&mut rest, n * e));
        let low = rest;
        let input = Shifted {
            h,
            before: &b.before,
        };
        let outs = [&mut *r, &mut *w, &mut *k, &mut *v, &mut *a, &mut *g];
        for (i, out) in outs.into_iter().enumerate() {
            self.rows(x, e, |t, x| input.mix(t, &m.lerp[i], false, x));
            let acts = &mut b.acts;
            match i {
                0 => self.project(acts, x, n, [(&m.rkv[0], out)]),
                1 => self.low_rank(acts, x, (&m.decay, &mut *low), f32::tanh, out),
                2 => self.project(acts, x, n, [(&m.rkv[1], out)]),
                3 => {
                    self.project(acts, x, n, [(&m.rkv[2], &mut *out)]);
                    if let Some(value) = &m.value {
                        self.low_rank(acts, x, (value, &mut *low), |v| v, &mut *y);
                        let (y, first) = (&*y, &*first_v);
                        self.rows(out, e, |t, v| {
                            let at = t * e..(t + 1) * e;
                            for ((v, s), f) in v.iter_mut().zip(&y[at.clone()]).zip(&first[at]) {
                                *v += (f - *v) * sigmoid(*s);
                            }
                        });
                    } else {
                        first_v.copy_from_slice(out);
                    }
                }
                4 => self.low_rank(acts, x, (&m.rate, &mut *low), |v| v, out),
                _ => self.low_rank(acts, x, (&m.gate, &mut *low), sigmoid, out),
            }
        }
        self.rows(w, e, |_, w| {
            w.iter_mut().for_each(|v| *v = (DECAY * sigmoid(*v)).exp())
        });
        self.rows(a, e, |_, a| a.iter_mut().for_each(|v| *v = sigmoid(*v)));
        let removed = x;
        self.removed_keys(removed, k, &m.k_k, size);
        let rates = &*a;
        self.rows(k, e, |t, k| {
            for ((k, k_a), a) in k.iter_mut().zip(&m.k_a).zip(&rates[t * e..]) {
                *k += *k * k_a * (a - 1.0);
            }
        });
        let (r, k, v) = (&*r, &*k, &*v);
        self.scan7(l, &mut b.pieces, [r, &*w, k, v, &*removed, &*a], y);
        let g = &*g;
        self.rows(y, e, |t, y| {
            let at = t * e..(t + 1) * e;
            finish7(m, [r, k, v, g].map(|x| &x[at.clone()]), y, &sizes);
        });
        self.project(&mut b.acts, y, n, [(&m.output, &mut *h)]);
    }

    /// The recurrence of RWKV 7 over a batch, `[n, E]` each, heads shared among the threads.
    fn scan7(&mut self, l: usize, sums: &mut Vec<f32>, inputs: [&[f32]; 6], y: &mut [f32]) {
        let c = self.model.config();
        let Some(sizes) = c.recurrent else { return };
        let (e, size) = (c.embedding_length, sizes.state);
        let n = y.len() / e;
        let state = &mut self.state.mixer_mut(l)[e..];
        sums.resize(sums.len().max(e), 0.0);
        let jobs = heads(state, y, n, &sizes).into_iter();
        let mut jobs: Vec<_> = jobs.zip(sums.chunks_exact_mut(size)).collect();
        self.lead.chunks_mut(&mut jobs, 1, |head, job, _| {
            let [((state, out), sums)] = job else { return };
            for t in 0..n {
                let at = t * e + head * size;
                let inputs = inputs.map(|x| &x[at..at + size]);
                wkv7(state, inputs, out.row_mut(t), sums);
            }
        });
    }

    /// The keys that a token removes: `k * k_k`, each head divided by its norm.
    fn removed_keys(&mut self, out: &mut [f32], k: &[f32], k_k: &[f32], size: usize) {
        let e = k_k.len();
        self.rows(out, e, |t, out| {
            for ((o, k), f) in out.iter_mut().zip(&k[t * e..]).zip(k_k) {
                *o = k * f;
            }
            for head in out.chunks_exact_mut(size) {
                let squares: f64 = head.iter().map(|v| f64::from(*v).powi(2)).sum();
                let norm = (squares.sqrt() as f32).max(SMALLEST_NORM);
                head.iter_mut().for_each(|v| *v /= norm);
            }
        });
    }

    /// Channel mixing of the batch `b.h`, `[n, E]`, in place.
    pub(super) fn channel_mix(&mut self, b: &mut Buffers, m: &ChannelMix, l: usize, n: usize) {
        let c = self.model.config();
        let (e, f) = (c.embedding_length, c.layers[l].feed_forward_length);
        let h = &mut b.h[..n * e];
        Self::exchange(self.state.ffn_mut(l), &mut b.before, h);
        // The first part belongs to the values of the first layer.
        let mut rest = match c.arch.mixer {
            crate::model::arch::MixerKind::Rwkv7 => &mut b.mix[n * e..],
            _ => &mut b.mix[..],
        };
        let [x, r] = [(); 2].map(|()| take(&mut rest, n * e));
        let k = take(&mut rest, n * f);
        let input = Shifted {
            h,
            before: &b.before,
        };
        self.rows(x, e, |t, x| input.mix(t, &m.lerp, false, x));
        self.project(&mut b.acts, x, n, [(&m.key, &mut *k)]);
        self.rows(k, f, |_, k| {
            k.iter_mut().for_each(|v| *v = v.max(0.0) * v.max(0.0))
        });
        if let Some((lerp, receptance)) = &m.receptance {
            self.rows(x, e, |t, x| input.mix(t, lerp, false, x));
            self.project(&mut b.acts, x, n, [(receptance, &mut *r)]);
        }
        self.project(&mut b.acts, k, n, [(&m.value, &mut *h)]);
        if m.receptance.is_some() {
            let r = &*r;
            self.rows(h, e, |t, h| {
                for (h, r) in h.iter_mut().zip(&r[t * e..]) {
                    *h *= sigmoid(*r);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        let near = a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near, "{a:?} {b:?}");
    }

    #[test]
    fn a_divisor_before_the_norm_of_heads_is_another_epsilon() {
        let norm = [vec![1.0, 2.0, 0.5, 1.0], vec![0.0, 0.1, 0.2, 0.3]];
        let x = [0.02f32, -0.01, 0.03, 0.015];
        for divisor in [4.0f32, 8.0, 16.0] {
            let mut divided = x.map(|v| v / divisor);
            norm_heads(&mut divided, 2, 1e-5, &norm);
            let mut whole = x;
            norm_heads(&mut whole, 2, 1e-5 * divisor * divisor, &norm);
            close(&divided, &whole);
        }
    }

    #[test]
    fn rwkv6_recurrence_gives_the_published_vectors() {
        let (mut s, mut out, u) = ([0.0; 4], [0.0; 2], [0.5, -0.25]);
        let first: [&[f32]; 5] = [&[1., 2.], &[0.1, 0.2], &[1., -1.], &[0.9, 0.8], &u];
        wkv6(&mut s, first, &mut out);
        close(&out, &[-0.05, 0.05]);
        let second: [&[f32]; 5] = [&[0.5, -1.], &[0.3, -0.4], &[2., 0.5], &[0.7, 0.6], &u];
        wkv6(&mut s, second, &mut out);
        close(&out, &[-0.2, 0.1375]);
        close(&s, &[0.67, 0.08, -0.68, -0.32]);
    }

    #[test]
    fn rwkv7_recurrence_gives_the_published_vectors() {
        let (mut s, mut out, mut sums) = ([0.0; 4], [0.0; 2], [0.0; 2]);
        // b = removed * rate: (0.05, 0.06) of removed (0.3, -0.4), (-0.07, 0.08) of (-0.2, 0.1).
        let (a, rate) = ([0.3, -0.4], [0.05 / 0.3, 0.06 / -0.4]);
        let (r, k, v, w) = ([1., 2.], [0.1, 0.2], [1., -1.], [0.9, 0.8]);
        wkv7(&mut s, [&r, &w, &k, &v, &a, &rate], &mut out, &mut sums);
        close(&out, &[0.5, -0.5]);
        let (a, rate) = ([-0.2, 0.1], [-0.07 / -0.2, 0.08 / 0.1]);
        let (r, k, v, w) = ([0.5, -1.], [0.3, -0.4], [2., 0.5], [0.7, 0.6]);
        wkv7(&mut s, [&r, &w, &k, &v, &a, &rate], &mut out, &mut sums);
        close(&out, &[1.015, 0.36]);
        // Rows are keys here, values in the published state.
        close(&s, &[0.67, 0.08, -0.68, -0.32]);
    }
}
