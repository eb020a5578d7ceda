//! Mamba 2 (arXiv 2405.21060).

use super::{Arch, MixerKind, llama};

pub(super) const ARCH: Arch = Arch {
    name: "mamba2",
    mixer: MixerKind::Mamba2,
    ..llama::ARCH
};
