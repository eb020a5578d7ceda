//! OLMoE (arXiv 2409.02060): experts whose weights keep their softmax values, queries and keys normed
//! over all heads.

use super::{Arch, QkNorm, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "olmoe",
    rope: RopePairing::Half,
    qk_norm: QkNorm::Width,
    renormalise: false,
    ..llama::ARCH
};
