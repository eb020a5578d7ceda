//! Hunyuan (dense): the llama graph with pairs `(i, i + d/2)` and heads that are normed after they are rotated.

use super::{Arch, QkNorm, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "hunyuan-dense",
    rope: RopePairing::Half,
    qk_norm: QkNorm::HeadRotated,
    ..llama::ARCH
};
