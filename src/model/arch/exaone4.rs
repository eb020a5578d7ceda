//! EXAONE 4: norms behind attention and feed-forward, normed heads. The larger model has a window in three of four
//! layers, and the fourth, which sees all positions, does not rotate.

use super::{Arch, NormPlace, QkNorm, RopePairing, Unrotated, llama};

pub(super) const ARCH: Arch = Arch {
    name: "exaone4",
    rope: RopePairing::Half,
    unrotated: Unrotated::FullBesideWindows,
    norm_place: NormPlace::After,
    qk_norm: QkNorm::Head,
    full_every: 4,
    ..llama::ARCH
};
