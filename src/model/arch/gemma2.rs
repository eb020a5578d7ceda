//! Gemma 2 (arXiv 2408.00118): norms on both sides, a window in every other layer from the first on,
//! capped scores and logits. The 27B model, of 46 layers, has a scale of its own.

use super::{Arch, NormPlace, gemma};

pub(super) const ARCH: Arch = Arch {
    name: "gemma2",
    norm_place: NormPlace::Both,
    full_every: 2,
    wide_scale_layers: Some(46),
    softcaps: [50.0, 30.0],
    window: 4096,
    ..gemma::ARCH
};
