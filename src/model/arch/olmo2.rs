//! OLMo 2 (arXiv 2501.00656): norms after attention and feed-forward instead of before, and over
//! all queries and all keys of a token. OLMo 3: the same with a window in some layers.

use super::{Arch, NormPlace, QkNorm, RopePairing, WindowRope, llama};

pub(super) const ARCH: Arch = Arch {
    name: "olmo2",
    rope: RopePairing::Half,
    norm_place: NormPlace::After,
    qk_norm: QkNorm::Width,
    window_rope: WindowRope::Plain,
    ..llama::ARCH
};
