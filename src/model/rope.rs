//! Rotation angles (RoPE, arXiv 2104.09864): frequencies once per model, cosines and sines per
//! position as a context grows.

use super::config::Config;

/// Kind of stretching.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScalingKind {
    /// Angles as trained.
    None,
    /// All angles divided by the factor.
    Linear,
    /// Fast pairs as trained, slow pairs divided, a ramp between (YaRN, arXiv 2309.00071).
    Yarn,
}

/// Parameters of the stretching.
#[derive(Clone, Copy, Debug)]
pub struct RopeScaling {
    /// Which formula.
    pub kind: ScalingKind,
    /// Stretch factor s.
    pub factor: f32,
    /// Context the model was trained for before stretching.
    pub original_context: f32,
    /// Multiplies cosine and sine.
    pub attn_factor: f32,
    /// Rotations over the original context above which a pair stays as trained.
    pub beta_fast: f32,
    /// Rotations below which a pair is divided.
    pub beta_slow: f32,
}

/// Angle per position of each pair, and the factor of cosine and sine.
#[derive(Clone, Debug)]
pub struct RopeFreqs {
    per_position: Vec<f64>,
    magnitude: f64,
}

impl RopeFreqs {
    /// Frequencies of a model; `factors` is the tensor `rope_freqs.weight`, one divisor per pair.
    pub fn new(c: &Config, factors: Option<&[f32]>) -> RopeFreqs {
        let (r, base, s) = (
            c.rope_dimension_count as f64,
            f64::from(c.rope_freq_base),
            c.rope_scaling,
        );
        let factor = f64::from(s.factor);
        let turns = |beta: f32| {
            r * (f64::from(s.original_context) / (f64::from(beta) * std::f64::consts::TAU)).ln()
                / (2.0 * base.ln())
        };
        let low = turns(s.beta_fast).floor().max(0.0);
        let high = turns(s.beta_slow).ceil().min(r - 1.0);
        let per_position = (0..c.rope_dimension_count / 2)
            .map(|i| {
                let mut theta = base.powf(-2.0 * i as f64 / r);
                if let Some(f) = factors {
                    theta /= f64::from(f[i]);
                }
                match s.kind {
                    ScalingKind::None => theta,
                    ScalingKind::Linear => theta / factor,
                    ScalingKind::Yarn => {
                        let keep =
                            1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
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

    /// Rotated pairs per head.
    pub fn pairs(&self) -> usize {
        self.per_position.len()
    }
}

/// Cosines and sines of the positions seen so far: `[positions, pairs]` each.
#[derive(Default, Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Extends the table to `positions`.
    pub fn extend(&mut self, freqs: &RopeFreqs, positions: usize) {
        let pairs = freqs.pairs().max(1);
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
    use crate::model::arch::Arch;

    fn config(scaling: RopeScaling) -> Config {
        Config {
            arch: Arch::by_name("llama").expect("registered"),
            block_count: 1,
            context_length: 4096,
            embedding_length: 128,
            feed_forward_length: 1,
            head_count: 1,
            head_count_kv: 1,
            head_size: 128,
            rms_epsilon: 1e-5,
            rope_dimension_count: 128,
            rope_freq_base: 10_000.0,
            rope_scaling: scaling,
            window: usize::MAX,
            attention_scale: 1.0,
            vocab: 1,
        }
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling {
            kind: ScalingKind::Yarn,
            factor: 4.0,
            original_context: 4096.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let yarn = RopeFreqs::new(&config(scaling), None);
        let plain = RopeFreqs::new(
            &config(RopeScaling {
                kind: ScalingKind::None,
                ..scaling
            }),
            None,
        );
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
