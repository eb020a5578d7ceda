//! StarCoder 2 (arXiv 2402.19173): biases, LayerNorm and plain feed-forward layers as in GPT-2, with rotated heads.

use super::{Arch, Positions, RopePairing, gpt2};

pub(super) const ARCH: Arch = Arch {
    name: "starcoder2",
    positions: Positions::Rope,
    rope: RopePairing::Half,
    ..gpt2::ARCH
};
