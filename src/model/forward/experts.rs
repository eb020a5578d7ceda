//! Mixtures of experts: a router gives each token to a few of many feed-forward layers.
//!
//! ```text
//! p = softmax(W_router h); the k largest, lower index first where equal; weights p / sum(p) or p
//! pairs (token, expert) sorted by expert; rows of h copied in that order
//! for each wave of experts:   gate, up, down of its rows, one step of the team each
//! out[t] = sum over the k choices of t, in order, of weight * row
//! ```
//! A row of a product does not depend on the rows beside it, and each token's sum has the order of
//! its own choices: neither batches nor threads change a bit.

use std::ops::Range;

use geb_kernels::Activations;
use geb_kernels::mat::MatMut;

use super::mixture::{Choice, Group, Mixture, WAVE_ROWS};
use super::packing::{Acts, slot};
use super::{Buffers, Pass, scale};
use crate::model::operand::Operand;
use crate::model::routing::{Gating, Routing};
use crate::model::weights::{ExpertAttention, Experts, Linear, QMatrix};

/// Least sum of weights that is divided by: the smallest normal F16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// The next groups from `first` on that make a wave of at most `most` experts.
fn wave(groups: &[Group], first: usize, most: usize) -> Range<usize> {
    let start = groups[first].rows.start;
    let fits = |g: &&Group| g.rows.end - start <= WAVE_ROWS;
    let more = groups[first + 1..].iter().take_while(fits).count();
    first..first + 1 + more.min(most.saturating_sub(1))
}

/// Some outputs of an expert for its rows.
struct Task<'a> {
    matrix: &'a QMatrix,
    acts: &'a Activations,
    /// The first output.
    first: usize,
    out: MatMut<'a>,
}

/// A matrix of each expert.
type Of<'a> = &'a dyn Fn(usize) -> &'a Linear;

