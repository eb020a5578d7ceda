//! Families in which some layers have attention and the others keep a state.

use serde_json::Value;

use super::experts::{QWEN2_MOE, counts};
use super::spec::{Dim, Family, Hybrid, Hyper, Line, Mixers, Rows, Shape, Table};
use super::tables::*;
use crate::config::{Config, FILE};
use crate::folder::{bad, short};
use crate::known::FULL;
use crate::sizes::alike;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;

/// Layers with a gated convolution in `layer_types`.
const CONV: &str = "conv";
/// Layers with a gated delta net.
const LINEAR: &str = "linear_attention";
/// How many layers of Qwen3.5 there are for each with attention, if the configuration does not say.
const FULL_EVERY: u64 = 4;

/// Which layers are of the kind `state` in `layer_types`; the others must have attention.
fn kinds(c: &Config<'_>, state: &str, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some((name, types)) = c.get(&["layer_types"]) else {
        return Ok(None);
    };
    let one = |t: &Value| match t.as_str() {
        Some(t) if t == state => Some(true),
        Some(FULL) => Some(false),
        _ => None,
    };
    let list = types.as_array().map(|l| l.iter().map(one).collect());
    let list: Option<Vec<bool>> = list.flatten();
    match list.filter(|l| l.len() == layers) {
        Some(list) => Ok(Some(list)),
        None => {
            let allowed = format!("{state} or {FULL} for each of {layers} layers");
            Err(bad(FILE, name, short(types), allowed))
        }
    }
}

/// Which layers of LFM2 have a convolution: by their kinds or by a list of those that have attention.
fn convolutions(c: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    let kinds = kinds(c, CONV, layers)?;
    let Some((name, full)) = c.get(&["full_attn_idxs"]) else {
        return kinds.ok_or_else(|| bad(FILE, "layer_types", "absent", "a list"));
    };
    let index = |v: &Value| v.as_u64().filter(|i| *i < layers as u64);
    let full: Option<Vec<u64>> = full.as_array().and_then(|l| l.iter().map(index).collect());
    let list = full.map(|full| -> Vec<bool> {
        let all = 0..layers as u64;
        all.map(|l| !full.contains(&l)).collect()
    });
    match list {
        Some(list) if kinds.as_ref().is_none_or(|k| *k == list) => Ok(list),
        _ => {
            let allowed = format!("numbers of {layers} layers, those of {FULL} in layer_types");
            Err(bad(FILE, name, "other numbers", allowed))
        }
    }
}

/// The sizes of LFM2: its feed-forward layers are narrower than they are called, and layers with a convolution
/// have no heads.
fn lfm2_shape(c: &Config<'_>, family: &Family, layers: usize, width: usize) -> Result<Shape> {
    let mut shape = alike(c, family, layers, width)?;
    let of = c.uint(&["block_multiple_of"], 1..=limits::MAX_WIDTH)?;
    let times = c.float(&["block_ffn_dim_multiplier"], 1e-3..=1e3)?;
    let adjusts = c.bool("block_auto_adjust_ff_dim")?.unwrap_or(true);
    let convolutions = convolutions(c, layers)?;
    for (sizes, convolution) in shape.layers.iter_mut().zip(convolutions) {
        if adjusts {
            let narrow = (2 * sizes.ffn / 3) as f64 * times.unwrap_or(1.0);
            let of = of.unwrap_or(256) as usize;
            sizes.ffn = (narrow as usize).next_multiple_of(of);
        }
        if convolution {
            sizes.kv_heads = 0;
        }
    }
    Ok(shape)
}

fn lfm2(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let taps = c.need_uint(&["conv_L_cache"], 1..=limits::MAX_CONV)?;
    h.more
        .push(("shortconv.l_cache", MetaValue::U32(taps as u32)));
    if let Some(base) = c.float(&["theta"], 1.0..=1e12)?
        && base as f32 != h.rope_base
    {
        return Err(bad(
            FILE,
            "theta",
            base,
            format!("{}, as rope_theta", h.rope_base),
        ));
    }
    if let Some(tied) = c.bool("tie_embedding")? {
        h.tied = tied;
    }
    h.hybrid = Some(Hybrid {
        layers: convolutions(c, h.layers())?,
        taps: taps as usize,
        heads: 0,
        value: 0,
        key_heads: 0,
        key: 0,
    });
    Ok(())
}

