//! Families with mixtures of experts. `{e}` in a source name is the number of an expert: those
//! matrices become one tensor, one expert behind the other.

use super::keys;
use super::spec::{Dim, Experts, Family, Hyper, Line, Rows, Table};
use super::tables::*;
use crate::config::Config;
use crate::known;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;

/// Epsilon of the norms inside the layers of JetMoE: the reference's default, whatever its
/// configuration says.
const JETMOE_EPS: f32 = 1e-6;

/// As [`counts`], of families that say how many experts a token has.
fn experts(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    counts(c, h, None)
}

/// Counts and widths; `usual`: the experts of a token where the configuration is silent.
pub(super) fn counts(c: &Config<'_>, h: &mut Hyper, usual: Option<u64>) -> Result<()> {
    let number = |h: &mut Hyper, key, n: u64| h.more.push((key, MetaValue::U32(n as u32)));
    let count = c.need_uint(known::EXPERTS, 1..=limits::MAX_EXPERTS)?;
    let used = match usual {
        Some(usual) => c.uint(known::EXPERTS_USED, 1..=count)?.unwrap_or(usual),
        None => c.need_uint(known::EXPERTS_USED, 1..=count)?,
    };
    let ffn = h.shape.layers.first().map_or(0, |l| l.ffn) as u64;
    let width = |name| c.uint(&[name], 1..=limits::MAX_WIDTH);
    let shared = width("shared_expert_intermediate_size")?;
    let width = width("moe_intermediate_size")?.unwrap_or(ffn);
    number(h, "expert_count", count);
    number(h, "expert_used_count", used);
    number(h, "expert_feed_forward_length", width);
    if let Some(n) = shared {
        number(h, "expert_shared_feed_forward_length", n);
    }
    h.experts = Some(Experts {
        count: count as usize,
        width: width as usize,
        shared: shared.unwrap_or(ffn) as usize,
    });
    Ok(())
}

/// As [`experts`]; whether the weights of the chosen ones are divided by their sum, unless it is as
/// `usual` for the architecture. The reference does not when the configuration is silent.
fn normed(c: &Config<'_>, h: &mut Hyper, usual: bool) -> Result<()> {
    experts(c, h)?;
    let normed = c.bool("norm_topk_prob")?.unwrap_or(false);
    if normed != usual {
        h.more
            .push(("expert_weights_norm", MetaValue::Bool(normed)));
    }
    Ok(())
}

pub(super) const MIXTRAL: Family = Family {
    classes: &["MixtralForCausalLM"],
    types: &["mixtral"],
    windowed: true,
    more: experts,
    table: &Table {
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM],
        ..LLAMA
    },
    experts: lines! {
        "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.block_sparse_moe.gate" All;
        "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.block_sparse_moe.experts.{e}.w1" All;
        "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.block_sparse_moe.experts.{e}.w3" All;
        "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.block_sparse_moe.experts.{e}.w2" All;
    },
    dense: FFN,
    ..LIKE_LLAMA
};

pub(super) const QWEN2_MOE: Family = Family {
    classes: &["Qwen2MoeForCausalLM"],
    types: &["qwen2_moe"],
    architecture: "qwen2moe",
    permuted: false,
    more: |c, h| {
        keys::qwen(c, h)?;
        normed(c, h, false)
    },
    table: &Table {
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM],
        ..LLAMA
    },
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
    ..LIKE_LLAMA
};

const EXPERTS: &[Line] = lines! {
    "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.mlp.gate" All;
    "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.experts.{e}.gate_proj" All;
    "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.experts.{e}.up_proj" All;
    "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.mlp.experts.{e}.down_proj" All;
};

pub(super) const QWEN3_MOE: Family = Family {
    classes: &["Qwen3MoeForCausalLM"],
    types: &["qwen3_moe"],
    architecture: "qwen3moe",
    permuted: false,
    more: |c, h| {
        keys::qwen3_moe(c, h)?;
        normed(c, h, true)
    },
    table: &Table {
        layer: &[ATTN_NORM, QKV, HEAD_NORMS, ATTN_OUTPUT, FFN_NORM],
        ..LLAMA
    },
    experts: EXPERTS,
    dense: FFN,
    ..LIKE_LLAMA
};

pub(super) const OLMOE: Family = Family {
    classes: &["OlmoeForCausalLM"],
    types: &["olmoe"],
    architecture: "olmoe",
    permuted: false,
    more: |c, h| {
        keys::olmo(c, h)?;
        normed(c, h, false)
    },
    table: &Table {
        layer: &[ATTN_NORM, QKV, WIDE_NORMS, ATTN_OUTPUT, FFN_NORM],
        ..LLAMA
    },
    experts: EXPERTS,
    dense: FFN,
    ..LIKE_LLAMA
};

/// Experts in attention too; our own names, docs/format.md.
pub(super) const JETMOE: Family = Family {
    classes: &["JetMoeForCausalLM"],
    types: &["jetmoe"],
    architecture: "jetmoe",
    permuted: false,
    tied: true,
    activation: (&["activation_function", "hidden_act"], &["silu", "swish"]),
    // The epsilon inside the layers is a constant of the reference.
    harmless: &["layer_norm_epsilon", "length"],
    more: |c, h| {
        let last = c.float(&["rms_norm_eps"], 0.0..=1.0)?;
        h.put("output_norm_epsilon", last.unwrap_or(JETMOE_EPS.into()));
        h.eps = JETMOE_EPS;
        experts(c, h)
    },
    table: &Table {
        layer: &[
            ATTN_NORM,
            FFN_NORM,
            lines! {
                "blk.{}.attn_gate_inp" [Experts, Width] = "model.layers.{}.self_attention.experts.router.layer" All;
                "blk.{}.attn_q_exps" [Experts, Kv, Width] = "model.layers.{}.self_attention.experts.input_linear" All;
                "blk.{}.attn_k" [Kv, Width] = "model.layers.{}.self_attention.kv_proj" First;
                "blk.{}.attn_v" [Kv, Width] = "model.layers.{}.self_attention.kv_proj" Second;
                "blk.{}.attn_output_exps" [Experts, Width, Kv] = "model.layers.{}.self_attention.experts.output_linear" All;
                "blk.{}.attn_output.bias" [Width] = "model.layers.{}.self_attention.experts.bias" All;
                "blk.{}.ffn_gate_inp" [Experts, Width] = "model.layers.{}.mlp.router.layer" All;
                "blk.{}.ffn_gate_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.input_linear" First;
                "blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "model.layers.{}.mlp.input_linear" Second;
                "blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "model.layers.{}.mlp.output_linear" All;
                "blk.{}.ffn_down.bias" [Width] = "model.layers.{}.mlp.bias" All;
            },
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};
