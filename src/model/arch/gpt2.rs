//! GPT-2 and Cerebras-GPT: learned positions, LayerNorm with bias, plain feed-forward layers with GELU.

use super::{Arch, Gate, NormKind, Positions, llama};

pub(super) const ARCH: Arch = Arch {
    name: "gpt2",
    positions: Positions::Learned,
    norm: NormKind::Layer,
    gate: Gate::Gelu,
    plain: Some(Gate::Gelu),
    ..llama::ARCH
};
