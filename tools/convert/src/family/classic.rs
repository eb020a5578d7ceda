//! ChatGLM, OpenELM and the decoders of the first years: GPT-2, GPT-Neo, GPT-NeoX, BLOOM, Falcon.

use serde_json::Value;

use super::spec::{Dim, Family, Hyper, LayerSizes, Line, Rows, Shape, Table};
use super::tables::{
    ATTN_NORM, ATTN_OUTPUT, EMBEDDING, FFN_FUSED, FFN_NORM, GEB_FIRST, GEB_LAST, LIKE_LLAMA,
    NORM_AND_OUTPUT, QKV,
};
use crate::config::{Config, FILE};
use crate::folder::{bad, short};
use crate::sizes::alike_with;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;

/// ChatGLM2 and 3 under the names of their own code.
pub(super) const CHATGLM: Family = Family {
    classes: &["ChatGLMModel", "ChatGLMForConditionalGeneration"],
    types: &["chatglm"],
    architecture: "chatglm",
    permuted: false,
    rotated: Some(0.5),
    fixed: &[
        ("multi_query_attention", true, "true (grouped key heads)"),
        ("rmsnorm", true, "true (RMS norms)"),
        (
            "post_layer_norm",
            true,
            "true (a norm after the last block)",
        ),
        (
            "apply_residual_connection_post_layernorm",
            false,
            "false (residual connections around the norms)",
        ),
    ],
    appended: &[
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "sop",
        "eop",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ],
    starts: &["[gMASK]", "sop"],
    more: chatglm,
    table: &Table {
        first: GEB_FIRST,
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "transformer.encoder.layers.{}.input_layernorm" All;
            "blk.{}.attn_qkv" [Qkv, Width] = "transformer.encoder.layers.{}.self_attention.query_key_value" All;
            "blk.{}.attn_output" [Width, Q] = "transformer.encoder.layers.{}.self_attention.dense" All;
            "blk.{}.ffn_norm" [Width] = "transformer.encoder.layers.{}.post_attention_layernorm" All;
            "blk.{}.ffn_up" [Ffn2, Width] = "transformer.encoder.layers.{}.mlp.dense_h_to_4h" All;
            "blk.{}.ffn_down" [Width, Ffn] = "transformer.encoder.layers.{}.mlp.dense_4h_to_h" All;
        }],
        last: GEB_LAST,
        encoder: &[],
        skip: &["rotary_pos_emb.inv_freq"],
    },
    ..LIKE_LLAMA
};

/// GLM-4-9B under the names of `transformers`.
pub(super) const GLM: Family = Family {
    classes: &["GlmForCausalLM"],
    types: &["glm"],
    architecture: "chatglm",
    permuted: false,
    rotated: Some(0.5),
    table: &Table {
        first: EMBEDDING,
        layer: &[ATTN_NORM, QKV, ATTN_OUTPUT, FFN_NORM, FFN_FUSED],
        last: NORM_AND_OUTPUT,
        encoder: &[],
        skip: &[".rotary_emb.inv_freq"],
    },
    ..LIKE_LLAMA
};

/// OpenELM: sizes of each layer, tied output.
pub(super) const OPENELM: Family = Family {
    classes: &["OpenELMForCausalLM"],
    types: &["openelm"],
    architecture: "openelm",
    permuted: false,
    tied: true,
    activation: (&["activation_fn_name"], &["swish", "silu"]),
    fixed: &[
        ("ffn_with_glu", true, "true (gated feed-forward layers)"),
        ("share_input_output_layers", true, "true (tied output)"),
        ("normalize_qk_projections", true, "true (normed heads)"),
    ],
    shape: layer_sizes,
    more: |c, h| {
        h.eps = c.float(&["rms_norm_eps"], 0.0..=1.0)?.unwrap_or(1e-6) as f32;
        Ok(())
    },
    table: &Table {
        first: lines! { "token_embd" [Vocab, Width] = "transformer.token_embeddings" All; },
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "transformer.layers.{}.attn_norm" All;
            "blk.{}.attn_qkv" [Qkv, Width] = "transformer.layers.{}.attn.qkv_proj" All;
            "blk.{}.attn_q_norm" [Head] = "transformer.layers.{}.attn.q_norm" All;
            "blk.{}.attn_k_norm" [Head] = "transformer.layers.{}.attn.k_norm" All;
            "blk.{}.attn_output" [Width, Q] = "transformer.layers.{}.attn.out_proj" All;
            "blk.{}.ffn_norm" [Width] = "transformer.layers.{}.ffn_norm" All;
            "blk.{}.ffn_gate" [Ffn, Width] = "transformer.layers.{}.ffn.proj_1" First;
            "blk.{}.ffn_up" [Ffn, Width] = "transformer.layers.{}.ffn.proj_1" Second;
            "blk.{}.ffn_down" [Width, Ffn] = "transformer.layers.{}.ffn.proj_2" All;
        }],
        last: lines! {
            "output_norm" [Width] = "transformer.norm" All;
            "output" [Vocab, Width] = "lm_head" All;
        },
        encoder: &[],
        skip: &[".inv_freq"],
    },
    ..LIKE_LLAMA
};

