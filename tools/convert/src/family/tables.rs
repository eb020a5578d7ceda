//! Tables that families share: pieces of layers, and the family most others are like.

use super::spec::{Dim, Family, Line, Mixers, Rows, Table, WindowRope};
use crate::sizes::alike;

pub(super) const LIKE_LLAMA: Family = Family {
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
    rope_number: None,
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
    mixers: Mixers {
        attention: &[],
        state: &[],
    },
    states: None,
};

pub(super) const EMBEDDING: &[Line] =
    lines! { "token_embd" [Vocab, Width] = "model.embed_tokens" All; };
pub(super) const OUTPUT: &[Line] = lines! { "output" [Vocab, Width] = "lm_head" All; };
pub(super) const NORM_AND_OUTPUT: &[Line] = lines! {
    "output_norm" [Width] = "model.norm" All;
    "output" [Vocab, Width] = "lm_head" All;
};
pub(super) const ATTN_NORM: &[Line] =
    lines! { "blk.{}.attn_norm" [Width] = "model.layers.{}.input_layernorm" All; };
pub(super) const QKV: &[Line] = lines! {
    "blk.{}.attn_q" [Q, Width] = "model.layers.{}.self_attn.q_proj" Rotary;
    "blk.{}.attn_k" [Kv, Width] = "model.layers.{}.self_attn.k_proj" Rotary;
    "blk.{}.attn_v" [Kv, Width] = "model.layers.{}.self_attn.v_proj" All;
};
pub(super) const QKV_FUSED: &[Line] =
    lines! { "blk.{}.attn_qkv" [Qkv, Width] = "model.layers.{}.self_attn.qkv_proj" All; };
pub(super) const HEAD_NORMS: &[Line] = lines! {
    "blk.{}.attn_q_norm" [Head] = "model.layers.{}.self_attn.q_norm" All;
    "blk.{}.attn_k_norm" [Head] = "model.layers.{}.self_attn.k_norm" All;
};
pub(super) const WIDE_NORMS: &[Line] = lines! {
    "blk.{}.attn_q_norm" [Q] = "model.layers.{}.self_attn.q_norm" All;
    "blk.{}.attn_k_norm" [Kv] = "model.layers.{}.self_attn.k_norm" All;
};
pub(super) const ATTN_OUTPUT: &[Line] =
    lines! { "blk.{}.attn_output" [Width, Q] = "model.layers.{}.self_attn.o_proj" All; };
pub(super) const FFN_NORM: &[Line] =
    lines! { "blk.{}.ffn_norm" [Width] = "model.layers.{}.post_attention_layernorm" All; };
pub(super) const POST_ATTENTION_NORM: &[Line] = lines! {
    "blk.{}.post_attention_norm" [Width] = "model.layers.{}.post_attention_layernorm" All;
};
pub(super) const PRE_FFN_NORM: &[Line] =
    lines! { "blk.{}.ffn_norm" [Width] = "model.layers.{}.pre_feedforward_layernorm" All; };
pub(super) const POST_FFN_NORM: &[Line] =
    lines! { "blk.{}.post_ffw_norm" [Width] = "model.layers.{}.post_feedforward_layernorm" All; };
pub(super) const FFN: &[Line] = lines! {
    "blk.{}.ffn_gate" [Ffn, Width] = "model.layers.{}.mlp.gate_proj" All;
    "blk.{}.ffn_up" [Ffn, Width] = "model.layers.{}.mlp.up_proj" All;
    "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.down_proj" All;
};
pub(super) const FFN_FUSED: &[Line] = lines! {
    "blk.{}.ffn_up" [Ffn2, Width] = "model.layers.{}.mlp.gate_up_proj" All;
    "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.down_proj" All;
};

pub(super) const LLAMA: Table = Table {
    first: EMBEDDING,
    layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM, FFN],
    last: NORM_AND_OUTPUT,
    encoder: &[],
    skip: &[".rotary_emb.inv_freq"],
};
pub(super) const QWEN3: Table = Table {
    layer: &[ATTN_NORM, QKV, HEAD_NORMS, ATTN_OUTPUT, FFN_NORM, FFN],
    ..LLAMA
};
pub(super) const PHI3: Table = Table {
    layer: &[ATTN_NORM, QKV_FUSED, ATTN_OUTPUT, FFN_NORM, FFN_FUSED],
    ..LLAMA
};
pub(super) const OLMO: Table = Table {
    layer: &[QKV, ATTN_OUTPUT, FFN],
    last: OUTPUT,
    ..LLAMA
};
pub(super) const OLMO2: Table = Table {
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
pub(super) const GEMMA3: Table = Table {
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

pub(super) const GEB_FIRST: &[Line] =
    lines! { "token_embd" [Vocab, Width] = "transformer.embedding.word_embeddings" All; };
pub(super) const GEB_LAST: &[Line] = lines! {
    "output_norm" [Width] = "transformer.encoder.final_layernorm" All;
    "output" [Vocab, Width] = "transformer.output_layer" All;
};
pub(super) const GEB_SKIP: &[&str] = &["rotary_pos_emb.inv_freq"];

/// GEB with whole heads rotated: the llama graph.
pub(super) const GEB: Table = Table {
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
pub(crate) const GEB_PARTIAL: Table = Table {
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
