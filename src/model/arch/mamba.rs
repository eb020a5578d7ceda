//! Mamba (arXiv 2312.00752): layers of one branch, no feed-forward.

use super::{Arch, MixerKind, llama};

pub(super) const ARCH: Arch = Arch {
    name: "mamba",
    mixer: MixerKind::Mamba,
    ..llama::ARCH
};
