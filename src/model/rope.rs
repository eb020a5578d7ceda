//! Rotation angles (RoPE, arXiv 2104.09864): frequencies once per model, cosines and sines per
//! position as a context grows.

use sha2::{Digest, Sha256};

use super::config::Config;
use super::scaling::{RopeScaling, ScalingKind};
use super::weights::Weights;

/// Angle per position of each pair, and the factor of cosine and sine.
#[derive(Clone, Debug)]
pub struct RopeFreqs {
    /// Angle that a position adds, in radians, of each pair.
    pub per_position: Vec<f64>,
    /// Factor of cosine and sine.
    pub magnitude: f64,
}

impl RopeFreqs {
    /// Frequencies of `dims` rotated elements; `factors`: one divisor per pair.
    pub fn new(dims: usize, base: f32, s: RopeScaling, factors: Option<&[f32]>) -> RopeFreqs {
        let (r, base) = (dims as f64, f64::from(base));
        let factor = f64::from(s.factor);
        let turns = |beta: f32| {
            r * (f64::from(s.original_context) / (f64::from(beta) * std::f64::consts::TAU)).ln()
                / (2.0 * base.ln())
        };
        let (mut low, mut high) = (turns(s.beta_fast), turns(s.beta_slow));
        if s.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(r - 1.0));
        if low == high {
            high += 0.001;
        }
        let per_position = (0..dims / 2)
            .map(|i| {
                let mut theta = base.powf(-2.0 * i as f64 / r);
                if let Some(f) = factors {
                    theta /= f64::from(f[i]);
                }
                match s.kind {
                    ScalingKind::None | ScalingKind::LongRope => theta,
                    ScalingKind::Linear => theta / factor,
                    ScalingKind::Yarn => {
                        let keep = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        theta / factor * (1.0 - keep) + theta * keep
                    }
                }
            })
            .collect();
        let magnitude = f64::from(s.attn_factor)
            * if s.kind == ScalingKind::Yarn && factor > 1.0 {
                1.0 + 0.1 * factor.ln()
            } else {
                1.0
            };
        RopeFreqs {
            per_position,
            magnitude,
        }
    }
}

/// Cosines and sines of the positions seen so far: `[positions, pairs]` each.
#[derive(Debug)]
pub struct RopeTable {
    freqs: RopeFreqs,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// The tables of a model: of layers that see all positions and of those with a window.
#[derive(Debug)]
pub struct Ropes {
    all: RopeTable,
    window: Option<RopeTable>,
}

impl Ropes {
    /// Empty tables for a run of `ctx` positions, which decides between the long and the short
    /// factors of LongRoPE (arXiv 2402.13753).
    pub fn new(c: &Config, weights: &Weights, ctx: usize) -> Ropes {
        let long = ctx as f32 > c.rope_scaling.original_context;
        let factors = [
            &weights.rope_freqs,
            [&weights.rope_factors_short, &weights.rope_factors_long][usize::from(long)],
        ];
        let factors = factors.into_iter().find_map(Option::as_deref);
        let r = c.rope_dimension_count;
        let table = |base, scaling, factors| RopeTable {
            freqs: RopeFreqs::new(r, base, scaling, factors),
            cos: Vec::new(),
            sin: Vec::new(),
        };
        Ropes {
            all: table(c.rope_freq_base, c.rope_scaling, factors),
            window: c
                .rope_freq_base_window
                .map(|base| table(base, RopeScaling::default(), None)),
        }
    }

    /// Extends the tables to `positions`.
    pub fn extend(&mut self, positions: usize) {
        self.all.extend(positions);
        self.window.iter_mut().for_each(|w| w.extend(positions));
    }

    /// Adds all that rotations depend on to a hash, the positions seen so far included.
    pub(crate) fn hash(&self, hash: &mut Sha256) {
        for table in std::iter::once(&self.all).chain(&self.window) {
            let freqs = &table.freqs;
            hash.update((freqs.per_position.len() as u64).to_le_bytes());
            for v in freqs.per_position.iter().chain([&freqs.magnitude]) {
                hash.update(v.to_le_bytes());
            }
            let seen = table.cos.iter().chain(&table.sin);
            seen.for_each(|v| hash.update(v.to_le_bytes()));
        }
    }

    /// The table of a layer that has a window or sees all.
    pub fn table(&self, windowed: bool) -> &RopeTable {
        match &self.window {
            Some(window) if windowed => window,
            _ => &self.all,
        }
    }
}

impl RopeTable {
    fn extend(&mut self, positions: usize) {
        let freqs = &self.freqs;
        let pairs = freqs.per_position.len();
        if pairs == 0 {
            return;
        }
        for p in self.cos.len() / pairs..positions {
            for theta in &freqs.per_position {
                let (sin, cos) = (p as f64 * theta).sin_cos();
                self.cos.push((cos * freqs.magnitude) as f32);
                self.sin.push((sin * freqs.magnitude) as f32);
            }
        }
    }

    /// Cosines and sines of one position.
    pub fn at(&self, position: usize, pairs: usize) -> (&[f32], &[f32]) {
        let range = position * pairs..(position + 1) * pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling {
            kind: ScalingKind::Yarn,
            factor: 4.0,
            original_context: 4096.0,
            ..Default::default()
        };
        let yarn = RopeFreqs::new(128, 10_000.0, scaling, None);
        let plain = RopeFreqs::new(128, 10_000.0, RopeScaling::default(), None);
        // low 20, high 46 for r = 128, base 10000, C 4096.
        for i in 0..64 {
            let ratio = plain.per_position[i] / yarn.per_position[i];
            match i {
                0..=20 => assert!((ratio - 1.0).abs() < 1e-12),
                46.. => assert!((ratio - 4.0).abs() < 1e-12),
                _ => assert!(ratio > 1.0 && ratio < 4.0),
            }
        }
        assert!((yarn.magnitude - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
    }
}
