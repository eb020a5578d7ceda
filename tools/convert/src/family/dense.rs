//! Dense families of 2024 and 2025: the layer of Llama with switches.

use super::keys::{float, layer_types, pattern};
use super::spec::{Dim, Family, Hyper, Line, RopeScaling, Rows, Table};
use super::tables::*;
use crate::config::{Config, FILE};
use crate::folder::{bad, short};
use crate::known::ROPE_MAPS;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;
use serde_json::Value;

/// Gemma 1. Its first configurations call GELU in its tanh form `gelu`.
pub(super) const GEMMA: Family = Family {
    classes: &["GemmaForCausalLM"],
    types: &["gemma"],
    architecture: "gemma",
    permuted: false,
    norm_offset: 1.0,
    tied: true,
    activation: (
        &["hidden_activation", "hidden_act"],
        &["gelu_pytorch_tanh", "gelu"],
    ),
    ..LIKE_LLAMA
};

/// Gemma 2.
pub(super) const GEMMA2: Family = Family {
    classes: &["Gemma2ForCausalLM"],
    types: &["gemma2"],
    architecture: "gemma2",
    activation: (&["hidden_activation", "hidden_act"], &["gelu_pytorch_tanh"]),
    windowed: true,
    more: gemma2,
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            ATTN_OUTPUT,
            POST_ATTENTION_NORM,
            PRE_FFN_NORM,
            FFN,
            POST_FFN_NORM,
        ],
        ..LLAMA
    },
    ..GEMMA
};

/// SmolLM3.
pub(super) const SMOLLM3: Family = Family {
    classes: &["SmolLM3ForCausalLM"],
    types: &["smollm3"],
    architecture: "smollm3",
    tied: true,
    more: smollm3,
    ..LIKE_LLAMA
};

