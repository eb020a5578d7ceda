//! GPT-NeoX and Pythia (arXiv 2204.06745): attention and feed-forward side by side, a quarter of each
//! head rotated in pairs `(i, i + r/2)`.

use super::{Arch, Positions, RopePairing, gpt2};

pub(super) const ARCH: Arch = Arch {
    name: "gptneox",
    positions: Positions::Rope,
    rope: RopePairing::Half,
    parallel: true,
    ..gpt2::ARCH
};
