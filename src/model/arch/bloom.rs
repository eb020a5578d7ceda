//! BLOOM (arXiv 2211.05100): ALiBi instead of positions, a norm of the embeddings.

use super::{Arch, Positions, gpt2};

pub(super) const ARCH: Arch = Arch {
    name: "bloom",
    positions: Positions::Alibi,
    ..gpt2::ARCH
};
