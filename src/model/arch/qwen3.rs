//! Qwen3: Qwen2 without biases, heads of a stated size, each normed before rotation.

use super::{Arch, QkNorm, qwen2};

pub(super) const ARCH: Arch = Arch {
    name: "qwen3",
    qk_norm: QkNorm::Head,
    ..qwen2::ARCH
};
