//! Command R7B and Aya of 2024 on: attention and feed-forward side by side under one LayerNorm that has no bias, a
//! window in three of four layers, no rotation in the fourth, logits times the scale of the file.

use super::{Arch, LogitScale, NormKind, Unrotated, llama};

pub(super) const ARCH: Arch = Arch {
    name: "cohere2",
    unrotated: Unrotated::Full,
    norm: NormKind::LayerWeights,
    parallel: true,
    logit_scale: LogitScale::Multiplies,
    full_every: 4,
    ..llama::ARCH
};