const GELU: &[&str] = &["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu"];

/// What the older decoders have in common.
const OLD: Family = Family {
    permuted: false,
    layer_norm: true,
    tied: true,
    activation: (&["activation_function", "hidden_act", "activation"], GELU),
    rotated: None,
    ffn_times: Some(4),
    ..LIKE_LLAMA
};

const GPT_ENDS: Table = Table {
    first: lines! {
        "token_embd" [Vocab, Width] = "transformer.wte" All;
        "position_embd" [Context, Width] = "transformer.wpe" All;
    },
    layer: &[],
    last: lines! {
        "output_norm" [Width] = "transformer.ln_f" All;
        "output" [Vocab, Width] = "lm_head" All;
    },
    encoder: &[],
    skip: &[".attn.bias", ".attn.masked_bias"],
};

/// GPT-2, Cerebras-GPT: matrices stored transposed.
pub(super) const GPT2: Family = Family {
    classes: &["GPT2LMHeadModel"],
    types: &["gpt2"],
    architecture: "gpt2",
    fixed: &[
        (
            "scale_attn_weights",
            true,
            "true (scores over the root of the head size)",
        ),
        (
            "scale_attn_by_inverse_layer_idx",
            false,
            "false (one scale for all layers)",
        ),
    ],
    table: &Table {
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "transformer.h.{}.ln_1" All;
            "blk.{}.attn_qkv" [Qkv, Width] = "transformer.h.{}.attn.c_attn" Transposed;
            "blk.{}.attn_output" [Width, Q] = "transformer.h.{}.attn.c_proj" Transposed;
            "blk.{}.ffn_norm" [Width] = "transformer.h.{}.ln_2" All;
            "blk.{}.ffn_up" [Ffn, Width] = "transformer.h.{}.mlp.c_fc" Transposed;
            "blk.{}.ffn_down" [Width, Ffn] = "transformer.h.{}.mlp.c_proj" Transposed;
        }],
        ..GPT_ENDS
    },
    ..OLD
};

/// GPT-Neo, MindLLM-1.3B: no scale of the scores, a window in every other layer.
pub(super) const GPT_NEO: Family = Family {
    classes: &["GPTNeoForCausalLM"],
    types: &["gpt_neo"],
    architecture: "gptneo",
    more: gpt_neo,
    table: &Table {
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "transformer.h.{}.ln_1" All;
            "blk.{}.attn_q" [Q, Width] = "transformer.h.{}.attn.attention.q_proj" All;
            "blk.{}.attn_k" [Kv, Width] = "transformer.h.{}.attn.attention.k_proj" All;
            "blk.{}.attn_v" [Kv, Width] = "transformer.h.{}.attn.attention.v_proj" All;
            "blk.{}.attn_output" [Width, Q] = "transformer.h.{}.attn.attention.out_proj" All;
            "blk.{}.ffn_norm" [Width] = "transformer.h.{}.ln_2" All;
            "blk.{}.ffn_up" [Ffn, Width] = "transformer.h.{}.mlp.c_fc" All;
            "blk.{}.ffn_down" [Width, Ffn] = "transformer.h.{}.mlp.c_proj" All;
        }],
        skip: &[".attention.bias", ".attention.masked_bias"],
        ..GPT_ENDS
    },
    ..OLD
};

