//! Names around the names of a text model, and tensors of a checkpoint that are no part of it.

use super::checkpoint::Checkpoint;
use super::tensor::SourceTensor;
use super::wrapped::core;

/// First words of names in parts for images, sound and video, and between these and the text model.
const OTHER_PARTS: &[&str] = &[
    "aligner",
    "apm",
    "audio_encoder",
    "audio_model",
    "audio_projection_layer",
    "audio_projector",
    "audio_tower",
    "connector",
    "embed_audio",
    "embed_vision",
    "image_encoder",
    "image_newline",
    "image_projection",
    "mm_projector",
    "modality_projection",
    "multi_modal_projector",
    "multimodal_projector",
    "patch_merger",
    "perceiver_resampler",
    "pre_mm_projector_norm",
    "qformer",
    "resampler",
    "speech_encoder",
    "speech_projector",
    "talker",
    "token2wav",
    "vision_adapter",
    "vision_encoder",
    "vision_language_adapter",
    "vision_model",
    "vision_projection",
    "vision_projector",
    "vision_resampler",
    "vision_tower",
    "visual",
    "vpm",
];
/// First words of names in heads that judge a text.
const VALUE_HEADS: &[&str] = &[
    "v_head",
    "value_head",
    "reward_head",
    "regression_head",
    "score",
];
/// First word of names in blocks that guess further tokens from what the layers have made (Qwen3.5).
const GUESSES: &str = "mtp";
/// Ends of the names of scales for a cache in FP8, which is a way to run a model.
const CACHE_SCALES: &[&str] = &[
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".kv_scale",
    ".prob_scale",
];
/// Ends of the names of values that are computed, not learned.
const BUFFERS: &[&str] = &[
    ".inv_freq",
    ".masked_bias",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".position_ids",
];

/// What a tensor is that no part of a text model is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aside {
    /// Computed, not learned.
    Buffer,
    /// For images, sound, video, or between these and the text model.
    OtherPart,
    /// Judges a text.
    ValueHead,
    /// Scale of a cache.
    CacheScale,
    /// A block that guesses further tokens.
    Guess,
}

/// What a tensor is, if it can be left out.
pub(super) fn aside(name: &str) -> Option<Aside> {
    let core = core(name);
    let first = core.split('.').next().unwrap_or_default();
    let ends = |list: &[&str]| list.iter().any(|end| core.ends_with(end));
    match () {
        () if OTHER_PARTS.contains(&first) => Some(Aside::OtherPart),
        () if VALUE_HEADS.contains(&first) => Some(Aside::ValueHead),
        () if first == GUESSES => Some(Aside::Guess),
        () if ends(CACHE_SCALES) => Some(Aside::CacheScale),
        () if ends(BUFFERS) => Some(Aside::Buffer),
        () => None,
    }
}

/// A line for each kind of tensors that are left out, but for buffers.
pub(super) fn notes(checkpoint: &Checkpoint) -> Vec<String> {
    let of = |kind| -> Vec<&SourceTensor> {
        let all = checkpoint.tensors().iter();
        all.filter(|t| aside(&t.name) == Some(kind)).collect()
    };
    let kinds = [
        (Aside::OtherPart, "of vision, audio or projector parts"),
        (Aside::ValueHead, "of a value head"),
        (Aside::CacheScale, "with scales of a cache"),
        (Aside::Guess, "of blocks that guess further tokens"),
    ];
    let line = |(kind, what): (Aside, &str)| {
        let found = of(kind);
        let bytes: usize = found.iter().map(|t| t.range.len()).sum();
        let first = found.first()?;
        Some(format!(
            "{} tensors {what} left out ({bytes} bytes; the first is {})",
            found.len(),
            first.name
        ))
    };
    kinds.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_taken_off() {
        let all = [
            "model.layers.0.mlp.up_proj.weight",
            "layers.0.mlp.up_proj.weight",
            "_orig_mod.model.layers.0.mlp.up_proj.weight",
            "model._orig_mod.layers.0._orig_mod.mlp.up_proj.weight",
            "module.model.layers.0.mlp.up_proj.weight",
            "module._orig_mod.model.layers.0.mlp.up_proj.weight",
            "base_model.model.model.layers.0.mlp.up_proj.weight",
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
            "model.language_model.model.layers.0.mlp.up_proj.weight",
            "model.text_model.layers.0.mlp.up_proj.weight",
            "text_model.model.layers.0.mlp.up_proj.weight",
            "model._fsdp_wrapped_module.layers.0.mlp.up_proj.weight",
        ];
        for name in all {
            assert_eq!(core(name), "layers.0.mlp.up_proj.weight", "{name}");
            assert_eq!(aside(name), None, "{name}");
        }
        assert_eq!(core("language_model.lm_head.weight"), "lm_head.weight");
        assert_eq!(core("transformer.h.0.ln_1.weight"), "h.0.ln_1.weight");
        assert_eq!(core("modeling.x"), "modeling.x");
    }

    #[test]
    fn only_what_is_clearly_no_text_model_is_left_out() {
        let is = |name, kind| assert_eq!(aside(name), kind, "{name}");
        is("model.vision_tower.blocks.0.weight", Some(Aside::OtherPart));
        is("visual.patch_embed.proj.weight", Some(Aside::OtherPart));
        is(
            "multi_modal_projector.linear_1.bias",
            Some(Aside::OtherPart),
        );
        is("mtp.layers.0.mlp.up_proj.weight", Some(Aside::Guess));
        is("model.layers.0.mtp.weight", None);
        is("v_head.summary.weight", Some(Aside::ValueHead));
        is("score.weight", Some(Aside::ValueHead));
        is("model.layers.0.self_attn.k_scale", Some(Aside::CacheScale));
        is(
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            Some(Aside::Buffer),
        );
        is("model.layers.0.self_attn.q_proj.weight_scale", None);
        is("model.layers.0.mlp.visual.weight", None);
        is("model.layers.0.self_attn.q_proj.lora_A.weight", None);
        is("model.scores.weight", None);
    }
}
