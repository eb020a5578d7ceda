//! T5, flan-T5 and Switch Transformers: an encoder and a decoder.

use super::experts;
use super::spec::{Dim, Family, Hyper, Line, Rows, Table};
use super::tables::LIKE_LLAMA;
use crate::config::{Config, FILE};
use crate::folder::bad;
use crate::sizes::alike;
use geb::error::Result;
use geb::gguf::writer::MetaValue;
use geb::limits;

const BUCKETS: &str = "attention.relative_buckets_count";
/// Distance from which on all tokens are in one bucket; a key of this project.
const REACH: &str = "attention.relative_max_distance";
const USUAL_REACH: u64 = 128;
const REACHES: std::ops::RangeInclusive<u64> = 2..=limits::MAX_REACH;

const FIRST: &[Line] = lines! {
    "token_embd" [Vocab, Width] = "shared" All;
    "enc.blk.0.attn_rel_b" [Buckets, Heads] = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias" All;
    "dec.blk.0.attn_rel_b" [Buckets, Heads] = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias" All;
};
const ENCODER: &[Line] = lines! {
    "enc.blk.{}.attn_norm" [Width] = "encoder.block.{}.layer.0.layer_norm" All;
    "enc.blk.{}.attn_q" [Q, Width] = "encoder.block.{}.layer.0.SelfAttention.q" All;
    "enc.blk.{}.attn_k" [Kv, Width] = "encoder.block.{}.layer.0.SelfAttention.k" All;
    "enc.blk.{}.attn_v" [Kv, Width] = "encoder.block.{}.layer.0.SelfAttention.v" All;
    "enc.blk.{}.attn_o" [Width, Q] = "encoder.block.{}.layer.0.SelfAttention.o" All;
    "enc.blk.{}.ffn_norm" [Width] = "encoder.block.{}.layer.1.layer_norm" All;
};
const ENCODER_RELU: &[Line] = lines! {
    "enc.blk.{}.ffn_up" [Ffn, Width] = "encoder.block.{}.layer.1.DenseReluDense.wi" All;
    "enc.blk.{}.ffn_down" [Width, Ffn] = "encoder.block.{}.layer.1.DenseReluDense.wo" All;
};
const ENCODER_GATED: &[Line] = lines! {
    "enc.blk.{}.ffn_gate" [Ffn, Width] = "encoder.block.{}.layer.1.DenseReluDense.wi_0" All;
    "enc.blk.{}.ffn_up" [Ffn, Width] = "encoder.block.{}.layer.1.DenseReluDense.wi_1" All;
    "enc.blk.{}.ffn_down" [Width, Ffn] = "encoder.block.{}.layer.1.DenseReluDense.wo" All;
};
const DECODER: &[Line] = lines! {
    "dec.blk.{}.attn_norm" [Width] = "decoder.block.{}.layer.0.layer_norm" All;
    "dec.blk.{}.attn_q" [Q, Width] = "decoder.block.{}.layer.0.SelfAttention.q" All;
    "dec.blk.{}.attn_k" [Kv, Width] = "decoder.block.{}.layer.0.SelfAttention.k" All;
    "dec.blk.{}.attn_v" [Kv, Width] = "decoder.block.{}.layer.0.SelfAttention.v" All;
    "dec.blk.{}.attn_o" [Width, Q] = "decoder.block.{}.layer.0.SelfAttention.o" All;
    "dec.blk.{}.cross_attn_norm" [Width] = "decoder.block.{}.layer.1.layer_norm" All;
    "dec.blk.{}.cross_attn_q" [Q, Width] = "decoder.block.{}.layer.1.EncDecAttention.q" All;
    "dec.blk.{}.cross_attn_k" [Kv, Width] = "decoder.block.{}.layer.1.EncDecAttention.k" All;
    "dec.blk.{}.cross_attn_v" [Kv, Width] = "decoder.block.{}.layer.1.EncDecAttention.v" All;
    "dec.blk.{}.cross_attn_o" [Width, Q] = "decoder.block.{}.layer.1.EncDecAttention.o" All;
    "dec.blk.{}.ffn_norm" [Width] = "decoder.block.{}.layer.2.layer_norm" All;
};
const DECODER_RELU: &[Line] = lines! {
    "dec.blk.{}.ffn_up" [Ffn, Width] = "decoder.block.{}.layer.2.DenseReluDense.wi" All;
    "dec.blk.{}.ffn_down" [Width, Ffn] = "decoder.block.{}.layer.2.DenseReluDense.wo" All;
};
const DECODER_GATED: &[Line] = lines! {
    "dec.blk.{}.ffn_gate" [Ffn, Width] = "decoder.block.{}.layer.2.DenseReluDense.wi_0" All;
    "dec.blk.{}.ffn_up" [Ffn, Width] = "decoder.block.{}.layer.2.DenseReluDense.wi_1" All;
    "dec.blk.{}.ffn_down" [Width, Ffn] = "decoder.block.{}.layer.2.DenseReluDense.wo" All;
};

