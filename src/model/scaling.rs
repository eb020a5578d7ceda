//! Stretching of rotation angles to contexts that a model was not trained for, and of queries.

/// Kind of stretching.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScalingKind {
    /// Angles as trained.
    None,
    /// All angles divided by the factor.
    Linear,
    /// Divisors per pair from tensors, chosen by the length of the run (arXiv 2402.13753).
    LongRope,
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
    /// The ramp between begins and ends at whole pairs.
    pub truncate: bool,
}

/// What makes queries longer at later positions (arXiv 2501.19399): `1 + scale ln(1 + floor(p / length))`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Temperature {
    /// Weight of the logarithm.
    pub scale: f32,
    /// Positions that have one factor.
    pub length: usize,
}

impl Temperature {
    /// Factor of the queries at a position.
    pub fn at(self, position: usize) -> f32 {
        let steps = (1 + position / self.length) as f64;
        (1.0 + f64::from(self.scale) * steps.ln()) as f32
    }
}

impl Default for RopeScaling {
    fn default() -> Self {
        RopeScaling {
            kind: ScalingKind::None,
            factor: 1.0,
            original_context: f32::INFINITY,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        }
    }
}
