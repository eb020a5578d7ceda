//! Qwen2 and 2.5: the llama graph with biases on q, k and v and pairs `(i, i + r/2)`.

use super::{Arch, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "qwen2",
    rope: RopePairing::Half,
    ..llama::ARCH
};