/// Granite 3.
pub(super) const GRANITE: Family = Family {
    classes: &["GraniteForCausalLM"],
    types: &["granite"],
    architecture: "granite",
    more: |c, h| {
        for (name, key) in [
            ("attention_multiplier", "attention.scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ] {
            h.put(key, float(c, name)?.unwrap_or(1.0));
        }
        Ok(())
    },
    ..LIKE_LLAMA
};

/// Ministral 3, Devstral 2; the models of Mistral before them are of the llama graph.
pub(super) const MISTRAL3: Family = Family {
    classes: &["Ministral3ForCausalLM"],
    types: &["ministral3"],
    architecture: "mistral3",
    windowed: true,
    rope_number: Some("llama_4_scaling_beta"),
    more: mistral3,
    ..LIKE_LLAMA
};

/// GLM-4-0414 (9B, 32B). The norms behind attention and feed-forward have names of their own.
pub(super) const GLM4: Family = Family {
    classes: &["Glm4ForCausalLM"],
    types: &["glm4"],
    architecture: "glm4",
    permuted: false,
    rotated: Some(0.5),
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            ATTN_OUTPUT,
            lines! { "blk.{}.post_attention_norm" [Width] = "model.layers.{}.post_self_attn_layernorm" All; },
            FFN_NORM,
            FFN_FUSED,
            lines! { "blk.{}.post_ffw_norm" [Width] = "model.layers.{}.post_mlp_layernorm" All; },
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// Seed-OSS. Its file calls the norm before the feed-forward layer as the checkpoint does.
pub(super) const SEED_OSS: Family = Family {
    classes: &["SeedOssForCausalLM"],
    types: &["seed_oss"],
    architecture: "seed_oss",
    permuted: false,
    harmless: &["attention_out_bias"],
    table: &Table {
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, POST_ATTENTION_NORM, FFN],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// ERNIE 4.5 without experts.
pub(super) const ERNIE4_5: Family = Family {
    classes: &["Ernie4_5ForCausalLM"],
    types: &["ernie4_5"],
    architecture: "ernie4_5",
    permuted: false,
    tied: true,
    ..LIKE_LLAMA
};

/// Hunyuan without experts.
pub(super) const HUNYUAN_DENSE: Family = Family {
    classes: &["HunYuanDenseV1ForCausalLM"],
    types: &["hunyuan_v1_dense"],
    architecture: "hunyuan-dense",
    permuted: false,
    fixed: &[
        ("use_qk_norm", true, "true (normed heads)"),
        ("use_cla", false, "false (keys and values of each layer)"),
    ],
    rope_number: Some("alpha"),
    more: hunyuan,
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            lines! {
                "blk.{}.attn_q_norm" [Head] = "model.layers.{}.self_attn.query_layernorm" All;
                "blk.{}.attn_k_norm" [Head] = "model.layers.{}.self_attn.key_layernorm" All;
            },
            ATTN_OUTPUT,
            FFN_NORM,
            FFN,
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// EXAONE 4.
pub(super) const EXAONE4: Family = Family {
    classes: &["Exaone4ForCausalLM"],
    types: &["exaone4"],
    architecture: "exaone4",
    permuted: false,
    windowed: true,
    more: exaone4,
    table: &Table {
        layer: &[
            QKV,
            HEAD_NORMS,
            ATTN_OUTPUT,
            POST_ATTENTION_NORM,
            FFN,
            POST_FFN_NORM,
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// Command R7B and Aya of 2024 on. Their configurations repeat what the graph is.
pub(super) const COHERE2: Family = Family {
    classes: &["Cohere2ForCausalLM"],
    types: &["cohere2"],
    architecture: "cohere2",
    permuted: false,
    layer_norm: true,
    tied: true,
    fixed: &[
        ("use_parallel_block", true, "true (branches side by side)"),
        ("use_qk_norm", false, "false (heads without norms)"),
        (
            "use_gated_activation",
            true,
            "true (gated feed-forward layers)",
        ),
        ("use_embedding_sharing", true, "true (tied output)"),
    ],
    harmless: &[
        "layer_switch",
        "order_of_interleaved_layers",
        "position_embedding_type",
        "use_parallel_embedding",
    ],
    windowed: true,
    more: cohere2,
    table: &Table {
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// Arcee's AFM.
pub(super) const ARCEE: Family = Family {
    classes: &["ArceeForCausalLM"],
    types: &["arcee"],
    architecture: "arcee",
    activation: (&["hidden_act"], &["relu2"]),
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            ATTN_OUTPUT,
            FFN_NORM,
            lines! {
                "blk.{}.ffn_up" [Ffn, Width] = "model.layers.{}.mlp.up_proj" All;
                "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.down_proj" All;
            },
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// StarCoder 2. Its class looks at none of the harmless keys.
pub(super) const STARCODER2: Family = Family {
    classes: &["Starcoder2ForCausalLM"],
    types: &["starcoder2"],
    architecture: "starcoder2",
    permuted: false,
    layer_norm: true,
    tied: true,
    activation: (&["hidden_act"], &["gelu_pytorch_tanh"]),
    harmless: &["activation_function", "mlp_type", "norm_type"],
    windowed: true,
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            ATTN_OUTPUT,
            FFN_NORM,
            lines! {
                "blk.{}.ffn_up" [Ffn, Width] = "model.layers.{}.mlp.c_fc" All;
                "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.c_proj" All;
            },
        ],
        ..LLAMA
    },
    ..LIKE_LLAMA
};

const STABLELM_PARALLEL: Table = Table {
    layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN],
    ..LLAMA
};

/// StableLM 2 and 3B; heads with norms are not supported.
pub(super) const STABLELM: Family = Family {
    classes: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    types: &["stablelm", "stablelm_epoch"],
    architecture: "stablelm",
    permuted: false,
    layer_norm: true,
    rotated: Some(0.25),
    fixed: &[("qk_layernorm", false, "false (heads without norms)")],
    harmless: &["use_qkv_bias"],
    more: |c, h| {
        let parallel = c.bool("use_parallel_residual")?.unwrap_or(false);
        if parallel {
            h.table = &STABLELM_PARALLEL;
        }
        h.more
            .push(("use_parallel_residual", MetaValue::Bool(parallel)));
        Ok(())
    },
    ..LIKE_LLAMA
};

/// Phi-1, 1.5 and 2 under the names of `transformers`.
pub(super) const PHI2: Family = Family {
    classes: &["PhiForCausalLM"],
    types: &["phi"],
    architecture: "phi2",
    permuted: false,
    layer_norm: true,
    rotated: Some(0.5),
    activation: (&["hidden_act"], &["gelu_new", "gelu_pytorch_tanh"]),
    fixed: &[("qk_layernorm", false, "false (heads without norms)")],
    table: &Table {
        layer: &[
            ATTN_NORM,
            QKV,
            lines! {
                "blk.{}.attn_output" [Width, Q] = "model.layers.{}.self_attn.dense" All;
                "blk.{}.ffn_up" [Ffn, Width] = "model.layers.{}.mlp.fc1" All;
                "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.mlp.fc2" All;
            },
        ],
        last: lines! {
            "output_norm" [Width] = "model.final_layernorm" All;
            "output" [Vocab, Width] = "lm_head" All;
        },
        ..LLAMA
    },
    ..LIKE_LLAMA
};

/// A scale, two caps and a window in every other layer. Runtimes have usual values of all of them, so that what the
/// configuration says is written even where it is none.
fn gemma2(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let scalar = float(c, "query_pre_attn_scalar")?.unwrap_or(h.shape.head_dim as f64);
    h.put("attention.scale", 1.0 / scalar.sqrt());
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        h.put(key, float(c, key)?.unwrap_or(0.0));
    }
    if h.window.is_none() {
        h.more.push(("attention.sliding_window", MetaValue::U32(0)));
    }
    let usual = pattern(h.layers(), 2);
    let slides = layer_types(c, h.layers())?.unwrap_or_else(|| usual.clone());
    slide(h, slides, usual);
    Ok(())
}

/// Writes which layers have a window, unless it is what runtimes take where a file does not say.
fn slide(h: &mut Hyper, slides: Vec<bool>, usual: Vec<bool>) {
    if slides != usual {
        let key = "attention.sliding_window_pattern";
        h.more.push((key, MetaValue::Bools(slides)));
    }
}

/// Every fourth layer does not rotate: no file can say otherwise.
fn smollm3(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let usual = pattern(h.layers(), 4);
    let interval = c.uint(&["no_rope_layer_interval"], 1..=limits::MAX_LAYERS)?;
    let name = "no_rope_layers";
    let (said, rotated) = match c.get(&[name]) {
        // The list holds where there are both.
        Some((_, list)) => {
            let one = |v: &Value| v.as_u64().filter(|n| *n < 2).map(|n| n == 1);
            let all = list.as_array().map(|l| l.iter().map(one).collect());
            (short(list), all.flatten())
        }
        None => {
            let every = interval.unwrap_or(4);
            (
                format!("every {every}"),
                Some(pattern(h.layers(), every as usize)),
            )
        }
    };
    match rotated.is_some_and(|r: Vec<bool>| r.starts_with(&usual)) {
        true => Ok(()),
        false => Err(bad(
            FILE,
            name,
            said,
            "0 for every fourth layer, 1 for the others",
        )),
    }
}

/// Queries grow in steps of the context before stretching, which files say with YaRN only.
fn mistral3(_: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let grown = h.ropes.as_ref().and_then(|r| r.full.number);
    let Some(scale) = grown else { return Ok(()) };
    if !matches!(h.scaling, Some(RopeScaling::Yarn { .. })) {
        let name = format!("{}.llama_4_scaling_beta", ROPE_MAPS[0]);
        return Err(bad(FILE, name, scale, "absent where rope_type is not yarn"));
    }
    h.put("attention.temperature_scale", scale);
    Ok(())
}

/// Dynamic scaling by alpha: the base of the rotation times `alpha^(d / (d - 2))`.
fn hunyuan(_: &Config<'_>, h: &mut Hyper) -> Result<()> {
    if let (Some(RopeScaling::Alpha(alpha)), d @ 3..) = (&h.scaling, h.shape.head_dim) {
        let d = d as f64;
        h.rope_base = (f64::from(h.rope_base) * alpha.powf(d / (d - 2.0))) as f32;
    }
    Ok(())
}

/// A window in three of four layers, or in none; runtimes take layers that see all beside the others for unrotated.
fn exaone4(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let key = "sliding_window_pattern";
    if h.window.is_none() {
        // No pattern without a window; `layer_types` says that all see everything.
        c.note(&[key]);
        return Ok(());
    }
    intervals(c, h, key)
}

/// Logits are multiplied by a scale; layers without a window do not rotate.
fn cohere2(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    h.put("logit_scale", float(c, "logit_scale")?.unwrap_or(0.0625));
    if h.window.is_none() {
        return Err(bad(FILE, "sliding_window", "absent or null", "an integer"));
    }
    intervals(c, h, "sliding_window_pattern")
}

/// Layers with a window: those that `layer_types` names, or all but every n-th, usually every fourth.
fn intervals(c: &Config<'_>, h: &mut Hyper, key: &'static str) -> Result<()> {
    let slides = match layer_types(c, h.layers())? {
        // The list holds where there are both.
        Some(slides) => {
            c.note(&[key]);
            slides
        }
        None => {
            let every = c.uint(&[key], 1..=limits::MAX_LAYERS)?.unwrap_or(4);
            pattern(h.layers(), every as usize)
        }
    };
    let usual = pattern(h.layers(), 4);
    slide(h, slides, usual);
    Ok(())
}
