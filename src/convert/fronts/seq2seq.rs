//! T5 and flan-T5: an encoder and a decoder.

use super::{Dim, Front, LIKE_LLAMA, Line, Rows, Table};
use crate::convert::folder::bad;
use crate::convert::hyper::{FILE, alike};
use crate::gguf::writer::MetaValue;
use crate::limits;

const BUCKETS: &str = "attention.relative_buckets_count";

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
    "enc.blk.{}.ffn_down" [Width, Ffn] = "encoder.block.{}.layer.1.DenseReluDense.wo" All;
};
const ENCODER_UP: &[Line] = lines! {
    "enc.blk.{}.ffn_up" [Ffn, Width] = "encoder.block.{}.layer.1.DenseReluDense.wi" All;
};
const ENCODER_GATED: &[Line] = lines! {
    "enc.blk.{}.ffn_gate" [Ffn, Width] = "encoder.block.{}.layer.1.DenseReluDense.wi_0" All;
    "enc.blk.{}.ffn_up" [Ffn, Width] = "encoder.block.{}.layer.1.DenseReluDense.wi_1" All;
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
    "dec.blk.{}.ffn_down" [Width, Ffn] = "decoder.block.{}.layer.2.DenseReluDense.wo" All;
};
const DECODER_UP: &[Line] = lines! {
    "dec.blk.{}.ffn_up" [Ffn, Width] = "decoder.block.{}.layer.2.DenseReluDense.wi" All;
};
const DECODER_GATED: &[Line] = lines! {
    "dec.blk.{}.ffn_gate" [Ffn, Width] = "decoder.block.{}.layer.2.DenseReluDense.wi_0" All;
    "dec.blk.{}.ffn_up" [Ffn, Width] = "decoder.block.{}.layer.2.DenseReluDense.wi_1" All;
};

const RELU: Table = Table {
    first: FIRST,
    encoder: &[ENCODER, ENCODER_UP],
    layer: &[DECODER, DECODER_UP],
    last: lines! {
        "enc.output_norm" [Width] = "encoder.final_layer_norm" All;
        "dec.output_norm" [Width] = "decoder.final_layer_norm" All;
        "output" [Vocab, Width] = "lm_head" All;
    },
    prefix: "",
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

/// T5 with a ReLU, T5 1.1 and flan-T5 with a gated GELU.
pub(super) const T5: Front = Front {
    classes: &["T5ForConditionalGeneration", "T5WithLMHeadModel"],
    types: &["t5"],
    architecture: "t5",
    permuted: false,
    tied: true,
    activation: (&["feed_forward_proj"], &["relu", "gated-gelu"]),
    rotated: None,
    context: Some(512),
    shape: |c, front, layers, width| {
        let mut shape = alike(c, front, layers, width)?;
        let decoder = c.uint(&["num_decoder_layers"], 1..=limits::MAX_LAYERS)?;
        let one = shape.layers[0];
        shape.layers = vec![one; decoder.map_or(layers, |n| n as usize)];
        Ok(shape)
    },
    more: |c, h| {
        let number = |name, usual, max| -> crate::error::Result<u64> {
            Ok(c.uint(&[name], 0..=max)?.unwrap_or(usual))
        };
        h.encoder_layers = c.need_uint(&["num_layers"], 1..=limits::MAX_LAYERS)? as usize;
        h.buckets = number("relative_attention_num_buckets", 32, 1024)? as usize;
        let reach = "relative_attention_max_distance";
        if number(reach, 128, u64::MAX)? != 128 {
            return Err(bad(FILE, reach, number(reach, 128, u64::MAX)?, "128"));
        }
        let start = number("decoder_start_token_id", 0, limits::MAX_VOCAB as u64)?;
        let layers = h.layers() as u32;
        h.more.extend([
            ("decoder_block_count", MetaValue::U32(layers)),
            ("decoder_start_token_id", MetaValue::U32(start as u32)),
            (BUCKETS, MetaValue::U32(h.buckets as u32)),
        ]);
        if c.str(&["feed_forward_proj"])? == Some("gated-gelu") {
            h.table = &GATED;
        }
        Ok(())
    },
    table: &RELU,
    ..LIKE_LLAMA
};
