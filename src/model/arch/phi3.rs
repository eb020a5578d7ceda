//! Phi-3, 3.5 and 4: q, k, v in one matrix, gate and up in another, LongRoPE factors.

use super::{Arch, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "phi3",
    rope: RopePairing::Half,
    ..llama::ARCH
};
