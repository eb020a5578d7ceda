//! What the families of checkpoints look like: how they are recognised, which architecture they
//! become, and which GGUF tensor is made of which rows of which checkpoint tensors.

use recurrent::States;

use super::config::Config;
use super::hyper::{Hyper, Shape, alike};
use super::positions::WindowRope;
use super::templates::{GEB_TEMPLATE, RWKV_TEMPLATE};
use geb::error::Result;

mod keys;
pub(super) mod recurrent;

/// Reads what only some families state.
type More = fn(&Config<'_>, &mut Hyper) -> Result<()>;

/// A family: everything that tells it from the others, before numbers are read.
#[derive(Debug)]
pub struct Front {
    /// Values of `architectures[0]`.
    pub classes: &'static [&'static str],
    /// Values of `model_type`, looked at when there is no class.
    pub types: &'static [&'static str],
    /// GGUF architecture.
    pub architecture: &'static str,
    /// Heads of q and k are stored for pairs `(i, i + d/2)` and reordered for `(2i, 2i+1)`.
    pub permuted: bool,
    /// The norms of the reference are LayerNorm (another key for epsilon).
    pub layer_norm: bool,
    /// Added to the weights of norms: 1 where the reference multiplies by one plus them.
    pub norm_offset: f32,
    /// Whether the output matrix is the embedding when the configuration does not say.
    pub tied: bool,
    /// Names under which the activation is stated, and its names that the graph has.
    pub activation: (&'static [&'static str], &'static [&'static str]),
    /// Switches that the graph has in one position only: name, position, what is allowed.
    pub fixed: &'static [(&'static str, bool, &'static str)],
    /// Keys that only this family has, and that its graph or its tensors answer.
    pub harmless: &'static [&'static str],
    /// `sliding_window` holds for the layers.
    pub windowed: bool,
    /// The rotation of layers with a window.
    pub window_rope: WindowRope,
    /// Share of a head that is rotated when the configuration does not say; `None`: no rotation.
    pub rotated: Option<f64>,
    /// Trained context when the configuration does not say.
    pub context: Option<u64>,
    /// Width of the feed-forward layers in widths of the model, when the configuration does not say.
    pub ffn_times: Option<u64>,
    /// Tokens that the tokenizer's code numbers after the pieces of its file.
    pub appended: &'static [&'static str],
    /// Texts of the tokens that every text starts with, where there are several.
    pub starts: &'static [&'static str],
    /// Chat template of folders without one.
    pub template: Option<&'static str>,
    /// The layout is not published: `GebLayout` answers.
    pub open_layout: bool,
    pub(super) shape: fn(&Config<'_>, &Front, usize, usize) -> Result<Shape>,
    pub(super) more: More,
    pub(super) table: &'static Table,
    /// Further lines of layers whose router, the first line, is in the checkpoint.
    pub(super) experts: &'static [Line],
    /// Further lines of the other layers.
    pub(super) dense: &'static [Line],
    /// How names of a layer begin where `extra_heads.{}` begins those of a further head; empty in
    /// families without.
    pub(super) heads: &'static str,
    /// Takes the place of the table in families whose layers keep a state.
    pub(super) states: Option<&'static States>,
}

const LIKE_LLAMA: Front = Front {
    classes: &["LlamaForCausalLM", "MistralForCausalLM"],
    types: &["llama", "mistral"],
    architecture: "llama",
    permuted: true,
    layer_norm: false,
    norm_offset: 0.0,
    tied: false,
    activation: (&["hidden_act"], &["silu", "swish"]),
    fixed: &[],
    harmless: &[],
    windowed: false,
    window_rope: WindowRope::Same,
    rotated: Some(1.0),
    context: None,
    ffn_times: None,
    appended: &[],
    starts: &[],
    template: None,
    open_layout: false,
    shape: alike,
    more: |_, _| Ok(()),
    table: &LLAMA,
    experts: &[],
    dense: &[],
    heads: "",
    states: None,
};

