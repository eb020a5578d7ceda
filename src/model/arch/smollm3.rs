//! SmolLM3: the llama graph, where every fourth layer does not rotate (NoPE, arXiv 2501.18795).

use super::{Arch, Unrotated, llama};

pub(super) const ARCH: Arch = Arch {
    name: "smollm3",
    unrotated: Unrotated::Every(4),
    ..llama::ARCH
};
