//! JetMoE (arXiv 2404.07413): experts in attention and in feed-forward layers. The names of its keys and
//! tensors are ours (docs/format.md): no other GGUF runtime has it.

use super::{Arch, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "jetmoe",
    rope: RopePairing::Half,
    ..llama::ARCH
};
