//! Granite 3 (dense): the llama graph with factors of embeddings, scores, residual branches and logits, which
//! the file says.

use super::{Arch, llama};

pub(super) const ARCH: Arch = Arch {
    name: "granite",
    ..llama::ARCH
};
