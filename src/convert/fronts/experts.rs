//! Families with mixtures of experts. `{e}` in a source name is the number of an expert: those
//! matrices become one tensor, one expert behind the other.

use super::*;

pub(super) const MIXTRAL: Front = Front {
    family: Family::Mixtral,
    classes: &["MixtralForCausalLM"],
    types: &["mixtral"],
    table: &Table {
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM],
        experts: lines! {
            "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.block_sparse_moe.gate" All;
            "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.block_sparse_moe.experts.{e}.w1" All;
            "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.block_sparse_moe.experts.{e}.w3" All;
            "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.block_sparse_moe.experts.{e}.w2" All;
        },
        dense: FFN,
        ..LLAMA
    },
    ..LIKE_LLAMA
};

pub(super) const QWEN2_MOE: Front = Front {
    family: Family::Qwen2Moe,
    classes: &["Qwen2MoeForCausalLM"],
    types: &["qwen2_moe"],
    architecture: "qwen2moe",
    permuted: false,
    table: &Table {
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM],
        experts: lines! {
            "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.mlp.gate" All;
            "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.experts.{e}.gate_proj" All;
            "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.experts.{e}.up_proj" All;
            "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.mlp.experts.{e}.down_proj" All;
            "blk.{}.ffn_gate_inp_shexp" [One, Width] = "model.layers.{}.mlp.shared_expert_gate" All;
            "blk.{}.ffn_gate_shexp" [SharedFfn, Width] = "model.layers.{}.mlp.shared_expert.gate_proj" All;
            "blk.{}.ffn_up_shexp" [SharedFfn, Width] = "model.layers.{}.mlp.shared_expert.up_proj" All;
            "blk.{}.ffn_down_shexp" [Width, SharedFfn] = "model.layers.{}.mlp.shared_expert.down_proj" All;
        },
        dense: FFN,
        ..LLAMA
    },
    ..LIKE_LLAMA
};

const EXPERTS: &[Line] = lines! {
    "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.mlp.gate" All;
    "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.experts.{e}.gate_proj" All;
    "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.experts.{e}.up_proj" All;
    "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.mlp.experts.{e}.down_proj" All;
};

pub(super) const QWEN3_MOE: Front = Front {
    family: Family::Qwen3Moe,
    classes: &["Qwen3MoeForCausalLM"],
    types: &["qwen3_moe"],
    architecture: "qwen3moe",
    permuted: false,
    table: &Table {
        layer: &[ATTN_NORM, QKV, HEAD_NORMS, ATTN_OUTPUT, FFN_NORM],
        experts: EXPERTS,
        dense: FFN,
        ..LLAMA
    },
    ..LIKE_LLAMA
};

pub(super) const OLMOE: Front = Front {
    family: Family::OlmoE,
    classes: &["OlmoeForCausalLM"],
    types: &["olmoe"],
    architecture: "olmoe",
    permuted: false,
    table: &Table {
        layer: &[ATTN_NORM, QKV, WIDE_NORMS, ATTN_OUTPUT, FFN_NORM],
        experts: EXPERTS,
        dense: FFN,
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// Experts in attention too; our own names, docs/format.md.
pub(super) const JETMOE: Front = Front {
    family: Family::JetMoe,
    classes: &["JetMoeForCausalLM"],
    types: &["jetmoe"],
    architecture: "jetmoe",
    permuted: false,
    tied: true,
    table: &Table {
        layer: &[
            ATTN_NORM,
            FFN_NORM,
            lines! {
                "blk.{}.attn_gate_inp" [Experts, Width] = "model.layers.{}.self_attention.experts.router.layer" All;
                "blk.{}.attn_q_exps" [Experts, Kv, Width] = "model.layers.{}.self_attention.experts.input_linear" All;
                "blk.{}.attn_k" [Kv, Width] = "model.layers.{}.self_attention.kv_proj" FirstHalf;
                "blk.{}.attn_v" [Kv, Width] = "model.layers.{}.self_attention.kv_proj" SecondHalf;
                "blk.{}.attn_output_exps" [Experts, Width, Kv] = "model.layers.{}.self_attention.experts.output_linear" All;
                "blk.{}.attn_output.bias" [Width] = "model.layers.{}.self_attention.experts.bias" All;
                "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.mlp.router.layer" All;
                "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.input_linear" FirstHalf;
                "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.input_linear" SecondHalf;
                "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.mlp.output_linear" All;
                "blk.{}.ffn_down.bias" [Width] = "model.layers.{}.mlp.bias" All;
            },
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};
