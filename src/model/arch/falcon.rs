//! Falcon (arXiv 2311.16867): attention and feed-forward side by side, under one norm or one each
//! (`attn_norm_2` is that of attention), few key heads.

use super::{Arch, gptneox};

pub(super) const ARCH: Arch = Arch {
    name: "falcon",
    ..gptneox::ARCH
};