const RELU: Table = Table {
    first: FIRST,
    encoder: &[ENCODER, ENCODER_RELU],
    layer: &[DECODER, DECODER_RELU],
    last: lines! {
        "enc.output_norm" [Width] = "encoder.final_layer_norm" All;
        "dec.output_norm" [Width] = "decoder.final_layer_norm" All;
        "output" [Vocab, Width] = "lm_head" All;
    },
    skip: &[
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "EncDecAttention.relative_attention_bias.weight",
    ],
};
const GATED: Table = Table {
    encoder: &[ENCODER, ENCODER_GATED],
    layer: &[DECODER, DECODER_GATED],
    ..RELU
};

/// Sizes and start of encoder and decoder.
fn numbers(c: &Config<'_>, h: &mut Hyper) -> Result<()> {
    let number =
        |name, usual, max| -> Result<u64> { Ok(c.uint(&[name], 0..=max)?.unwrap_or(usual)) };
    h.encoder_layers = c.need_uint(&["num_layers"], 1..=limits::MAX_LAYERS)? as usize;
    h.buckets = number("relative_attention_num_buckets", 32, 1024)? as usize;
    let reach = c.uint(&["relative_attention_max_distance"], REACHES)?;
    let reach = reach.unwrap_or(USUAL_REACH);
    if reach <= h.buckets as u64 / 2 {
        let allowed = format!("over {}, half of the buckets", h.buckets / 2);
        return Err(bad(FILE, "relative_attention_max_distance", reach, allowed));
    }
    // T5 scales what goes into the output matrix where that is the embedding; 5.x says it of itself.
    if let Some(scaled) = c.bool("scale_decoder_outputs")? {
        h.tied = scaled;
    }
    let start = number("decoder_start_token_id", 0, limits::MAX_VOCAB as u64)?;
    let layers = h.layers() as u32;
    h.more.extend([
        ("decoder_block_count", MetaValue::U32(layers)),
        ("decoder_start_token_id", MetaValue::U32(start as u32)),
        (BUCKETS, MetaValue::U32(h.buckets as u32)),
    ]);
    if reach != USUAL_REACH {
        h.more.push((REACH, MetaValue::U32(reach as u32)));
    }
    Ok(())
}

/// T5 with a ReLU, T5 1.1 and flan-T5 with a gated GELU.
pub(super) const T5: Family = Family {
    classes: &["T5ForConditionalGeneration", "T5WithLMHeadModel"],
    types: &["t5"],
    architecture: "t5",
    permuted: false,
    tied: true,
    activation: (&["feed_forward_proj"], &["relu", "gated-gelu"]),
    harmless: &["dense_act_fn", "is_gated_act"],
    rotated: None,
    context: Some(512),
    shape: |c, family, layers, width| {
        let mut shape = alike(c, family, layers, width)?;
        let decoder = c.uint(&["num_decoder_layers"], 1..=limits::MAX_LAYERS)?;
        let one = shape.layers[0];
        shape.layers = vec![one; decoder.map_or(layers, |n| n as usize)];
        Ok(shape)
    },
    more: |c, h| {
        numbers(c, h)?;
        if c.str(&["feed_forward_proj"])? == Some("gated-gelu") {
            h.table = &GATED;
        }
        Ok(())
    },
    table: &RELU,
    ..LIKE_LLAMA
};

/// Switch Transformers (arXiv 2101.03961): T5 whose feed-forward layers are in some places experts without
/// gates, one for each token, weighted by its probability. A capacity of experts is not known here:
/// every token reaches its expert.
pub(super) const SWITCH: Family = Family {
    classes: &["SwitchTransformersForConditionalGeneration"],
    types: &["switch_transformers"],
    activation: (&["dense_act_fn", "feed_forward_proj"], &["relu"]),
    more: |c, h| {
        numbers(c, h)?;
        experts::counts(c, h, Some(1))?;
        let normed = MetaValue::Bool(false);
        h.more.push(("expert_weights_norm", normed));
        Ok(())
    },
    table: &Table {
        encoder: &[ENCODER],
        layer: &[DECODER],
        ..RELU
    },
    experts: lines! {
        "enc.blk.{}.ffn_gate_inp" [Experts, Width] = "encoder.block.{}.layer.1.mlp.router.classifier" All;
        "enc.blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "encoder.block.{}.layer.1.mlp.experts.expert_{e}.wi" All;
        "enc.blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "encoder.block.{}.layer.1.mlp.experts.expert_{e}.wo" All;
        "dec.blk.{}.ffn_gate_inp" [Experts, Width] = "decoder.block.{}.layer.2.mlp.router.classifier" All;
        "dec.blk.{}.ffn_up_exps" [Experts, ExpertFfn, Width] = "decoder.block.{}.layer.2.mlp.experts.expert_{e}.wi" All;
        "dec.blk.{}.ffn_down_exps" [Experts, Width, ExpertFfn] = "decoder.block.{}.layer.2.mlp.experts.expert_{e}.wo" All;
    },
    dense: lines! {
        "enc.blk.{}.ffn_up" [Ffn, Width] = "encoder.block.{}.layer.1.mlp.wi" All;
        "enc.blk.{}.ffn_down" [Width, Ffn] = "encoder.block.{}.layer.1.mlp.wo" All;
        "dec.blk.{}.ffn_up" [Ffn, Width] = "decoder.block.{}.layer.2.mlp.wi" All;
        "dec.blk.{}.ffn_down" [Width, Ffn] = "decoder.block.{}.layer.2.mlp.wo" All;
    },
    ..T5
};