pub(super) const LFM2: Family = Family {
    classes: &["Lfm2ForCausalLM", "Lfm2VlForConditionalGeneration"],
    types: &["lfm2", "lfm2_vl"],
    architecture: "lfm2",
    permuted: false,
    tied: true,
    fixed: &[
        ("conv_bias", false, "false (convolutions without a bias)"),
        ("block_use_swiglu", true, "true (gated feed-forward layers)"),
        ("use_pos_enc", true, "true (rotated queries and keys)"),
    ],
    // Widths that are those of the model, and how weights began.
    harmless: &[
        "block_dim",
        "block_mlp_init_scale",
        "block_norm_eps",
        "block_out_init_scale",
        "block_use_xavier_init",
        "conv_dim",
        "conv_dim_out",
        "conv_use_xavier_init",
    ],
    shape: lfm2_shape,
    more: lfm2,
    table: &Table {
        layer: &[lines! {
            "blk.{}.attn_norm" [Width] = "model.layers.{}.operator_norm" All;
            "blk.{}.ffn_norm" [Width] = "model.layers.{}.ffn_norm" All;
            "blk.{}.ffn_gate" [Ffn, Width] = "model.layers.{}.feed_forward.w1" All;
            "blk.{}.ffn_up" [Ffn, Width] = "model.layers.{}.feed_forward.w3" All;
            "blk.{}.ffn_down" [Width, Ffn] = "model.layers.{}.feed_forward.w2" All;
        }],
        last: lines! {
            "token_embd_norm" [Width] = "model.embedding_norm" All;
            "output" [Vocab, Width] = "lm_head" All;
        },
        ..LLAMA
    },
    mixers: Mixers {
        attention: lines! {
            "blk.{}.attn_q" [Q, Width] = "model.layers.{}.self_attn.q_proj" All;
            "blk.{}.attn_k" [Kv, Width] = "model.layers.{}.self_attn.k_proj" All;
            "blk.{}.attn_v" [Kv, Width] = "model.layers.{}.self_attn.v_proj" All;
            "blk.{}.attn_q_norm" [Head] = "model.layers.{}.self_attn.q_layernorm" All;
            "blk.{}.attn_k_norm" [Head] = "model.layers.{}.self_attn.k_layernorm" All;
            "blk.{}.attn_output" [Width, Q] = "model.layers.{}.self_attn.out_proj" All;
        },
        state: lines! {
            "blk.{}.shortconv.conv" [Width, Taps] = "model.layers.{}.conv.conv" All;
            "blk.{}.shortconv.in_proj" [Width3, Width] = "model.layers.{}.conv.in_proj" All;
            "blk.{}.shortconv.out_proj" [Width, Width] = "model.layers.{}.conv.out_proj" All;
        },
    },
    ..LIKE_LLAMA
};

/// Sizes of gated delta nets, and which layers have them.
fn qwen35(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let size = |name| Ok::<_, geb::Error>(c.need_uint(&[name], 1..=limits::MAX_HEADS)? as usize);
    let every = c.uint(&["full_attention_interval"], 1..=limits::MAX_LAYERS)?;
    let every = every.unwrap_or(FULL_EVERY);
    let usual = (1..=h.layers() as u64).map(|l| !l.is_multiple_of(every));
    let layers = kinds(c, LINEAR, h.layers())?.unwrap_or_else(|| usual.collect());
    let s = Hybrid {
        taps: c.need_uint(&["linear_conv_kernel_dim"], 1..=limits::MAX_CONV)? as usize,
        heads: size("linear_num_value_heads")?,
        value: size("linear_value_head_dim")?,
        key_heads: size("linear_num_key_heads")?,
        key: size("linear_key_head_dim")?,
        layers,
    };
    if !s.heads.is_multiple_of(s.key_heads) {
        let allowed = format!("a divisor of linear_num_value_heads {}", s.heads);
        return Err(bad(FILE, "linear_num_key_heads", s.key_heads, allowed));
    }
    for (key, n) in [
        ("ssm.conv_kernel", s.taps),
        ("ssm.state_size", s.key),
        ("ssm.group_count", s.key_heads),
        ("ssm.time_step_rank", s.heads),
        ("ssm.inner_size", s.values()),
        ("full_attention_interval", every as usize),
    ] {
        h.more.push((key, MetaValue::U32(n as u32)));
    }
    let list = MetaValue::Bools(s.layers.clone());
    h.more.push(("attention.recurrent_layers", list));
    h.more.extend(sections(c));
    h.hybrid = Some(s);
    Ok(())
}

/// How the rotated pairs are shared among the positions of images, which are all those of text here: other
/// runtimes ask for it.
fn sections(c: &Config<'_>) -> Option<(&'static str, MetaValue)> {
    let list = c.value.get("rope_parameters")?.get("mrope_section")?;
    let list = list.as_array()?.iter();
    let list: Option<Vec<i32>> = list.map(|n| n.as_i64()?.try_into().ok()).collect();
    let mut list = list?;
    list.resize(4, 0);
    Some(("rope.dimension_sections", MetaValue::I32s(list)))
}