/// A family whose layers keep a state.
const fn state(
    classes: &'static [&'static str],
    types: &'static [&'static str],
    architecture: &'static str,
    states: &'static States,
) -> Front {
    Front {
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
pub const FRONTS: &[Front] = &[
    Front {
        windowed: true,
        more: keys::extra_heads,
        heads: "model.layers.{}",
        ..LIKE_LLAMA
    },
    meta::LLAMA,
    Front {
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
    Front {
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
    Front {
        classes: &["Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration"],
        types: &["qwen3", "qwen3_vl_text", "qwen3_vl"],
        architecture: "qwen3",
        permuted: false,
        more: keys::qwen,
        table: &QWEN3,
        ..LIKE_LLAMA
    },
    Front {
        classes: &["Phi3ForCausalLM"],
        types: &["phi3"],
        architecture: "phi3",
        permuted: false,
        windowed: true,
        table: &PHI3,
        ..LIKE_LLAMA
    },
    Front {
        classes: &["MiniCPMForCausalLM"],
        types: &["minicpm"],
        architecture: "minicpm",
        more: keys::minicpm,
        ..LIKE_LLAMA
    },
    Front {
        classes: &["OlmoForCausalLM"],
        types: &["olmo"],
        architecture: "olmo",
        layer_norm: true,
        more: keys::olmo,
        table: &OLMO,
        ..LIKE_LLAMA
    },
    Front {
        classes: &["Olmo2ForCausalLM"],
        types: &["olmo2"],
        architecture: "olmo2",
        permuted: false,
        table: &OLMO2,
        ..LIKE_LLAMA
    },
    Front {
        classes: &["Olmo3ForCausalLM"],
        types: &["olmo3"],
        architecture: "olmo2",
        permuted: false,
        window_rope: WindowRope::Plain,
        more: keys::olmo3,
        table: &OLMO2,
        ..LIKE_LLAMA
    },
    Front {
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
    experts::MIXTRAL,
    experts::QWEN2_MOE,
    experts::QWEN3_MOE,
    experts::OLMOE,
    experts::JETMOE,
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

/// A dimension in symbols.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim {
    Vocab,
    Width,
    /// One head.
    Head,
    Ffn,
    /// All query heads.
    Q,
    /// All key (or value) heads.
    Kv,
    /// Queries, keys and values.
    Qkv,
    Ffn2,
    /// All experts of a layer.
    Experts,
    /// One expert.
    ExpertFfn,
    /// The expert of every token.
    SharedFfn,
    One,
    /// Trained positions.
    Context,
    /// Query heads, counted.
    Heads,
    /// Buckets of distances.
    Buckets,
}

/// Which rows of a source tensor, and in which order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows {
    All,
    /// Heads reordered for interleaved rotation.
    Rotary,
    /// Keys of GEB's packed matrix, reordered.
    GebKey,
    /// Values of GEB's packed matrix.
    GebValue,
    GebGate,
    GebUp,
    /// Groups of `[query heads of a key head, key, value]` become queries, keys, values.
    Grouped,
    /// The first half, of each expert where a source has several.
    First,
    /// The second half.
    Second,
    /// The source is stored transposed: columns become rows.
    Transposed,
}

/// One line of a table: GGUF stem (`{}` = layer), shape, sources (`{}` = layer, `{e}` = each expert).
/// Stems that end with `.bias` are whole names, also those of their sources.
#[derive(Debug)]
pub(super) struct Line {
    pub gguf: &'static str,
    pub shape: &'static [Dim],
    pub parts: &'static [(&'static str, Rows)],
}

macro_rules! lines {
    ($($gguf:literal [$($dim:ident),+] = $($hf:literal $rows:ident),+;)*) => {
        &[$(Line { gguf: $gguf, shape: &[$(Dim::$dim),+], parts: &[$(($hf, Rows::$rows)),+] },)*]
    };
}

mod classic;
mod experts;
pub(super) mod meta;
mod seq2seq;

/// Stems of one architecture: before the layers, per layer, after the layers.
#[derive(Debug)]
pub(super) struct Table {
    pub first: &'static [Line],
    /// The layers of an encoder.
    pub encoder: &'static [&'static [Line]],
    /// In pieces that families share.
    pub layer: &'static [&'static [Line]],
    pub last: &'static [Line],
    /// Ends of names that hold no weights of the graph.
    pub skip: &'static [&'static str],
}

