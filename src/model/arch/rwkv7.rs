//! RWKV 7, Goose (arXiv 2503.14456).

use super::{Arch, MixerKind, rwkv6};

pub(super) const ARCH: Arch = Arch {
    name: "rwkv7",
    mixer: MixerKind::Rwkv7,
    ..rwkv6::ARCH
};
