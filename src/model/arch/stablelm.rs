//! StableLM 2 and 3B: the llama graph with LayerNorm, a quarter of each head rotated in pairs `(i, i + r/2)`; branches
//! side by side where the file says so.

use super::{Arch, NormKind, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "stablelm",
    rope: RopePairing::Half,
    rope_divisor: 4,
    norm: NormKind::Layer,
    ..llama::ARCH
};
