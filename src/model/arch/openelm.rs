//! OpenELM (arXiv 2404.14619): heads and feed-forward widths of each layer, q, k, v in one matrix,
//! normed heads, pairs `(i, i + r/2)`.

use super::{Arch, QkNorm, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "openelm",
    rope: RopePairing::Half,
    qk_norm: QkNorm::Head,
    ..llama::ARCH
};
