//! Qwen3.5 and 3.6 with experts, one of which works on every token.

use super::{Arch, qwen35};

pub(super) const ARCH: Arch = Arch {
    name: "qwen35moe",
    ..qwen35::ARCH
};
