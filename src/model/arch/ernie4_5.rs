//! ERNIE 4.5 (dense): the llama graph. Its authors pair `(2i, 2i+1)` themselves, so the converter permutes nothing.

use super::{Arch, llama};

pub(super) const ARCH: Arch = Arch {
    name: "ernie4_5",
    ..llama::ARCH
};
