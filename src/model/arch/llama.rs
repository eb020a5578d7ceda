//! Llama 1 to 3, TinyLlama, Mistral, Mixtral, Danube, GEB-1.3B (full rotation).
//! Files hold q and k with interleaved pairs (the converter permutes Hugging Face rows).

use super::{
    Arch, FfnWidth, Gate, LogitScale, MixerKind, NormKind, NormPlace, Positions, QkNorm,
    RopePairing, Scalars, StateLayers, Unrotated, WindowRope,
};

pub(super) const ARCH: Arch = Arch {
    name: "llama",
    mixer: MixerKind::Attention,
    state_layers: StateLayers::All,
    gated_attention: false,
    grouped_values: false,
    positions: Positions::Rope,
    rope: RopePairing::Adjacent,
    rope_divisor: 1,
    unrotated: Unrotated::None,
    norm: NormKind::Rms,
    norm_place: NormPlace::Before,
    qk_norm: QkNorm::None,
    ffn_norm: "ffn_norm",
    output_norm: "output_norm",
    gate: Gate::Silu,
    plain: None,
    ffn_width: FfnWidth::Key,
    encoder: false,
    scaled: true,
    wide_scale_layers: None,
    softcaps: [0.0; 2],
    window: 0,
    parallel: false,
    renormalise: true,
    scalars: Scalars::Ones,
    logit_scale: LogitScale::Divides,
    full_every: 1,
    window_rope: WindowRope::Same,
};