/// Attention with a gate behind the queries of each head.
const GATED: &[Line] = lines! {
    "blk.{}.attn_q" [Q2, Width] = "model.layers.{}.self_attn.q_proj" All;
    "blk.{}.attn_k" [Kv, Width] = "model.layers.{}.self_attn.k_proj" All;
    "blk.{}.attn_v" [Kv, Width] = "model.layers.{}.self_attn.v_proj" All;
    "blk.{}.attn_q_norm" [Head] = "model.layers.{}.self_attn.q_norm" All;
    "blk.{}.attn_k_norm" [Head] = "model.layers.{}.self_attn.k_norm" All;
    "blk.{}.attn_output" [Width, Q] = "model.layers.{}.self_attn.o_proj" All;
};

pub(super) const QWEN35: Family = Family {
    classes: &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"],
    types: &["qwen3_5_text", "qwen3_5"],
    architecture: "qwen35",
    permuted: false,
    norm_offset: 1.0,
    rotated: Some(0.25),
    fixed: &[("attn_output_gate", true, "true (attention with a gate)")],
    // Blocks that guess further tokens are left out; the type is that of the reference's state.
    harmless: &[
        "mamba_ssm_dtype",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
    ],
    more: qwen35,
    table: &Table {
        layer: &[ATTN_NORM, POST_ATTENTION_NORM, FFN],
        ..LLAMA
    },
    mixers: Mixers {
        attention: GATED,
        state: lines! {
            "blk.{}.attn_qkv" [Channels, Width] = "model.layers.{}.linear_attn.in_proj_qkv" BehindKeys;
            "blk.{}.attn_gate" [Inner, Width] = "model.layers.{}.linear_attn.in_proj_z" InTurn;
            "blk.{}.ssm_beta" [ValueHeads, Width] = "model.layers.{}.linear_attn.in_proj_b" InTurn;
            "blk.{}.ssm_alpha" [ValueHeads, Width] = "model.layers.{}.linear_attn.in_proj_a" InTurn;
            "blk.{}.ssm_conv1d" [Channels, Taps] = "model.layers.{}.linear_attn.conv1d" BehindKeys;
            "blk.{}.ssm_dt.bias" [ValueHeads] = "model.layers.{}.linear_attn.dt_bias" InTurn;
            "blk.{}.ssm_a" [ValueHeads] = "model.layers.{}.linear_attn.A_log" NegExpInTurn;
            "blk.{}.ssm_norm" [ValueHead] = "model.layers.{}.linear_attn.norm" All;
            "blk.{}.ssm_out" [Width, Inner] = "model.layers.{}.linear_attn.out_proj" ColumnsInTurn;
        },
    },
    ..LIKE_LLAMA
};

/// The same, and experts, whose weights are divided by their sum.
fn with_experts(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    qwen35(c, h)?;
    counts(c, h, None)?;
    if c.bool("norm_topk_prob")? == Some(false) {
        h.more.push(("expert_weights_norm", MetaValue::Bool(false)));
    }
    Ok(())
}

/// As of Qwen3.5, without its feed-forward layers.
const BEFORE_EXPERTS: Table = Table {
    layer: &[ATTN_NORM, POST_ATTENTION_NORM],
    ..LLAMA
};

pub(super) const QWEN35_MOE: Family = Family {
    classes: &[
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
    ],
    types: &["qwen3_5_moe_text", "qwen3_5_moe"],
    architecture: "qwen35moe",
    more: with_experts,
    table: &BEFORE_EXPERTS,
    experts: QWEN2_MOE.experts,
    dense: FFN,
    ..QWEN35
};

