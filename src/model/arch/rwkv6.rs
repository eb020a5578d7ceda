//! RWKV 6, Finch (arXiv 2404.05892), and RWKV 5 written in its form.

use super::{Arch, MixerKind, NormKind, llama};

pub(super) const ARCH: Arch = Arch {
    name: "rwkv6",
    mixer: MixerKind::Rwkv6,
    norm: NormKind::Layer,
    ..llama::ARCH
};