const EMBEDDING: &[Line] = lines! { "token_embd" [Vocab, Width] = "model.embed_tokens" All; };
const OUTPUT: &[Line] = lines! { "output" [Vocab, Width] = "lm_head" All; };
const NORM_AND_OUTPUT: &[Line] = lines! {
    "output_norm" [Width] = "model.norm" All;
    "output" [Vocab, Width] = "lm_head" All;
};
const ATTN_NORM: &[Line] =
    lines! { "blk.{}.attn_norm" [Width] = "model.layers.{}.input_layernorm" All; };
const QKV: &[Line] = lines! {
    "blk.{}.attn_q" [Q, Width] = "model.layers.{}.self_attn.q_proj" Rotary;
    "blk.{}.attn_k" [Kv, Width] = "model.layers.{}.self_attn.k_proj" Rotary;
    "blk.{}.attn_v" [Kv, Width] = "model.layers.{}.self_attn.v_proj" All;
};
const QKV_FUSED: &[Line] =
    lines! { "blk.{}.attn_qkv" [Qkv, Width] = "model.layers.{}.self_attn.qkv_proj" All; };
const HEAD_NORMS: &[Line] = lines! {
    "blk.{}.attn_q_norm" [Head] = "model.layers.{}.self_attn.q_norm" All;
    "blk.{}.attn_k_norm" [Head] = "model.layers.{}.self_attn.k_norm" All;
};
const WIDE_NORMS: &[Line] = lines! {
    "blk.{}.attn_q_norm" [Q] = "model.layers.{}.self_attn.q_norm" All;
    "blk.{}.attn_k_norm" [Kv] = "model.layers.{}.self_attn.k_norm" All;
};
const ATTN_OUTPUT: &[Line] =
    lines! { "blk.{}.attn_output" [Width, Q] = "model.layers.{}.self_attn.o_proj" All; };
const FFN_NORM: &[Line] =
    lines! { "blk.{}.ffn_norm" [Width] = "model.layers.{}.post_attention_layernorm" All; };
const POST_ATTENTION_NORM: &[Line] = lines! {
    "blk.{}.post_attention_norm" [Width] = "model.layers.{}.post_attention_layernorm" All;
};
const PRE_FFN_NORM: &[Line] =
    lines! { "blk.{}.ffn_norm" [Width] = "model.layers.{}.pre_feedforward_layernorm" All; };
const POST_FFN_NORM: &[Line] =
    lines! { "blk.{}.post_ffw_norm" [Width] = "model.layers.{}.post_feedforward_layernorm" All; };
const FFN: &[Line] = lines! {
    "blk.{}.ffn_gate" [Ffn, Width] = "model.layers.{}.mlp.gate_proj" All;
    "blk.{}.ffn_up" [Ffn, Width] = "model.layers.{}.mlp.up_proj" All;
    "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.down_proj" All;
};
const FFN_FUSED: &[Line] = lines! {
    "blk.{}.ffn_up" [Ffn2, Width] = "model.layers.{}.mlp.gate_up_proj" All;
    "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.down_proj" All;
};

