//! What the families of checkpoints look like: how they are recognised, which architecture they
//! become, and which GGUF tensor is made of which rows of which checkpoint tensors.

#[macro_use]
pub(crate) mod spec;
mod chat;
mod classic;
mod dense;
mod experts;
mod hybrid;
mod keys;
pub(crate) mod meta;
pub(crate) mod recurrent;
mod seq2seq;
mod tables;

use chat::{GEB_TEMPLATE, RWKV_TEMPLATE};
use recurrent::States;
pub use spec::Family;
use spec::WindowRope;
pub(crate) use tables::GEB_PARTIAL;
use tables::{GEB, GEMMA3, LIKE_LLAMA, OLMO, OLMO2, PHI3, QWEN3};

/// A family whose layers keep a state.
const fn state(
    classes: &'static [&'static str],
    types: &'static [&'static str],
    architecture: &'static str,
    states: &'static States,
) -> Family {
    Family {
        classes,
        types,
        architecture,
        permuted: false,
        tied: states.kind.is_mamba(),
        rotated: None,
        template: match states.kind.is_mamba() {
            true => None,
            false => Some(RWKV_TEMPLATE),
        },
        activation: match states.kind {
            recurrent::Kind::Rwkv7 => (&["hidden_act"], &["sqrelu"]),
            _ => (&["hidden_act"], &["silu", "swish"]),
        },
        harmless: match states.kind.is_mamba() {
            true => &[],
            // Shapes of tensors answer.
            false => &[
                "a_low_rank_dim",
                "decay_low_rank_dim",
                "gate_low_rank_dim",
                "max_position_embeddings",
                "num_attention_heads",
                "v_low_rank_dim",
                "value_dim",
            ],
        },
        states: Some(states),
        ..LIKE_LLAMA
    }
}

/// All families.
pub const FAMILIES: &[Family] = &[
    Family {
        windowed: true,
        more: keys::extra_heads,
        heads: "model.layers.{}",
        ..LIKE_LLAMA
    },
    meta::LLAMA,
    Family {
        classes: &["GEBForCausalLM"],
        types: &["geblm"],
        fixed: &[
            (
                "apply_residual_connection_post_layernorm",
                false,
                "false (residual connections around the norms)",
            ),
            (
                "post_layer_norm",
                true,
                "true (a norm after the last block)",
            ),
        ],
        appended: keys::GEB_TOKENS,
        template: Some(GEB_TEMPLATE),
        open_layout: true,
        table: &GEB,
        ..LIKE_LLAMA
    },
    Family {
        classes: &[
            "Qwen2ForCausalLM",
            "Qwen2VLForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
        ],
        types: &[
            "qwen2",
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen2_vl",
            "qwen2_5_vl",
        ],
        architecture: "qwen2",
        permuted: false,
        more: keys::qwen,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration"],
        types: &["qwen3", "qwen3_vl_text", "qwen3_vl"],
        architecture: "qwen3",
        permuted: false,
        more: keys::qwen,
        table: &QWEN3,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["Phi3ForCausalLM"],
        types: &["phi3"],
        architecture: "phi3",
        permuted: false,
        windowed: true,
        table: &PHI3,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["MiniCPMForCausalLM"],
        types: &["minicpm"],
        architecture: "minicpm",
        more: keys::minicpm,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["OlmoForCausalLM"],
        types: &["olmo"],
        architecture: "olmo",
        layer_norm: true,
        more: keys::olmo,
        table: &OLMO,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["Olmo2ForCausalLM"],
        types: &["olmo2"],
        architecture: "olmo2",
        permuted: false,
        table: &OLMO2,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["Olmo3ForCausalLM"],
        types: &["olmo3"],
        architecture: "olmo2",
        permuted: false,
        window_rope: WindowRope::Plain,
        more: keys::olmo3,
        table: &OLMO2,
        ..LIKE_LLAMA
    },
    Family {
        classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        types: &["gemma3_text", "gemma3"],
        architecture: "gemma3",
        permuted: false,
        norm_offset: 1.0,
        tied: true,
        activation: (&["hidden_activation", "hidden_act"], &["gelu_pytorch_tanh"]),
        windowed: true,
        window_rope: WindowRope::Local,
        more: keys::gemma3,
        table: &GEMMA3,
        ..LIKE_LLAMA
    },
    dense::GEMMA,
    dense::GEMMA2,
    dense::SMOLLM3,
    dense::GRANITE,
    dense::MISTRAL3,
    dense::GLM4,
    dense::SEED_OSS,
    dense::ERNIE4_5,
    dense::HUNYUAN_DENSE,
    dense::EXAONE4,
    dense::COHERE2,
    dense::ARCEE,
    dense::STARCODER2,
    dense::STABLELM,
    dense::PHI2,
    experts::MIXTRAL,
    experts::QWEN2_MOE,
    experts::QWEN3_MOE,
    experts::OLMOE,
    experts::JETMOE,
    hybrid::LFM2,
    hybrid::QWEN35,
    hybrid::QWEN35_MOE,
    hybrid::QWEN3_NEXT,
    classic::CHATGLM,
    classic::GLM,
    classic::OPENELM,
    classic::GPT2,
    classic::GPT_NEO,
    classic::GPT_NEOX,
    classic::BLOOM,
    classic::FALCON,
    seq2seq::T5,
    seq2seq::SWITCH,
    state(
        &["Rwkv5ForCausalLM"],
        &["rwkv5"],
        "rwkv6",
        &recurrent::RWKV5,
    ),
    state(
        &["Rwkv6ForCausalLM"],
        &["rwkv6"],
        "rwkv6",
        &recurrent::RWKV6,
    ),
    state(
        &["RWKV7ForCausalLM", "Rwkv7ForCausalLM"],
        &["rwkv7"],
        "rwkv7",
        &recurrent::RWKV7,
    ),
    state(
        &["MambaForCausalLM"],
        &["mamba"],
        "mamba",
        &recurrent::MAMBA,
    ),
    state(
        &["FalconMambaForCausalLM"],
        &["falcon_mamba"],
        "mamba",
        &recurrent::FALCON_MAMBA,
    ),
    state(
        &["Mamba2ForCausalLM"],
        &["mamba2"],
        "mamba2",
        &recurrent::MAMBA2,
    ),
];
