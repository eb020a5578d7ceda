//! Phi-1, 1.5 and 2: attention and feed-forward side by side under one norm, biases everywhere, part of each head
//! rotated. Files state a width of the feed-forward layers that need not be theirs.

use super::{Arch, FfnWidth, gptneox};

pub(super) const ARCH: Arch = Arch {
    name: "phi2",
    ffn_width: FfnWidth::Tensors,
    ..gptneox::ARCH
};
