//! Qwen3 with experts.

use super::{Arch, qwen3};

pub(super) const ARCH: Arch = Arch {
    name: "qwen3moe",
    ..qwen3::ARCH
};