/// GPT-NeoX, Pythia.
pub(super) const GPT_NEOX: Family = Family {
    classes: &["GPTNeoXForCausalLM"],
    types: &["gpt_neox"],
    architecture: "gptneox",
    rotated: Some(0.25),
    tied: false,
    more: |c, h| {
        let parallel = c.bool("use_parallel_residual")?.unwrap_or(true);
        h.more
            .push(("use_parallel_residual", MetaValue::Bool(parallel)));
        Ok(())
    },
    table: &Table {
        first: lines! { "token_embd" [Vocab, Width] = "gpt_neox.embed_in" All; },
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "gpt_neox.layers.{}.input_layernorm" All;
            "blk.{}.attn_qkv" [Qkv, Width] = "gpt_neox.layers.{}.attention.query_key_value" Grouped;
            "blk.{}.attn_output" [Width, Q] = "gpt_neox.layers.{}.attention.dense" All;
            "blk.{}.ffn_norm" [Width] = "gpt_neox.layers.{}.post_attention_layernorm" All;
            "blk.{}.ffn_up" [Ffn, Width] = "gpt_neox.layers.{}.mlp.dense_h_to_4h" All;
            "blk.{}.ffn_down" [Width, Ffn] = "gpt_neox.layers.{}.mlp.dense_4h_to_h" All;
        }],
        last: lines! {
            "output_norm" [Width] = "gpt_neox.final_layer_norm" All;
            "output" [Vocab, Width] = "embed_out" All;
        },
        encoder: &[],
        skip: &[".inv_freq", ".attention.bias", ".attention.masked_bias"],
    },
    ..OLD
};

const BLOCK: &[Line] = lines! {
    "blk.{}.attn_qkv" [Qkv, Width] = "transformer.h.{}.self_attention.query_key_value" Grouped;
    "blk.{}.attn_output" [Width, Q] = "transformer.h.{}.self_attention.dense" All;
    "blk.{}.ffn_up" [Ffn, Width] = "transformer.h.{}.mlp.dense_h_to_4h" All;
    "blk.{}.ffn_down" [Width, Ffn] = "transformer.h.{}.mlp.dense_4h_to_h" All;
};
const INPUT_NORM: &[Line] =
    lines! { "blk.{}.attn_norm" [Width] = "transformer.h.{}.input_layernorm" All; };

/// BLOOM: ALiBi, a norm of the embeddings.
pub(super) const BLOOM: Family = Family {
    classes: &["BloomForCausalLM"],
    types: &["bloom"],
    architecture: "bloom",
    context: Some(2048),
    fixed: &[(
        "apply_residual_connection_post_layernorm",
        false,
        "false (residual connections around the norms)",
    )],
    table: &Table {
        first: lines! {
            "token_embd" [Vocab, Width] = "transformer.word_embeddings" All;
            "token_embd_norm" [Width] = "transformer.word_embeddings_layernorm" All;
        },
        layer: &[
            INPUT_NORM,
            BLOCK,
            lines! { "blk.{}.ffn_norm" [Width] = "transformer.h.{}.post_attention_layernorm" All; },
        ],
        ..GPT_ENDS
    },
    ..OLD
};

const FALCON_ONE: Table = Table {
    first: lines! { "token_embd" [Vocab, Width] = "transformer.word_embeddings" All; },
    layer: &[INPUT_NORM, BLOCK],
    skip: &[".inv_freq"],
    ..GPT_ENDS
};
const FALCON_TWO: Table = Table {
    layer: &[
        lines! {
            "blk.{}.attn_norm" [Width] = "transformer.h.{}.ln_mlp" All;
            "blk.{}.attn_norm_2" [Width] = "transformer.h.{}.ln_attn" All;
        },
        BLOCK,
    ],
    ..FALCON_ONE
};

/// Falcon 7B, 40B, 180B and 11B: attention and feed-forward side by side.
pub(super) const FALCON: Family = Family {
    classes: &["FalconForCausalLM", "RWForCausalLM"],
    types: &["falcon", "RefinedWebModel", "RefinedWeb"],
    architecture: "falcon",
    rotated: Some(1.0),
    context: Some(2048),
    fixed: &[
        ("alibi", false, "false (rotated positions)"),
        (
            "parallel_attn",
            true,
            "true (attention and feed-forward side by side)",
        ),
    ],
    shape: |c, family, layers, width| {
        let grouped = c.uint(&["num_kv_heads", "n_head_kv"], 1..=limits::MAX_HEADS)?;
        let one = c.bool("multi_query")?;
        let kv = match c.bool("new_decoder_architecture")? {
            Some(true) => grouped,
            _ if one == Some(false) => None,
            _ => Some(1),
        };
        alike_with(c, family, layers, width, kv)
    },
    more: |c, h| {
        let new = c.bool("new_decoder_architecture")? == Some(true);
        let norms = c.uint(&["num_ln_in_parallel_attn"], 1..=2)?;
        if new && norms != Some(1) {
            h.table = &FALCON_TWO;
        }
        Ok(())
    },
    table: &FALCON_ONE,
    ..OLD
};

/// The base of the rotation is stated as a ratio to the usual one.
fn chatglm(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    if let Some(ratio) = c.float(&["rope_ratio"], 1e-3..=1e6)? {
        h.rope_base *= ratio as f32;
    }
    Ok(())
}

