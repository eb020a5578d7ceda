//! ChatGLM2 and 3, and GEB layouts with half rotation: fused or separate q, k, v (with bias where
//! the file has one), gate and up fused in `ffn_up`, half of each head rotated in adjacent pairs.

use super::{Arch, llama};

pub(super) const ARCH: Arch = Arch {
    name: "chatglm",
    rope_divisor: 2,
    ..llama::ARCH
};
