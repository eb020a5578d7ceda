//! OLMo 1 (arXiv 2402.00838): the llama graph with LayerNorm that has no weights, and queries,
//! keys and values clamped where the file says so.

use super::{Arch, NormKind, llama};

pub(super) const ARCH: Arch = Arch {
    name: "olmo",
    norm: NormKind::BareLayer,
    ..llama::ARCH
};
