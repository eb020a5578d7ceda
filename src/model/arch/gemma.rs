//! Gemma 1 (arXiv 2403.08295): the llama graph with GELU, pairs `(i, i + d/2)` and embeddings times the
//! root of the width.

use super::{Arch, Gate, RopePairing, Scalars, llama};

pub(super) const ARCH: Arch = Arch {
    name: "gemma",
    rope: RopePairing::Half,
    gate: Gate::Gelu,
    scalars: Scalars::RootWidth,
    ..llama::ARCH
};
