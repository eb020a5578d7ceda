//! Infini-attention: exact attention inside a segment, and a memory of constant size of what came
//! before it.
//!
//! With `σ(x) = elu(x) + 1`, memory `M [d, d]` and `z [d]`, `Q K V [n, d]` of a segment and `g = sigmoid(β)`:
//! `A_mem = σ(Q) M / (σ(Q) z)`, `A = g A_mem + (1 - g) A_dot`; after the segment
//! `M += σ(K)ᵀ (V - σ(K) M / (σ(K) z))`, `z += Σ σ(K)`. Where nothing is remembered yet, `A_mem` is 0.

use super::{dot, softmax};

/// Memory of one head.
pub struct Memory {
    /// `[d, d]`, a row per element of a key.
    m: Vec<f32>,
    /// `[d]`.
    z: Vec<f32>,
}

fn sigma(x: f32) -> f32 {
    // elu(x) + 1
    if x > 0.0 { x + 1.0 } else { x.exp() }
}

impl Memory {
    /// An empty memory for heads of `d` elements.
    pub fn new(d: usize) -> Memory {
        Memory {
            m: vec![0.0; d * d],
            z: vec![0.0; d],
        }
    }

    /// What is remembered for `σ(query)`.
    fn recall(&self, features: &[f32]) -> Vec<f32> {
        let d = self.z.len();
        let mut out = vec![0.0; d];
        let norm = dot(features, &self.z);
        if norm <= 0.0 {
            return out;
        }
        for (f, row) in features.iter().zip(self.m.chunks_exact(d)) {
            out.iter_mut()
                .zip(row)
                .for_each(|(o, m)| *o += f * m / norm);
        }
        out
    }

    /// One segment of one head: queries, keys and values `[n, d]`, the gate's `beta`, the `scale` of
    /// scores. Returns `[n, d]` and remembers the segment.
    pub fn attend(&mut self, qkv: [&[f32]; 3], beta: f32, scale: f32) -> Vec<f32> {
        let d = self.z.len();
        let [q, k, v] = qkv.map(|x| x.chunks_exact(d).collect::<Vec<_>>());
        let gate = 1.0 / (1.0 + (-beta).exp());
        let mut out = Vec::with_capacity(q.len() * d);
        for (i, query) in q.iter().enumerate() {
            let mut weights: Vec<f32> = k[..=i].iter().map(|k| scale * dot(query, k)).collect();
            softmax(&mut weights);
            let features: Vec<f32> = query.iter().map(|&x| sigma(x)).collect();
            let remembered = self.recall(&features);
            out.extend((0..d).map(|j| {
                let local: f32 = weights.iter().zip(&v).map(|(w, v)| w * v[j]).sum();
                gate * remembered[j] + (1.0 - gate) * local
            }));
        }
        self.remember(&k, &v);
        out
    }

    /// The delta rule: what the memory knows already is not added again.
    fn remember(&mut self, keys: &[&[f32]], values: &[&[f32]]) {
        let d = self.z.len();
        let features: Vec<Vec<f32>> = keys
            .iter()
            .map(|k| k.iter().map(|&x| sigma(x)).collect())
            .collect();
        let known: Vec<Vec<f32>> = features.iter().map(|f| self.recall(f)).collect();
        for ((f, known), value) in features.iter().zip(&known).zip(values) {
            for (a, row) in f.iter().zip(self.m.chunks_exact_mut(d)) {
                for (j, m) in row.iter_mut().enumerate() {
                    *m += a * (value[j] - known[j]);
                }
            }
            self.z.iter_mut().zip(f).for_each(|(z, f)| *z += f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{near, numbers};

    /// The formulas with one index per loop, in f64.
    fn direct(segments: &[[Vec<f32>; 3]], d: usize, beta: f64, scale: f64) -> Vec<f32> {
        let s = |x: f32| sigma(x) as f64;
        let (mut m, mut z) = (vec![vec![0.0f64; d]; d], vec![0.0f64; d]);
        let g = 1.0 / (1.0 + (-beta).exp());
        let mut out = Vec::new();
        for [q, k, v] in segments {
            let n = q.len() / d;
            let of = |x: &[f32], i: usize, j: usize| x[i * d + j];
            let read = |x: &[f32], i: usize, j: usize, m: &[Vec<f64>], z: &[f64]| {
                let below: f64 = (0..d).map(|a| s(of(x, i, a)) * z[a]).sum();
                let above: f64 = (0..d).map(|a| s(of(x, i, a)) * m[a][j]).sum();
                if below == 0.0 { 0.0 } else { above / below }
            };
            for i in 0..n {
                let score = |t: usize| {
                    let dot: f64 = (0..d).map(|a| f64::from(of(q, i, a) * of(k, t, a))).sum();
                    (scale * dot).exp()
                };
                let total: f64 = (0..=i).map(score).sum();
                for j in 0..d {
                    let local: f64 = (0..=i)
                        .map(|t| score(t) / total * f64::from(of(v, t, j)))
                        .sum();
                    out.push((g * read(q, i, j, &m, &z) + (1.0 - g) * local) as f32);
                }
            }
            let (old_m, old_z) = (m.clone(), z.clone());
            for t in 0..n {
                for a in 0..d {
                    for j in 0..d {
                        let new = f64::from(of(v, t, j)) - read(k, t, j, &old_m, &old_z);
                        m[a][j] += s(of(k, t, a)) * new;
                    }
                    z[a] += s(of(k, t, a));
                }
            }
        }
        out
    }

    #[test]
    fn segments_equal_the_formulas() {
        let (d, n) = (4, 5);
        let segments: Vec<[Vec<f32>; 3]> = (0..3)
            .map(|i| [0, 1, 2].map(|j| numbers(10 + 3 * i + j, n * d)))
            .collect();
        let mut memory = Memory::new(d);
        let got = segments
            .iter()
            .flat_map(|[q, k, v]| memory.attend([q, k, v], 0.3, 0.5));
        near(&got.collect::<Vec<_>>(), &direct(&segments, d, 0.3, 0.5));
    }

    /// Keys that the memory holds already give their values back and leave it as it is.
    #[test]
    fn what_is_known_is_not_learned_again() {
        let (key, value) = ([0.3, -0.2, 0.9], [1.0, 2.0, -3.0]);
        let mut memory = Memory::new(3);
        memory.attend([&key, &key, &value], 0.0, 1.0);
        near(&memory.recall(&key.map(sigma)), &value);
        let before = memory.m.clone();
        memory.attend([&key, &key, &value], 0.0, 1.0);
        near(&memory.m, &before);
    }
}
