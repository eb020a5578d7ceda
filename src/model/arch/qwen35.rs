//! Qwen3.5 and 3.6: in three of four layers a gated delta net, in the others attention with a gate, of whose heads
//! a quarter is rotated. Positions of images are those of text where there is only text.

use super::{Arch, MixerKind, StateLayers, qwen3};

pub(super) const ARCH: Arch = Arch {
    name: "qwen35",
    mixer: MixerKind::DeltaNet,
    state_layers: StateLayers::Listed,
    gated_attention: true,
    rope_divisor: 4,
    ffn_norm: "post_attention_norm",
    ..qwen3::ARCH
};