/// Scores are not scaled; the layers called local have a window.
fn gpt_neo(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let window = c.uint(&["window_size"], 1..=limits::MAX_CONTEXT)?;
    let local = local_layers(c, h.layers())?;
    h.put("attention.scale", 1.0);
    if local.contains(&true) {
        h.window = Some(window.unwrap_or(256) as u32);
        let pattern = MetaValue::Bools(local);
        h.more.push(("attention.sliding_window_pattern", pattern));
    }
    Ok(())
}

/// `attention_layers`, or `attention_types` with pairs of a pattern and how often it occurs.
fn local_layers(c: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    let local = |v: &Value| match v.as_str() {
        Some("local") => Some(true),
        Some("global") => Some(false),
        _ => None,
    };
    let list = |v: &Value| -> Option<Vec<bool>> { v.as_array()?.iter().map(local).collect() };
    let expand = |v: &Value| -> Option<Vec<bool>> {
        let mut all = Vec::new();
        for pair in v.as_array()? {
            let pattern = list(pair.get(0)?)?;
            let times = pair.get(1)?.as_u64()?;
            for _ in 0..times.min(limits::MAX_LAYERS) {
                all.extend_from_slice(&pattern);
                all.truncate(limits::MAX_LAYERS as usize);
            }
        }
        Some(all)
    };
    c.note(&["attention_types"]);
    let (name, found) = match c.get(&["attention_layers"]) {
        Some((name, v)) => (name, list(v)),
        None => match c.get(&["attention_types"]) {
            Some((name, v)) => (name, expand(v)),
            None => return Err(bad(FILE, "attention_layers", "absent", "a list")),
        },
    };
    let wanted = format!("global or local for each of {layers} layers");
    let value = c.get(&[name]).map_or_else(String::new, |v| short(v.1));
    let found = found.filter(|l| l.len() == layers);
    found.ok_or_else(|| bad(FILE, name, value, wanted))
}

/// Sizes of the layers of OpenELM: lists of heads, multipliers of the width.
fn layer_sizes(c: &Config<'_>, _: &Family, layers: usize, width: usize) -> Result<Shape> {
    let list = |name: &'static str, max: f64| -> Result<Vec<f64>> {
        let array = c.get(&[name]).and_then(|(_, v)| v.as_array());
        let numbers = array.map(|a| a.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        let good = |v: &f64| (1e-3..=max).contains(v);
        let found = numbers.flatten();
        let found = found.filter(|n| n.len() == layers && n.iter().all(good));
        found.ok_or_else(|| bad(FILE, name, "bad", format!("{layers} numbers up to {max}")))
    };
    let heads = list("num_query_heads", limits::MAX_HEADS as f64)?;
    let kv = list("num_kv_heads", limits::MAX_HEADS as f64)?;
    let times = list("ffn_multipliers", 64.0)?;
    let head_dim = c.need_uint(&["head_dim"], 2..=4096)? as usize;
    let divisor = c.uint(&["ffn_dim_divisor"], 1..=65_536)?.unwrap_or(256);
    let mut sizes = Vec::with_capacity(layers);
    for l in 0..layers {
        let one = LayerSizes {
            heads: heads[l] as usize,
            kv_heads: kv[l] as usize,
            ffn: divisible(times[l] * width as f64, divisor as f64) as usize,
        };
        if one.kv_heads == 0 || one.heads == 0 || !one.heads.is_multiple_of(one.kv_heads) {
            let allowed = format!("a divisor of {} query heads", one.heads);
            return Err(bad(FILE, "num_kv_heads", one.kv_heads, allowed));
        }
        if (one.heads * head_dim).max(one.ffn) as u64 > limits::MAX_WIDTH {
            let allowed = format!("at most {} wide", limits::MAX_WIDTH);
            return Err(bad(FILE, "num_query_heads", one.heads, allowed));
        }
        sizes.push(one);
    }
    Ok(Shape {
        layers: sizes,
        head_dim,
    })
}

/// The multiple of `divisor` next to `v`, one more when that loses over a tenth (MobileNet's rule,
/// which OpenELM's configuration uses).
fn divisible(v: f64, divisor: f64) -> f64 {
    let near = (((v + divisor / 2.0) / divisor).floor() * divisor).max(divisor);
    match near < 0.9 * v {
        true => near + divisor,
        false => near,
    }
}

#[cfg(test)]
mod tests {
    use super::divisible;

    #[test]
    fn widths_are_those_of_the_published_models() {
        assert_eq!(divisible(0.73 * 1280.0, 256.0), 1024.0);
        assert_eq!(divisible(640.0, 256.0), 768.0);
    }
}
