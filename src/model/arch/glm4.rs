//! GLM-4-0414: half of each head rotated in adjacent pairs, norms on both sides, gate and up in one matrix.

use super::{Arch, NormPlace, chatglm};

pub(super) const ARCH: Arch = Arch {
    name: "glm4",
    norm_place: NormPlace::Both,
    ..chatglm::ARCH
};
