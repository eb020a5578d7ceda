//! Qwen1.5 and Qwen2 with experts: weights keep their softmax values, and one expert works on every token.

use super::{Arch, qwen2};

pub(super) const ARCH: Arch = Arch {
    name: "qwen2moe",
    renormalise: false,
    ..qwen2::ARCH
};