impl Pass<'_, '_> {
    /// What the experts make of each token of `b.h`, in place: `[n, E]`.
    pub(super) fn experts(&mut self, b: &mut Buffers, w: &Experts, n: usize) {
        let c = self.model.config();
        let Some(r) = &c.experts else { return };
        let (e, f) = (c.embedding_length, r.width);
        self.route(b, &w.router, r, n);
        self.gather(&mut b.mixture, &b.h[..n * e]);
        match &w.shared {
            Some(shared) => {
                let weights = &mut b.mixture.logits[..n];
                let h = &b.h[..n * e];
                self.project(&mut b.acts, h, n, [(&shared.router, &mut *weights)]);
                self.gated(b, (&shared.gate_up, &shared.down), n);
                let weights = &b.mixture.logits;
                self.rows(&mut b.h[..n * e], e, |t, row| {
                    scale(row, sigmoid(weights[t]))
                });
            }
            None => b.h[..n * e].fill(0.0),
        }
        let gated = w.experts.first().is_some_and(|x| x.inner.len() > 1);
        let of: [Of<'_>; 3] = [&|x| &w.experts[x].down, &|x| &w.experts[x].inner[0], &|x| {
            &w.experts[x].inner[1]
        }];
        let used = if gated { &of[..] } else { &of[..2] };
        let m = &mut b.mixture;
        let mut first = 0;
        while let Some(wave) = self.wave(&m.groups, first, used) {
            first = wave.end;
            let groups = &m.groups[wave];
            let places = places(groups);
            let rows = &mut m.rows[places.start * e..places.end * e];
            let (g, u) = b.gate_up[..2 * places.len() * f].split_at_mut(places.len() * f);
            if gated {
                let outs = [(of[1], &mut *g), (of[2], &mut *u)];
                self.multiply(&mut m.acts, groups, rows, outs);
                self.gate(g, u, f);
            } else {
                self.multiply(&mut m.acts, groups, rows, [(of[1], &mut *g)]);
                self.activate(g, f);
            }
            self.multiply(&mut m.acts, groups, g, [(of[0], rows)]);
        }
        self.combine(m, &mut b.h[..n * e], w.bias.as_deref());
    }

    /// What a mixture of attention heads makes of `b.h`, in place: `[n, E]`.
    ///
    /// Query head `m` of a token's choice `j` reads KV head `m`: heads are put in the order `(m, j)`, in
    /// which those of one KV head follow each other.
    pub(super) fn expert_attention(
        &mut self,
        b: &mut Buffers,
        a: &ExpertAttention,
        l: usize,
        n: usize,
    ) {
        let c = self.model.config();
        let Some(r) = &c.experts else { return };
        let (e, d, k) = (c.embedding_length, c.head_size, r.used);
        let (qw, kw) = (c.layers[l].q_width(), c.layers[l].kv_width());
        self.route(b, &a.router, r, n);
        self.gather(&mut b.mixture, &b.h[..n * e]);
        let of: [Of<'_>; 2] = [&|x| &a.queries[x], &|x| &a.outputs[x]];
        let m = &mut b.mixture;
        let mut first = 0;
        while let Some(wave) = self.wave(&m.groups, first, &of) {
            first = wave.end;
            let groups = &m.groups[wave];
            let at = places(groups);
            let queries = &mut b.attn[at.start * kw..at.end * kw];
            let rows = &m.rows[at.start * e..at.end * e];
            self.multiply(&mut m.acts, groups, rows, [(of[0], queries)]);
        }
        let (q, kv) = b.qkv[..n * (qw + 2 * kw)].split_at_mut(n * qw);
        let (attn, places_of) = (&b.attn, &m.places);
        self.rows(q, qw, |t, q| {
            for (i, head) in q.chunks_exact_mut(d).enumerate() {
                let place = places_of[t * k + i % k];
                head.copy_from_slice(&attn[place * kw + i / k * d..][..d]);
            }
        });
        let (keys, values) = kv.split_at_mut(n * kw);
        let [wk, wv] = &a.keys_values;
        let h = &b.h[..n * e];
        self.project(&mut b.acts, h, n, [(wk, keys), (wv, values)]);
        self.mix(
            b,
            (None, None),
            l,
            n,
            ([0, n * qw, n * (qw + kw)], [qw, kw, kw]),
        );
        let m = &mut b.mixture;
        let (attn, pairs) = (&b.attn, &m.pairs);
        self.rows(&mut b.qkv[..n * qw], kw, |place, row| {
            let (t, j) = (pairs[place] / k, pairs[place] % k);
            for (i, head) in row.chunks_exact_mut(d).enumerate() {
                head.copy_from_slice(&attn[t * qw + (i * k + j) * d..][..d]);
            }
        });
        let mut first = 0;
        while let Some(wave) = self.wave(&m.groups, first, &of) {
            first = wave.end;
            let groups = &m.groups[wave];
            let at = places(groups);
            let rows = &mut m.rows[at.start * e..at.end * e];
            let heads = &b.qkv[at.start * kw..at.end * kw];
            self.multiply(&mut m.acts, groups, heads, [(of[1], rows)]);
        }
        b.h[..n * e].fill(0.0);
        self.combine(m, &mut b.h[..n * e], a.bias.as_deref());
    }

    /// The next wave from group `first` on; has its matrices read where memory is limited, and those
    /// of the wave behind it if there is room for both.
    fn wave(&mut self, groups: &[Group], first: usize, of: &[Of<'_>]) -> Option<Range<usize>> {
        let group = groups.get(first)?;
        let range = |x: usize| of.iter().map(move |of| &of(x).weight.range);
        let Some(residents) = self.residents.as_deref_mut() else {
            return Some(wave(groups, first, usize::MAX));
        };
        let one: usize = range(group.expert).map(ExactSizeIterator::len).sum();
        let most = residents.sums().budget as usize / one.max(1);
        let now = wave(groups, first, most);
        let mut next = now.end..now.end;
        if now.end < groups.len() {
            next = wave(groups, now.end, most);
        }
        let both = now.start..if next.end - now.start <= most {
            next.end
        } else {
            now.end
        };
        for group in &groups[both] {
            range(group.expert).for_each(|r| residents.touch(self.model.file(), r));
        }
        Some(now)
    }

    /// Copies the row of each pair's token, `[n, E]`, to its place.
    fn gather(&mut self, m: &mut Mixture, h: &[f32]) {
        let e = self.model.config().embedding_length;
        let (pairs, k) = (&m.pairs, m.pairs.len() / (h.len() / e));
        self.rows(&mut m.rows[..pairs.len() * e], e, |place, row| {
            let t = pairs[place] / k;
            row.copy_from_slice(&h[t * e..(t + 1) * e]);
        });
    }

    /// Chooses the experts of each token of `b.h` and sorts the pairs.
    pub(super) fn route(&mut self, b: &mut Buffers, router: &Linear, r: &Routing, n: usize) {
        let (e, m) = (self.model.config().embedding_length, &mut b.mixture);
        let logits = &mut m.logits[..n * r.count];
        self.project(&mut b.acts, &b.h[..n * e], n, [(router, &mut *logits)]);
        self.rows(logits, r.count, |_, row| weigh(row, r.gating));
        let weights = &*logits;
        let choices = &mut m.choices[..n * r.used];
        self.lead.chunks_mut(choices, r.used, |t, choices, _| {
            choose(&weights[t * r.count..(t + 1) * r.count], r, choices);
        });
        m.sort(r, n);
    }

    /// Adds to each token, `[n, E]`, its choices' rows, weighted, and the bias.
    fn combine(&mut self, m: &Mixture, out: &mut [f32], bias: Option<&[f32]>) {
        let (e, kernels) = (self.model.config().embedding_length, self.kernels);
        let k = m.pairs.len() / (out.len() / e);
        self.rows(out, e, |t, out| {
            for pair in t * k..(t + 1) * k {
                let (weight, place) = (m.choices[pair].weight, m.places[pair]);
                let row = &m.rows[place * e..(place + 1) * e];
                for (out, v) in out.iter_mut().zip(row) {
                    *out += weight * v;
                }
            }
            if let Some(bias) = bias {
                kernels.add(out, bias);
            }
        });
    }

    /// `out = W_expert x` for each group of rows, `x`: `[rows, cols]` from the first group's on; one
    /// step of the team for all groups and all of `outs`.
    fn multiply<const N: usize>(
        &mut self,
        acts: &mut Vec<Acts>,
        groups: &[Group],
        x: &[f32],
        outs: [(Of<'_>, &mut [f32]); N],
    ) {
        let (kernels, all) = (self.kernels, places(groups));
        let cols = x.len() / all.len();
        if acts.len() < groups.len() {
            acts.resize_with(groups.len(), Default::default);
        }
        for (group, acts) in groups.iter().zip(acts.iter_mut()) {
            let weights = outs.each_ref().map(|(of, _)| &of(group.expert).weight);
            let rows = group.rows.start - all.start..group.rows.end - all.start;
            let x = &x[rows.start * cols..rows.end * cols];
            self.prepare(acts, weights, x, rows.len());
        }
        let total: usize = outs.iter().map(|(_, out)| out.len()).sum::<usize>() / all.len();
        let total = total * groups.len();
        let step = (total / (self.lead.threads() * 8)).clamp(16, 128);
        let step = step.next_multiple_of(16);
        let mut tasks = Vec::new();
        for (of, out) in outs {
            let mut rest = out;
            for (group, acts) in groups.iter().zip(acts.iter()) {
                let matrix = &of(group.expert).weight;
                let (n, width) = (group.rows.len(), matrix.rows);
                let (out, later) = rest.split_at_mut(n * width);
                rest = later;
                let mut out = MatMut::new(out, n, width, width);
                let acts = &acts[slot(kernels.act_kind(matrix.dtype))];
                for first in (0..width).step_by(step) {
                    let (now, later) = out.split_cols(step.min(width - first));
                    out = later;
                    tasks.push(Task {
                        matrix,
                        acts,
                        first,
                        out: now,
                    });
                }
            }
        }
        let (model, packed) = (self.model, self.packed);
        self.lead.chunks_mut(&mut tasks, 1, |_, tasks, local| {
            for task in tasks {
                let (out, panel) = (task.out.reborrow(), &mut local.panel);
                let weights = Operand::new(model, packed, task.matrix);
                weights.multiply(kernels, task.first, task.acts, out, panel);
            }
        });
    }
}

/// The places of neighbouring groups.
fn places(groups: &[Group]) -> Range<usize> {
    match groups {
        [first, .., last] => first.rows.start..last.rows.end,
        [one] => one.rows.clone(),
        [] => 0..0,
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Logits of a token become weights.
fn weigh(row: &mut [f32], gating: Gating) {
    if gating == Gating::Sigmoid {
        return row.iter_mut().for_each(|v| *v = sigmoid(*v));
    }
    let most = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    row.iter_mut().for_each(|v| *v = (*v - most).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

/// The largest of a token's weights, in falling order; of equal ones the lower index first.
fn choose(weights: &[f32], r: &Routing, choices: &mut [Choice]) {
    // A NaN is the largest: it reaches the logits, where it is reported.
    let mut last: Option<(f32, usize)> = None;
    for choice in choices.iter_mut() {
        let after = |&(i, w): &(usize, &f32)| match last {
            Some((v, at)) => w.total_cmp(&v).then(at.cmp(&i)).is_lt(),
            None => true,
        };
        let candidates = weights.iter().enumerate().filter(after);
        let best = candidates.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        let (expert, weight) = best.map_or((0, 0.0), |(i, w)| (i, *w));
        last = Some((weight, expert));
        *choice = Choice { expert, weight };
    }
    let sum: f32 = choices.iter().map(|c| c.weight).sum();
    for choice in choices {
        if r.renormalise {
            choice.weight /= sum.max(LEAST_SUM);
        }
        choice.weight *= r.scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(count: usize, used: usize, renormalise: bool) -> Routing {
        Routing {
            count,
            used,
            width: 1,
            shared_width: 1,
            gating: Gating::Softmax,
            renormalise,
            scale: 1.0,
        }
    }

    fn chosen(logits: &[f32], r: &Routing) -> Vec<(usize, f32)> {
        let mut row = logits.to_vec();
        weigh(&mut row, r.gating);
        let mut choices = vec![Choice::default(); r.used];
        choose(&row, r, &mut choices);
        choices.iter().map(|c| (c.expert, c.weight)).collect()
    }

    fn close(got: &[(usize, f32)], want: &[(usize, f32)]) {
        let same = |(a, b): (&(usize, f32), &(usize, f32))| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6;
        assert!(
            got.len() == want.len() && got.iter().zip(want).all(same),
            "{got:?} {want:?}"
        );
    }

    #[test]
    fn routing_gives_the_published_numbers() {
        let logits = [1.0, 3.0, 2.0, -1.0];
        let got = chosen(&logits, &routing(4, 2, false));
        close(&got, &[(1, 0.657_233), (2, 0.241_783)]);
        let got = chosen(&logits, &routing(4, 2, true));
        close(&got, &[(1, 0.731_059), (2, 0.268_941)]);
        let sigmoid = Routing {
            gating: Gating::Sigmoid,
            scale: 2.0,
            ..routing(4, 1, false)
        };
        close(
            &chosen(&logits, &sigmoid),
            &[(1, 2.0 / (1.0 + (-3f32).exp()))],
        );
    }

    #[test]
    fn equal_weights_go_to_the_lower_index() {
        let got = chosen(&[0.0, 1.0, 1.0, 1.0], &routing(4, 2, true));
        assert_eq!(got, [(1, 0.5), (2, 0.5)]);
        let all = chosen(&[0.0; 3], &routing(3, 3, false));
        assert_eq!(all.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn pairs_are_sorted_and_found_again() {
        let r = routing(5, 2, true);
        let mut m = Mixture::default();
        let experts = [3, 1, 0, 3, 3, 0, 1, 3];
        m.choices = experts
            .map(|expert| Choice {
                expert,
                weight: 0.0,
            })
            .into();
        m.sort(&r, 4);
        assert_eq!(m.pairs, [2, 5, 1, 6, 0, 3, 4, 7]);
        for (pair, place) in m.places.iter().enumerate() {
            assert_eq!(m.pairs[*place], pair);
        }
        let groups: Vec<_> = m
            .groups
            .iter()
            .map(|g| (g.expert, g.rows.clone()))
            .collect();
        assert_eq!(groups, [(0, 0..2), (1, 2..4), (3, 4..8)]);
        assert_eq!(wave(&m.groups, 0, usize::MAX), 0..3);
        assert_eq!(wave(&m.groups, 0, 2), 0..2);
        assert_eq!(wave(&m.groups, 2, 2), 2..3);
    }

    #[test]
    fn an_expert_with_many_rows_is_a_wave_of_its_own() {
        let groups = [(0, 0..10), (1, 10..200), (2, 200..230), (3, 230..264)];
        let groups = groups.map(|(expert, rows)| Group { expert, rows });
        assert_eq!(wave(&groups, 0, usize::MAX), 0..1);
        assert_eq!(wave(&groups, 1, usize::MAX), 1..2);
        assert_eq!(wave(&groups, 2, usize::MAX), 2..4);
    }
}