pub(super) const QWEN3_NEXT: Family = Family {
    classes: &["Qwen3NextForCausalLM"],
    types: &["qwen3_next"],
    architecture: "qwen3next",
    more: with_experts,
    table: &BEFORE_EXPERTS,
    experts: QWEN2_MOE.experts,
    dense: FFN,
    mixers: Mixers {
        attention: GATED,
        state: lines! {
            "blk.{}.attn_qkv" [Channels, Width] = "model.layers.{}.linear_attn.in_proj_qkvz" OfEachKey;
            "blk.{}.attn_gate" [Inner, Width] = "model.layers.{}.linear_attn.in_proj_qkvz" GateOfEachKey;
            "blk.{}.ssm_ba" [ValueHeads2, Width] = "model.layers.{}.linear_attn.in_proj_ba" All;
            "blk.{}.ssm_conv1d" [Channels, Taps] = "model.layers.{}.linear_attn.conv1d" All;
            "blk.{}.ssm_dt.bias" [ValueHeads] = "model.layers.{}.linear_attn.dt_bias" All;
            "blk.{}.ssm_a" [ValueHeads] = "model.layers.{}.linear_attn.A_log" NegExp;
            "blk.{}.ssm_norm" [ValueHead] = "model.layers.{}.linear_attn.norm" All;
            "blk.{}.ssm_out" [Width, Inner] = "model.layers.{}.linear_attn.out_proj" All;
        },
    },
    ..QWEN35
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::GebLayout;

    /// A configuration as it was written before the reference library had the family.
    fn old_lfm2() -> Value {
        json!({
            "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "block_auto_adjust_ff_dim": true,
            "block_dim": 2048, "block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0,
            "block_mlp_init_scale": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-5,
            "block_out_init_scale": 1.0, "block_use_swiglu": true, "block_use_xavier_init": true,
            "conv_L_cache": 3, "conv_bias": false, "conv_dim": 2048, "conv_dim_out": 2048,
            "conv_use_xavier_init": true, "full_attn_idxs": [2, 5], "hidden_size": 2048,
            "max_position_embeddings": 128000, "norm_eps": 1e-5, "num_attention_heads": 32,
            "num_heads": 32, "num_hidden_layers": 6, "num_key_value_heads": 8,
            "rope_theta": 1000000.0, "theta": 1000000.0, "tie_embedding": true, "use_cache": true,
            "use_pos_enc": true, "vocab_size": 65536,
        })
    }

    fn qwen() -> Value {
        json!({
            "architectures": ["Qwen3_5ForCausalLM"], "hidden_size": 64, "intermediate_size": 64,
            "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "max_position_embeddings": 64, "vocab_size": 100,
            "linear_conv_kernel_dim": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
            "linear_value_head_dim": 8, "linear_key_head_dim": 16,
            "rope_parameters": {"rope_theta": 1e7, "rope_type": "default", "partial_rotary_factor": 0.25},
        })
    }

    fn with(mut config: Value, key: &str, value: Value) -> Value {
        config[key] = value;
        config
    }

    fn key(config: &Value, end: &str) -> Option<MetaValue> {
        let hyper = Hyper::read(config).expect("reads");
        let keys = hyper.metadata(&GebLayout::default(), 100).into_iter();
        let mut keys = keys.filter(|(key, _)| key.split_once('.').is_some_and(|k| k.1 == end));
        keys.next().map(|(_, value)| value)
    }

    #[test]
    fn widths_and_kinds_of_layers_are_what_the_configuration_says() {
        let lfm2 = old_lfm2();
        let number = |n: u32| Some(MetaValue::U32(n));
        assert_eq!(key(&lfm2, "feed_forward_length"), number(8192));
        assert_eq!(key(&lfm2, "shortconv.l_cache"), number(3));
        let heads = MetaValue::U32s(vec![0, 0, 8, 0, 0, 8]);
        assert_eq!(key(&lfm2, "attention.head_count_kv"), Some(heads));
        let wide = with(lfm2, "block_auto_adjust_ff_dim", json!(false));
        assert_eq!(key(&wide, "feed_forward_length"), number(12288));
        let usual = Some(MetaValue::Bools(vec![true, true, true, false, true]));
        assert_eq!(key(&qwen(), "attention.recurrent_layers"), usual);
        assert_eq!(key(&qwen(), "ssm.inner_size"), number(32));
        assert_eq!(key(&qwen(), "rope.dimension_count"), number(4));
        let second = with(qwen(), "full_attention_interval", json!(2));
        let second = key(&second, "attention.recurrent_layers");
        let list = vec![true, false, true, false, true];
        assert_eq!(second, Some(MetaValue::Bools(list)));
    }

    #[test]
    fn what_the_graph_cannot_do_is_refused_by_its_key() {
        let kinds = |kind: &str| json!([kind, kind, FULL, kind, kind, kind]);
        for (config, name, value) in [
            (old_lfm2(), "conv_bias", json!(true)),
            (old_lfm2(), "theta", json!(10000.0)),
            (old_lfm2(), "full_attn_idxs", json!([2, 6])),
            (old_lfm2(), "full_attn_idxs", json!(null)),
            (old_lfm2(), "layer_types", kinds("conv")),
            (old_lfm2(), "layer_types", kinds(LINEAR)),
            (old_lfm2(), "conv_kernel", json!(3)),
            (qwen(), "linear_num_key_heads", json!(3)),
            (qwen(), "layer_types", kinds(LINEAR)),
            (qwen(), "attn_output_gate", json!(false)),
            (qwen(), "linear_gate", json!(true)),
        ] {
            let config = with(config, name, value);
            assert!(Hyper::read(&config).is_err(), "{name}: {config}");
        }
    }
}
