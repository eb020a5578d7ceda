//! LFM2: in most layers a gated convolution over three tokens, in the others attention with normed heads.
//! The norm before the output is called as elsewhere that of the embeddings.

use super::{Arch, MixerKind, StateLayers, qwen3};

pub(super) const ARCH: Arch = Arch {
    name: "lfm2",
    mixer: MixerKind::ShortConv,
    state_layers: StateLayers::WithoutHeads,
    output_norm: "token_embd_norm",
    ..qwen3::ARCH
};
