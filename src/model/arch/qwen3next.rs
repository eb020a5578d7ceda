//! Qwen3-Next: as Qwen3.5 with experts; the heads of values of a key head lie side by side.

use super::{Arch, qwen35};

pub(super) const ARCH: Arch = Arch {
    name: "qwen3next",
    grouped_values: true,
    ..qwen35::ARCH
};