const LLAMA: Table = Table {
    first: EMBEDDING,
    layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM, FFN],
    last: NORM_AND_OUTPUT,
    encoder: &[],
    skip: &[".rotary_emb.inv_freq"],
};
const QWEN3: Table = Table {
    layer: &[ATTN_NORM, QKV, HEAD_NORMS, ATTN_OUTPUT, FFN_NORM, FFN],
    ..LLAMA
};
const PHI3: Table = Table {
    layer: &[ATTN_NORM, QKV_FUSED, ATTN_OUTPUT, FFN_NORM, FFN_FUSED],
    ..LLAMA
};
const OLMO: Table = Table {
    layer: &[QKV, ATTN_OUTPUT, FFN],
    last: OUTPUT,
    ..LLAMA
};
const OLMO2: Table = Table {
    layer: &[
        QKV,
        WIDE_NORMS,
        ATTN_OUTPUT,
        POST_ATTENTION_NORM,
        FFN,
        POST_FFN_NORM,
    ],
    ..LLAMA
};
const GEMMA3: Table = Table {
    layer: &[
        ATTN_NORM,
        QKV,
        HEAD_NORMS,
        ATTN_OUTPUT,
        POST_ATTENTION_NORM,
        PRE_FFN_NORM,
        FFN,
        POST_FFN_NORM,
    ],
    ..LLAMA
};

const GEB_FIRST: &[Line] =
    lines! { "token_embd" [Vocab, Width] = "transformer.embedding.word_embeddings" All; };
const GEB_LAST: &[Line] = lines! {
    "output_norm" [Width] = "transformer.encoder.final_layernorm" All;
    "output" [Vocab, Width] = "transformer.output_layer" All;
};
const GEB_SKIP: &[&str] = &["rotary_pos_emb.inv_freq"];

/// GEB with whole heads rotated: the llama graph.
const GEB: Table = Table {
    first: GEB_FIRST,
    layer: &[lines! {
        "blk.{}.attn_norm" [Width] = "transformer.encoder.layers.{}.input_layernorm" All;
        "blk.{}.attn_q" [Q, Width] = "transformer.encoder.layers.{}.self_attention.query" Rotary;
        "blk.{}.attn_k" [Kv, Width] = "transformer.encoder.layers.{}.self_attention.key_value" GebKey;
        "blk.{}.attn_v" [Kv, Width] = "transformer.encoder.layers.{}.self_attention.key_value" GebValue;
        "blk.{}.attn_output" [Width, Q] = "transformer.encoder.layers.{}.self_attention.dense" All;
        "blk.{}.ffn_norm" [Width] = "transformer.encoder.layers.{}.post_attention_layernorm" All;
        "blk.{}.ffn_gate" [Ffn, Width] = "transformer.encoder.layers.{}.mlp.dense_h_to_4h" GebGate;
        "blk.{}.ffn_up" [Ffn, Width] = "transformer.encoder.layers.{}.mlp.dense_h_to_4h" GebUp;
        "blk.{}.ffn_down" [Width, Ffn] = "transformer.encoder.layers.{}.mlp.dense_4h_to_h" All;
    }],
    last: GEB_LAST,
    encoder: &[],
    skip: GEB_SKIP,
};

/// GEB with a part of each head rotated: the chatglm graph, with its fused matrices.
pub(super) const GEB_PARTIAL: Table = Table {
    first: GEB_FIRST,
    layer: &[lines! {
        "blk.{}.attn_norm" [Width] = "transformer.encoder.layers.{}.input_layernorm" All;
        "blk.{}.attn_qkv" [Qkv, Width] = "transformer.encoder.layers.{}.self_attention.query" Rotary,
            "transformer.encoder.layers.{}.self_attention.key_value" GebKey,
            "transformer.encoder.layers.{}.self_attention.key_value" GebValue;
        "blk.{}.attn_output" [Width, Q] = "transformer.encoder.layers.{}.self_attention.dense" All;
        "blk.{}.ffn_norm" [Width] = "transformer.encoder.layers.{}.post_attention_layernorm" All;
        "blk.{}.ffn_up" [Ffn2, Width] = "transformer.encoder.layers.{}.mlp.dense_h_to_4h" GebGate,
            "transformer.encoder.layers.{}.mlp.dense_h_to_4h" GebUp;
        "blk.{}.ffn_down" [Width, Ffn] = "transformer.encoder.layers.{}.mlp.dense_4h_to_h" All;
    }],
    last: GEB_LAST,
    encoder: &[],
    skip: GEB_SKIP,
};
