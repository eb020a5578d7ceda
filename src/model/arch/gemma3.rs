//! Gemma 3 (arXiv 2503.19786): norms on both sides, normed heads, GELU, five layers with a window
//! and their own rotation base to one that sees all, embeddings times the root of the width.

use super::{Arch, Gate, NormPlace, QkNorm, RopePairing, Scalars, WindowRope, llama};

pub(super) const ARCH: Arch = Arch {
    name: "gemma3",
    rope: RopePairing::Half,
    norm_place: NormPlace::Both,
    qk_norm: QkNorm::Head,
    gate: Gate::Gelu,
    scalars: Scalars::RootWidth,
    full_every: 6,
    window_rope: WindowRope::Base(10_000.0),
    ..llama::ARCH
};
