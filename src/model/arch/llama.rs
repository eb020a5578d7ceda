//! Llama 1 to 3, TinyLlama, Mistral, Danube, GEB-1.3B (full rotation).
//! Files hold q and k with interleaved pairs (the converter permutes Hugging Face rows).

use super::{Arch, RopePairing};

pub(super) const ARCH: Arch = Arch {
    name: "llama",
    rope: RopePairing::Adjacent,
    rope_divisor: 1,
};
