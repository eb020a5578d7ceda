//! MiniCPM 1 and 2: the llama graph with scaled embeddings, residual branches and logits
//! (arXiv 2404.06395).

use super::{Arch, Scalars, llama};

pub(super) const ARCH: Arch = Arch {
    name: "minicpm",
    scalars: Scalars::MiniCpm,
    ..llama::ARCH
};
