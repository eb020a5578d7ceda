//! Seed-OSS: the llama graph with pairs `(i, i + d/2)`; the norm before the feed-forward layer has the name that
//! other files give to one behind attention.

use super::{Arch, RopePairing, llama};

pub(super) const ARCH: Arch = Arch {
    name: "seed_oss",
    rope: RopePairing::Half,
    ffn_norm: "post_attention_norm",
    ..llama::ARCH
};
